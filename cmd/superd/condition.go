package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"superd/release"
)

// What `systemctl status` shows of superd: how the apps are, and at the end, who is
// waited for. Nobody but a person reads it.

const (
	tellEvery = time.Second
	tellMost  = 8 // apps, processes: it is one line
)

// tellHowItIs tells systemd how things are, whenever that has changed, until ctx ends.
func (d *daemon) tellHowItIs(ctx context.Context) {
	if !underSystemd() {
		<-ctx.Done()
		return
	}
	look := time.NewTicker(tellEvery)
	defer look.Stop()
	seen, told := uint64(0), ""
	for {
		if last := d.events.Last(); last != seen || told == "" { // whatever changes is an event
			seen = last
			if now := d.condition(); now != told {
				told = now
				d.tellSystemd("STATUS=" + now)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// condition is how things are, in a line.
func (d *daemon) condition() string {
	var words []string
	for _, a := range d.allApps() {
		words = append(words, appCondition(a.name, a.switcher.Snapshot()))
	}
	text := "superd " + version
	if len(words) > 0 {
		text += ": " + enumerate(words)
	}
	return text
}

func appCondition(name string, shot release.Snapshot) string {
	live := shot.Live.Release
	switch {
	case shot.Current != nil && shot.Paused != "":
		return fmt.Sprintf("%s on its way to %s, paused", name, shot.Current.To.Release)
	case shot.Current != nil:
		return fmt.Sprintf("%s on its way to %s, %s", name, shot.Current.To.Release, shot.Current.Phase)
	case shot.Live.IsZero():
		return name + " has no release"
	case shot.Settling:
		return fmt.Sprintf("%s %s, on its way up", name, live)
	case shot.Degraded != "":
		return fmt.Sprintf("%s %s, degraded", name, live)
	case shot.Hold != nil:
		return fmt.Sprintf("%s %s, held", name, live)
	}
	return name + " " + live
}

func enumerate(words []string) string {
	if rest := len(words) - tellMost; rest > 0 {
		words = append(slices.Clone(words[:tellMost]), fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(words, "; ")
}

// tellWhoStays tells systemd who is waited for at the end, until over is closed.
func (d *daemon) tellWhoStays(over <-chan struct{}) {
	if !underSystemd() {
		return
	}
	look := time.NewTicker(tellEvery)
	defer look.Stop()
	began := time.Now()
	for {
		select {
		case <-over:
			return
		case <-look.C:
		}
		var names []string
		for _, c := range d.children.Living() {
			names = append(names, c.Name())
		}
		if len(names) > 0 {
			d.tellSystemd("STATUS=" + stayers(names, time.Since(began)))
		}
	}
}

func stayers(names []string, since time.Duration) string {
	slices.Sort(names)
	return fmt.Sprintf("stopping for %s; waits for %d: %s", since.Round(time.Second), len(names), enumerate(names))
}

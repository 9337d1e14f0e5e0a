package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// tell prints what visitors and jobs went through, and is an error when a promise
// was broken.
func (d *demo) tell() error {
	d.stopBuying()
	r := d.visitors.Stop()
	d.visitors = nil
	account, err := d.account()
	if err != nil {
		return err
	}
	events, err := d.lab.Events(0)
	if err != nil {
		return err
	}
	stale := r.Stale(d.spans)
	fmt.Printf("\nVISITORS\n%s", r)
	fmt.Printf("  %-24s %d requests sent after a switch was over were answered by the old release\n", "old answers", stale)
	fmt.Printf("\nJOBS\n  %s\n", account)
	fmt.Printf("\nTIMES\n%s", times(r, events, d.killed))
	fmt.Printf("\nWHO ANSWERED WHEN\n%s", picture(r, d.calls, d.killed))
	fmt.Println("\nSUPERCTL")
	for _, c := range d.calls {
		fmt.Printf("  %-12s exit %d%s   %s\n", strings.Join(c.Args, " "), c.Code, unless(c.Code == c.want, fmt.Sprintf(", should be %d", c.want)), c.why)
	}
	broken := d.broken(r, stale)
	if account.Done != account.Pushed || len(account.Unknown) > 0 {
		broken = append(broken, fmt.Errorf("jobs: %s", account))
	}
	if err := errors.Join(broken...); err != nil {
		return fmt.Errorf("promises were broken:\n%w", err)
	}
	fmt.Println("\nEvery promise was kept.")
	return nil
}

// longestGap is how long no page may arrive, beside the time in which the machine was not
// even able to ask for one.
const longestGap = 250 * time.Millisecond

// broken are the promises that were not kept.
func (d *demo) broken(r load.Report, stale int) []error {
	var broken []error
	none := func(n int, what string) {
		if n > 0 {
			broken = append(broken, fmt.Errorf("%d %s", n, what))
		}
	}
	none(r.Failed(), "requests failed")
	none(r.Mixed, "answers were mixed from two releases")
	none(r.Cut, "sleeps were cut short")
	none(stale, "answers came from a release that was not live any more")
	if r.Gap >= longestGap+r.Late {
		broken = append(broken, fmt.Errorf("for %s nobody got a page", r.Gap))
	}
	for _, c := range d.calls {
		if c.Code != c.want {
			broken = append(broken, fmt.Errorf("want exit %d: %s", c.want, c.Outcome))
		}
	}
	return broken
}

// times are how long the deciding instants took, as superd's events tell them.
func times(r load.Report, events []lab.Event, killed time.Time) string {
	var b strings.Builder
	var promoting lab.Event
	for _, e := range events {
		switch {
		case e.Kind != "switch.phase":
		case e.Phase == "promoting":
			promoting = e
		case e.Phase == "rotating" && promoting.Switch == e.Switch && e.At.Before(killedOrEnd(killed)):
			fmt.Fprintf(&b, "  flip to %-16s %s: the link is moved and the socket leads to the new PHP-FPM\n", e.To.Release, short(e.At.Sub(promoting.At)))
			promoting = lab.Event{}
		case e.Phase == "rolling-back":
			if first, ok := r.FirstAnswer("r2", e.At); ok {
				fmt.Fprintf(&b, "  %-24s %s from the decision to the first page of the old release\n", e.To.Release+" is taken back", short(first.Sub(e.At)))
			}
		}
	}
	return b.String()
}

func unless(fine bool, text string) string {
	if fine {
		return ""
	}
	return text
}

func killedOrEnd(killed time.Time) time.Time {
	if killed.IsZero() {
		return time.Now()
	}
	return killed
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// picture is a line for each release: how many of the pages of that instant were
// its own. Below are the calls, and the death of superd.
func picture(r load.Report, calls []call, killed time.Time) string {
	const width = 76
	line := r.Timeline(width)
	var b strings.Builder
	for _, release := range slices.Sorted(maps.Keys(r.Releases)) {
		fmt.Fprintf(&b, "  %-7s│", release)
		for _, slice := range line {
			b.WriteRune(bar(slice[release], total(slice)))
		}
		fmt.Fprintf(&b, "│ %d\n", r.Releases[release])
	}
	b.WriteString("  failed │")
	for _, slice := range line {
		b.WriteRune(bar(slice[""], total(slice)))
	}
	fmt.Fprintf(&b, "│ %d\n", r.Failed())
	end := r.Took
	marks := []rune(strings.Repeat(" ", width))
	mark := func(at time.Time, with rune) {
		marks[max(0, min(width-1, int(int64(at.Sub(r.Start))*width/int64(end))))] = with
	}
	for i, c := range calls {
		mark(c.Began, '1'+rune(i))
		mark(c.Ended, '·')
	}
	if !killed.IsZero() {
		mark(killed, '✗')
	}
	fmt.Fprintf(&b, "         │%s│ %s\n", string(marks), end.Round(100*time.Millisecond))
	for i, c := range calls {
		fmt.Fprintf(&b, "          %d superctl %s\n", i+1, strings.Join(c.Args, " "))
	}
	if !killed.IsZero() {
		b.WriteString("          ✗ kill -9 superd\n")
	}
	return b.String()
}

func total(slice map[string]int) int {
	n := 0
	for _, count := range slice {
		n += count
	}
	return n
}

// bar is a share as a block; the smallest share shows.
func bar(n, of int) rune {
	if n == 0 || of == 0 {
		return ' '
	}
	return []rune("▁▂▃▄▅▆▇█")[min(7, n*8/of)]
}

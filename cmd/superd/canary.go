package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"superd/control"
	"superd/release"
	"superd/supervisor"
)

// liveTraffic is that of an app in a switch: a share of it while the candidate is to
// show what it can, all of it afterwards.
type liveTraffic struct{ a *app }

// Watch is well once that time went well and every pool has all of its workers: one that
// ended, which max_failures forgives, may be on its way back, or never come.
func (l liveTraffic) Watch(ctx context.Context, g release.Generation) error {
	if err := l.a.watcher.Watch(ctx, g); err != nil || g.IsZero() {
		return err
	}
	patience := l.a.cfg().Switch.ProgressDeadline
	inner, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not all workers are well %s after the watch", patience))
	defer cancel()
	err := l.a.fleet.Rotate(inner, g)
	if err == nil || ctx.Err() != nil || errors.Is(err, release.ErrStopping) || supervisor.LostKeeper(err) {
		return err
	}
	return cmp.Or(l.Weigh(ctx, g, err), err)
}

func (l liveTraffic) Weigh(ctx context.Context, g release.Generation, failure error) error {
	return l.a.watcher.Weigh(ctx, g, failure)
}

func (l liveTraffic) Canary(ctx context.Context, g release.Generation) (release.Sharing, error) {
	l.a.shared(release.Sharing{})
	return l.a.canary.Canary(ctx, g)
}

// failed speaks against the generation that a process ran which ended unexpectedly.
func (a *app) failed(g release.Generation, what string, lines []string) {
	a.watcher.Fail(g, what, lines)
	a.canary.Fail(g, what, lines)
}

// sharingEvery is how often those who follow a switch hear how the candidate fares.
const sharingEvery = 2 * time.Second

// shared takes in what came of the share so far.
func (a *app) shared(s release.Sharing) {
	now := time.Now()
	a.mu.Lock()
	a.sharing = s
	quiet := s == release.Sharing{} || now.Sub(a.sharingTold) < sharingEvery
	if !quiet {
		a.sharingTold = now
	}
	a.mu.Unlock()
	if c := a.switcher.Snapshot().Current; !quiet && c != nil && c.Sharing != nil {
		a.daemon.event(control.Event{
			Kind: "switch.progress", App: a.name, Switch: c.ID, Phase: c.Phase, From: c.From, To: c.To,
			Message: fmt.Sprintf("%s, of %.3g %%", s, c.Sharing.Share*100),
		})
	}
}

// withSharing has what the running switch knows only in the end.
func (a *app) withSharing(r release.Record) release.Record {
	if r.Phase != release.Canary || r.Sharing == nil {
		return r
	}
	a.mu.Lock()
	now := a.sharing
	a.mu.Unlock()
	now.Share = r.Sharing.Share
	r.Sharing = &now
	return r
}

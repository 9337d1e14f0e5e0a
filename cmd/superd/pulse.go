package main

import (
	"context"
	"time"
)

// The keeper kills a superd that gives no sign of life, and starts another one. The
// sign is worth what it took to give it: before each one superd goes through the locks
// that everything else needs. A dead-lock keeps it quiet, as SIGSTOP does.
const (
	pulseEvery  = 5 * time.Second
	pulseWithin = 20 * time.Second // the keeper grants half of that again
)

// beat gives signs of life until ctx ends.
func (d *daemon) beat(ctx context.Context) error {
	for {
		d.feel()
		if err := d.children.Beat(pulseWithin); err != nil {
			return nil // the keeper is gone, which others notice
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pulseEvery):
		}
	}
}

// feel returns when nothing is stuck.
func (d *daemon) feel() {
	for _, a := range d.allApps() {
		_ = a.switcher.Snapshot() // that it answers is all
		_ = a.fleet.Status()
	}
	_ = d.children.Living()
	_ = d.events.Last()
}

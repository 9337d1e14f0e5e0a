package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"superd/config"
	"superd/control"
	"superd/release"
)

// A target is one thing that an order is for: the PHP-FPM of an app, a whole pool,
// or one worker.
type target struct {
	app  *app
	name string // whole: "shop/fpm", "shop/emails", "shop/emails:3"
	own  string // below the app: "fpm", "emails", "emails:3"
}

func (t target) isFPM() bool { return t.own == "fpm" && t.app.fpm != nil }

// targets are what a name or a pattern means, as whole pools wherever it means all of
// a pool: a pool is restarted in batches, workers one by one are not.
//
// A name that means none of it may be that of a group: what an app is called is never
// taken for one, for who may operate that app need not be allowed more.
func (d *daemon) targets(pattern string) []target {
	all := d.named(pattern)
	if len(all) > 0 {
		return all
	}
	for _, app := range appsOf(d.config(), pattern) {
		all = append(all, d.named(app)...)
	}
	return all
}

// appsOf are the apps of the group that is called so, or so with ":*" behind it.
func appsOf(cfg *config.Config, group string) (apps []string) {
	group = strings.TrimSuffix(group, ":*")
	for _, g := range cfg.Groups {
		if g.Name != group {
			continue
		}
		for _, member := range g.Members {
			if app, ok := strings.CutPrefix(member, "app."); ok {
				apps = append(apps, app)
			}
		}
	}
	return apps
}

func (d *daemon) named(pattern string) []target {
	var all []target
	for _, a := range d.allApps() {
		if a.fpm != nil && control.Match(pattern, a.name+"/fpm") {
			all = append(all, target{a, a.name + "/fpm", "fpm"})
		}
		for _, p := range a.fleet.Status() {
			if pool := a.name + "/" + p.Name; control.Match(pattern, pool) {
				all = append(all, target{a, pool, p.Name})
				continue
			}
			seen := map[string]bool{}
			for _, w := range p.Workers {
				if control.Match(pattern, w.Name) && !seen[w.Name] {
					seen[w.Name] = true // of one slot two may be there
					all = append(all, target{a, w.Name, strings.TrimPrefix(w.Name, a.name+"/")})
				}
			}
		}
	}
	return all
}

func unknownName(name string) error {
	return &control.Error{Kind: control.NotFound, Message: fmt.Sprintf("nothing is called %q", name), Hint: "superctl status lists all names"}
}

// Process carries out an order, for all that it means side by side.
func (d *daemon) Process(ctx context.Context, o control.ProcessOrder, by release.By) ([]control.ProcessResult, error) {
	all := d.targets(o.Name)
	if len(all) == 0 {
		return nil, unknownName(o.Name)
	}
	if o.Verb == control.VerbSignal && unix.SignalNum("SIG"+o.Signal) == 0 {
		return nil, &control.Error{Kind: control.Usage, Message: fmt.Sprintf("there is no signal %q", o.Signal), Hint: "write HUP, TERM, USR1 …"}
	}
	for _, t := range all {
		if err := t.mayBeOrdered(o.Verb); err != nil {
			return nil, err
		}
	}
	if o.Verb == control.VerbScale {
		if err := d.roomToScale(all, o.Processes); err != nil {
			return nil, err
		}
	}
	results := make([]control.ProcessResult, len(all))
	var working sync.WaitGroup
	for i, t := range all {
		d.event(control.Event{Kind: "process." + string(o.Verb), App: t.app.name, Process: t.name, By: &by, Message: o.Signal})
		working.Go(func() {
			err := t.carryOut(ctx, o)
			results[i] = control.ProcessResult{Name: t.name, State: t.state(ctx), OK: err == nil}
			if err != nil {
				results[i].Message = err.Error()
			}
		})
	}
	working.Wait()
	return results, nil
}

// mayBeOrdered refuses what would be taken for the fault of a release, or cannot be.
func (t target) mayBeOrdered(v control.Verb) error {
	if !t.isFPM() {
		return nil
	}
	switch c := t.app.switcher.Snapshot().Current; {
	case v == control.VerbScale:
		return &control.Error{Kind: control.Usage, Message: "PHP-FPM is not scaled, only pools of workers are", Hint: "its number is max_children in the configuration"}
	case v == control.VerbStop && c != nil:
		return &control.Error{
			Kind: control.Conflict, Message: fmt.Sprintf("%s is in the middle of the switch to %s", t.name, c.To.Release),
			Hint: "wait for it, or: superctl abort --app " + t.app.name,
		}
	}
	return nil
}

func (t target) carryOut(ctx context.Context, o control.ProcessOrder) error {
	if t.isFPM() {
		return t.orderFPM(ctx, o)
	}
	switch fleet := t.app.fleet; o.Verb {
	case control.VerbStart:
		return fleet.Start(ctx, t.own)
	case control.VerbStop:
		return fleet.Stop(ctx, t.own, o.Now)
	case control.VerbRestart:
		return fleet.Restart(ctx, t.own)
	case control.VerbSignal:
		return fleet.Signal(t.own, unix.SignalNum("SIG"+o.Signal))
	case control.VerbScale:
		return fleet.Scale(ctx, t.own, o.Processes)
	}
	return fmt.Errorf("order %q is unknown", o.Verb)
}

func (t target) orderFPM(ctx context.Context, o control.ProcessOrder) error {
	web := t.app.fpm
	switch o.Verb {
	case control.VerbStart:
		live := t.app.switcher.Snapshot().Live
		if live.IsZero() {
			return errors.New("no release is live yet")
		}
		t.app.webDown.Store(false)
		return web.Promote(ctx, live)
	case control.VerbStop:
		t.app.webDown.Store(true)
		return web.Stop(ctx)
	case control.VerbRestart:
		return web.Restart(ctx)
	case control.VerbSignal:
		return web.Signal(unix.SignalNum("SIG" + o.Signal))
	case control.VerbScale: // refused before
	}
	return fmt.Errorf("order %q is unknown", o.Verb)
}

// state is what the target is in now, in a few words.
func (t target) state(ctx context.Context) string {
	if t.isFPM() {
		for _, g := range t.app.fpm.Status(ctx) {
			if g.State != "draining" {
				return string(g.State)
			}
		}
		return "stopped"
	}
	for _, p := range t.app.fleet.Status() {
		if p.Name == t.own {
			return fmt.Sprintf("%d of %d running, %d draining", p.Running, p.Wanted, p.Draining)
		}
		for _, w := range p.Workers {
			if w.Name == t.name {
				return string(w.State)
			}
		}
	}
	return "stopped"
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/program"
	"superd/workers"
)

// A target is one thing that an order is for: the PHP-FPM of an app, a whole pool,
// one worker, a program, or one process of it.
type target struct {
	app  *app   // nil: it is a program
	name string // whole: "shop/fpm", "shop/emails", "shop/emails:3"
	own  string // below the app: "fpm", "emails", "emails:3"
}

func (t target) isFPM() bool { return t.app != nil && t.own == "fpm" && t.app.fpm != nil }

// targets are what a name or a pattern means, as whole pools wherever it means all of
// a pool: a pool is restarted in batches, workers one by one are not.
func (d *daemon) targets(pattern string) (all []target) {
	for _, one := range d.Meaning(pattern) {
		all = append(all, d.named(one)...)
	}
	return all
}

// Meaning is what a name or a pattern means: itself, the members of a group, or nothing.
// A name is that of a group only where nothing else is called so: what an app is called
// is never taken for one, for who may operate that app need not be allowed more.
func (d *daemon) Meaning(pattern string) []string {
	if len(d.named(pattern)) > 0 {
		return []string{pattern}
	}
	return membersOf(d.config(), pattern)
}

// membersOf are the apps and programs of the group that is called so, or so with ":*"
// behind it. No app has the name of a program.
func membersOf(cfg *config.Config, group string) (names []string) {
	group = strings.TrimSuffix(group, ":*")
	for _, g := range cfg.Groups {
		if g.Name != group {
			continue
		}
		for _, member := range g.Members {
			_, name, _ := strings.Cut(member, ".")
			names = append(names, name)
		}
	}
	return names
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
	for _, name := range d.programNames(pattern) {
		all = append(all, target{name: name})
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
	apps := make([]control.ProcessResult, len(all))
	var working sync.WaitGroup
	var names []string
	for i, t := range all {
		on := control.Event{Kind: "process." + string(o.Verb), Process: t.name, By: &by, Message: o.Signal}
		if t.app == nil {
			names = append(names, t.name)
			d.event(on)
			continue
		}
		on.App = t.app.name
		d.event(on)
		working.Go(func() { apps[i] = t.result(ctx, o) })
	}
	var programs []control.ProcessResult
	if len(names) > 0 {
		programs = d.orderPrograms(ctx, o, names)
	}
	working.Wait()
	return append(slices.DeleteFunc(apps, func(r control.ProcessResult) bool { return r.Name == "" }), programs...), nil
}

// result is what came of an order for something of an app.
func (t target) result(ctx context.Context, o control.ProcessOrder) control.ProcessResult {
	err := t.carryOut(ctx, o)
	return resultOf(t.name, t.state(ctx), err)
}

// resultOf is what came of an order for one, and what it wrote where that is the reason.
func resultOf(name, state string, err error) control.ProcessResult {
	r := control.ProcessResult{Name: name, State: state, OK: err == nil}
	if err == nil {
		return r
	}
	r.Kind, r.Message = kindOf(err), err.Error()
	if why, ok := errors.AsType[release.Explained](err); ok {
		r.Lines = why.LastLines()
	}
	return r
}

// kindOf is what sort of error it is that an order was not carried out.
func kindOf(err error) control.Kind {
	_, failed := errors.AsType[release.Explained](err)
	_, notUp := errors.AsType[workers.NotUp](err)
	switch kind := control.KindOf(err); {
	case kind != control.Internal:
		return kind
	case errors.Is(err, program.ErrUnknown):
		return control.NotFound
	case errors.Is(err, program.ErrStopping):
		return control.Unreachable
	case errors.Is(err, program.ErrImpossible):
		return control.Rejected
	case errors.Is(err, program.ErrOverruled), errors.Is(err, supervisor.ErrNotRunning):
		return control.Conflict
	case errors.Is(err, program.ErrNotUp), errors.Is(err, supervisor.ErrUnkillable), failed, notUp:
		return control.Degraded
	}
	return control.Internal
}

// mayBeOrdered refuses what would be taken for the fault of a release, or cannot be.
func (t target) mayBeOrdered(v control.Verb) error {
	switch {
	case t.app == nil && v == control.VerbScale && strings.Contains(t.name, ":"):
		program, _, _ := strings.Cut(t.name, ":")
		return &control.Error{Kind: control.Usage, Message: t.name + " is one process, and programs are scaled", Hint: "superctl scale " + program + " NUMBER"}
	case t.app != nil && v == control.VerbReload:
		return &control.Error{Kind: control.Usage, Message: t.name + " is of an app, which reads its configuration when it starts", Hint: "superctl restart " + t.name}
	case t.app == nil, !t.isFPM():
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
	case control.VerbReload: // refused before
	}
	return fmt.Errorf("order %q is unknown", o.Verb)
}

func (t target) orderFPM(ctx context.Context, o control.ProcessOrder) error {
	web := t.app.fpm
	switch o.Verb {
	case control.VerbStart:
		live := t.app.switcher.Snapshot().Live
		if live.IsZero() {
			return &control.Error{Kind: control.Conflict, Message: "no release is live yet"}
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
	case control.VerbScale, control.VerbReload: // refused before
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
			return poolState(p)
		}
		for _, w := range p.Workers {
			if w.Name == t.name {
				return string(w.State)
			}
		}
	}
	return "stopped"
}

// poolState counts those that a person has stopped too, for that may be all of them.
func poolState(p workers.PoolStatus) string {
	state := fmt.Sprintf("%d of %d running", p.Running, p.Wanted+p.Stopped)
	if p.Stopped > 0 {
		state += fmt.Sprintf(", %d stopped", p.Stopped)
	}
	return state + fmt.Sprintf(", %d draining", p.Draining)
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"superd/config"
	"superd/control"
	"superd/fpm"
	"superd/release"
)

// A reload makes another configuration hold, as a difference: package config tells
// what becomes of whom, and this file does it. First everything is asked that can say
// no – the file, the limits, an app in the middle of a switch – and until then nothing
// is touched. Then what superd itself does with its processes changes at once, in the
// same instant for all of an app, and what is to be replaced is replaced in the
// background, by the ordinary ways: PHP-FPM by a switch to the release that it is on,
// workers in batches.
//
// Dying in the middle of it is no special case: the next superd reads the new file, and
// config.applied.json tells it which processes are older than that.

// Reload reads the configuration and makes it hold: see control.Daemon.
func (d *daemon) Reload(ctx context.Context, plan bool, by release.By) (control.Reload, error) {
	select {
	case d.reloading <- struct{}{}:
		defer func() { <-d.reloading }()
	case <-ctx.Done():
		return control.Reload{}, context.Cause(ctx)
	}
	if !plan {
		d.tellSystemd(reloadingLine())
		defer d.tellSystemd("READY=1")
	}
	r, err := d.planReload(by)
	switch {
	case err != nil:
	case plan:
		r.answer.Plan, r.answer.Message = true, r.summary()
		return r.answer, nil
	default:
		var leave func()
		if leave, err = d.succession.enter(); err == nil { // no successor reads the file meanwhile
			err = r.apply(ctx)
			leave()
		}
	}
	if plan {
		return control.Reload{}, err
	}
	if err != nil {
		d.log.Error("the configuration is not reloaded, and what held before holds", "error", err, "user", by.User)
		d.event(control.Event{Kind: "config.refused", By: &by, Reason: err.Error()})
		return control.Reload{}, err
	}
	d.log.Info("the configuration is reloaded", "file", d.file, "what", r.answer.Message, "user", by.User)
	d.event(control.Event{Kind: "config.reloaded", By: &by, Message: r.answer.Message})
	return r.answer, nil
}

// reload is one change of the configuration.
type reload struct {
	d       *daemon
	by      release.By
	file    *config.Config // as it is written
	holds   *config.Config // what is to hold: without what waits for superd's own end
	changes []config.Change
	apps    []string // of which anything changes
	rules   []control.Rule
	answer  control.Reload

	begun  []*app // those that are new, not running yet
	quiets []func()
}

// planReload finds out what is to be done, and whether it can be. It touches nothing.
func (d *daemon) planReload(by release.By) (*reload, error) {
	file, err := config.Load(d.file)
	if err != nil {
		return nil, &control.Error{Kind: control.Rejected, Message: err.Error(), Hint: "nothing was changed"}
	}
	r := &reload{d: d, by: by, file: file}
	r.changes, r.holds = config.Difference(d.config(), file)
	r.apps = r.touched(d.config())
	if r.rules, err = accessRules(r.holds.Access); err == nil {
		err = tooFewDescriptors(mostProcesses(r.holds, configuredSize))
	}
	if err != nil {
		return nil, &control.Error{Kind: control.Rejected, Message: err.Error(), Hint: "nothing was changed"}
	}
	if err := r.tellUnset(); err != nil {
		return nil, err
	}
	for _, w := range file.Warnings {
		r.answer.Warnings = append(r.answer.Warnings, w.String())
	}
	for _, c := range r.changes {
		if c.Action == config.ActionRestart && r.isProgram(c.Name) && len(d.programs.Renewable(c.Name)) == 0 {
			c.Action = config.ActionLive // none of it is to be up: the next start is what it says
		}
		one := control.Change{Name: c.Name, Action: string(c.Action)}
		for _, reason := range c.Reasons {
			one.Reasons = append(one.Reasons, control.Reason{Key: reason.Key, Class: string(reason.Class)})
		}
		r.answer.Changes = append(r.answer.Changes, one)
		r.answer.Changes = append(r.answer.Changes, r.resized(c)...)
	}
	return r, nil
}

// resized are the processes that are started or stopped because there are to be more or
// fewer of them.
func (r *reload) resized(c config.Change) []control.Change {
	at := slices.IndexFunc(c.Reasons, func(reason config.Reason) bool { return strings.HasSuffix(reason.Key, ".processes") })
	if at < 0 || c.Action == config.ActionStart || c.Action == config.ActionStop {
		return nil
	}
	var starts, stops []string
	if r.isProgram(c.Name) {
		starts, stops = r.d.programs.Resized(c.Name, r.processes(c.Name))
	} else if a, err := r.d.app(appOf(c.Name)); err == nil {
		starts, stops = a.fleet.Resized(c.Name[len(a.name)+1:], r.processes(c.Name))
	}
	why := []control.Reason{{Key: c.Reasons[at].Key, Class: string(c.Reasons[at].Class)}}
	var all []control.Change
	for _, name := range starts {
		all = append(all, control.Change{Name: name, Action: string(config.ActionStart), Reasons: why})
	}
	for _, name := range stops {
		all = append(all, control.Change{Name: name, Action: string(config.ActionStop), Reasons: why})
	}
	return all
}

// processes is how many there are to be of a program or a pool.
func (r *reload) processes(name string) int {
	for _, p := range r.holds.Programs {
		if p.Name == name {
			return p.Processes
		}
	}
	for _, a := range r.holds.Apps {
		for _, w := range a.Workers {
			if a.Name+"/"+w.Name == name {
				return w.Processes
			}
		}
	}
	return 0
}

// tellUnset refuses to start a process that could not be started, for want of a variable
// of superd's environment. Of one that the reload does not touch it is only told.
func (r *reload) tellUnset() error {
	var missing config.Problems
	for _, one := range r.file.Unset(os.LookupEnv) {
		touched := slices.ContainsFunc(r.changes, func(c config.Change) bool {
			return c.Action != config.ActionNothing && appOf(c.Name) == one.Owner
		})
		if touched {
			missing = append(missing, one.Problem)
		} else {
			r.answer.Warnings = append(r.answer.Warnings, one.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &control.Error{Kind: control.Rejected, Message: missing.Error(), Hint: "nothing was changed"}
}

// summary is the changes in a few words: "2 live, 1 restart".
func (r *reload) summary() string {
	var parts []string
	for _, action := range []config.Action{config.ActionLive, config.ActionRestart, config.ActionStart, config.ActionStop, config.ActionLater} {
		n := 0
		for _, c := range r.answer.Changes {
			if c.Action == string(action) {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing has changed")
}

// apply makes the new configuration hold. With an error nothing was touched.
func (r *reload) apply(ctx context.Context) error {
	d := r.d
	defer r.resume()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := keepLastGood(r.file, d.file); err != nil {
		d.log.Warn("the configuration cannot be kept for the case of a crash", "error", err)
	}
	if f := failpoint(); f != nil {
		f("reload:accepted")
	}
	d.holds.Store(r.holds)
	d.mu.Lock()
	d.refused = nil
	d.mu.Unlock()
	d.level.Set(logLevel(r.holds.Log.Level))
	d.logs.obey(r.holds)
	d.output.Refresh()
	d.server.SetRules(r.rules)
	if err := d.socket.SetMode(control.SocketMode(r.rules)); err != nil {
		r.warn("%v", err)
	}
	r.applyApps()
	d.programs.Apply(d.programsOf(r.holds))
	if f := failpoint(); f != nil {
		f("reload:live")
	}
	r.resume()
	r.restart(ctx)
	r.answer.Message = r.summary()
	return nil
}

func (r *reload) warn(format string, args ...any) {
	r.answer.Warnings = append(r.answer.Warnings, fmt.Sprintf(format, args...))
}

// resume lets switches begin again.
func (r *reload) resume() {
	for _, resume := range r.quiets {
		resume()
	}
	r.quiets = nil
}

// prepare does all that can fail: it keeps the apps that change from switching, and
// builds those that are new.
func (r *reload) prepare(ctx context.Context) error {
	d := r.d
	for _, name := range r.apps {
		cfg := appIn(r.holds, name)
		a, err := d.app(name)
		switch {
		case err != nil: // it is new
			if a, err = d.newApp(cfg); err != nil {
				err = errors.Join(fmt.Errorf("app %s: %w", name, err), closeAll(r.begun))
				return &control.Error{Kind: control.Rejected, Message: err.Error(), Hint: "nothing was changed"}
			}
			r.begun = append(r.begun, a)
			continue
		case a.leaving.Load():
			err = &control.Error{Kind: control.Conflict, Message: fmt.Sprintf("app %s was removed and has not ended yet", name), Hint: "superctl status shows when it has"}
		default:
			var resume func()
			if resume, err = a.switcher.Quiet(ctx); err == nil {
				r.quiets = append(r.quiets, resume)
			}
		}
		if err == nil && cfg != nil && cfg.FPM != nil {
			_, err = fpm.Allow(cfg.FPM.ListenOwner, cfg.FPM.ListenGroup, cfg.FPM.ListenMode)
		}
		if err != nil {
			return errors.Join(err, closeAll(r.begun))
		}
	}
	return nil
}

func closeAll(apps []*app) error {
	var errs []error
	for _, a := range apps {
		errs = append(errs, a.close())
	}
	return errors.Join(errs...)
}

// touched are the apps of which anything changes.
func (r *reload) touched(before *config.Config) []string {
	var names []string
	for _, c := range r.changes {
		app := appOf(c.Name)
		isApp := appIn(before, app) != nil || appIn(r.holds, app) != nil
		if isApp && c.Action != config.ActionNothing && c.Action != config.ActionLater && !slices.Contains(names, app) {
			names = append(names, app)
		}
	}
	return names
}

// applyApps changes what superd does with its processes; none of them is touched but
// those that are too many.
func (r *reload) applyApps() {
	d := r.d
	for _, name := range r.apps {
		cfg := appIn(r.holds, name)
		a, err := d.app(name)
		switch {
		case err != nil: // in begun
		case cfg == nil:
			d.removeApp(a)
		default:
			if err := a.update(cfg); err != nil {
				r.warn("app %s: %v", name, err)
			}
		}
	}
	for _, a := range r.begun {
		d.addApp(a)
	}
}

// update makes another configuration of the app hold. Its Switcher is quiet.
func (a *app) update(cfg *config.App) error {
	a.conf.Store(cfg)
	terms, err := a.terms()
	if err != nil {
		return err
	}
	a.switcher.Set(terms)
	site := a.site()
	a.verifier.Update(site, a.checks(), a.warmup())
	a.watcher.Update(site, a.checks(), a.watching())
	a.canary.Update(site, a.checks(), a.watchingCanary())
	a.link.Set(a.following())
	if a.fpm != nil {
		access, err := fpm.Allow(cfg.FPM.ListenOwner, cfg.FPM.ListenGroup, cfg.FPM.ListenMode)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		a.fpm.Update(access, cfg.FPM.Backlog, cfg.FPM.DrainTimeout)
	}
	a.fleet.Update(a.pools(), cfg.Switch.MaxFailures, a.switcher.Snapshot().Live)
	return nil
}

func (a *app) terms() (release.Terms, error) {
	who, err := a.around.credential()
	if err != nil {
		return release.Terms{}, err
	}
	s := a.cfg().Switch
	return release.Terms{
		Limits: a.limits(), AutoRollback: s.AutoRollback, CanaryShare: s.CanaryShare / 100, Required: s.Required, KeepReleases: s.KeepReleases,
		Before: hookOf(s.Before), After: hookOf(s.After), UID: who.UID, GID: who.GID, Groups: who.Groups,
	}, nil
}

// restart begins to replace what runs by what is configured now. When all of it is
// done, that is written down.
func (r *reload) restart(ctx context.Context) {
	d := r.d
	var waits []func(context.Context)
	for _, a := range d.allApps() {
		waits = append(waits, r.restartApp(ctx, a)...)
		if a.fpm != nil && a.fpm.Listen() != a.cfg().FPM.Listen {
			waits = append(waits, a.relisten)
		}
	}
	if names := r.programsToRestart(); len(names) > 0 {
		waits = append(waits, func(ctx context.Context) { d.restartPrograms(ctx, names) })
	}
	holds := r.holds
	d.work.Add("reload", func(ctx context.Context) error {
		var all sync.WaitGroup
		for _, wait := range waits {
			all.Go(func() { wait(ctx) })
		}
		all.Wait()
		if ctx.Err() == nil && d.config() == holds { // else the next reload, or the next superd, says it
			d.applied(holds)
		}
		return nil
	})
}

// programsToRestart are those that are to be replaced.
func (r *reload) programsToRestart() []string {
	var names []string
	for _, c := range r.changes {
		if c.Action == config.ActionRestart && r.isProgram(c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

func (r *reload) isProgram(name string) bool {
	return slices.ContainsFunc(r.holds.Programs, func(p config.Program) bool { return p.Name == name })
}

// restartPrograms replaces programs, in order. One that is stopped stays so.
func (d *daemon) restartPrograms(ctx context.Context, names []string) {
	results, err := d.programs.Renew(ctx, names...)
	for name, one := range results {
		err = errors.Join(err, one)
		if one != nil {
			d.event(control.Event{Kind: "config.note", Process: name, Message: "restarted for the new configuration, and not up: " + one.Error()})
		}
	}
	if err != nil && ctx.Err() == nil {
		d.log.Error("programs were not replaced as the configuration asks", "error", err)
	}
}

// applied writes down that all that runs was started by cfg. Without it the next superd
// replaces what is new enough, which costs time and nothing else.
func (d *daemon) applied(cfg *config.Config) {
	if err := keepConfig(cfg, d.file, appliedName); err != nil {
		d.log.Warn("that the configuration was applied cannot be kept", "error", err)
	}
}

// restartApp begins what is to be replaced of an app, and returns what waits for the
// end of it.
func (r *reload) restartApp(ctx context.Context, a *app) []func(context.Context) {
	var pools []string
	for _, c := range r.changes {
		if appOf(c.Name) != a.name || c.Action != config.ActionRestart {
			continue
		}
		if c.Name == a.name+"/fpm" {
			return r.nextGeneration(ctx, a)
		}
		pools = append(pools, c.Name[len(a.name)+1:])
	}
	var waits []func(context.Context)
	for _, pool := range pools {
		if a.switcher.Snapshot().Live.IsZero() {
			continue // nothing runs yet
		}
		waits = append(waits, func(ctx context.Context) { a.restartPool(ctx, pool) })
	}
	return waits
}

// nextGeneration begins a switch to the release that the app is on.
func (r *reload) nextGeneration(ctx context.Context, a *app) []func(context.Context) {
	live := a.switcher.Snapshot().Live
	if live.IsZero() {
		return nil
	}
	record, err := a.switcher.Begin(ctx, release.Request{Release: live.Release, Restart: true, AllowBad: true, By: r.by})
	if err != nil {
		text := fmt.Sprintf("%s/fpm goes on as it was: %v; the new configuration counts from the next switch on, or: superctl switch --restart %s --app %s", a.name, err, live.Release, a.name)
		r.warn("%s", text)
		r.d.event(control.Event{Kind: "config.note", App: a.name, Process: a.name + "/fpm", Message: text})
		return nil
	}
	r.answer.Switches = append(r.answer.Switches, control.ReloadSwitch{App: a.name, Switch: record.ID})
	return []func(context.Context){func(ctx context.Context) { _, _ = a.switcher.Wait(ctx, record.ID) }} // it tells by itself how it ended
}

// relisten opens the address that is configured; the one of before stays open for those
// who still come there.
func (a *app) relisten(ctx context.Context) {
	listen := a.cfg().FPM.Listen
	before := a.fpm.Listen()
	on := control.Event{Kind: "config.note", App: a.name, Process: a.name + "/fpm"}
	err := a.fpm.Relisten(ctx, listen)
	switch {
	case err == nil:
		on.Message = fmt.Sprintf("listens on %s, and on %s until nobody has come there for 15m", listen, before)
	case ctx.Err() != nil:
		return
	default:
		a.daemon.log.Error("PHP-FPM stays where it was", "app", a.name, "error", err)
		on.Message = fmt.Sprintf("stays on %s: %v; mend it and reload again", before, err)
	}
	a.daemon.event(on)
}

// restartPool replaces the workers of a pool, batch by batch. It gives way to a switch,
// which replaces them too.
func (a *app) restartPool(ctx context.Context, pool string) {
	name := a.name + "/" + pool
	if err := a.fleet.Restart(ctx, pool); err != nil && ctx.Err() == nil {
		a.daemon.log.Error("workers were not replaced as the configuration asks", "pool", name, "error", err)
		a.daemon.event(control.Event{Kind: "config.note", App: a.name, Pool: name, Message: "workers of an older configuration go on: " + err.Error()})
	}
}

// finishReload goes on where an earlier superd was ended: what it left was started by
// the configuration that it had applied last.
func (d *daemon) finishReload() {
	cfg := d.config()
	before, err := readLastGood(filepath.Join(d.cfg.StateDir, appliedName), d.file)
	if err != nil || len(d.children.Adopted()) == 0 {
		d.applied(cfg) // nothing runs, or nobody knows of what
		return
	}
	r := &reload{d: d, holds: cfg, by: release.By{User: "superd"}}
	r.changes, _ = config.Difference(before, cfg)
	if !slices.ContainsFunc(r.changes, func(c config.Change) bool { return c.Action == config.ActionRestart }) {
		d.applied(cfg)
		return
	}
	d.log.Info("going on with a reload", "what", r.summary())
	d.work.Add("reload of before", func(ctx context.Context) error {
		for _, a := range d.allApps() {
			a.settled(ctx)
		}
		if ctx.Err() == nil && d.config() == cfg {
			r.restart(ctx)
		}
		return nil
	})
}

// settled waits until what an earlier superd left is settled.
func (a *app) settled(ctx context.Context) {
	for a.switcher.Snapshot().Settling {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The apps come and go; whoever looks at them looks at a copy of the list.

func (d *daemon) config() *config.Config { return d.holds.Load() }

func (d *daemon) allApps() []*app {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.apps)
}

func (d *daemon) isRefused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused != nil
}

// addApp has an app run.
func (d *daemon) addApp(a *app) {
	d.mu.Lock()
	d.apps = append(d.apps, a)
	slices.SortFunc(d.apps, func(a, b *app) int { return cmp.Compare(a.name, b.name) })
	d.mu.Unlock()
	a.parts = d.running.Add(a.name, a.run)
	a.switches = d.switching.Add(a.name, a.runSwitches)
}

// removeApp ends an app as superd's own end would, in the background: requests are
// answered, jobs are finished. Until then it is seen.
func (d *daemon) removeApp(a *app) {
	a.leaving.Store(true)
	d.work.Add(a.name+": leaving", func(ctx context.Context) error {
		a.switches.Stop()
		a.stop(ctx, false)
		if ctx.Err() != nil {
			return nil // superd ends, and with it what is left
		}
		a.parts.Stop()
		d.mu.Lock()
		d.apps = slices.DeleteFunc(d.apps, func(other *app) bool { return other == a })
		d.mu.Unlock()
		d.event(control.Event{Kind: "app.removed", App: a.name})
		return a.close()
	})
}

func appIn(cfg *config.Config, name string) *config.App {
	for i := range cfg.Apps {
		if cfg.Apps[i].Name == name {
			return &cfg.Apps[i]
		}
	}
	return nil
}

// appOf is the app that something belongs to, by its name.
func appOf(name string) string {
	app, _, _ := strings.Cut(name, "/")
	return app
}

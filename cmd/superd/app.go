package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"superd/config"
	"superd/control"
	"superd/fpm"
	"superd/release"
	"superd/release/check"
	"superd/supervisor"
	"superd/workers"
)

// app is one application: its web side, its workers, and what moves both from one
// release to another.
type app struct {
	name     string
	conf     atomic.Pointer[config.App] // as it holds now: a reload puts another one in its place
	daemon   *daemon
	around   surroundings
	hooks    *hooks
	web      release.Web
	fpm      *fpm.Fronts // nil: the app has no PHP-FPM
	fleet    *workers.Fleet
	watcher  *check.Watcher
	canary   *check.Watcher
	verifier *check.Verifier
	switcher *release.Switcher
	link     *release.LinkWatch
	parts    *stagePart // what runs for it, but for its switches
	switches *stagePart

	journal *release.FileJournal
	state   *release.StateFile
	webDown atomic.Bool    // a person has stopped PHP-FPM: that it does not serve is no problem
	leaving atomic.Bool    // it is no longer configured, and on its way out
	copying sync.WaitGroup // of lines, for fpmLines

	mu   sync.Mutex
	told string // how far the rotation is, as told last

	sharing     release.Sharing // what came of the share so far
	sharingTold time.Time       // that
}

// Floors of the disk that releases are on: enough for logs and for what a release
// writes when it starts.
const (
	minFreeBytes  = 64 << 20
	minFreeInodes = 1000
)

func (d *daemon) newApp(cfg *config.App) (*app, error) {
	a := &app{name: cfg.Name, daemon: d, web: noWeb{}}
	a.conf.Store(cfg)
	a.around = newSurroundings(a.cfg)
	a.hooks = &hooks{around: a.around, children: d.children}
	if cfg.FPM != nil {
		if err := a.newWeb(); err != nil {
			return nil, err
		}
	}
	a.fleet = workers.New(workers.Options{
		App: a.name, Pools: a.pools(), Children: d.children, Log: d.log, MaxFailures: cfg.Switch.MaxFailures, Tell: a.heardWorkers, Progress: a.rotated,
	})
	site := a.site()
	a.watcher = check.NewWatcher(site, a.checks(), a.watching())
	a.canary = check.NewCanary(site, a.checks(), a.watchingCanary(), a.shared)
	a.verifier = check.NewVerifier(site, a.checks(), a.warmup())
	tree, err := a.tree()
	if err != nil {
		return nil, err
	}
	return a, a.newSwitcher(tree)
}

// cfg is the app's configuration as it holds now.
func (a *app) cfg() *config.App { return a.conf.Load() }

func (a *app) watching() check.WatchOptions {
	s := a.cfg().Switch
	return check.WatchOptions{For: s.Watch, MaxFailures: s.MaxFailures, MaxErrorRate: s.MaxErrorRate, MinRequests: s.MinRequests}
}

// watchingCanary is watching, for as long as a candidate has a part of the users.
func (a *app) watchingCanary() check.WatchOptions {
	o := a.watching()
	o.For = a.cfg().Switch.CanaryTime
	return o
}

func (a *app) following() release.LinkOptions {
	s := a.cfg().Switch
	return release.LinkOptions{Follow: s.FollowLink, Settle: s.Settle, Grace: s.MissingGrace}
}

func (a *app) newSwitcher(tree *release.Tree) error {
	d := a.daemon
	dir := filepath.Join(d.cfg.StateDir, "apps", a.name)
	var damaged, err error
	if a.journal, err = release.OpenJournal(filepath.Join(dir, "journal")); a.journal == nil {
		return err
	}
	damaged = errors.Join(damaged, err)
	if a.state, err = release.OpenState(filepath.Join(dir, "state")); a.state == nil {
		return err
	}
	damaged = errors.Join(damaged, err)
	history, err := release.OpenHistory(filepath.Join(dir, "history.ndjson"))
	if err != nil {
		return err
	}
	if damaged != nil {
		d.log.Error("what was remembered of the app is damaged; the link decides what is live", "app", a.name, "error", damaged)
	}
	a.switcher = release.NewSwitcher(release.Options{
		App: a.name, Tree: tree,
		Parts:   release.Parts{Files: tree, Web: a.web, Workers: a.fleet, Checks: a.verifier, Traffic: liveTraffic{a}},
		Journal: a.journal, State: a.state, History: history,
		Limits:       a.limits(),
		AutoRollback: a.cfg().Switch.AutoRollback,
		CanaryShare:  a.cfg().Switch.CanaryShare / 100,
		Helpless:     supervisor.LostKeeper,
		Tell:         a.heardSwitch, Failpoint: failpoint(), BootID: bootID(), Log: d.log,
	})
	a.link = release.NewLinkWatch(a.switcher, a.following())
	return nil
}

// limits are nets behind what the configuration says: a step that has a deadline of
// its own is to end by that, with its own words.
func (a *app) limits() release.Limits {
	s := a.cfg().Switch
	margin := min(time.Minute, s.ProgressDeadline/10+2*time.Second)
	l := release.Limits{
		Prepare: 10 * time.Minute, Verify: s.ProgressDeadline + margin, Rotate: s.ProgressDeadline + margin,
		Undo: s.ProgressDeadline + margin, Watch: s.Watch + 10*time.Minute, Canary: s.CanaryTime + 10*time.Minute, Finish: 15 * time.Minute,
	}
	if s.Before != nil {
		l.Prepare += s.Before.Timeout
	}
	if s.After != nil {
		l.Finish += s.After.Timeout
	}
	for _, c := range a.cfg().Checks {
		l.Verify = max(l.Verify, c.Deadline+2*c.Timeout+margin)
	}
	return l
}

func (a *app) tree() (*release.Tree, error) {
	who, err := a.around.credential()
	if err != nil {
		return nil, err
	}
	s := a.cfg().Switch
	t := &release.Tree{
		App: a.name, Root: a.cfg().Root, Releases: a.cfg().Releases, Current: a.cfg().Current, Required: s.Required,
		UID: who.UID, GID: who.GID, Groups: who.Groups,
		MinFreeBytes: minFreeBytes, MinFreeInodes: minFreeInodes, KeepReleases: s.KeepReleases,
		Before: hookOf(s.Before), After: hookOf(s.After), RunHook: a.hooks.run, InUse: a.inUse,
	}
	if a.fpm != nil {
		t.Test = a.fpm.Test
	}
	return t, nil
}

func hookOf(h *config.Hook) release.Hook {
	if h == nil {
		return release.Hook{}
	}
	return release.Hook{Command: h.Command, Timeout: h.Timeout}
}

// inUse is the directories of releases that something of the app runs from.
func (a *app) inUse() map[string]bool {
	used := map[string]bool{}
	if a.fpm != nil {
		for _, dir := range a.fpm.InUse() {
			used[dir] = true
		}
	}
	for _, dir := range a.fleet.InUse() {
		used[dir] = true
	}
	return used
}

func (a *app) newWeb() error {
	f, d := a.cfg().FPM, a.daemon
	access, err := fpm.Allow(f.ListenOwner, f.ListenGroup, f.ListenMode)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	a.fpm = fpm.NewFronts(fpm.Options{
		App: a.name, RunDir: filepath.Join(d.cfg.RunDir, a.name), Listen: f.Listen, Access: access, Backlog: f.Backlog,
		Handoff: fpm.Handoff(f.Handoff), Drain: f.DrainTimeout, Output: filepath.Join(a.name, "fpm.log"), Pool: a.fpmPool,
		Children: d.children, Log: d.log, Tell: a.heardWeb, Lines: a.fpmLines,
	})
	a.web = a.fpm
	return nil
}

// fpmPool is how PHP-FPM runs generation g.
func (a *app) fpmPool(g release.Generation) (fpm.Pool, error) {
	f := a.cfg().FPM
	who, err := a.around.credential()
	if err != nil {
		return fpm.Pool{}, err
	}
	v, err := a.around.vars(g, 0)
	if err != nil {
		return fpm.Pool{}, err
	}
	env, err := a.around.env(v, who, nil)
	if err != nil {
		return fpm.Pool{}, err
	}
	theirs, err := a.around.theirs(v)
	if err != nil {
		return fpm.Pool{}, fmt.Errorf("env_file: %w", err)
	}
	include, err := expandAll(f.Include, v)
	if err != nil {
		return fpm.Pool{}, fmt.Errorf("include: %w", err)
	}
	return fpm.Pool{
		Binary: f.Binary, Args: f.Args, User: f.User, Group: f.Group, DocumentRoot: f.DocumentRoot, Pin: f.Pin,
		PM: f.PM, MaxChildren: f.MaxChildren, StartServers: f.StartServers, MinSpareServers: f.MinSpareServers, MaxSpareServers: f.MaxSpareServers,
		MaxRequests: f.MaxRequests, RequestTerminateTimeout: f.RequestTerminateTimeout, SlowlogTimeout: f.SlowlogTimeout,
		DrainTimeout: f.DrainTimeout, INI: f.INI, Env: env, Theirs: theirs, Include: include,
	}, nil
}

// fpmLines are what the masters write from now on.
func (a *app) fpmLines(ctx context.Context) (<-chan string, error) {
	lines := a.daemon.output.Follow(ctx, a.name+"/fpm", 0, "")
	texts := make(chan string)
	a.copying.Go(func() {
		defer close(texts)
		for l := range lines {
			if l.Missed() > 0 {
				continue
			}
			select {
			case texts <- l.Text:
			case <-ctx.Done():
				return
			}
		}
	})
	return texts, nil
}

// site is what the checks need to know of the app.
func (a *app) site() check.Site {
	s := check.Site{
		Socket: func(release.Generation) string { return "" }, Against: a.against, Process: a.checkProcess,
		Tell: func(what string, lines []string) {
			a.daemon.event(control.Event{Kind: "check.note", App: a.name, Message: what, Lines: lines})
		},
		Progress: a.progress,
	}
	if a.fpm != nil {
		s.DocumentRoot, s.Socket, s.Traffic, s.Tail = a.cfg().FPM.DocumentRoot, a.fpm.Socket, a.fpm.Traffic, a.fpm.Tail
		s.Alone = fpm.Handoff(a.cfg().FPM.Handoff) == fpm.Reload
	}
	return s
}

// against is the other generation of a switch to g.
func (a *app) against(g release.Generation) release.Generation {
	if c := a.switcher.Snapshot().Current; c != nil && c.To.Number == g.Number {
		return c.From
	}
	return release.Generation{}
}

func (a *app) checkProcess(g release.Generation, command []string) (check.Process, error) {
	return a.process(command, 0, g, nil)
}

// process is a command of the app that is run beside it, and not kept up.
func (a *app) process(command []string, slot int, g release.Generation, env map[string]string) (check.Process, error) {
	s, err := a.around.spec(a.name+"/check", "", command, slot, g, env)
	if err != nil {
		return check.Process{}, err
	}
	p := check.Process{Argv: s.Argv, Env: s.Env, Dir: s.Dir}
	if a.cfg().User != "" {
		p.Credential = &syscall.Credential{Uid: s.User.UID, Gid: s.User.GID, Groups: s.User.Groups}
	}
	return p, nil
}

func (a *app) checks() []check.Check {
	var all []check.Check
	for _, c := range a.cfg().Checks {
		all = append(all, check.Check{
			Name: c.Name, Phase: c.Phase, Kind: c.Kind, Path: c.Path, Script: c.Script, URL: c.URL, Address: c.Address,
			Command: c.Command, Status: c.Status, Body: c.Body, Headers: c.Headers, Interval: c.Interval, Timeout: c.Timeout,
			HealthyThreshold: c.HealthyThreshold, UnhealthyThreshold: c.UnhealthyThreshold, Deadline: c.Deadline,
		})
	}
	return all
}

func (a *app) warmup() []string {
	if a.cfg().FPM == nil {
		return nil
	}
	return a.cfg().FPM.Warmup
}

func (a *app) progress() { a.switcher.Progress() }

// adopt takes a child of an earlier superd that is of this app.
func (a *app) adopt(c *supervisor.Child) bool {
	return a.fpm != nil && a.fpm.Adopt(c) || a.fleet.Adopt(c) || a.hooks.adopt(c)
}

// run is what runs for the app, but for its switches.
func (a *app) run(ctx context.Context) error {
	var g supervisor.Group
	g.Add("hooks", a.hooks.Run)
	if a.fpm != nil {
		g.Add("fpm", a.fpm.Run)
	}
	g.Add("workers", a.fleet.Run)
	return untilTold(ctx, &g)
}

// untilTold runs what is to run until it is stopped: an end of its own is a failure.
func untilTold(ctx context.Context, g *supervisor.Group) error {
	err := g.Run(ctx)
	if err == nil && ctx.Err() == nil {
		return errors.New("ended by itself")
	}
	return err
}

// runSwitches moves it from release to release. It relies on what run runs.
func (a *app) runSwitches(ctx context.Context) error {
	var g supervisor.Group
	g.Add("switches", a.switcher.Run)
	g.Add("link", a.link.Run)
	return untilTold(ctx, &g)
}

// stop ends everything of the app: no new request gets in, those that are in are
// answered, workers finish their jobs. If superd is about to start again, who comes
// meanwhile waits for it.
func (a *app) stop(ctx context.Context, again bool) {
	var web error
	var stopping sync.WaitGroup
	if a.fpm != nil {
		end := a.fpm.Stop
		if again {
			end = a.fpm.Park
		}
		stopping.Go(func() { web = end(ctx) })
	}
	a.stopWork(ctx)
	stopping.Wait()
	if web != nil {
		a.daemon.log.Error("stopping the app did not go well", "app", a.name, "error", web)
	}
}

// stopWork ends everything of the app but PHP-FPM.
func (a *app) stopWork(ctx context.Context) {
	var stopping sync.WaitGroup
	stopping.Go(func() { a.hooks.wait(ctx) })
	err := a.fleet.StopAll(ctx)
	stopping.Wait()
	if err != nil {
		a.daemon.log.Error("stopping the app did not go well", "app", a.name, "error", err)
	}
}

func (a *app) close() error {
	a.copying.Wait()
	var errs []error
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	if a.state != nil {
		errs = append(errs, a.state.Close())
	}
	return errors.Join(errs...)
}

func (a *app) heardSwitch(e release.Event) {
	a.daemon.event(control.SwitchEvent(a.name, e))
}

func (a *app) heardWeb(e fpm.Event) {
	a.daemon.event(control.Event{
		Kind: e.Kind, App: a.name, Process: a.name + "/fpm", Release: e.Generation.Release, Number: e.Generation.Number,
		Reason: e.Reason, Lines: e.Lines, Switch: a.switchOf(e.Generation),
	})
	if e.Kind == fpm.Died || e.Kind == fpm.WorkerDied {
		a.failed(e.Generation, "php-fpm: "+e.Reason, e.Lines)
	}
}

// switchOf is the switch that is going on from or to g, so that those who follow it
// hear what happens to processes meanwhile.
func (a *app) switchOf(g release.Generation) string {
	if c := a.switcher.Snapshot().Current; c != nil && (c.From.Number == g.Number || c.To.Number == g.Number) {
		return c.ID
	}
	return ""
}

// noWeb is the web side of an app that has none.
type noWeb struct{}

func (noWeb) Start(context.Context, release.Generation) error          { return nil }
func (noWeb) Promote(context.Context, release.Generation) error        { return nil }
func (noWeb) Share(context.Context, release.Generation, float64) error { return release.ErrNoOther }
func (noWeb) Retire(context.Context, release.Generation) error         { return nil }

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/notify"
	"superd/supervisor/output"
	"superd/supervisor/program"
)

// daemon is superd: every part of it, and nothing but the parts.
type daemon struct {
	file  string         // the configuration file
	cfg   *config.Config // that this superd began with: its own directories and socket are there for good
	holds atomic.Pointer[config.Config]
	log   *slog.Logger
	level *slog.LevelVar // of log
	began time.Time

	events   *control.Events
	notify   *notify.Server
	output   *output.Store
	logs     logRules
	children *supervisor.Children
	socket   *control.Socket
	server   *control.Server
	metrics  net.Listener // nil: nobody asks for them but on the control socket

	succession *succession

	end      context.CancelFunc // begins the shutdown
	leftover []*supervisor.Child

	programs  *program.Set
	running   *stage        // what runs for each app
	switching *stage        // and its switches
	work      *stage        // what a reload has begun and nobody waits for
	reloading chan struct{} // one reload at a time

	mu      sync.Mutex
	apps    []*app // by name
	refused error  // the configuration file is broken, and the last good one holds
}

// serve runs the daemon until ctx ends, then stops all that it runs.
func serve(ctx context.Context, file, state string) error {
	keeper := os.Getenv("SUPERD_KEEPER")
	if keeper == "" {
		return usage(errors.New("serve is started by superd-keeper; you want: superd run --config " + file))
	}
	succession, err := newSuccession()
	if err != nil {
		return err
	}
	cfg, refused, err := succession.load(file, state)
	if err != nil {
		return coded{err, exitRejected}
	}
	if err := succession.stepUp(cfg); err != nil {
		return err
	}
	d := newDaemon(file, cfg)
	d.succession, d.refused = succession, refused
	if refused != nil {
		d.log.Error("the configuration is refused; going on with the last good one", "file", file, "error", refused)
	}
	if err := tooFewDescriptors(mostProcesses(cfg, configuredSize)); err != nil {
		d.log.Error("the limit of open files is low; going on, for there may be processes to look after", "error", err)
	}
	ctx, d.end = context.WithCancel(ctx)
	defer d.end()
	if err := d.openInTime(ctx, keeper); err != nil {
		return errors.Join(err, d.close())
	}
	if refused == nil {
		if err := keepLastGood(cfg, file); err != nil {
			d.log.Warn("the configuration cannot be kept for the case of a crash", "error", err)
		}
	}
	d.finishReload()
	return d.run(ctx)
}

func newDaemon(file string, cfg *config.Config) *daemon {
	d := &daemon{
		file: file, cfg: cfg, level: new(slog.LevelVar), began: time.Now(),
		running: newStage(), switching: newStage(), work: newStage(), reloading: make(chan struct{}, 1),
	}
	d.level.Set(logLevel(cfg.Log.Level))
	d.log = newLog(cfg.Log, d.level, os.Stderr)
	d.holds.Store(cfg)
	return d
}

// statePatience is how long a superd that has lost its keeper may take to end.
const statePatience = 10 * time.Second

// openTime is for the claim of the fleet and whatever else may wait for somebody.
const openTime = time.Minute

// openInTime is open for a superd that may be told to stop meanwhile: the keeper tells each
// at its claim, once it was told itself. Its children are there to be stopped in order, and
// that takes a superd that is built.
func (d *daemon) openInTime(ctx context.Context, keeper string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), openTime, fmt.Errorf("took longer than %s", openTime))
	defer cancel()
	return d.open(ctx, keeper)
}

// open builds every part. Nothing is started.
func (d *daemon) open(ctx context.Context, keeper string) (err error) {
	for _, dir := range []string{d.cfg.RunDir, d.cfg.StateDir, d.cfg.LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if d.notify, err = notify.Listen(filepath.Join(d.cfg.RunDir, "notify.sock")); err != nil {
		return err
	}
	d.logs.obey(d.cfg)
	d.output = output.Open(output.Options{Dir: d.cfg.LogDir, Settings: d.logs.settings, Log: d.log})
	d.children, err = supervisor.Open(ctx, supervisor.Options{
		Keeper: keeper, State: d.cfg.StateDir, Notify: d.notify, Output: d.output, Log: d.log,
		Groups: d.groups(), Starved: d.starved, Patience: statePatience, Refused: exitRejected,
	})
	if errors.Is(err, supervisor.ErrStateInUse) {
		return coded{err, exitRejected}
	}
	if err != nil {
		return err
	}
	// After the claim, as all that another superd may have written until then.
	if d.events, err = control.OpenEvents(filepath.Join(d.cfg.StateDir, "events.ndjson"), d.log); err != nil {
		d.log.Warn("events of before are lost", "error", err)
	}
	for i := range d.cfg.Apps {
		a, err := d.newApp(&d.cfg.Apps[i])
		if err != nil {
			return fmt.Errorf("app %s: %w", d.cfg.Apps[i].Name, err)
		}
		d.addApp(a)
	}
	d.newPrograms()
	d.adopt()
	return d.newServer(ctx)
}

// adopt gives every child of an earlier superd its owner.
func (d *daemon) adopt() {
	for _, c := range d.children.Adopted() {
		owned := d.programs.Adopt(c)
		for _, a := range d.allApps() {
			owned = owned || a.adopt(c)
		}
		if !owned {
			d.leftover = append(d.leftover, c)
		}
	}
}

// run starts every part, in order, and stops them in reverse once ctx ends. What
// they rely on comes first: whatever ends a child needs those that tell of its end,
// and people want to see how far a shutdown is.
func (d *daemon) run(ctx context.Context) error {
	var g supervisor.Group
	g.Add("events", d.events.Run)
	g.Add("signals", d.heed)
	g.Add("children", d.children.Run)
	g.Add("pulse", d.beat)
	g.Add("leftovers", d.runLeftovers)
	d.addSockets(&g)
	g.Add("apps", d.running.Run)
	g.Add("programs", d.programs.Run)
	g.Add("readiness", d.tellWhenReady)
	stopping := make(chan struct{})
	g.Add("shutdown", func(turn context.Context) error {
		<-turn.Done()
		if ctx.Err() != nil { // not because a part has failed: then the next superd goes on
			close(stopping)
			d.stopAll(turn)
		}
		return nil
	})
	g.Add("switches", d.switching.Run)
	g.Add("reloads", d.work.Run)
	laidDown := make(chan struct{})
	var leaving sync.WaitGroup
	leaving.Go(func() { d.leaveInTime(laidDown) })
	defer leaving.Wait()
	defer close(laidDown)
	if err := d.succession.settled(); err != nil {
		d.log.Warn("superd cannot be upgraded", "error", err)
	}
	d.tellPID()
	d.log.Info("superd is here", "version", version, "pid", os.Getpid(), "epoch", d.children.Epoch(), "adopted", len(d.children.Adopted()))
	d.event(control.Event{Kind: "superd.started", PID: os.Getpid(), Message: fmt.Sprintf("superd %s, %d children adopted", version, len(d.children.Adopted()))})
	err := g.Run(ctx)
	select {
	case <-stopping:
		d.forgetPID()
		err = errors.Join(err, d.children.Shutdown(0))
		d.log.Info("superd has stopped everything")
	default:
	}
	if errors.Is(err, supervisor.ErrStale) {
		d.log.Info("another superd has the fleet; this one has laid everything down")
		err = nil
	}
	return errors.Join(err, d.close())
}

// heed answers the signals that other daemons give a meaning to; the keeper passes
// them on. Without an answer they would end superd.
func (d *daemon) heed(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	var heeding sync.WaitGroup
	defer heeding.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				heeding.Go(func() { _, _ = d.Reload(ctx, false, release.By{User: "SIGHUP"}) }) // is logged
			case syscall.SIGUSR2:
				heeding.Go(func() { _, _ = d.Upgrade(ctx, control.UpgradeRequest{}, release.By{User: "SIGUSR2"}) }) // likewise
			default:
				d.log.Warn("signal has no meaning in this version", "signal", s.String(), "hint", "SIGHUP reloads the configuration, SIGUSR2 upgrades superd")
			}
		}
	}
}

// stopAll ends everything that runs, all apps side by side, each as slowly as its
// requests and jobs need. A second signal to the keeper is the way to hurry.
func (d *daemon) stopAll(turn context.Context) {
	ctx := context.WithoutCancel(turn)
	d.event(control.Event{Kind: "superd.stopping", PID: os.Getpid()})
	d.tellSystemd(stoppingLine(d.config()))
	over := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() { d.tellWhoStays(over) })
	defer telling.Wait()
	defer close(over)
	again := d.startsAgain(ctx)
	if err := d.programs.StopAll(ctx, func() { d.stopApps(ctx, again) }); err != nil {
		d.log.Error("stopping the programs did not go well", "error", err)
	}
}

func (d *daemon) close() error {
	var errs []error
	if d.output != nil {
		errs = append(errs, d.output.Close())
	}
	if d.notify != nil {
		errs = append(errs, d.notify.Close())
	}
	for _, a := range d.allApps() {
		errs = append(errs, a.close())
	}
	if d.children != nil { // last: when this is done the next superd begins
		errs = append(errs, d.children.Close())
	}
	return errors.Join(errs...)
}

// leftoverPatience is how long something that no part of the configuration knows any
// longer may take to finish.
const leftoverPatience = 90 * time.Second

// gentle is the signal on which a process of that name finishes what it has in hand.
func gentle(name string) syscall.Signal {
	if strings.HasSuffix(name, "/fpm") {
		return syscall.SIGQUIT // on SIGTERM it cuts requests
	}
	return syscall.SIGTERM
}

// runLeftovers ends what an earlier superd ran and this one has no use for.
func (d *daemon) runLeftovers(ctx context.Context) error {
	var ending sync.WaitGroup
	for _, c := range d.leftover {
		d.log.Warn("ending a process that the configuration does not know", "name", c.Name(), "pid", c.PID())
		ending.Go(func() {
			exit, _, err := c.Stop(ctx, gentle(c.Name()), leftoverPatience, nil)
			if err == nil {
				err = c.Acknowledge()
			}
			if ctx.Err() == nil {
				d.log.Info("process that the configuration does not know has ended", "name", c.Name(), "exit", exit.String(), "error", err)
			}
		})
	}
	ending.Wait()
	<-ctx.Done()
	return nil
}

func (d *daemon) app(name string) (*app, error) {
	for _, a := range d.allApps() {
		if a.name == name {
			return a, nil
		}
	}
	return nil, &control.Error{Kind: control.NotFound, Message: fmt.Sprintf("there is no app %q", name), Hint: "superctl status lists the apps"}
}

func (d *daemon) event(e control.Event) { d.events.Append(e) }

// bootID tells one life of the machine from another (random(4)).
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

var _ control.Daemon = (*daemon)(nil)

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/release/check"
	"superd/supervisor"
	"superd/workers"
)

// pools are the pools of the configuration, as package workers takes them.
func (a *app) pools() []workers.Pool {
	var all []workers.Pool
	cfg := a.cfg()
	for i := range cfg.Workers {
		w := &cfg.Workers[i]
		all = append(all, workers.Pool{
			Name: w.Name, Processes: w.Processes, Order: workers.Order(w.Order), Canary: w.Canary,
			MaxParallel: w.MaxParallel.Of, MaxDraining: w.MaxDraining, MinHealthyTime: w.MinHealthyTime,
			StopSignal: w.StopSignal, StopTimeout: stopTimeout(w.StopTimeout), Planned: w.PlannedExits,
			Backoff: supervisor.DefaultBackoff(), Proof: a.proof(w), Spec: a.workerSpec(w),
			Limits: supervisor.Limits{MaxAge: w.MaxAge, MaxMemory: w.MaxMemory},
		})
	}
	return all
}

func stopTimeout(d time.Duration) time.Duration {
	if d == config.Infinity {
		return supervisor.Forever
	}
	return d
}

func (a *app) workerSpec(w *config.Worker) func(int, release.Generation) (supervisor.Spec, error) {
	return func(slot int, g release.Generation) (supervisor.Spec, error) {
		s, err := a.around.spec(fmt.Sprintf("%s/%s:%d", a.name, w.Name, slot), "", w.Command, slot, g, w.Env)
		if err != nil {
			return s, err
		}
		s.Labels["pool"], s.Labels["slot"] = w.Name, strconv.Itoa(slot)
		own := []string{"SUPERD_SLOT=" + strconv.Itoa(slot)}
		if w.Ready == "notify" {
			own = append(own, "NOTIFY_SOCKET="+a.daemon.children.NotifySocket())
		}
		s.Env, s.Nice, s.Limits, s.Watchdog = override(s.Env, own), w.Nice, limitsOf(w.Limits), w.Watchdog
		return s, nil
	}
}

// proof is what a worker must show to count as well. One that is to say so itself
// has as long as a switch may go without progress.
func (a *app) proof(w *config.Worker) func(int, release.Generation) func(context.Context, *supervisor.Child) error {
	patience := a.cfg().Switch.ProgressDeadline
	return func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error {
		switch w.Ready {
		case "notify":
			return supervisor.Notified(patience)
		case "log":
			return supervisor.Wrote(w.ReadyLog, patience)
		case "command":
			return answering(patience, func(c *supervisor.Child) (check.Process, error) { return a.readyProcess(w, slot, g, c) })
		}
		return supervisor.Alive(w.MinHealthyTime)
	}
}

// answering is the proof of a process that is well once a command says so.
func answering(patience time.Duration, command func(*supervisor.Child) (check.Process, error)) func(context.Context, *supervisor.Child) error {
	return func(ctx context.Context, c *supervisor.Child) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for {
			process, err := command(c)
			if err == nil {
				err = check.Run(ctx, process)
			}
			if err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready within %s: %w", c.Name(), patience, err)
			case <-c.Exited():
				return fmt.Errorf("%s: %s", c.Name(), c.Exit())
			case <-time.After(time.Second):
			}
		}
	}
}

func (a *app) readyProcess(w *config.Worker, slot int, g release.Generation, c *supervisor.Child) (check.Process, error) {
	p, err := a.process(w.ReadyCommand, slot, g, w.Env)
	p.Env = override(p.Env, []string{"SUPERD_SLOT=" + strconv.Itoa(slot), "SUPERD_PID=" + strconv.Itoa(c.PID())})
	return p, err
}

// resources are the limits by the names of the configuration.
var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

func limitsOf(limits map[string]uint64) []supervisor.Limit {
	var all []supervisor.Limit
	for name, value := range limits {
		all = append(all, supervisor.Limit{Resource: resources[name], Soft: value, Hard: value})
	}
	return all
}

// heardWorkers passes on what happened to workers. One that failed speaks against
// the generation that it ran.
func (a *app) heardWorkers(e workers.Event) {
	slot := e.Slot
	on := control.Event{
		Kind: e.Kind, App: a.name, Process: e.Process, Pool: a.name + "/" + e.Pool, PID: e.PID,
		Release: e.Generation.Release, Number: e.Generation.Number, Reason: e.Reason, Lines: e.Lines, Switch: a.switchOf(e.Generation),
	}
	if e.Kind == workers.Scaled {
		on.Message = fmt.Sprintf("%d → %d", e.From, e.To)
	} else {
		on.Slot = &slot
	}
	if e.Exit != nil {
		on.Took = e.Exit.Ran.Seconds()
	}
	a.daemon.event(on)
	if e.Kind == workers.Failed {
		a.failed(e.Generation, e.Process+": "+e.Reason, e.Lines)
	}
}

// rotated is a sign of life of a rotation; those who follow the switch hear how far
// it is.
func (a *app) rotated() {
	a.progress()
	c := a.switcher.Snapshot().Current
	if c == nil {
		return
	}
	to := c.To
	if c.Phase == release.RollingBack {
		to = c.From
	}
	text := a.howFar(to)
	a.mu.Lock()
	known := a.told == c.ID+text
	a.told = c.ID + text
	a.mu.Unlock()
	if !known && text != "" {
		a.daemon.event(control.Event{Kind: "switch.progress", App: a.name, Switch: c.ID, Phase: c.Phase, From: c.From, To: c.To, Message: text})
	}
}

// howFar is how many workers of each pool are well on g: "emails 4/8, reports 2/2".
func (a *app) howFar(g release.Generation) string {
	var parts []string
	for _, p := range a.fleet.Status() {
		well := 0
		for _, w := range p.Workers {
			if w.Generation.Number == g.Number && w.State == supervisor.Running {
				well++
			}
		}
		parts = append(parts, fmt.Sprintf("%s %d/%d", p.Name, well, p.Wanted))
	}
	return strings.Join(parts, ", ")
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"superd/control"
	"superd/fpm"
	"superd/fpm/traffic"
	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

// Status is everything that there is to see.
func (d *daemon) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{Version: version, PID: os.Getpid(), Started: d.began, Time: time.Now()}
	if d.isRefused() {
		s.Problems = append(s.Problems, "the configuration file is broken; superd runs with the last one that was accepted: superd check tells what is wrong")
	}
	for _, a := range d.allApps() {
		one := a.status(ctx)
		s.Apps = append(s.Apps, one)
		for _, p := range one.Problems {
			s.Problems = append(s.Problems, a.name+": "+p)
		}
	}
	s.Programs = d.programStatus()
	s.Problems = append(s.Problems, d.programs.Problems()...)
	addUsage(&s, d.children.Charges())
	s.Healthy = len(s.Problems) == 0
	return s, nil
}

func (a *app) status(ctx context.Context) control.AppStatus {
	shot := a.switcher.Snapshot()
	s := control.AppStatus{Name: a.name, State: control.AppOK, Hold: shot.Hold}
	if !shot.Live.IsZero() {
		s.Live = &shot.Live
	}
	if !shot.Previous.IsZero() {
		s.Previous = &shot.Previous
	}
	if shot.Current != nil {
		s.Switch = &control.SwitchStatus{Record: a.withSharing(*shot.Current), Since: shot.Since, Paused: shot.Paused}
	}
	s.State, s.Problems = standing(shot)
	s.Problems = append(s.Problems, a.hooks.problems()...)
	a.webStatus(ctx, &s, shot)
	a.poolStatus(&s, shot)
	return s
}

// standing is an app in one word, and what is wrong with it.
func standing(shot release.Snapshot) (control.AppState, []string) {
	var problems []string
	if shot.Degraded != "" {
		problems = append(problems, "degraded: "+shot.Degraded)
	}
	if shot.Link != "" {
		problems = append(problems, shot.Link)
	}
	switch {
	case shot.Paused != "":
		return control.AppPaused, append(problems, "the switch to "+shot.Current.To.Release+" is paused: "+shot.Paused)
	case shot.Current != nil:
		return control.AppSwitching, problems
	case shot.Live.IsZero():
		return control.AppWaiting, append(problems, "no release is live yet")
	case shot.Settling:
		return control.AppSettling, append(problems, "superd has just started and is bringing up "+shot.Live.String())
	case shot.Degraded != "":
		return control.AppDegraded, problems
	case shot.Hold != nil:
		return control.AppHeld, problems
	}
	return control.AppOK, problems
}

func (a *app) webStatus(ctx context.Context, s *control.AppStatus, shot release.Snapshot) {
	if a.fpm == nil {
		return
	}
	name, why := a.name+"/fpm", ""
	s.FPM = &control.FPMStatus{Name: name, Listen: a.fpm.Listen()}
	for _, former := range a.fpm.Formers() {
		s.FPM.Former = append(s.FPM.Former, control.FormerListen{Listen: former.Listen, Used: former.Used})
	}
	serves := false
	for _, g := range a.fpm.Status(ctx) {
		state := string(g.State)
		if g.State == fpm.Serving {
			state, serves, why = "live", g.PID != 0, g.Reason
		}
		s.FPM.Generations = append(s.FPM.Generations, control.GenerationStatus{
			Generation: g.Generation, State: state, Reason: g.Reason, PID: g.PID, Since: g.Since, Restarts: g.Restarts,
			Active: max(g.Active, 0), Idle: max(g.Idle, 0), Queue: max(g.Queue, 0), Traffic: trafficStatus(&g.Traffic),
		})
	}
	if !serves && !shot.Live.IsZero() && !shot.Settling && !a.webDown.Load() {
		s.FPM.Problem = because(name+" does not serve", why)
		s.Problems = append(s.Problems, s.FPM.Problem)
	}
}

func trafficStatus(f *traffic.Figures) *control.TrafficStatus {
	all, c := &f.Total, &f.Recent
	if all.Requests() == 0 {
		return nil
	}
	return &control.TrafficStatus{
		Requests: c.Requests(), Failed: c.Failed(), ErrorShare: c.ErrorShare(),
		P50: c.Quantile(0.5).Seconds(), P95: c.Quantile(0.95).Seconds(),
		Total: control.TrafficTotal{Requests: all.Requests(), Failed: all.Failed(), Seconds: all.Took.Seconds(), Times: octaves(all)},
	}
}

// octaves are the times of c in buckets that a dashboard can afford: each twice as
// wide as the one before, by its upper end in seconds, and counting all below too.
func octaves(c *traffic.Counts) map[float64]uint64 {
	const each = 4 // buckets of package traffic to an octave
	below, last := map[float64]uint64{}, len(c.Times)-1
	sum := uint64(0)
	for i, n := range c.Times {
		if sum += n; i%each == 0 && i < last {
			below[traffic.Bound(i).Seconds()] = sum
		}
	}
	return below
}

func (a *app) poolStatus(s *control.AppStatus, shot release.Snapshot) {
	for _, p := range a.fleet.Status() {
		pool := control.PoolStatus{Name: a.name + "/" + p.Name, Wanted: p.Wanted, Running: p.Running, Draining: p.Draining}
		why := ""
		for _, w := range p.Workers {
			why = cmp.Or(why, w.Reason)
			pool.Workers = append(pool.Workers, workerStatus(a.name, p.Name, w, shot))
		}
		if shot.Current == nil && !shot.Settling && !shot.Live.IsZero() && p.Running < p.Wanted {
			pool.Problem = because(fmt.Sprintf("%s has %d of %d workers", pool.Name, p.Running, p.Wanted), why)
			s.Problems = append(s.Problems, pool.Problem)
		}
		s.Pools = append(s.Pools, pool)
	}
}

// because adds to a problem why it is there, where that is known.
func because(problem, why string) string {
	if why == "" {
		return problem
	}
	return problem + ": " + why
}

func workerStatus(app, pool string, w workers.WorkerStatus, shot release.Snapshot) control.ProcessStatus {
	s := control.ProcessStatus{
		Name: w.Name, App: app, Pool: pool, State: string(w.State), PID: w.PID,
		Release: w.Generation.Release, Generation: w.Generation.Number,
		Stale:  w.PID != 0 && w.Generation.Number != shot.Live.Number,
		Reason: w.Reason, Since: w.Since, Restarts: w.Restarts, Last: w.Last, StatusText: w.Text, Reloading: w.Reloading,
	}
	if _, err := os.Stat(w.Generation.Dir); s.Stale && errors.Is(err, fs.ErrNotExist) {
		s.State = stranded
	}
	return s
}

// stranded is a worker whose release others have deleted while it finishes its job.
// Its place has been taken by one of the live release; what it has yet to load is gone.
const stranded = "stranded"

// addUsage measures memory and CPU of everything in s at once. What the kernel has charged
// to cgroups need not be measured.
func addUsage(s *control.Status, charges map[int]supervisor.Charge) {
	roots := map[int]bool{}
	eachProcess(s, func(pid int, _ *control.Consumption) {
		if !charges[pid].Whole {
			roots[pid] = true
		}
	})
	used := map[int]consumption{}
	if len(roots) > 0 {
		used = measure(roots)
	}
	eachProcess(s, func(pid int, u *control.Consumption) {
		is := used[pid]
		if c, ok := charges[pid]; ok {
			is = is.charged(c)
		}
		u.Memory, u.CPU, u.CPUSeconds = is.memory, is.cpu, is.busy
	})
}

func eachProcess(s *control.Status, do func(pid int, u *control.Consumption)) {
	one := func(pid int, u *control.Consumption) {
		if pid != 0 {
			do(pid, u)
		}
	}
	for i := range s.Programs {
		one(s.Programs[i].PID, &s.Programs[i].Consumption)
	}
	for _, a := range s.Apps {
		if a.FPM != nil {
			for i := range a.FPM.Generations {
				one(a.FPM.Generations[i].PID, &a.FPM.Generations[i].Consumption)
			}
		}
		for _, p := range a.Pools {
			for i := range p.Workers {
				one(p.Workers[i].PID, &p.Workers[i].Consumption)
			}
		}
	}
}

// usersOfReleases are the names of the processes that run from each release.
func (a *app) usersOfReleases(ctx context.Context) map[string][]string {
	users := map[string][]string{}
	if a.fpm != nil {
		for _, g := range a.fpm.Status(ctx) {
			if g.PID != 0 {
				users[g.Release] = append(users[g.Release], a.name+"/fpm")
			}
		}
	}
	for _, p := range a.fleet.Status() {
		for _, w := range p.Workers {
			if w.PID != 0 {
				users[w.Generation.Release] = append(users[w.Generation.Release], w.Name)
			}
		}
	}
	return users
}

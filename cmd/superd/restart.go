package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// systemd stops a service in the same way whether it is to start again or not. It makes a
// difference: the sockets that users come to are kept by systemd over a restart, so who
// comes meanwhile can wait; after a stop nobody would ever answer, so the door is shut at
// once and a web server can ask another machine. So superd asks systemd.

// askSystemd is how long it may take to answer.
const askSystemd = 2 * time.Second

// startsAgain tells whether systemd is about to start superd again and keeps its sockets
// until then. When in doubt it is a stop.
func (d *daemon) startsAgain(ctx context.Context) bool {
	if !underSystemd() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askSystemd)
	defer cancel()
	again, err := restarts(ctx, uint32(systemdKnows())) //nolint:gosec // a PID
	if err != nil {
		d.log.Warn("systemd does not say whether this is a restart; users are refused until superd is back", "error", err)
	}
	return again
}

// restarts asks for the job of the unit that pid is of.
func restarts(ctx context.Context, pid uint32) (bool, error) {
	manager, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return false, fmt.Errorf("ask systemd: %w", err)
	}
	defer manager.Close()
	unit, err := manager.GetUnitNameByPID(ctx, pid)
	if err != nil {
		return false, fmt.Errorf("ask systemd for the unit of PID %d: %w", pid, err)
	}
	own, err := manager.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return false, fmt.Errorf("ask systemd for the properties of %s: %w", unit, err)
	}
	jobs, err := manager.ListJobsContext(ctx)
	if err != nil {
		return false, fmt.Errorf("ask systemd for its jobs: %w", err)
	}
	i := slices.IndexFunc(jobs, func(j dbus.JobStatus) bool { return j.Unit == unit })
	job := ""
	if i >= 0 {
		job = jobs[i].JobType
	}
	kept, _ := own["FileDescriptorStoreMax"].(uint32) // what it does not know it does not keep
	policy, _ := own["Restart"].(string)
	return isRestart(job, policy, kept), nil
}

// isRestart: a job says what is to come; without one, as after a signal by hand, the
// policy of the unit does.
func isRestart(job, policy string, kept uint32) bool {
	switch {
	case kept == 0:
		return false
	case job == "":
		return policy == "always"
	}
	return job == "restart" || job == "try-restart"
}

// stopApps ends all apps side by side.
func (d *daemon) stopApps(ctx context.Context, again bool) {
	if again {
		// Users are served until jobs and hooks are done: only then do they begin to wait.
		d.each(func(a *app) { a.stopWork(ctx) })
	}
	d.each(func(a *app) { a.stop(ctx, again) })
}

func (d *daemon) each(do func(*app)) {
	var all sync.WaitGroup
	for _, a := range d.allApps() {
		all.Go(func() { do(a) })
	}
	all.Wait()
}

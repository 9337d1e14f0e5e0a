package main

import (
	"fmt"
	"strings"

	"superd/control"
	"superd/supervisor"
	"superd/supervisor/cgroup"
)

// groups is where each child gets a cgroup of its own, nil where superd has none to
// divide: see docs/decisions/0029-cgroups.md.
func (d *daemon) groups() *cgroup.Tree {
	tree, err := cgroup.Find(d.cfg.StateDir)
	if err != nil {
		d.log.Info("children get no cgroups; they are known by session, descent and a mark in their environment", "reason", err)
		return nil
	}
	d.log.Info("each child gets a cgroup", "directory", tree.Dir(), "memory", tree.HasMemory())
	return tree
}

// starved tells people of a process that the kernel has killed for want of memory and whose
// end nobody else tells: a worker of PHP-FPM, whose request is cut and whose place is taken.
func (d *daemon) starved(s supervisor.Starved) {
	e := starvedEvent(s)
	d.log.Warn("the kernel has killed for want of memory", "process", e.Process, "pid", e.PID, "message", e.Message)
	d.event(e)
}

func starvedEvent(s supervisor.Starved) control.Event {
	if s.Child == nil {
		return control.Event{
			Kind: "process.oom", PID: s.PID, Reason: "out of memory",
			Message: fmt.Sprintf("out of memory: the kernel has killed process %d (%s), which something that superd runs had started", s.PID, s.Name),
		}
	}
	e := control.Event{
		Kind: "process.oom", Process: s.Child.Name(), PID: s.Child.PID(), Reason: "out of memory",
		Message: fmt.Sprintf("out of memory: the kernel has killed %d of the processes of %s", s.Kills, s.Child.Name()),
	}
	if app, _, ok := strings.Cut(e.Process, "/"); ok {
		e.App = app
	}
	return e
}

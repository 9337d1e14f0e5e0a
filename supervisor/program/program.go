// Package program keeps up everything that is neither a PHP-FPM nor a queue worker of
// an app: the web server, Redis, a scheduler, whatever a supervisord had.
//
// A program is one or more processes that are the same but for their number. Its
// processes live as package supervisor has them live. What is added here is when each
// may: after what it needs is ready, unless a person has stopped it, until it has failed
// more often than its configuration puts up with; and in which order all of them go.
//
// The invariant: what is to run follows from what is wanted, what is up and what is on
// disk, and is looked at anew after everything that happens. So superd may die in the
// middle of an order, and the next one does what is left of it.
package program

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"time"

	"superd/supervisor"
	"superd/supervisor/schedule"
)

// A Program is how one program is run. Its zero values are those of the configuration:
// no limit, nothing before it.
type Program struct {
	Name      string // "nginx"; its processes are "nginx:0", "nginx:1" …
	Processes int

	// After is what has to be ready before it starts, or to have had its say: "program.redis",
	// "app.shop". Requires are programs of these that it is also stopped and started with,
	// and that must be ready.
	After    []string
	Requires []string

	Autostart     bool
	Restart       supervisor.Restart
	Planned       []int // exit codes that are no failure
	Backoff       supervisor.Backoff
	MaxRestarts   int // failures within RestartWindow that are put up with; 0: any number
	RestartWindow time.Duration
	StopSignal    syscall.Signal
	StopTimeout   time.Duration // supervisor.Forever: as long as it takes
	Alone         bool          // its end is that of its main process, see supervisor.Policy

	supervisor.Limits // a process past them is restarted

	// Plan is when it runs; nil: all the time.
	Plan *schedule.Plan

	// Proof makes what decides that a process is ready, see supervisor.Policy.
	Proof func(process int) func(context.Context, *supervisor.Child) error
	// Spec says what is to be run; it is asked anew for every life. Name, Slot, Note and
	// how it is stopped are set here.
	Spec func(process int) (supervisor.Spec, error)
	// Reload has a running process read its own configuration; nil: it cannot.
	Reload func(ctx context.Context, process int, c *supervisor.Child) error
}

// States of a process beyond those of package supervisor.
const (
	Waiting   supervisor.State = "waiting"   // for what it comes after
	Exited    supervisor.State = "exited"    // it has ended by itself, and is not to be started again
	Fatal     supervisor.State = "fatal"     // it has failed more often than is put up with
	Scheduled supervisor.State = "scheduled" // until its next run is due
)

// An Event is something of a program that people should know.
type Event struct {
	Kind    string // one of the kinds below
	Program string // "web"
	Process string // "web:3"
	Number  int
	PID     int
	Exit    *supervisor.Exit // nil when nothing has ended
	Reason  string           // whole: "exit 255 after 300ms"
	Lines   []string         // the last ones it wrote
}

// The kinds of events. Add new ones, never rename one.
const (
	Ready      = "program.ready"      // it is up
	Ended      = "program.exited"     // it has ended by itself, as planned
	Failed     = "program.failed"     // it ended, or did not get ready, and nobody had asked it to end
	GaveUp     = "program.fatal"      // it failed more often than is put up with, and is left alone
	Stopped    = "program.stopped"    // it was told to end, and has
	Killed     = "program.killed"     // it was told to end and had to be killed
	Unkillable = "program.unkillable" // SIGKILL did not end it
	Recycled   = "program.recycled"   // it is too large or too old, and is about to be restarted
	Skipped    = "program.skipped"    // a run was due and is left out
)

// A Status is one process of a program at one moment.
type Status struct {
	Program  string
	Name     string // "web:3"
	State    supervisor.State
	Reason   string // why it waits, is between two lives, or was given up
	Wanted   bool   // it is to be up, or to run when it is due
	PID      int    // 0: nothing runs
	Since    time.Time
	Restarts int
	Last     string    // how the life before ended
	Next     time.Time // when its next run is due; zero: it has no schedule

	Text      string // what it says of itself by STATUS=
	Reloading bool   // it has said that it reads its configuration anew
	Problem   string // that it is not as it is wanted, for people; "": it is
}

// comesAfter tells whether p starts after, and so stops before, program q.
func (p *Program) comesAfter(q string) bool {
	return slices.Contains(p.After, "program."+q)
}

// before are the programs that p comes after, and others of that kind: apps.
func (p *Program) before() (programs, others []string) {
	for _, name := range p.After {
		if program, ok := strings.CutPrefix(name, "program."); ok {
			programs = append(programs, program)
		} else {
			others = append(others, name)
		}
	}
	return programs, others
}

package program

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"time"

	"superd/supervisor"
)

// A program is its processes and what is wanted of them. The set's mutex guards it.
type program struct {
	Program
	set *Set

	processes int          // wanted: as configured, or as scaled since
	down      bool         // not to be up: stopped by a person, or not started by one
	stopped   map[int]bool // processes that a person has stopped, while the others run
	removed   bool         // no longer configured: its processes are on their way out
	units     []*unit      // by number; those of a larger scale of before are behind

	waits string // what it has to wait for
	polls bool   // nobody says when that is ready

	due    time.Time // when its next run is, with a schedule
	queued bool      // a run was due while one was there, and is to begin when that ends
}

// A unit is one process of a program.
type unit struct {
	program *program
	of      string // its program's name
	number  int
	name    string
	process *supervisor.Process
	adopted *supervisor.Child // of an earlier superd
	known   bool              // that one has been up already
	begun   bool              // has a goroutine

	released bool             // it was let start, and lives as its policy says
	held     int              // so many orders keep it from being started
	over     supervisor.State // Exited or Fatal: it does not come back by itself
	reason   string           // of that, or of the last failure
	failures []time.Time      // within the window, by the monotonic clock
	fails    int              // since it was last up or told to start
}

// isWanted tells whether process n is to be up.
func (p *program) isWanted(n int) bool {
	return !p.removed && !p.down && n < p.processes && !p.stopped[n]
}

// isIdle tells whether none of it is to be up.
func (p *program) isIdle() bool {
	return !slices.ContainsFunc(p.units, (*unit).isWanted)
}

// isGone tells whether nothing lives of a program that is no longer configured.
func (p *program) isGone() bool {
	return p.removed && !slices.ContainsFunc(p.units, func(u *unit) bool { return !u.begun || u.held > 0 || !u.process.IsDown() })
}

// fill makes the processes that are wanted and not there yet.
func (p *program) fill() {
	for n := len(p.units); n < p.processes; n++ {
		p.units = append(p.units, p.newUnit(n, nil))
	}
}

func (p *program) newUnit(n int, c *supervisor.Child) *unit {
	u := &unit{program: p, of: p.Name, number: n, name: fmt.Sprintf("%s:%d", p.Name, n), adopted: c}
	u.process = supervisor.NewProcess(p.set.o.Children, u.name, u.policy(), u.spec, u.hear)
	if c != nil {
		u.process.Adopt(c)
		u.released = true
	} else {
		u.process.Down()
	}
	return u
}

// adopt takes a child of an earlier superd. One that runs although nobody has it start
// by itself was started by a person; one that a person has stopped is on its way out.
func (p *program) adopt(n int, c *supervisor.Child) {
	for len(p.units) <= n {
		p.units = append(p.units, p.newUnit(len(p.units), nil))
	}
	p.units[n] = p.newUnit(n, c)
	if !p.Autostart && !p.set.orders.isStopped(p.Name) {
		p.down = false
	}
}

func (u *unit) isWanted() bool { return u.program.isWanted(u.number) }

func (u *unit) run(ctx context.Context) { _ = u.process.Run(ctx) } // its error is that ctx has ended

// mayStart tells whether it is to be started now. A schedule starts its runs itself.
func (u *unit) mayStart() bool {
	p := u.program
	return !p.set.closing && u.isWanted() && u.held == 0 && u.over == "" && !u.released && p.waits == "" && p.Plan == nil
}

// start lets it start. From then on its policy keeps it up.
func (u *unit) start() {
	u.released, u.over, u.fails = true, "", 0
	u.process.Start()
}

// isComing tells whether it is on its way up: it starts for the first time.
func (u *unit) isComing() bool {
	state := u.process.Status().State
	return u.isWanted() && u.released && u.over == "" && u.fails == 0 && u.program.Plan == nil &&
		(state == supervisor.Stopped || state == supervisor.Starting)
}

func (u *unit) policy() supervisor.Policy {
	p := &u.program.Program
	policy := supervisor.Policy{
		Restart: p.Restart, Backoff: p.Backoff, Planned: p.Planned, StopSignal: p.StopSignal, StopTimeout: p.StopTimeout,
		Alone: p.Alone,
	}
	if p.Proof != nil {
		proof := p.Proof(u.number)
		policy.Proof = func(ctx context.Context, c *supervisor.Child) error {
			if c == u.adopted && u.known {
				return nil
			}
			return proof(ctx, c)
		}
	}
	return policy
}

// lifeOf tells one life of a process from all others.
func lifeOf(c *supervisor.Child) string {
	return fmt.Sprintf("%d@%d", c.FirstPID(), c.Born().UnixNano())
}

// spec is what its next life is: as the configuration says now.
func (u *unit) spec(context.Context) (supervisor.Spec, error) {
	s := u.program.set
	s.mu.Lock()
	p := u.program.Program
	s.mu.Unlock()
	spec, err := p.Spec(u.number)
	if err != nil {
		return spec, err
	}
	n, err := json.Marshal(note{Program: p.Name, Process: u.number, Signal: p.StopSignal, Timeout: p.StopTimeout})
	spec.Name, spec.Slot, spec.Note = u.name, u.name, n
	spec.StopSignal, spec.StopTimeout, spec.Alone = p.StopSignal, p.StopTimeout, p.Alone
	return spec, err
}

// A note is what the keeper holds beside a process of a program for the next superd.
type note struct {
	Program string         `json:"program"`
	Process int            `json:"process"`
	Signal  syscall.Signal `json:"signal"`
	Timeout time.Duration  `json:"timeout"`
}

func readNote(text []byte) (note, bool) {
	var n note
	err := json.Unmarshal(text, &n)
	return n, err == nil && n.Program != "" && n.Process >= 0
}

// foreign is the program of a process that is no longer configured, as far as ending
// it goes.
func (n note) foreign() Program {
	return Program{Name: n.Program, Restart: supervisor.Never, StopSignal: n.Signal, StopTimeout: n.Timeout}
}

// isNotUp is why it does not count as ready for one that comes after it, or requires
// it; empty: it does. Whoever only comes after it also goes on when it has had its say.
func (p *program) isNotUp(required bool) string {
	if p.isIdle() || p.Plan != nil {
		if required && p.isIdle() && p.processes > 0 {
			return p.Name + ", which is stopped"
		}
		return ""
	}
	for _, u := range p.units {
		if !u.isWanted() {
			continue
		}
		switch state := u.state(); {
		case state == supervisor.Running, state == Exited && u.reason == "":
		case !required && (state == Exited || state == Fatal || state == supervisor.Cooling):
		default:
			return u.name + ", which is " + string(state)
		}
	}
	return ""
}

// state is how people are shown it.
func (u *unit) state() supervisor.State {
	state := u.process.Status().State
	switch {
	case state != supervisor.Stopped:
		return state
	case !u.isWanted():
		return state
	case u.program.Plan != nil && u.over != Fatal && u.program.waits != "":
		return Waiting
	case u.program.Plan != nil && u.over != Fatal:
		return Scheduled
	case u.over != "":
		return u.over
	case u.released, u.held > 0, u.program.waits == "":
		return supervisor.Starting // in a moment
	}
	return Waiting
}

// Status is every process of every program, by name and number.
func (s *Set) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for _, p := range s.sorted {
		for _, u := range p.units {
			if u.number < p.processes && !p.removed || !u.process.IsDown() {
				all = append(all, u.status())
			}
		}
	}
	return all
}

func (u *unit) status() Status {
	own := u.process.Status()
	st := Status{
		Program: u.program.Name, Name: u.name, State: u.state(), Wanted: u.isWanted(),
		PID: own.PID, Since: own.Since, Restarts: own.Restarts, Text: own.Text, Reloading: own.Reloading,
	}
	if own.Last != nil {
		st.Last = own.Last.String()
	}
	if st.State == Waiting {
		st.Reason = "for " + u.program.waits
	}
	if slices.Contains([]supervisor.State{supervisor.Backing, supervisor.Cooling, Exited, Fatal}, st.State) {
		st.Reason = cmp.Or(own.Unborn, u.reason)
	}
	if u.program.Plan != nil && st.Wanted {
		st.Next = u.program.due
	}
	st.Problem = st.problem()
	return st
}

// lastLines is how much of what a process wrote goes with an event.
const lastLines = 20

// hear takes what happened to a process.
func (u *unit) hear(e supervisor.ProcessEvent) {
	s := u.program.set
	event := Event{Program: u.of, Process: u.name, Number: u.number, Exit: e.Exit}
	if e.Child != nil {
		event.PID, event.Lines = e.Child.PID(), e.Child.Tail(lastLines)
	}
	s.mu.Lock()
	var more Event
	switch {
	case e.Exit != nil:
		event.Kind, event.Reason = u.ended(e)
		more = u.judge(event)
	case e.To == supervisor.Unkillable:
		event.Kind, event.Reason = Unkillable, e.Err.Error()
	case e.Err != nil && e.Child == nil:
		event.Kind, event.Reason = Failed, e.Err.Error()
		more = u.judge(event)
	case e.Err != nil: // its end is to come, and says so too
		s.o.Log.Warn("program", "process", u.name, "error", e.Err)
	case e.Proved && e.To == supervisor.Running:
		if u.fails, u.reason = 0, ""; e.Child != u.adopted || !u.known { // of that one it was told before
			event.Kind, event.Lines = Ready, nil
			if s.proofs.IsZero() {
				s.proofs = time.Now().Add(proofsWait)
				s.rouse()
			}
		}
	}
	s.heard(u.program)
	s.mu.Unlock()
	s.tell(event)
	s.tell(more)
}

// ended takes note of the end of a life.
func (u *unit) ended(e supervisor.ProcessEvent) (kind, reason string) {
	reason = e.Exit.String()
	told := !e.Child.Told().IsZero() && e.Err == nil
	switch {
	case told && e.Exit.Killed:
		return Killed, reason
	case told || e.Exit.Killed && e.Err == nil:
		return Stopped, reason
	}
	if e.To == supervisor.Stopped && u.isWanted() {
		u.over, u.reason, u.program.set.dirty = Exited, "", true
		if !e.Planned {
			u.reason = reason
		}
	}
	if e.Planned && (e.Proved || u.over == Exited) {
		return Ended, reason
	}
	if !e.Proved && e.Exit.Failure == "" {
		reason += " before it was ready"
	}
	return Failed, cmp.Or(text(e.Err), reason)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// judge counts a failure, and gives the process up when there were too many.
func (u *unit) judge(e Event) Event {
	p := u.program
	if e.Kind != Failed {
		return Event{}
	}
	u.fails++
	if u.over == "" {
		u.reason = e.Reason
	}
	if p.MaxRestarts == 0 || u.over != "" {
		return Event{}
	}
	now := time.Now()
	u.failures = slices.DeleteFunc(u.failures, func(at time.Time) bool { return now.Sub(at) > p.RestartWindow })
	u.failures = append(u.failures, now)
	if len(u.failures) <= p.MaxRestarts {
		return Event{}
	}
	u.over, u.failures, p.set.dirty = Fatal, nil, true
	u.reason = fmt.Sprintf("gave up after %d failures within %s: %s; superctl start %s tries again", p.MaxRestarts+1, p.RestartWindow, e.Reason, u.name)
	u.process.Down()
	e.Kind, e.Reason = GaveUp, u.reason
	return e
}

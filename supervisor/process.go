package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A State is where a process stands in its life. States are shown to people and
// sent to clients: add new ones, never rename one.
type State string

// The states; see moves for the ways between them.
const (
	Stopped    State = "stopped"    // nothing runs and nothing is wanted
	Starting   State = "starting"   // runs, has not proved itself yet
	Running    State = "running"    // has proved itself
	Stopping   State = "stopping"   // told to go, will be stopped
	Draining   State = "draining"   // told to go for good: finishes what it has in hand
	Backing    State = "backoff"    // between two lives
	Cooling    State = "cooling"    // likewise, after so many failures that it is tried at the longest pause only
	Unkillable State = "unkillable" // SIGKILL did not end it within 10 s
)

// moves lists every way from one state to another. Every state accepts a stop.
func (s State) moves() []State {
	switch s {
	case Stopped:
		return []State{Starting, Backing, Cooling}
	case Starting:
		return []State{Running, Stopping, Draining, Backing, Cooling, Stopped}
	case Running:
		return []State{Stopping, Draining, Backing, Cooling, Starting, Stopped}
	case Stopping, Draining, Unkillable:
		return []State{Draining, Unkillable, Starting, Backing, Cooling, Stopped}
	case Backing:
		return []State{Starting, Cooling, Stopped}
	case Cooling:
		return []State{Starting, Backing, Stopped}
	}
	return nil
}

// A Restart says when a process that has ended gets another life.
type Restart string

// The restart policies.
const (
	Always     Restart = "always"
	Unexpected Restart = "unexpected" // unless it ended with a planned exit
	Never      Restart = "never"
)

// A Policy is how a process is kept up.
type Policy struct {
	Restart Restart
	Backoff Backoff
	Planned []int // exit codes that are no failure
	// Proof returns when the child has proved itself, or why it never will. It is
	// cancelled when the child ends. See Alive, Notified and Wrote; nil is proof
	// enough that it was started.
	Proof       func(context.Context, *Child) error
	StopSignal  syscall.Signal
	StopTimeout time.Duration
	// Alone: only the main process is ended, by itself or by SIGKILL; what it has started
	// lives on, and is nobody's any more.
	Alone bool
}

// A ProcessEvent is one thing that happened to a process.
type ProcessEvent struct {
	Process  *Process
	From, To State
	Child    *Child // nil when it could not be made
	Exit     *Exit  // set when this event is the end of a life
	Planned  bool   // the end was asked for, or is one of the planned exits
	Proved   bool   // that life had proved itself
	Err      error  // why it could not start, did not prove itself or can't be ended
}

// A Process keeps one child alive. One goroutine, in Run, owns its life; the
// methods only say what is wanted.
type Process struct {
	name     string
	children *Children
	policy   Policy
	spec     func(context.Context) (Spec, error)
	hear     func(ProcessEvent)

	wake chan struct{} // something is wanted that was not before
	gone chan struct{} // closed when it is retired and nothing of it lives

	mu       sync.Mutex
	wanted   want
	asked    int  // restarts that were asked for
	obeyed   int  // those that the present life is younger than
	hurry    bool // the pause between two lives is to be cut short
	making   bool // a child is being made
	state    State
	changed  chan struct{} // closed at the next change of state, then made anew
	child    *Child
	up       chan struct{} // closed when the present life has proved itself
	kill     chan struct{} // closed when the stop of the present life is to be cut short
	isKill   bool
	since    time.Time
	restarts int
	last     *Exit
	unborn   error // why the life that is due could not be made

	fails int // failures in a row; only Run touches it
}

type want string

const (
	wantUp   want = "up"
	wantDown want = "down"
	wantGone want = "gone"
)

// NewProcess describes a process. spec is asked anew for every life, so that a
// respawn runs what is committed then, not what was at the first start. hear is
// called from Run, in order, and must not block.
func NewProcess(c *Children, name string, p Policy, spec func(context.Context) (Spec, error), hear func(ProcessEvent)) *Process {
	return &Process{
		name: name, children: c, policy: p.orDefaults(), spec: spec, hear: hear,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), changed: make(chan struct{}),
		up: make(chan struct{}), kill: make(chan struct{}),
		wanted: wantUp, state: Stopped, since: time.Now(),
	}
}

// Adopt goes on with a child of an earlier superd, also with its stop if it was
// told to go. Call it before Run.
func (p *Process) Adopt(c *Child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, p.state, p.since = c, Starting, c.Born()
	if past := c.note.Past; past != nil {
		p.restarts, p.last = past.Restarts, past.Last
	}
}

// past is what the next superd is to know of the lives so far.
func (p *Process) past() history {
	p.mu.Lock()
	defer p.mu.Unlock()
	return history{p.restarts, p.last}
}

// Run keeps the process as wanted. It returns nil once the process is retired and
// gone, and ctx's error when ctx ends first: then the child lives on.
func (p *Process) Run(ctx context.Context) error {
	for {
		child, err := p.begin(ctx)
		var pause time.Duration
		switch {
		case errors.Is(err, errGone):
			close(p.gone)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			pause = p.miss(err)
		default:
			l, err := p.live(ctx, child)
			if err != nil {
				return err
			}
			pause = p.after(child, l)
		}
		p.pause(ctx, pause)
	}
}

var errGone = errors.New("retired")

// begin waits until a life is wanted and makes a child, or takes the adopted one.
func (p *Process) begin(ctx context.Context) (*Child, error) {
	for {
		p.mu.Lock()
		wanted, adopted := p.wanted, p.child
		if adopted == nil && wanted == wantUp {
			// Before the specification is asked for: who asks for a restart after this
			// gets a life that has seen what he changed.
			p.making, p.obeyed, p.hurry = true, p.asked, false
		}
		p.mu.Unlock()
		switch {
		case adopted != nil:
			return adopted, nil
		case wanted == wantUp:
			return p.spawn(ctx)
		case wanted == wantGone:
			p.move(Stopped, ProcessEvent{})
			return nil, errGone
		}
		p.move(Stopped, ProcessEvent{})
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.wake:
		}
	}
}

func (p *Process) spawn(ctx context.Context) (*Child, error) {
	var c *Child
	s, err := p.spec(ctx)
	if err == nil {
		s.past = p.past()
		c, err = p.children.Start(ctx, s)
	}
	p.mu.Lock()
	p.making = false
	p.child = c
	p.unborn = nil
	if !p.ends() {
		p.kill, p.isKill = make(chan struct{}), false
	}
	p.mu.Unlock()
	if c == nil {
		return nil, err
	}
	p.move(Starting, ProcessEvent{Child: c, Err: err}) // a gate that did not open shows as an exit with status 111
	return c, nil
}

// miss takes note of a life that could not be made, and tells how long to wait before
// the next try. It counts as a restart: who fails again and again before he is born
// crash-loops too.
func (p *Process) miss(err error) time.Duration {
	err = fmt.Errorf("could not be started: %w", err)
	p.fails++
	p.mu.Lock()
	b := p.policy.Backoff
	p.unborn = err
	if p.wanted == wantUp {
		p.restarts++
	}
	p.mu.Unlock()
	p.move(b.between(p.fails), ProcessEvent{Err: err})
	return b.Pause(p.fails)
}

// ends tells whether a life that is, or is being made, is not to last. The caller
// holds p.mu.
func (p *Process) ends() bool { return p.wanted != wantUp || p.asked > p.obeyed }

func (p *Process) isUnwanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ends()
}

// A life is what became of one child while it lived.
type life struct {
	proved bool
	failed error // why it was ended without anybody having asked for that
	hunger hunger
}

// judged takes note of what the proof has brought, at the time that it did.
func (l *life) judged(proved bool, err error, c *Child) {
	switch l.proved = proved; {
	case proved:
		l.hunger.since = time.Now()
	case !c.hasExited():
		l.failed = err
	}
}

// live is one life: until the child has ended. The error is that ctx ended first.
func (p *Process) live(ctx context.Context, c *Child) (life, error) {
	pctx, cancel := context.WithCancel(ctx)
	proof := make(chan error, 1)
	var proving sync.WaitGroup
	defer proving.Wait()
	defer cancel()
	proving.Go(func() { proof <- p.terms().Proof(pctx, c) })
	var l life
	for {
		c.record()
		if p.isEnding(c, &l) {
			cancel()
			return l, p.stop(ctx, c, &l)
		}
		select {
		case <-ctx.Done():
			return l, context.Cause(ctx)
		case <-c.Exited():
			cancel()
			proving.Wait()
			select {
			case err := <-proof: // it may have proved itself and ended before we looked
				l.proved = p.judge(c, err)
			default:
			}
			return l, nil
		case err := <-proof:
			l.judged(p.judge(c, err), err, c)
		case <-l.hunger.look(c):
		case <-c.stir:
		case <-p.wake:
		}
	}
}

// isEnding tells whether the life is to be ended, or ends itself, and shows it: because
// that is wanted, because it did not prove itself or misses its watchdog, or because it
// says so.
func (p *Process) isEnding(c *Child, l *life) bool {
	s, leave := p.leaving(c)
	if !leave && l.failed == nil {
		l.failed = c.lost()
	}
	if !leave && l.failed == nil && !c.hasExited() && !c.goes() {
		if l.failed = l.hunger.missed(c, time.Now()); l.failed != nil {
			c.blame(watchdogFault)
			c.record()
		}
	}
	switch {
	case c.hasExited():
		return false
	case leave:
		p.move(s, ProcessEvent{Child: c, Proved: l.proved})
	case l.failed != nil:
		p.move(Stopping, ProcessEvent{Child: c, Err: l.failed})
	case c.goes():
		p.move(Stopping, ProcessEvent{Child: c, Proved: l.proved})
	default:
		return false
	}
	return true
}

// judge takes note of what the proof said.
func (p *Process) judge(c *Child, err error) bool {
	if err != nil || c.hasExited() && c.Exit().Failure != "" {
		return false
	}
	p.mu.Lock()
	close(p.up)
	p.mu.Unlock()
	p.move(Running, ProcessEvent{Child: c, Proved: true})
	return true
}

// leaving tells whether the present life is to end, and as what.
func (p *Process) leaving(c *Child) (State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.hasExited():
		return "", false
	case p.wanted == wantGone:
		return Draining, true
	case p.ends(), !c.Told().IsZero():
		return Stopping, true
	}
	return "", false
}

// stop ends the child as the policy says. Retire meanwhile only changes the name
// of the state, and Kill cuts the wait short. One that goes by itself is told nothing; it
// is a failure when it has to be killed.
func (p *Process) stop(ctx context.Context, c *Child, l *life) error {
	p.mu.Lock()
	now, rest, alone := p.kill, p.policy.StopSignal, p.policy.Alone
	sig, timeout := p.policy.farewell(c)
	p.mu.Unlock()
	c.spare(alone)
	over := make(chan error, 1)
	var stopping sync.WaitGroup
	defer stopping.Wait()
	stopping.Go(func() {
		killed, err := c.bid(ctx, sig, rest, timeout, now)
		if killed && sig == 0 && !p.isUnwanted() {
			l.failed = fmt.Errorf("%s has said STOPPING=1 and not ended within %s", c.Name(), timeout)
		}
		over <- err
	})
	for {
		select {
		case err := <-over:
			if err != nil && ctx.Err() == nil {
				p.move(Unkillable, ProcessEvent{Child: c, Err: err})
			}
			select {
			case <-c.Exited():
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case <-p.wake:
			if s, leave := p.leaving(c); leave && s == Draining {
				p.move(Draining, ProcessEvent{Child: c})
			}
		}
	}
}

// after takes note of an end, counts failures in a row and tells how long to wait
// before the next life. The first life after one that had proved itself, or that
// ended as planned, comes at once.
func (p *Process) after(c *Child, l life) time.Duration {
	exit, policy := c.Exit(), p.terms()
	failed := l.failed != nil || exit.Fault != ""
	asked := !failed && (!c.Told().IsZero() || exit.Killed)
	planned := asked || !failed && exit.Planned(policy.Planned)
	ended := ProcessEvent{Child: c, Exit: &exit, Planned: planned, Proved: l.proved, Err: l.failed}
	if err := c.Acknowledge(); err != nil {
		ended.Err = errors.Join(ended.Err, fmt.Errorf("acknowledge the exit of %s: %w", p.name, err))
	}
	n := p.count(l.proved, asked || planned && l.proved, exit.Ran >= policy.Backoff.ResetAfter)
	p.move(p.release(&exit, asked, planned, policy.Backoff.between(n)), ended)
	return policy.Backoff.Pause(n)
}

// count takes note of how a life went, and tells for how many failures in a row the
// next is to wait.
func (p *Process) count(proved, fine, long bool) int {
	if fine || long {
		p.fails = 0
	}
	if fine {
		return 0
	}
	p.fails++
	if proved {
		return p.fails - 1
	}
	return p.fails
}

// release lets go of a child that has ended and tells the state that follows: between
// is that if there is to be another life.
func (p *Process) release(exit *Exit, asked, planned bool, between State) State {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, p.last, p.up = nil, exit, make(chan struct{})
	if !asked && p.wanted == wantUp && (p.policy.Restart == Never || p.policy.Restart == Unexpected && planned) {
		p.wanted = wantDown
	}
	if p.wanted != wantUp {
		return Stopped
	}
	p.restarts++
	return between
}

// pause waits between two lives.
func (p *Process) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	over := time.After(d)
	for {
		p.mu.Lock()
		cut := p.hurry || p.wanted != wantUp
		p.mu.Unlock()
		if cut {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-p.wake:
		}
	}
}

// move changes the state. A move that the table does not have is a mistake of
// ours; it is told with both ends and not made.
func (p *Process) move(to State, e ProcessEvent) {
	p.mu.Lock()
	e.Process, e.From, e.To = p, p.state, to
	switch {
	case p.state == to && e.Exit == nil && e.Err == nil:
		p.mu.Unlock()
		return
	case p.state == to:
	case !slices.Contains(p.state.moves(), to):
		e.Err = errors.Join(e.Err, fmt.Errorf("%s: impossible move from %s to %s", p.name, p.state, to))
		e.To = p.state
	default:
		p.state = to
		if to != Running || !e.Child.adopted { // since when an adopted one runs is not known; it is older than this superd
			p.since = time.Now()
		}
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	p.hear(e)
}

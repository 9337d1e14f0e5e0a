package supervisor

import (
	"context"
	"errors"
	"fmt"
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
	Unkillable State = "unkillable" // SIGKILL did not end it within 10 s
)

// moves lists every way from one state to another. Every state accepts a stop.
func (s State) moves() []State {
	switch s {
	case Stopped:
		return []State{Starting, Backing}
	case Starting:
		return []State{Running, Stopping, Draining, Backing, Stopped}
	case Running:
		return []State{Stopping, Draining, Backing, Starting, Stopped}
	case Stopping, Draining, Unkillable:
		return []State{Draining, Unkillable, Starting, Backing, Stopped}
	case Backing:
		return []State{Starting, Stopped}
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
	// cancelled when the child ends. See Alive, Notified and Wrote.
	Proof       func(context.Context, *Child) error
	StopSignal  syscall.Signal
	StopTimeout time.Duration
}

// A ProcessEvent is one thing that happened to a process.
type ProcessEvent struct {
	Process  *Process
	From, To State
	Child    *Child // nil when it could not be made
	Exit     *Exit  // set when this event is the end of a life
	Planned  bool   // the end was asked for, or is one of the planned exits
	Proved   bool   // that life had proved itself
	Err      error  // why it could not start or did not prove itself
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
	again    bool // a restart is asked for
	kill     chan struct{}
	state    State
	child    *Child
	up       chan struct{} // closed when the present life has proved itself
	since    time.Time
	restarts int
	last     *Exit
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
		name: name, children: c, policy: p, spec: spec, hear: hear,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), kill: make(chan struct{}),
		wanted: wantUp, state: Stopped, up: make(chan struct{}), since: time.Now(),
	}
}

// Adopt goes on with a child of an earlier superd. Call it before Run.
func (p *Process) Adopt(c *Child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, p.state, p.since = c, Starting, c.Born()
}

// Run keeps the process as wanted. It returns nil once the process is retired and
// gone, and ctx's error when ctx ends first: then the child lives on.
func (p *Process) Run(ctx context.Context) error {
	fails := 0
	for {
		child, err := p.begin(ctx)
		switch {
		case errors.Is(err, errGone):
			close(p.gone)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			p.move(Backing, ProcessEvent{Err: err})
			fails++
		default:
			proved, err := p.live(ctx, child)
			if err != nil {
				return err
			}
			fails = p.after(child, proved, fails)
		}
		p.pause(ctx, fails)
	}
}

var errGone = errors.New("retired")

// begin waits until a life is wanted and makes a child, or takes the adopted one.
func (p *Process) begin(ctx context.Context) (*Child, error) {
	for {
		p.mu.Lock()
		wanted, adopted := p.wanted, p.child
		if wanted == wantUp {
			p.again = false
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
	s, err := p.spec(ctx)
	if err != nil {
		return nil, err
	}
	c, err := p.children.Start(ctx, s)
	if c == nil {
		return nil, err
	}
	p.mu.Lock()
	p.child, p.since = c, time.Now()
	p.mu.Unlock()
	p.move(Starting, ProcessEvent{Child: c})
	return c, nil // an unopened gate shows as an exit with status 111
}

// live is one life: until the child has ended. It tells whether it proved itself.
func (p *Process) live(ctx context.Context, c *Child) (proved bool, err error) {
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	proof := make(chan error, 1)
	var proving sync.WaitGroup
	defer proving.Wait()
	defer cancel()
	proving.Go(func() { proof <- p.policy.Proof(pctx, c) })
	for {
		select {
		case <-ctx.Done():
			return proved, context.Cause(ctx)
		case <-c.Exited():
			return proved, nil
		case err := <-proof:
			proof = nil
			if err != nil && !p.ended(c) {
				p.move(Stopping, ProcessEvent{Child: c, Err: err})
				return false, p.stop(ctx, c)
			}
			if err == nil {
				proved = true
				p.prove(c)
			}
		case <-p.wake:
			if s, leave := p.leaving(); leave {
				p.move(s, ProcessEvent{Child: c})
				return proved, p.stop(ctx, c)
			}
		}
	}
}

func (p *Process) ended(c *Child) bool {
	select {
	case <-c.Exited():
		return true
	default:
		return false
	}
}

// leaving tells whether the present life is to end, and as what.
func (p *Process) leaving() (State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.wanted == wantGone:
		return Draining, true
	case p.wanted == wantDown, p.again:
		return Stopping, true
	}
	return "", false
}

// stop ends the child as the policy says. While it drains, Retire after Stop only
// changes the name of the state, and Kill cuts the wait short.
func (p *Process) stop(ctx context.Context, c *Child) error {
	p.mu.Lock()
	now := p.kill
	p.mu.Unlock()
	_, killed, err := c.Stop(ctx, p.policy.StopSignal, p.policy.StopTimeout, now)
	if err != nil && killed && ctx.Err() == nil {
		p.move(Unkillable, ProcessEvent{Child: c, Err: err})
	}
	select {
	case <-c.Exited():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// after takes note of an end and counts failures in a row.
func (p *Process) after(c *Child, proved bool, fails int) int {
	exit := c.Exit()
	asked := !c.Told().IsZero() || exit.Killed
	planned := asked || exit.Planned(p.policy.Planned)
	ended := ProcessEvent{Child: c, Exit: &exit, Planned: planned, Proved: proved}
	err := c.Acknowledge()
	p.mu.Lock()
	p.child, p.last, p.up = nil, &exit, make(chan struct{})
	p.restarts++
	if !asked && (p.policy.Restart == Never || p.policy.Restart == Unexpected && planned) && p.wanted == wantUp {
		p.wanted = wantDown
	}
	next := Backing
	if p.wanted != wantUp {
		next = Stopped
	}
	p.mu.Unlock()
	if err != nil {
		ended.Err = fmt.Errorf("acknowledge the exit of %s: %w", p.name, err)
	}
	p.move(next, ended)
	switch {
	case asked, planned && proved:
		return 0
	case exit.Ran >= p.policy.Backoff.ResetAfter:
		return 1
	}
	return fails + 1
}

// pause waits between two lives. The first life after a healthy one comes at once.
func (p *Process) pause(ctx context.Context, fails int) {
	if fails == 0 {
		return
	}
	over := time.After(p.policy.Backoff.Pause(fails))
	for {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-p.wake:
			p.mu.Lock()
			cut := p.again || p.wanted != wantUp
			p.mu.Unlock()
			if cut {
				return
			}
		}
	}
}

func (p *Process) prove(c *Child) {
	p.mu.Lock()
	close(p.up)
	p.mu.Unlock()
	p.move(Running, ProcessEvent{Child: c, Proved: true})
}

// move changes the state. A move that the table does not have is a mistake of
// ours; it is told with both ends and not made.
func (p *Process) move(to State, e ProcessEvent) {
	p.mu.Lock()
	e.Process, e.From, e.To = p, p.state, to
	if p.state == to && e.Exit == nil && e.Err == nil {
		p.mu.Unlock()
		return
	}
	if p.state != to && !contains(p.state.moves(), to) {
		e.Err = errors.Join(e.Err, fmt.Errorf("%s: impossible move from %s to %s", p.name, p.state, to))
		e.To = p.state
	} else {
		p.state = to
	}
	p.mu.Unlock()
	p.hear(e)
}

func contains(all []State, s State) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}

package supervisor

import (
	"context"
	"fmt"
	"regexp"
	"syscall"
	"time"
)

// Start wants the process up; one that is up is left alone. A pause is cut short.
func (p *Process) Start() { p.want(func() { p.wanted, p.again = wantUp, true }, true) }

// Restart ends the present life and begins another. Asked for twice at once it
// gives one new process.
func (p *Process) Restart() { p.want(func() { p.wanted, p.again = wantUp, true }, false) }

// Stop wants the process down, in whatever state it is, and returns when it is or
// ctx ends: then it goes on stopping.
func (p *Process) Stop(ctx context.Context) error {
	p.want(func() { p.wanted = wantDown }, false)
	return p.await(ctx, func() bool { return p.state == Stopped })
}

// Retire wants it gone for good: its stop signal once, and Run returns when it has
// ended.
func (p *Process) Retire() { p.want(func() { p.wanted = wantGone }, false) }

// Gone is closed when a retired process is gone.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Kill cuts a running stop or drain short.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.kill:
	default:
		close(p.kill)
	}
}

// Signal sends sig to the main process, if there is one.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	c := p.child
	p.mu.Unlock()
	if c == nil {
		return fmt.Errorf("signal %s: it does not run", p.name)
	}
	return c.Signal(sig)
}

// want changes what is wanted, unless the process is retired: that is for good.
// idle leaves a process alone that is up as wanted.
func (p *Process) want(change func(), idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted == wantGone {
		return
	}
	if idle && p.wanted == wantUp && p.child != nil {
		return
	}
	change()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// await returns when reached is true, looked at after every event.
func (p *Process) await(ctx context.Context, reached func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond) // a person waits here; nothing else does
	defer tick.Stop()
	for {
		p.mu.Lock()
		ok := reached()
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", p.name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Up is closed when the present life has proved itself. Each life has its own.
func (p *Process) Up() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// Name is what people call it.
func (p *Process) Name() string { return p.name }

// Child is the present life, nil between two.
func (p *Process) Child() *Child {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}

// A Status is a process at one moment.
type Status struct {
	Name     string
	State    State
	PID      int // 0: nothing runs
	Since    time.Time
	Restarts int
	Last     *Exit // how the life before ended
}

// Status is the process as it is now.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Name: p.name, State: p.state, Since: p.since, Restarts: p.restarts, Last: p.last}
	if p.child != nil {
		s.PID = p.child.PID()
	}
	return s
}

// Alive is the proof of a child that has lived for d, counted from its birth.
func Alive(d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Exited():
			return fmt.Errorf("%s: %s", c.Name(), c.Exit())
		case <-time.After(time.Until(c.Born().Add(d))):
			return nil
		}
	}
}

// Notified is the proof of a child that says READY=1 within d. One that an earlier
// superd has started may have said it to that one: it counts as ready after d.
func Notified(d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Exited():
			return fmt.Errorf("%s: %s", c.Name(), c.Exit())
		case <-c.Ready():
			return nil
		case <-time.After(d):
			if c.adopted {
				return nil
			}
			return fmt.Errorf("%s has not said READY=1 within %s", c.Name(), d)
		}
	}
}

// Wrote is the proof of a child that writes a line that matches within d.
func Wrote(line *regexp.Regexp, d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		ctx, cancel := context.WithTimeoutCause(ctx, d,
			fmt.Errorf("%s has not written a line that matches %q within %s", c.Name(), line, d))
		defer cancel()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Exited():
			return fmt.Errorf("%s: %s", c.Name(), c.Exit())
		case <-c.output.Wrote(ctx, line):
			return nil
		}
	}
}

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"syscall"
	"time"
)

// Start wants the process up; one that is up is left alone. A pause is cut short.
func (p *Process) Start() { p.want(func() { p.wanted, p.hurry = wantUp, p.child == nil }) }

// Restart ends the present life and begins another, or begins one. Asked for twice
// at once it gives one new process.
func (p *Process) Restart() {
	p.want(func() {
		p.wanted, p.hurry = wantUp, p.child == nil
		p.asked++
	})
}

// Down wants the process down, and does not wait for it: see Stop.
func (p *Process) Down() { p.want(func() { p.wanted = wantDown }) }

// IsDown tells whether nothing of it lives, and nothing is about to.
func (p *Process) IsDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted != wantUp && p.isDown()
}

// isDown is IsDown now. The caller holds p.mu.
func (p *Process) isDown() bool { return p.state == Stopped && p.child == nil && !p.making }

// Stop wants the process down, in whatever state it is, and returns when it is or
// ctx ends: then it goes on stopping. When somebody wants it up again meanwhile,
// or SIGKILL does not end it, that is an error.
func (p *Process) Stop(ctx context.Context) error {
	p.Down()
	for {
		p.mu.Lock()
		down, stuck := p.isDown(), p.state == Unkillable
		overruled := p.wanted == wantUp
		changed := p.changed
		p.mu.Unlock()
		switch {
		case overruled:
			return fmt.Errorf("stop %s: it was started again meanwhile", p.name)
		case down:
			return nil
		case stuck:
			return fmt.Errorf("stop %s: %w", p.name, ErrUnkillable)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", p.name, context.Cause(ctx))
		case <-changed:
		}
	}
}

// Retire wants it gone for good: its stop signal once, and Run returns when it has
// ended.
func (p *Process) Retire() { p.want(func() { p.wanted = wantGone }) }

// Gone is closed when a retired process is gone.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Kill cuts the stop short that runs or is asked for: by Stop, Retire or Restart,
// or because the child did not prove itself. A process that is wanted up and stays
// up is left alone.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if (p.ends() || p.state == Stopping || p.state == Draining) && !p.isKill {
		p.isKill = true
		close(p.kill)
	}
}

// ErrNotRunning is why a process that is not there is not told anything.
var ErrNotRunning = errors.New("it does not run")

// Signal sends sig to the main process, if there is one.
func (p *Process) Signal(sig syscall.Signal) error {
	c := p.Child()
	if c == nil {
		return fmt.Errorf("signal %s: %w", p.name, ErrNotRunning)
	}
	return c.Signal(sig)
}

// want changes what is wanted, unless the process is retired: that is for good.
func (p *Process) want(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted == wantGone {
		return
	}
	change()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	close(p.changed) // who waits for the opposite looks again
	p.changed = make(chan struct{})
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
	Last     *Exit  // how the life before ended
	Unborn   string // between two lives: why the one that is due could not be made

	Text      string // what the child says of itself (STATUS=)
	Reloading bool   // it has said that it reads its configuration anew
}

// Status is the process as it is now.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Name: p.name, State: p.state, Since: p.since, Restarts: p.restarts, Last: p.last}
	if p.unborn != nil && (p.state == Backing || p.state == Cooling) {
		s.Unborn = p.unborn.Error()
	}
	if p.child != nil {
		s.PID, s.Text, s.Reloading = p.child.PID(), p.child.StatusText(), p.child.Reloading()
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
			return early{c}
		case <-time.After(d - time.Since(c.made)):
			return nil
		}
	}
}

// Ended is the proof of a child that is done when it has ended: it never has another.
func Ended(ctx context.Context, _ *Child) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Notified is the proof of a child that says READY=1 within d. One that an earlier
// superd has started may have said it to that one: it counts as ready after d.
func Notified(d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		return said(ctx, c, c.Ready(), d, "has not said READY=1")
	}
}

// Wrote is the proof of a child that writes a line that matches within d. One that
// an earlier superd has started may have written it longer ago than is remembered:
// it counts as ready after d.
func Wrote(line *regexp.Regexp, d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // the watch
		return said(ctx, c, c.output.Wrote(ctx, line), d, fmt.Sprintf("has not written a line that matches %q", line))
	}
}

// said waits for a word of the child's. What it said before it died counts, and when it
// asks for more time (EXTEND_TIMEOUT_USEC) it gets that.
func said(ctx context.Context, c *Child, word <-chan struct{}, d time.Duration, not string) error {
	begun := time.Now()
	end := begun.Add(d)
	for waits := true; waits; {
		select {
		case <-word:
			return nil
		case later := <-c.more:
			if later.After(end) {
				end = later
			}
		case <-ctx.Done():
			waits = false
		case <-c.Exited():
			waits = false
		case <-time.After(time.Until(end)):
			if c.adopted {
				return nil
			}
			return fmt.Errorf("%s %s within %s", c.Name(), not, end.Sub(begun).Round(time.Millisecond))
		}
	}
	select {
	case <-word:
		return nil
	default:
	}
	if c.hasExited() {
		return early{c}
	}
	return context.Cause(ctx)
}

// early is that a child has ended before it had proved itself. Most of the time nobody
// reads the words: the end is told as such.
type early struct{ *Child }

func (e early) Error() string { return fmt.Sprintf("%s: %s", e.Name(), e.Exit()) }

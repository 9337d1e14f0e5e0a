package supervisor

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// A child with a watchdog has to say WATCHDOG=1 that often, from the moment that it has
// proved itself. One that does not is taken to hang: it gets SIGABRT, so that it may
// leave a core or a trace, then what every stop has, and then another life.
//
// Its time is that of this machine, not its own: one that was stopped by SIGSTOP misses
// it. It begins anew under another superd, which has not heard what was said before it.

// watchdogFault is the word for it in Exit.Fault.
const watchdogFault = "watchdog"

// abortPatience is how long a child that hangs is given to end where there is no limit on
// how long it may finish its work.
const abortPatience = 90 * time.Second

// shortest is the shortest watchdog: what a child sets by mistake must not kill it at once.
const shortest = 100 * time.Millisecond

func interval(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return max(d, shortest)
}

// Faulted tells why superd ends, or has ended, the child without having been asked to:
// "watchdog", or nothing.
func (c *Child) Faulted() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Fault
}

func (c *Child) blame(fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said.Fault, c.unwritten = fault, true
}

// A hunger is how the owner of a life sees its watchdog.
type hunger struct {
	since time.Time // the child has proved itself; zero: it has not
	doubt time.Time // look again then: it may have spoken while we did not listen
}

// missed is why the child has to end; nil: it does not. When superd itself was held up,
// what the child has said meanwhile still waits to be read; so it is only believed to
// hang when a moment later nothing of it was heard either.
func (h *hunger) missed(c *Child, now time.Time) error {
	c.mu.Lock()
	trigger, fault := c.trigger, c.said.Fault
	c.mu.Unlock()
	end, every := h.end(c)
	switch {
	case fault != "":
		return fmt.Errorf("%s: %s was to be ended by an earlier superd", fault, c.Name())
	case trigger:
		return fmt.Errorf("watchdog: %s has asked for it (WATCHDOG=trigger)", c.Name())
	case every == 0 || now.Before(end):
		h.doubt = time.Time{}
	case h.doubt.IsZero():
		h.doubt = now.Add(min(every/4, time.Second))
	case !now.Before(h.doubt):
		return fmt.Errorf("watchdog: %s has not said WATCHDOG=1 for %s", c.Name(), every)
	}
	return nil
}

// end is when the child's time is over, and how long that is; 0: it has no watchdog.
func (h *hunger) end(c *Child) (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.since.IsZero() || c.every == 0 {
		return time.Time{}, 0
	}
	from := h.since
	if c.fed.After(from) {
		from = c.fed
	}
	return from.Add(c.every), c.every
}

// look is when missed has to be asked next; nil: not because of the time.
func (h *hunger) look(c *Child) <-chan time.Time {
	end, every := h.end(c)
	if every > 0 && !h.doubt.IsZero() {
		end = h.doubt
	}
	return after(end)
}

// farewell is how a child is ended that is to end, and how long that may take; 0: it is
// told nothing.
func (p *Policy) farewell(c *Child) (syscall.Signal, time.Duration) {
	switch {
	case c.Faulted() != "" && p.StopTimeout == Forever:
		return syscall.SIGABRT, abortPatience
	case c.Faulted() != "":
		return syscall.SIGABRT, p.StopTimeout
	case c.goes():
		return 0, p.StopTimeout
	}
	return p.StopSignal, p.StopTimeout
}

// bid says farewell to a child and waits until it has gone; true: it had to be killed.
func (c *Child) bid(ctx context.Context, sig, rest syscall.Signal, timeout time.Duration, now <-chan struct{}) (bool, error) {
	if sig != 0 {
		if err := c.tell(ctx, sig); err != nil {
			return false, err
		}
	}
	_, killed, err := c.await(ctx, rest, timeout, now)
	return killed, err
}

package fpm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// How the web side ends when another superd is about to begin it again, and somebody
// keeps the sockets meanwhile. The door stays open: the public path leads to the listener
// of a server that has no master yet. Who comes waits in its queue, who is in is answered,
// and the next superd finds that server as it finds one whose master has died (resume).

// Park ends everything as Stop does, but nobody who comes from now on is refused: they
// wait for the next superd, as many as the kernel lets wait. It returns when nothing runs
// or ctx ends. Where nothing serves it is Stop.
func (w *Web) Park(ctx context.Context) error {
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("park %s: %w", w.name(), err)
	}
	defer done()
	all, live := w.all(), w.serving()
	if live == nil {
		return w.stop(ctx, all)
	}
	w.setParked()
	if w.o.Handoff == Parallel {
		if err := w.bench(ctx, live); err != nil {
			w.tell(Note, live.generation(), fmt.Errorf("a sleep() that runs may be cut short: %w", err), nil)
		}
	}
	rest := w.serving()
	for _, s := range all {
		if s == rest || s.isLeaving() {
			continue
		}
		if err := s.depart(newDeparture(time.Now().Add(w.drain()))); err != nil {
			return fmt.Errorf("park %s: %w", w.name(), err)
		}
	}
	rest.web.widen(w.o.Log.Warn)
	if rest == live { // the one there is: it takes nobody in any more, and keeps its listeners
		rest.proc.Retire()
		if err := w.awaitEnd(ctx, rest.proc.Gone()); err != nil {
			return fmt.Errorf("park %s: %w", w.name(), err)
		}
	}
	for _, s := range all {
		if s == rest {
			continue
		}
		if err := w.awaitEnd(ctx, s.left); err != nil {
			return fmt.Errorf("park %s: %w", w.name(), err)
		}
	}
	return nil
}

// bench makes the public path lead to another server of what serves, which has no master.
// After an error it leads where it led.
func (w *Web) bench(ctx context.Context, live *server) error {
	s := newServer(w, w.place(live.generation()))
	if err := s.build(ctx); err != nil {
		return errors.Join(err, s.demolish())
	}
	w.add(s)
	if err := w.publish(s); err != nil {
		w.mu.Lock()
		w.live = live
		w.mu.Unlock()
		w.remove(s)
		return errors.Join(err, s.demolish())
	}
	return nil
}

// awaitEnd returns when ended is closed, or why it no longer waits for that.
func (w *Web) awaitEnd(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-w.ending:
		return errEnding
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *Web) setParked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked = true
}

// isParked tells that what serves has no master on purpose: nobody answers there.
func (w *Web) isParked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parked
}

// widen lets as many wait as the kernel allows (net.core.somaxconn): nobody takes them in
// for as long as there is no superd.
func (l *Listener) widen(warn func(string, ...any)) {
	if err := l.limit(math.MaxInt32); err != nil {
		warn("who comes while superd starts again may find the queue full", "listener", l.path, "error", err)
	}
}

// limit sets how many may wait. Those who wait already stay.
func (l *Listener) limit(backlog int) error {
	return l.control(func(fd int) error { return unix.Listen(fd, backlog) })
}

// Park is Web.Park at every address, at the same time.
func (f *Fronts) Park(ctx context.Context) error {
	return f.together(ctx, func(one *front) error { return one.Park(ctx) })
}

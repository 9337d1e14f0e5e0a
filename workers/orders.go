package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"superd/release"
	"superd/supervisor"
)

// What people ask for. A name is a pool, "emails", or one of its workers,
// "emails:3". An order to stop or to scale holds across rotations and across any
// death of superd: see memory.

// Start fills what was stopped, and returns when each worker has proved itself or has
// failed. What runs is left alone. One that fails is an error: it is tried again all the
// same.
func (f *Fleet) Start(ctx context.Context, name string) error {
	var p *pool
	var slots []int
	err := f.order(ctx, "start", name, func(of *pool, meant []int) {
		p, slots = of, meant
		for _, slot := range slots {
			delete(p.stopped, slot)
		}
		for _, w := range p.workers {
			if slices.Contains(slots, w.slot) {
				w.failed = ""
				w.process.Start() // cuts the wait between two lives short
			}
		}
		p.fill()
	})
	if err != nil {
		return err
	}
	var first error
	for _, slot := range slots {
		first = cmp.Or(first, f.await(ctx, nil, func() (bool, error) { return p.isUp(slot) }))
	}
	if first != nil {
		return fmt.Errorf("start %s: %w", name, first)
	}
	return nil
}

// NotUp is why a worker that was to be started is not up.
type NotUp string

func (e NotUp) Error() string { return string(e) }

// isUp tells whether a slot has a worker that is well, or why it will not have one soon.
func (p *pool) isUp(slot int) (bool, error) {
	stay := p.staying(slot)
	switch {
	case p.fleet.closing:
		return false, release.ErrStopping
	case p.stopped[slot]:
		return false, NotUp(p.slotName(slot) + " was stopped meanwhile")
	case !p.wants(slot), slices.ContainsFunc(stay, func(w *worker) bool { return w.proved }):
		return true, nil
	case len(stay) == 0 && !p.moving:
		return false, NotUp(p.slotName(slot) + " is wanted, and there is no release yet that it can run on")
	}
	for _, w := range stay {
		if w.failed != "" {
			return false, NotUp(w.name() + ": " + w.failed)
		}
		if w.isHeldUp() {
			return false, w.errHeldUp()
		}
	}
	return false, nil
}

// Stop tells workers to go, keeps their slots empty, and waits for their end, or
// until ctx ends: then they go on ending. With now nothing is waited for, the jobs
// in hand are lost.
func (f *Fleet) Stop(ctx context.Context, name string, now bool) error {
	var told []*worker
	err := f.order(ctx, "stop", name, func(p *pool, slots []int) {
		for _, slot := range slots {
			p.stopped[slot] = true
		}
		for _, w := range p.workers {
			if !slices.Contains(slots, w.slot) {
				continue
			}
			w.retire()
			if now {
				w.process.Kill()
			}
			told = append(told, w)
		}
	})
	if err != nil {
		return err
	}
	if err := f.ends(ctx, told); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return nil
}

// Scale wants another number of workers in a pool. It starts those that are more,
// or lets the highest slots drain, and touches no other. It does not wait.
func (f *Fleet) Scale(ctx context.Context, name string, processes int) error {
	if processes < 0 {
		return fmt.Errorf("scale %s: %d is not a number of processes", name, processes)
	}
	was := 0
	err := f.order(ctx, "scale", name, func(p *pool, _ []int) {
		idle := p.isStopped()
		was, p.processes = p.processes, processes
		for slot := was; idle && slot < processes; slot++ {
			p.stopped[slot] = true
		}
		for _, w := range p.workers {
			if w.slot >= processes {
				w.retire()
			}
		}
		p.fill()
	})
	if err == nil && was != processes {
		f.tell(Event{Kind: Scaled, Process: f.o.App + "/" + name, Pool: name, From: was, To: processes})
	}
	return err
}

// isStopped tells whether a person wants nothing of the pool.
func (p *pool) isStopped() bool {
	for slot := range p.processes {
		if !p.stopped[slot] {
			return false
		}
	}
	return p.processes > 0
}

// Signal sends sig to the main processes of workers that were not told to go.
func (f *Fleet) Signal(name string, sig syscall.Signal) error {
	f.mu.Lock()
	p, slots, err := f.find(name)
	var errs []error
	sent := 0
	if err == nil {
		for _, w := range p.workers {
			if slices.Contains(slots, w.slot) && !w.leaving && w.process.Child() != nil {
				sent++
				errs = append(errs, w.process.Signal(sig))
			}
		}
	}
	f.mu.Unlock()
	if err == nil && sent == 0 {
		err = supervisor.ErrNotRunning
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return nil
}

// Restart replaces workers by new ones of the same generation, as a rotation does:
// in batches, each proved before the next. When the new ones fail, those that were
// not replaced yet stay. It gives way to a switch.
func (f *Fleet) Restart(ctx context.Context, name string) error {
	err := f.renew(ctx, name)
	if err != nil {
		return fmt.Errorf("restart %s: %w", name, err)
	}
	f.remember()
	return nil
}

func (f *Fleet) renew(ctx context.Context, name string) error {
	done, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := f.age(name, cancel)
	if err != nil {
		return err
	}
	err = p.rotate(ctx, p.on) // only who has the turn changes what it runs on
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restart = nil
	p.spare()
	return err
}

// age makes the workers of a name stale, so that a rotation replaces them.
func (f *Fleet) age(name string, cancel context.CancelCauseFunc) (*pool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, slots, err := f.find(name)
	switch {
	case err != nil:
		return nil, err
	case f.movers > 0:
		return nil, errOvertaken
	case p.on.IsZero():
		return nil, errors.New("its workers have not come to run on any release yet")
	}
	f.restart, f.tally = cancel, &tally{generation: p.on, allowed: f.o.MaxFailures}
	for _, w := range p.workers {
		w.stale = w.stale || slices.Contains(slots, w.slot) && !w.leaving
	}
	for _, slot := range slots {
		delete(p.stopped, slot)
	}
	return p, nil
}

// spare keeps the workers that a restart did not come to replace, in place of
// those that were to.
func (p *pool) spare() {
	for _, w := range p.workers {
		if !w.stale || w.leaving {
			continue
		}
		w.stale = false
		for _, other := range p.staying(w.slot) {
			if other != w {
				other.retire()
			}
		}
	}
	p.fleet.announce()
}

// StopAll is the end of the app: every worker is told once, and it returns when
// the last has gone, each within its stop timeout, or when ctx ends. Nothing is
// started after it.
func (f *Fleet) StopAll(ctx context.Context) error {
	var told []*worker
	f.mu.Lock()
	f.closing = true
	for _, p := range f.pools {
		for _, w := range p.workers {
			w.retire()
			told = append(told, w)
		}
	}
	f.announce()
	f.mu.Unlock()
	if err := f.ends(ctx, told); err != nil {
		return fmt.Errorf("stop the workers of %s: %w", f.o.App, err)
	}
	return nil
}

// ends waits until all of them are gone.
func (f *Fleet) ends(ctx context.Context, told []*worker) error {
	for _, w := range told {
		select {
		case <-w.gone:
		case <-f.ending:
			return release.ErrStopping
		case <-ctx.Done():
			return fmt.Errorf("%s has not ended: %w", w.name(), context.Cause(ctx))
		}
	}
	return nil
}

// order changes what is wanted of a pool, and remembers it.
func (f *Fleet) order(ctx context.Context, verb, name string, change func(*pool, []int)) error {
	if err := f.ready(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	f.mu.Lock()
	p, slots, err := f.find(name)
	if err == nil && verb == "scale" && strings.Contains(name, ":") {
		err = errors.New("it is one worker; scale its pool")
	}
	if err != nil {
		f.mu.Unlock()
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	change(p, slots)
	f.announce()
	f.mu.Unlock()
	f.remember()
	return nil
}

// find is the pool of a name and those of its slots that are meant.
func (f *Fleet) find(name string) (*pool, []int, error) {
	pool, number, one := strings.Cut(name, ":")
	p := f.pool(pool)
	if p == nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", f.o.App, name, ErrUnknown)
	}
	var slots []int
	for slot := range p.processes {
		slots = append(slots, slot)
	}
	for _, w := range p.workers {
		if !slices.Contains(slots, w.slot) {
			slots = append(slots, w.slot) // beyond the number that is wanted now
		}
	}
	if !one {
		return p, slots, nil
	}
	slot, err := strconv.Atoi(number)
	if err != nil || !slices.Contains(slots, slot) {
		return nil, nil, fmt.Errorf("%s/%s: %w", f.o.App, name, ErrUnknown)
	}
	return p, []int{slot}, nil
}

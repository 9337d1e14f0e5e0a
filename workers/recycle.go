package workers

import (
	"context"
	"errors"

	"superd/release"
	"superd/supervisor"
)

// Recycling: a worker that has grown too large or too old is replaced by another of
// the same generation, as a restart of its slot does. One of the app at a time; a
// switch goes first, and what is still due afterwards is found again.

func (f *Fleet) recycle(ctx context.Context) {
	supervisor.Recycle(ctx, f.o.RecycleEvery, f.due, func(w *worker, reason string) {
		err := f.replace(ctx, w, reason)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errOvertaken) && !errors.Is(err, release.ErrStopping) {
			f.o.Log.Warn("recycle a worker", "process", w.name(), "reason", reason, "error", err)
		}
	})
}

// due are the workers that are to be replaced, and why.
func (f *Fleet) due() map[*worker]string {
	all := map[*worker]supervisor.Limited{}
	f.mu.Lock()
	for _, p := range f.pools {
		for _, w := range p.workers {
			if c := w.process.Child(); c != nil && w.mayRecycle() {
				all[w] = supervisor.Limited{Child: c, Limits: p.Limits}
			}
		}
	}
	f.mu.Unlock()
	due, err := supervisor.Due(all)
	if err != nil {
		f.o.Log.Warn("workers are not measured", "app", f.o.App, "error", err)
	}
	return due
}

// mayRecycle tells whether it is well, wanted, and not on its way out. The mutex is
// held. One that an earlier superd has seen proved itself counts.
func (w *worker) mayRecycle() bool {
	p := w.pool
	return w.proved && !w.leaving && !w.stale && !p.moving && p.wants(w.slot) && w.at.Number == p.on.Number
}

// replace is the restart of one worker. Whom a person has stopped meanwhile, or a
// switch has replaced, is left alone.
func (f *Fleet) replace(ctx context.Context, w *worker, reason string) error {
	done, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := w.pool
	f.mu.Lock()
	if f.movers > 0 || f.closing || !w.mayRecycle() {
		f.mu.Unlock()
		return nil
	}
	f.restart, f.tally = cancel, &tally{generation: p.on, allowed: f.o.MaxFailures}
	w.stale = true
	event := Event{Kind: Recycled, Process: w.name(), Pool: p.Name, Slot: w.slot, Generation: w.at, PID: w.process.Status().PID, Reason: reason}
	f.mu.Unlock()
	f.tell(event)
	err = p.rotate(ctx, p.on) // only who has the turn changes what it runs on
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restart = nil
	p.spare()
	return err
}

package workers

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"superd/release"
	"superd/supervisor"
)

// Recycling: a worker that has grown too large or too old is replaced by another of
// the same generation, as a restart of its slot does. One of the app at a time; a
// switch goes first, and what is still due afterwards is found again.

// recycleEvery is how often workers that have a limit are looked at.
const recycleEvery = 30 * time.Second

// recycle looks at the workers until ctx ends.
func (f *Fleet) recycle(ctx context.Context) {
	every := f.o.RecycleEvery
	if every == 0 {
		every = recycleEvery
	}
	clock := time.NewTicker(every)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		for w, reason := range f.due() {
			err := f.replace(ctx, w, reason)
			if err != nil && ctx.Err() == nil && !errors.Is(err, errOvertaken) && !errors.Is(err, release.ErrStopping) {
				f.o.Log.Warn("recycle a worker", "process", w.name(), "reason", reason, "error", err)
			}
		}
	}
}

// due are the workers that are to be replaced, and why. Only those are measured whose
// pool has a limit.
func (f *Fleet) due() map[*worker]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[*worker]string{}
	sized := map[*worker]*supervisor.Child{}
	var children []*supervisor.Child
	for _, p := range f.pools {
		for _, w := range p.workers {
			c := w.process.Child()
			if c == nil || !w.mayRecycle() {
				continue
			}
			if age := time.Since(c.Born()); p.MaxAge > 0 && age > spread(p.MaxAge, lifeOf(c)) {
				all[w] = fmt.Sprintf("is %s old, max_age is %s", age.Round(time.Second), p.MaxAge)
			} else if p.MaxMemory > 0 {
				sized[w], children = c, append(children, c)
			}
		}
	}
	if len(children) == 0 {
		return all
	}
	sums, err := supervisor.Footprints(children)
	if err != nil {
		f.o.Log.Warn("workers are not measured", "app", f.o.App, "error", err)
	}
	for w, c := range sized {
		if limit := w.pool.MaxMemory; sums[c] > limit {
			all[w] = fmt.Sprintf("takes %d KiB of memory, max_memory is %d KiB", sums[c]>>10, limit>>10)
		}
	}
	return all
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

// spread is d with up to 10 % more or less, the same for one life whichever superd
// asks: workers that were started together do not all go together.
func spread(d time.Duration, life string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(life))
	return d + time.Duration(float64(d)*(float64(h.Sum32()%2001)/1000-1)/10)
}

package workers

import (
	"context"
	"fmt"
	"slices"

	"superd/release"
	"superd/supervisor"
)

// A pool is its workers and what is wanted of them. The fleet's mutex guards it;
// methods that take a ctx take the mutex themselves, all others want it held.
type pool struct {
	Pool
	fleet *Fleet

	on        release.Generation // what it runs on, as of the last whole rotation
	moving    bool               // a rotation decides what is started, nobody else
	processes int                // wanted: as configured, or as scaled since
	stopped   map[int]bool       // slots that a person wants empty
	foreign   bool               // no longer configured: its workers are on their way out
	workers   []*worker          // in the order they were made; those that are gone are not in it
}

func (p *pool) name() string { return p.fleet.o.App + "/" + p.Name }

func (p *pool) slotName(slot int) string { return fmt.Sprintf("%s:%d", p.name(), slot) }

// canary starts the canaries of g and waits for their proof. It touches no other.
func (p *pool) canary(ctx context.Context, g release.Generation) error {
	if p.now().Order == StopFirst {
		return nil
	}
	f := p.fleet
	return f.await(ctx, nil, func() (bool, error) {
		if f.closing {
			return false, release.ErrStopping
		}
		proved := true
		for slot := range min(p.Canary, p.processes) {
			if !p.wants(slot) {
				continue
			}
			w := p.fresh(slot, g)
			if w == nil {
				w = p.start(slot, g)
			}
			proved = proved && w.proved
		}
		return proved, f.tally.err()
	})
}

// rotate makes the pool run on g, batch by batch, until nothing is left to do.
func (p *pool) rotate(ctx context.Context, g release.Generation) error {
	f := p.fleet
	defer p.rest()
	for {
		var slots []int
		err := f.await(ctx, p.patience(), func() (begun bool, err error) {
			slots, begun, err = p.begin(g)
			return begun, err
		})
		if err != nil || len(slots) == 0 {
			return err
		}
		f.progress()
		var every func()
		if p.now().Order == StopFirst {
			every = p.patience()
		}
		err = f.await(ctx, every, func() (bool, error) { return p.finish(slots, g) })
		if err != nil {
			return err
		}
		f.progress()
	}
}

// patience is a sign of life while workers end: that has a limit of its own, unless
// it is forever.
func (p *pool) patience() func() {
	if p.now().StopTimeout == supervisor.Forever {
		return nil
	}
	return p.fleet.progress
}

// begin takes the next slots and starts moving them to g. It tells that it has to
// be asked again when something changes, for too many drain already. Without slots
// all is done and the pool runs on g.
func (p *pool) begin(g release.Generation) (slots []int, begun bool, err error) {
	if p.fleet.closing {
		return nil, false, release.ErrStopping
	}
	p.moving = true
	p.dismiss(g)
	empty, others := p.todo(g)
	if len(empty) == 0 && len(others) == 0 {
		p.on, p.moving = g, false
		return nil, true, nil
	}
	others = others[:min(len(others), p.room(g))]
	slots = append(empty, others...)
	for _, slot := range slots {
		if p.Order == StopFirst {
			p.tellOthers(slot, g)
		}
		if p.fresh(slot, g) == nil {
			p.start(slot, g)
		}
	}
	return slots, len(slots) > 0, p.fleet.tally.err()
}

// dismiss tells the workers of slots that nobody wants to go.
func (p *pool) dismiss(g release.Generation) {
	for _, w := range p.workers {
		if !p.wants(w.slot) || g.IsZero() {
			w.retire()
		}
	}
}

// todo is the wanted slots that are not right yet: those without any worker that
// is to stay, which are filled at once, and the others.
func (p *pool) todo(g release.Generation) (empty, others []int) {
	if g.IsZero() {
		return nil, nil
	}
	for slot := range p.processes {
		w := p.fresh(slot, g)
		stay := p.staying(slot)
		switch {
		case !p.wants(slot):
		case len(stay) == 0:
			empty = append(empty, slot)
		case w == nil || !w.proved || len(stay) > 1:
			others = append(others, slot)
		}
	}
	return empty, others
}

// room is how many workers may be replaced now. Going back does not wait for jobs:
// a switch that is to be undone must not hang on the release it flees from.
func (p *pool) room(g release.Generation) int {
	batch := max(1, p.MaxParallel(p.processes))
	back := slices.ContainsFunc(p.workers, func(w *worker) bool { return !w.leaving && w.at.Number > g.Number })
	if back || p.Order == StopFirst {
		return batch
	}
	draining := 0
	for _, w := range p.workers {
		if w.leaving {
			draining++
		}
	}
	return max(0, min(batch, max(1, p.MaxDraining)-draining))
}

// finish tells whether the batch has proved itself, and if so tells the workers it
// replaces to go, in the same instant: not one is told before.
func (p *pool) finish(slots []int, g release.Generation) (bool, error) {
	if p.fleet.closing {
		return false, release.ErrStopping
	}
	if err := p.fleet.tally.err(); err != nil {
		return false, err
	}
	for _, slot := range slots {
		w := p.fresh(slot, g)
		if !p.wants(slot) || w == nil || w.proved {
			continue // stopped by a person meanwhile, or well
		}
		if w.isHeldUp() {
			return false, w.errHeldUp()
		}
		return false, nil
	}
	for _, slot := range slots {
		p.tellOthers(slot, g)
	}
	p.fleet.announce()
	return true, nil
}

// tellOthers tells every worker of the slot to go that is not the fresh one of g.
func (p *pool) tellOthers(slot int, g release.Generation) {
	keep := p.fresh(slot, g)
	for _, w := range p.workers {
		if w.slot == slot && w != keep {
			w.retire()
		}
	}
}

// rest is the end of a rotation, however it ended.
func (p *pool) rest() {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	p.moving = false
	p.fleet.announce()
}

// wants tells whether a slot is to have a worker.
func (p *pool) wants(slot int) bool { return slot < p.processes && !p.stopped[slot] && !p.foreign }

// staying are the workers of a slot that were not told to go.
func (p *pool) staying(slot int) []*worker {
	var all []*worker
	for _, w := range p.workers {
		if w.slot == slot && !w.leaving {
			all = append(all, w)
		}
	}
	return all
}

// fresh is the worker of g that is to keep the slot, nil if there is none: of
// several the one that has proved itself, else the latest.
func (p *pool) fresh(slot int, g release.Generation) *worker {
	var best *worker
	for _, w := range p.staying(slot) {
		if w.at.Number == g.Number && !w.stale && !w.isDoubtful() && (best == nil || w.proved || !best.proved) {
			best = w
		}
	}
	return best
}

// reliesOn tells whether workers of g are all that some wanted slot has.
func (p *pool) reliesOn(g release.Generation) bool {
	if p.on.Number == g.Number {
		return true
	}
	for slot := range p.processes {
		stay := p.staying(slot)
		ofG := func(w *worker) bool { return w.at.Number == g.Number }
		if p.wants(slot) && len(stay) > 0 && !slices.ContainsFunc(stay, func(w *worker) bool { return !ofG(w) }) {
			return true
		}
	}
	return false
}

// fill starts what is missing on the generation that the pool runs on, unless a
// rotation does that.
func (p *pool) fill() {
	if p.moving || p.on.IsZero() || p.fleet.closing {
		return
	}
	for slot := range p.processes {
		if p.wants(slot) && len(p.staying(slot)) == 0 {
			p.start(slot, p.on)
		}
	}
}

// start makes a worker of g in a slot. In a stop-first pool it begins its life when
// every other worker of the slot is gone.
func (p *pool) start(slot int, g release.Generation) *worker {
	w := newWorker(p, slot, p.turn(slot, g), g)
	if p.Order == StopFirst {
		for _, other := range p.workers {
			if other.slot == slot {
				w.after = append(w.after, other)
			}
		}
	}
	p.add(w)
	return w
}

func (p *pool) add(w *worker) {
	p.workers = append(p.workers, w)
	select {
	case p.fleet.wake <- struct{}{}:
	default:
	}
	p.fleet.announce()
}

// turn tells workers of one slot and generation apart that live side by side: the
// one that drains since before a rollback, and the one after it.
func (p *pool) turn(slot int, g release.Generation) int {
	for turn := 0; ; turn++ {
		taken := func(w *worker) bool { return w.slot == slot && w.at.Number == g.Number && w.turn == turn }
		if !slices.ContainsFunc(p.workers, taken) {
			return turn
		}
	}
}

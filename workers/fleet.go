// Package workers runs the queue workers of one app, in pools. A worker that is
// told to go is told once and finishes the job in its hand first.
//
// The invariant: of a start-first pool the full number of workers is there, or on
// its way back after a death, whatever fails in a rotation; of a stop-first pool
// never two live in one slot. It holds across any death of superd, for all that is
// to be known is with the children themselves: see Adopt.
package workers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"superd/release"
	"superd/supervisor"
)

// Options are what New needs. Tell and Progress may be nil.
type Options struct {
	App         string
	Pools       []Pool
	MaxFailures int // so many unexpected ends are put up with in one rotation
	Children    *supervisor.Children
	Log         *slog.Logger
	Tell        func(Event) // hears what happens; must not block
	Progress    func()      // a sign of life of Canary or Rotate; must not block

	RecycleEvery time.Duration // how often workers with a limit are looked at; 0: every 30 s
}

// A Pool is how one pool of identical workers is run.
type Pool struct {
	Name           string // "emails"
	Processes      int
	Order          Order
	Canary         int                     // with StopFirst there is none: two must not live side by side
	MaxParallel    func(processes int) int // how many are replaced at a time
	MaxDraining    int                     // more than that do not drain at once because of rotations; at least 1
	MinHealthyTime time.Duration
	StopSignal     syscall.Signal
	StopTimeout    time.Duration // supervisor.Forever: jobs are never cut, with StartFirst only
	Planned        []int         // exit codes that are no failure of a worker that has proved itself
	Backoff        supervisor.Backoff

	supervisor.Limits // a worker past them is replaced

	// Proof makes what decides that a worker is well, see supervisor.Policy.
	Proof func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error
	// Spec says what is to be run; it is asked anew for every life. Name, Slot and
	// Note of what it returns are set here, and Log if it is empty. The slot it is
	// given and the generation are together unique among living workers of the pool.
	Spec func(slot int, g release.Generation) (supervisor.Spec, error)
}

// Order is what comes first when a worker is replaced.
type Order string

// The orders.
const (
	StartFirst Order = "start-first"
	StopFirst  Order = "stop-first"
)

// A Fleet is all pools of one app. It implements release.Workers. Its methods may
// be called from any goroutine; those that change something wait for Run.
// It is to stop before the Children do.
type Fleet struct {
	o      Options
	turn   chan struct{} // one Canary, Rotate, Remove or Restart at a time
	begun  chan struct{} // closed when Run is there
	ending chan struct{} // closed when Run lets go
	wake   chan struct{} // there are workers without a goroutine
	proofs chan struct{} // there are proofs to be remembered

	remembering sync.Mutex // one memory is written at a time; taken before mu

	mu      sync.Mutex
	pools   []*pool
	changed chan struct{} // closed, and made anew, when a worker or what is wanted changes
	closing bool          // StopAll: nothing is started any more
	tally   *tally        // of the verb that has the turn
	movers  int           // Canary and Rotate that have the turn or wait for it
	restart context.CancelCauseFunc
}

var _ release.Workers = (*Fleet)(nil)

// ErrUnknown is what is answered for a name that no pool or worker has.
var ErrUnknown = errors.New("no such pool or worker")

// New makes the fleet of an app. Adopt what an earlier superd has left, then Run it.
func New(o Options) *Fleet {
	f := &Fleet{
		o: o, turn: make(chan struct{}, 1), begun: make(chan struct{}), ending: make(chan struct{}),
		wake: make(chan struct{}, 1), proofs: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	for _, p := range o.Pools {
		f.pools = append(f.pools, &pool{Pool: p, fleet: f, processes: p.Processes, stopped: map[int]bool{}})
	}
	return f
}

// Run owns every goroutine of the fleet until ctx ends. The workers live on.
func (f *Fleet) Run(ctx context.Context) error {
	var lives sync.WaitGroup
	defer lives.Wait()
	defer close(f.ending)
	f.recall()
	lives.Go(func() { f.keep(ctx) })
	lives.Go(func() { f.recycle(ctx) })
	close(f.begun)
	for {
		for _, w := range f.unbegun() {
			lives.Go(func() { w.run(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
	}
}

// Canary starts the canaries of g beside the others and waits until they have
// proved themselves. Pools without one are left alone.
func (f *Fleet) Canary(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	return f.move(ctx, g, "start the canaries of", (*pool).canary)
}

// Rotate makes every pool run on g, all of them side by side, each in batches. It
// returns when each has its full number of proven workers of g and all others have
// been told to go. When it fails, what is running is left as it is: Rotate again,
// or back.
func (f *Fleet) Rotate(ctx context.Context, g release.Generation) error {
	return f.move(ctx, g, "rotate the workers to", (*pool).rotate)
}

// Remove tells the workers of g to go. It refuses while a pool relies on them.
func (f *Fleet) Remove(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	done, err := f.take(ctx)
	if err != nil {
		return fmt.Errorf("remove the workers of %s: %w", g, err)
	}
	defer done()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pools {
		if p.reliesOn(g) {
			return fmt.Errorf("remove the workers of %s: %s runs on it", g, p.name())
		}
	}
	for _, p := range f.pools {
		for _, w := range p.workers {
			if w.at.Number == g.Number {
				w.retire()
			}
		}
	}
	f.announce()
	return nil
}

// move lets every pool make the same move to g, side by side, and fails with the
// first that fails; the others are called off then.
func (f *Fleet) move(ctx context.Context, g release.Generation, what string, how func(*pool, context.Context, release.Generation) error) error {
	f.overtake(1)
	defer f.overtake(-1)
	done, err := f.take(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, g, err)
	}
	defer done()
	f.mu.Lock()
	f.tally = &tally{generation: g, allowed: f.o.MaxFailures}
	pools := f.pools
	f.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var moving sync.WaitGroup
	for _, p := range pools {
		moving.Go(func() {
			if err := how(p, ctx, g); err != nil {
				cancel(err) // the first one counts: the others say that they were called off
			}
		})
	}
	moving.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", what, g, f.withLastFailure(err))
	}
	return nil
}

// withLastFailure adds what failed last to the reason of a move that was called off:
// "took longer than 5m" says little of a worker that never got ready.
func (f *Fleet) withLastFailure(err error) error {
	if _, ok := errors.AsType[*Failure](err); ok {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tally.count == 0 {
		return err
	}
	return fmt.Errorf("%w; %w", err, &Failure{Event: f.tally.last, Count: f.tally.count, Allowed: f.tally.allowed})
}

// overtake makes a restart give way, one that is going on and any that would be: a
// rollback must not wait for workers that a person has asked for.
func (f *Fleet) overtake(by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.movers += by
	if f.restart != nil && f.movers > 0 {
		f.restart(errOvertaken)
	}
}

var errOvertaken = errors.New("a switch is moving the workers")

// take waits for Run and for the turn; give it back with the function returned.
func (f *Fleet) take(ctx context.Context) (func(), error) {
	if err := f.ready(ctx); err != nil {
		return nil, err
	}
	select {
	case f.turn <- struct{}{}:
		return func() {
			f.mu.Lock()
			f.tally = nil
			f.mu.Unlock()
			<-f.turn
		}, nil
	case <-f.ending:
		return nil, release.ErrStopping
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ready waits until Run has begun.
func (f *Fleet) ready(ctx context.Context) error {
	select {
	case <-f.begun:
		return nil
	case <-f.ending:
		return release.ErrStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await returns when reached says so, or its error. It is asked with the mutex
// held, at once and after every change, so that it may act on what it has seen.
// every, if it is not nil, is called each second of the wait.
func (f *Fleet) await(ctx context.Context, every func(), reached func() (bool, error)) error {
	var tick <-chan time.Time
	if every != nil {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		tick = t.C
	}
	for {
		f.mu.Lock()
		ok, err := reached()
		changed := f.changed
		f.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-tick:
			every()
		case <-f.ending:
			return release.ErrStopping
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// announce lets everyone who waits look again. The mutex is held.
func (f *Fleet) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// unbegun are the workers that have no goroutine yet; they are taken to have one
// from now on.
func (f *Fleet) unbegun() []*worker {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*worker
	for _, p := range f.pools {
		for _, w := range p.workers {
			if !w.begun {
				w.begun = true
				all = append(all, w)
			}
		}
	}
	return all
}

func (f *Fleet) tell(e Event) {
	if f.o.Tell != nil {
		f.o.Tell(e)
	}
}

func (f *Fleet) progress() {
	if f.o.Progress != nil {
		f.o.Progress()
	}
}

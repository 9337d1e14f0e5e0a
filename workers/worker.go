package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"superd/release"
	"superd/supervisor"
)

// A worker is one place in a pool, pinned to one generation: a respawn runs the
// same release again, and another release is another worker. The fleet's mutex
// guards what is below the line.
type worker struct {
	pool    *pool
	slot    int
	turn    int // 0, unless another of the same slot and generation lives
	at      release.Generation
	process *supervisor.Process
	adopted bool          // its first life was begun by an earlier superd
	dropped chan struct{} // closed when it is told to go
	gone    chan struct{} // closed when nothing of it lives
	after   []*worker     // it must not begin before these are gone

	begun   bool   // it has its goroutine
	leaving bool   // told to go for good
	stale   bool   // a restart replaces it
	proved  bool   // its present life has
	known   bool   // its first life had, to an earlier superd
	held    bool   // SIGKILL did not end it
	failed  string // how its life before failed, while no other has proved itself
	lives   int    // that have ended
	life    string // that is adopted, or has proved itself: see lifeOf
}

// note is what the keeper holds beside a worker for the next superd: all that it
// takes to own it, also when its pool is no longer configured.
type note struct {
	Worker *identity `json:"worker"`
}

type identity struct {
	App         string             `json:"app"`
	Pool        string             `json:"pool"`
	Slot        int                `json:"slot"`
	Turn        int                `json:"turn,omitempty"`
	At          release.Generation `json:"at"`
	StopSignal  syscall.Signal     `json:"stop_signal"`
	StopTimeout time.Duration      `json:"stop_timeout"`
}

// nextTurn is added to the slot that a second worker of the same slot and
// generation is told, so that what is named by both stays unique.
const nextTurn = 10000

func newWorker(p *pool, slot, turn int, g release.Generation) *worker {
	w := &worker{pool: p, slot: slot, turn: turn, at: g, dropped: make(chan struct{}), gone: make(chan struct{})}
	w.process = supervisor.NewProcess(p.fleet.o.Children, w.name(), w.policy(), w.spec, w.hear)
	return w
}

// policy is how its pool says that it is kept up. The mutex is held.
func (w *worker) policy() supervisor.Policy {
	p := w.pool
	return supervisor.Policy{
		Restart: supervisor.Always, Backoff: p.Backoff, Planned: p.Planned, Proof: w.proof,
		StopSignal: p.StopSignal, StopTimeout: p.StopTimeout,
	}
}

// Adopt takes a worker that an earlier superd has started; false: it is not ours.
// One that had been told to go goes on draining. All others stay as they are until
// Rotate or Remove says what is to become of them. Call it before Run.
func (f *Fleet) Adopt(c *supervisor.Child) bool {
	var n note
	if err := json.Unmarshal(c.Note(), &n); err != nil || n.Worker == nil || n.Worker.App != f.o.App {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool(n.Worker.Pool)
	if p == nil {
		p = f.former(*n.Worker)
	}
	w := newWorker(p, n.Worker.Slot, n.Worker.Turn, n.Worker.At)
	w.adopted, w.life = true, lifeOf(c)
	w.process.Adopt(c)
	if !c.Told().IsZero() {
		w.retire()
	}
	p.add(w)
	return true
}

// former is a pool that is no longer configured. Its workers end by the rules they
// were born with.
func (f *Fleet) former(i identity) *pool {
	p := &pool{fleet: f, foreign: true, stopped: map[int]bool{}, Pool: Pool{
		Name: i.Pool, Order: StartFirst, StopSignal: i.StopSignal, StopTimeout: i.StopTimeout,
		Backoff: supervisor.DefaultBackoff(), MaxParallel: func(int) int { return 1 },
		Proof: func(int, release.Generation) func(context.Context, *supervisor.Child) error {
			return supervisor.Alive(0)
		},
		Spec: func(int, release.Generation) (supervisor.Spec, error) {
			return supervisor.Spec{}, fmt.Errorf("%s/%s is no longer configured", f.o.App, i.Pool)
		},
	}}
	f.pools = append(f.pools, p)
	return p
}

func (f *Fleet) pool(name string) *pool {
	for _, p := range f.pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

func (w *worker) name() string { return w.pool.slotName(w.slot) }

// run is the whole of a worker, until it is gone or superd lets go of it.
func (w *worker) run(ctx context.Context) {
	if w.mayBegin(ctx) {
		_ = w.process.Run(ctx) // its error is that of ctx
	}
	if ctx.Err() != nil {
		return // what lives of it is for the next superd
	}
	f := w.pool.fleet
	f.mu.Lock()
	close(w.gone)
	w.pool.remove(w)
	f.announce()
	f.mu.Unlock()
	f.progress()
}

// mayBegin waits for those that must be gone before.
func (w *worker) mayBegin(ctx context.Context) bool {
	for _, other := range w.after {
		select {
		case <-other.gone:
		case <-w.dropped:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// isHeldUp tells whether it waits for one that cannot be killed.
func (w *worker) isHeldUp() bool {
	for _, other := range w.after {
		select {
		case <-other.gone:
		default:
			if other.held {
				return true
			}
		}
	}
	return false
}

func (w *worker) errHeldUp() error {
	return NotUp(w.name() + " cannot start: the worker before it does not end, not even by SIGKILL")
}

// retire tells it to go, once; a second time does nothing.
func (w *worker) retire() {
	if !w.leaving {
		w.leaving = true
		close(w.dropped)
		w.process.Retire()
	}
}

func (p *pool) remove(w *worker) {
	for i, other := range p.workers {
		if other == w {
			p.workers = append(p.workers[:i:i], p.workers[i+1:]...)
		}
	}
}

// spec is what the pool says, with the identity of this worker.
func (w *worker) spec(context.Context) (supervisor.Spec, error) {
	p := w.pool.now()
	s, err := p.Spec(w.slot+w.turn*nextTurn, w.at)
	if err != nil {
		return s, fmt.Errorf("describe %s: %w", w.name(), err)
	}
	s.Name, s.Slot = w.name(), fmt.Sprintf("%s@%d", w.name(), w.at.Number)
	if w.turn > 0 {
		s.Slot = fmt.Sprintf("%s#%d", s.Slot, w.turn)
	}
	if s.Log == "" {
		s.Log = filepath.Join(w.pool.fleet.o.App, fmt.Sprintf("%s-%d.log", p.Name, w.slot))
	}
	s.StopSignal, s.StopTimeout = p.StopSignal, p.StopTimeout
	s.Note, err = json.Marshal(note{&identity{
		App: w.pool.fleet.o.App, Pool: p.Name, Slot: w.slot, Turn: w.turn, At: w.at,
		StopSignal: p.StopSignal, StopTimeout: p.StopTimeout,
	}})
	return s, err
}

// proof is the pool's, unless it was given to an earlier superd.
func (w *worker) proof(ctx context.Context, c *supervisor.Child) error {
	if w.isKnown() {
		return nil
	}
	return w.pool.now().Proof(w.slot+w.turn*nextTurn, w.at)(ctx, c)
}

// isKnown tells whether its present life proved itself to an earlier superd.
func (w *worker) isKnown() bool {
	w.pool.fleet.mu.Lock()
	defer w.pool.fleet.mu.Unlock()
	return w.known && w.lives == 0
}

// isDoubtful tells whether it may have proved itself when no superd listened: what
// it said then is lost, and a rotation does not wait for it to say it again. The
// mutex is held.
func (w *worker) isDoubtful() bool { return w.adopted && w.lives == 0 && !w.known && !w.proved }

// lifeOf is a name of one life that no other life ever had.
func lifeOf(c *supervisor.Child) string {
	return fmt.Sprintf("%s %d %d", c.Slot(), c.FirstPID(), c.Born().UnixNano())
}

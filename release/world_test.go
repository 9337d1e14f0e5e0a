package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
)

// world is an app without processes: what web, workers and link really are, whatever
// a switch believes. Its verbs can be told to be in trouble before they take effect,
// halfway, or after it.
type world struct {
	t       *testing.T
	journal Journal // for the rule that the phase is on disk before the effect

	lock     sync.Mutex
	link     string          // where it leads
	running  map[uint64]bool // web generations
	started  map[uint64]bool // those that ever were
	serving  uint64
	shared   uint64    // the generation that gets a part beside it
	slots    [3]uint64 // the generation of each worker
	canaries map[uint64]bool
	names    map[uint64]string // of generations that were seen
	calls    []string

	troubles map[string]trouble
	cancelAs func()
	broken   map[string]error // what fails every time
	down     bool             // something that both generations depend on
}

type trouble struct {
	when string // before, half, after
	how  string // fails, hangs, aborted, killed, or moved (the link, by someone else)
}

// killed is the end of superd, as a panic.
type killed struct{ at string }

var errTrouble = errors.New("trouble")

func newWorld(t *testing.T, live Generation) *world {
	w := &world{
		t: t, running: map[uint64]bool{}, started: map[uint64]bool{}, canaries: map[uint64]bool{}, troubles: map[string]trouble{},
		broken: map[string]error{}, names: map[uint64]string{}, link: live.Dir,
	}
	if !live.IsZero() {
		w.running[live.Number], w.started[live.Number], w.serving = true, true, live.Number
		w.slots = [3]uint64{live.Number, live.Number, live.Number}
	}
	return w
}

func (w *world) parts() Parts {
	return Parts{Files: worldFiles{w}, Web: worldWeb{w}, Workers: worldWorkers{w}, Checks: worldChecks{w}, Traffic: worldTraffic{w}}
}

// phases are those in which a verb may run.
var phases = map[string][]Phase{
	"prepare": {Preparing}, "start": {Starting}, "verify": {Verifying}, "canary": {Verifying},
	"share": {Canary}, "try": {Canary},
	"point": {Promoting, RollingBack}, "promote": {Promoting, RollingBack}, "rotate": {Rotating, RollingBack},
	"watch": {Watching}, "retire": {RollingBack, Committing}, "remove": {RollingBack}, "finish": {Committing},
}

// run is one verb. It is on disk that it may run; then it happens, or not.
func (w *world) run(ctx context.Context, verb string, g Generation, effect func(half bool) error) error {
	name := fmt.Sprintf("%s %s", verb, g.Release)
	w.lock.Lock()
	w.calls = append(w.calls, name)
	w.names[g.Number] = g.Release
	t := w.troubles[name]
	broken := w.broken[name]
	w.lock.Unlock()
	if w.journal != nil && !slices.Contains(phases[verb], w.journal.Last().Phase) {
		w.t.Errorf("%s while the journal says %q", name, w.journal.Last().Phase)
	}
	if broken != nil {
		return broken
	}
	if t.when == "before" {
		if err := w.strike(ctx, name, t.how); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.lock.Lock()
	err := effect(t.when == "half")
	w.standing(name)
	w.lock.Unlock()
	if err != nil {
		return err
	}
	if t.when == "half" || t.when == "after" {
		return w.strike(ctx, name, t.how)
	}
	return nil
}

func (w *world) strike(ctx context.Context, name, how string) error {
	w.lock.Lock()
	delete(w.troubles, name)
	w.lock.Unlock()
	switch how {
	case "fails":
		return errTrouble
	case "hangs":
		<-ctx.Done()
		return ctx.Err()
	case "aborted":
		w.cancelAs()
		return nil // a verb need not notice
	case "killed":
		panic(killed{name})
	case "moved":
		w.lock.Lock()
		w.link = "/elsewhere"
		w.lock.Unlock()
		return nil
	}
	panic(how)
}

// standing is what must be true at every moment: what serves is there. w.lock is held.
func (w *world) standing(after string) {
	if w.shared != 0 && !w.running[w.shared] {
		w.t.Errorf("after %q generation %d gets a share and does not run: a part of the site is down", after, w.shared)
	}
	if w.serving != 0 && !w.running[w.serving] {
		w.t.Errorf("after %q generation %d serves and does not run: the site is down", after, w.serving)
	}
}

// reboot is the end of everything that is not on disk.
func (w *world) reboot() {
	w.running, w.canaries = map[uint64]bool{}, map[uint64]bool{}
	w.serving, w.shared, w.slots = 0, 0, [3]uint64{}
}

// wholly tells whether g serves alone, and else what is wrong.
func (w *world) wholly(g Generation) error {
	w.lock.Lock()
	defer w.lock.Unlock()
	var wrong []error
	if w.serving != g.Number {
		wrong = append(wrong, fmt.Errorf("generation %d serves", w.serving))
	}
	if w.shared != 0 {
		wrong = append(wrong, fmt.Errorf("generation %d gets a share", w.shared))
	}
	if want := map[uint64]bool{g.Number: true}; !maps.Equal(w.running, want) {
		wrong = append(wrong, fmt.Errorf("web generations %v run", slices.Sorted(maps.Keys(w.running))))
	}
	if w.slots != [3]uint64{g.Number, g.Number, g.Number} || len(w.canaries) > 0 {
		wrong = append(wrong, fmt.Errorf("workers %v and canaries of %v run", w.slots, slices.Sorted(maps.Keys(w.canaries))))
	}
	if w.link != g.Dir {
		wrong = append(wrong, fmt.Errorf("the link is at %s", w.link))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s does not serve alone: %w", g, errors.Join(wrong...))
	}
	return nil
}

type worldFiles struct{ w *world }

func (f worldFiles) Check(context.Context, Generation, Generation) error { return nil }

func (f worldFiles) Prepare(ctx context.Context, _, to Generation) error {
	return f.w.run(ctx, "prepare", to, func(bool) error { return nil })
}

func (f worldFiles) Point(ctx context.Context, was, g Generation) error {
	if g.IsZero() {
		return nil
	}
	return f.w.run(ctx, "point", g, func(bool) error {
		if f.w.link != g.Dir && f.w.link != was.Dir && !was.IsZero() {
			return ErrLinkMoved
		}
		f.w.link = g.Dir
		return nil
	})
}

func (f worldFiles) Where(context.Context) (string, error) {
	f.w.lock.Lock()
	defer f.w.lock.Unlock()
	return f.w.link, f.w.broken["where"]
}

func (f worldFiles) Finish(ctx context.Context, _, to Generation) error {
	return f.w.run(ctx, "finish", to, func(bool) error { return nil })
}

type worldWeb struct{ w *world }

func (v worldWeb) Start(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "start", g, func(bool) error {
		v.w.running[g.Number], v.w.started[g.Number] = true, true
		return nil
	})
}

func (v worldWeb) Promote(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "promote", g, func(bool) error {
		if !v.w.started[g.Number] && !g.IsZero() {
			return errors.New("it was never started")
		}
		v.w.running[g.Number] = true // started again if it has died
		v.w.serving, v.w.shared = g.Number, 0
		if g.IsZero() {
			delete(v.w.running, 0)
		}
		return nil
	})
}

func (v worldWeb) Share(ctx context.Context, g Generation, part float64) error {
	return v.w.run(ctx, "share", g, func(bool) error {
		switch {
		case part <= 0 || part >= 1:
			return fmt.Errorf("a share of %v", part)
		case v.w.serving == 0:
			return ErrNoOther
		}
		v.w.shared = g.Number
		return nil
	})
}

func (v worldWeb) Retire(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "retire", g, func(bool) error {
		if (v.w.serving == g.Number || v.w.shared == g.Number) && !g.IsZero() {
			return errors.New("it serves")
		}
		delete(v.w.running, g.Number)
		return nil
	})
}

type worldWorkers struct{ w *world }

func (v worldWorkers) Canary(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "canary", g, func(bool) error {
		v.w.canaries[g.Number] = true
		return nil
	})
}

func (v worldWorkers) Rotate(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "rotate", g, func(half bool) error {
		v.w.slots[0] = g.Number
		if half {
			return nil
		}
		v.w.slots = [3]uint64{g.Number, g.Number, g.Number}
		clear(v.w.canaries)
		return nil
	})
}

func (v worldWorkers) Remove(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "remove", g, func(bool) error {
		if slices.Contains(v.w.slots[:], g.Number) && !g.IsZero() {
			return errors.New("a pool runs on it")
		}
		delete(v.w.canaries, g.Number)
		return nil
	})
}

type worldChecks struct{ w *world }

func (c worldChecks) Verify(ctx context.Context, g Generation) error {
	return c.w.run(ctx, "verify", g, func(bool) error { return nil })
}

type worldTraffic struct{ w *world }

func (v worldTraffic) Watch(ctx context.Context, g Generation) error {
	return v.w.run(ctx, "watch", g, func(bool) error { return nil })
}

func (v worldTraffic) Weigh(_ context.Context, g Generation, failure error) error {
	v.w.lock.Lock()
	defer v.w.lock.Unlock()
	if v.w.down && g == newG {
		return fmt.Errorf("%w; %w: the other one is not well either", failure, ErrInconclusive)
	}
	return nil
}

func (v worldTraffic) Canary(ctx context.Context, g Generation) (Sharing, error) {
	err := v.w.run(ctx, "try", g, func(bool) error {
		if v.w.shared != g.Number {
			v.w.t.Errorf("%s is tried and gets no share", g)
		}
		return nil
	})
	return Sharing{Measured: 0.1, Requests: 10, Others: 90}, err
}

// memory is a Journal that can fail, before its entry is kept or after it.
type memory struct {
	mu      sync.Mutex
	entries []Record
	fail    func(r Record) (kept bool, err error)
}

func (m *memory) Enter(r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept, err := true, error(nil)
	if m.fail != nil {
		kept, err = m.fail(r)
	}
	if kept {
		m.entries = append(m.entries, r)
	}
	return err
}

func (m *memory) Last() Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) == 0 {
		return Record{}
	}
	return m.entries[len(m.entries)-1]
}

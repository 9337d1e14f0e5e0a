package workers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

// Wherever in a rotation superd dies, the next one brings the pools wholly on the
// one generation or the other: nobody twice, nobody told twice, never too few.
func TestSuperdDiesInARotation(t *testing.T) {
	for _, tt := range []struct {
		proved int // workers of 2 that get well before it dies
		then   int // what the next one rotates to
	}{{0, 1}, {0, 2}, {1, 1}, {2, 2}, {2, 1}, {3, 2}, {4, 1}, {5, 2}, {5, 1}} {
		t.Run(fmt.Sprintf("%d of 5 moved, then %d", tt.proved, tt.then), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			emails, cron := r.pool("emails", 5), r.pool("cron", 2)
			cron.Order = workers.StopFirst
			s := r.superd(0, emails, cron)
			s.rotate(1)
			r.mood(1, mood{kind: well, job: 100 * time.Millisecond})
			s = r.again(s, 0, r.limited(emails, tt.proved), cron)
			s.rotate(1)
			ctx, cancel := context.WithCancel(t.Context())
			moved := make(chan error, 1)
			go func() { moved <- s.Rotate(ctx, r.gen(2)) }()
			r.soon("so far", func() string {
				running := 0
				for _, w := range s.pool("emails").Workers {
					if w.Generation == r.gen(2) && w.State == supervisor.Running {
						running++
					}
				}
				if running < tt.proved {
					return fmt.Sprintf("%d run", running)
				}
				return ""
			})
			s.crash()
			if err := <-moved; err != nil && !errors.Is(err, release.ErrStopping) {
				t.Fatal(err)
			}
			cancel()
			s = r.superd(0, emails, cron)
			if s.adopted < 5 {
				t.Errorf("%d workers were adopted", s.adopted)
			}
			s.rotate(tt.then)
			s.wholly("emails", 5, tt.then)
			s.wholly("cron", 2, tt.then)
			if err := s.Remove(t.Context(), r.gen(3-tt.then)); err != nil {
				t.Error(err)
			}
			if n := r.fewest("emails", 5); n < 5 {
				t.Errorf("at some instant only %d of 5 workers took jobs", n)
			}
			r.alone("cron", 0)
			r.toldOnce()
			r.unique()
		})
	}
}

// A canary that outlives superd is left alone until it is said what is to become of
// it.
func TestCanaryOutlivesSuperd(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 2)
	p.Canary = 1
	s := r.superd(0, p)
	s.rotate(1)
	if err := s.Canary(t.Context(), r.gen(2)); err != nil {
		t.Fatal(err)
	}
	s = r.again(s, 0, p)
	if not := r.count(2, 1); not != "" {
		t.Error(not)
	}
	if err := s.Remove(t.Context(), r.gen(2)); err != nil {
		t.Fatal(err)
	}
	s.rotate(1)
	s.wholly("emails", 2, 1)
	for _, l := range r.of(1) {
		if len(l.terms) > 0 {
			t.Errorf("%s was told to go", l.who)
		}
	}
}

// A pool that is no longer configured drains by its own rules, and a pool that has
// become smaller lets the others go.
func TestConfigurationChanged(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3), r.pool("sms", 2))
	r.mood(1, mood{kind: well, job: 300 * time.Millisecond})
	s.rotate(1)
	s.crash()
	s = r.superd(0, r.pool("emails", 2))
	if s.adopted != 5 {
		t.Errorf("%d workers were adopted, want 5", s.adopted)
	}
	s.rotate(1)
	s.wholly("emails", 2, 1)
	r.soon("nothing is left", func() string { return r.count(1, 2) })
	for _, l := range r.lives() {
		if len(l.terms) > 0 && l.end == 0 {
			t.Errorf("%s was cut in its job", l.who)
		}
	}
	r.soon("the pool is forgotten", func() string {
		if n := len(s.Status()); n != 1 {
			return fmt.Sprintf("%d pools", n)
		}
		return ""
	})
	r.toldOnce()
}

// Exits that nobody saw are told by the next superd, and planned ones are none.
func TestEndsThatNobodySaw(t *testing.T) {
	r := newRig(t)
	r.mood(1, mood{kind: well, hold: r.file("done")})
	s := r.superd(0, r.pool("emails", 2))
	s.rotate(1)
	s.rotate(2)
	r.draining(s, 2)
	s.crash()
	r.make("done")
	r.soon("both have ended", func() string { return r.count(1, 0) })
	s = r.superd(0, r.pool("emails", 2))
	s.rotate(2)
	s.wholly("emails", 2, 2)
	if n := len(s.heard(workers.Drained)); n != 2 {
		t.Errorf("%d have drained, want 2", n)
	}
	if f := s.heard(workers.Failed); len(f) != 0 {
		t.Errorf("failures: %+v", f)
	}
	r.toldOnce()
}

// What is not ours is left to its owner.
func TestAdoptTakesItsOwnOnly(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 1))
	for _, note := range []string{`{"app":"shop","base":"x"}`, `{"worker":{"app":"blog","pool":"emails"}}`, `null`, ``} {
		spec := supervisor.Spec{Name: "x", Slot: "x" + note, Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"}
		if note != "" {
			spec.Note = []byte(note)
		}
		c, err := s.children.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if s.Adopt(c) {
			t.Errorf("a child with the note %q was adopted", note)
		}
	}
}

// limited lets n workers of generation 2 get well, and no more.
func (r *rig) limited(p workers.Pool, n int) workers.Pool {
	usual := p.Proof
	allowed := make(chan struct{}, n)
	for range n {
		allowed <- struct{}{}
	}
	p.Proof = func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error {
		if g.Number != 2 {
			return usual(slot, g)
		}
		return func(ctx context.Context, c *supervisor.Child) error {
			select {
			case <-allowed:
				return usual(slot, g)(ctx, c)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return p
}

// unique fails if two workers that lived at the same time had the same slot and
// generation.
func (r *rig) unique() {
	r.t.Helper()
	lives := r.lives()
	for i, a := range lives {
		for _, b := range lives[i+1:] {
			if a.who == b.who && (a.end == 0 || b.start < a.end) && len(a.terms) > 0 {
				r.t.Errorf("two lived as %s: pids %d and %d", a.who, a.pid, b.pid)
			}
		}
	}
}

// alone fails if a slot of a pool ever had two. The one that was killed has no end
// in the ledger.
func (r *rig) alone(pool string, killed int) {
	r.t.Helper()
	last := map[string]life{}
	for _, l := range r.lives() {
		slot, _, _ := strings.Cut(l.base(), "@")
		before, ok := last[slot]
		if l.in(pool) && ok && before.pid != killed && (before.end == 0 || before.end > l.start) {
			r.t.Errorf("%s (pid %d) began before %s (pid %d) had ended", l.who, l.pid, before.who, before.pid)
		}
		last[slot] = l
	}
}

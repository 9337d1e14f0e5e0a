package workers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

// With start-first no instant has fewer workers than are wanted, each is told once,
// and a job that lasts holds nothing up, there or back.
func TestRotateIsNeverShortOfWorkers(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 5))
	r.mood(2, mood{kind: well, hold: r.file("done")})
	s.rotate(1)
	s.wholly("emails", 5, 1)
	s.rotate(2)
	s.rotate(3)
	r.draining(s, 5) // all of 2, with their jobs
	s.rotate(2)      // back, beside them
	s.rotate(1)
	r.draining(s, 10)
	r.make("done")
	s.wholly("emails", 5, 1)
	if n := r.fewest("emails", 5); n < 5 {
		t.Errorf("at some instant only %d of 5 workers took jobs", n)
	}
	r.toldOnce()
	r.unique()
	if failed := s.heard(workers.Failed); len(failed) > 0 {
		t.Errorf("failures: %+v", failed)
	}
	if drained := s.heard(workers.Drained); len(drained) != 20 {
		t.Errorf("%d workers have drained, want 20", len(drained))
	}
	if s.signs() == 0 {
		t.Error("there was no sign of life")
	}
}

// With stop-first a slot never has two, through rotations and through a death.
func TestStopFirstNeverHasTwoInASlot(t *testing.T) {
	r := newRig(t)
	p := r.pool("cron", 3)
	p.Order, p.Canary = workers.StopFirst, 1
	s := r.superd(0, p)
	for n := 1; n <= 3; n++ {
		r.mood(n, mood{kind: well, job: 200 * time.Millisecond})
		if err := s.Canary(t.Context(), r.gen(n)); err != nil {
			t.Fatal(err)
		}
		s.rotate(n)
		s.wholly("cron", 3, n)
	}
	living := r.living()
	_ = syscall.Kill(living[0].pid, syscall.SIGKILL)
	r.soon("the dead one has a successor", func() string {
		if len(s.heard(workers.Failed)) == 1 && len(r.living()) == 3 {
			return ""
		}
		return fmt.Sprint(r.living())
	})
	if err := s.Restart(t.Context(), "cron"); err != nil {
		t.Fatal(err)
	}
	s.rotate(2)
	s.wholly("cron", 3, 2)
	r.alone("cron", living[0].pid)
	r.toldOnce()
}

// Of the new workers as many start at a time as may, and the first start waits for
// no batch.
func TestBatches(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 6)
	release1, release2 := make(chan struct{}), make(chan struct{})
	p.Proof = func(_ int, g release.Generation) func(context.Context, *supervisor.Child) error {
		gate := release1
		if g.Number == 2 {
			gate = release2
		}
		return func(ctx context.Context, c *supervisor.Child) error {
			select {
			case <-gate:
				return supervisor.Notified(patience)(ctx, c)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	s := r.superd(0, p)
	moved := make(chan error, 1)
	go func() { moved <- s.Rotate(t.Context(), r.gen(1)) }()
	r.soon("all six start at once", func() string { return r.count(1, 6) })
	close(release1)
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	go func() { moved <- s.Rotate(t.Context(), r.gen(2)) }()
	r.soon("two start", func() string { return r.count(2, 2) })
	for range 20 { // and no third
		if not := r.count(2, 2); not != "" {
			t.Fatal(not)
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(release2)
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 6, 2)
}

// Pools rotate side by side: one that cannot does not keep the other from its turn,
// and calls it off at its next batch.
func TestPoolsRotateSideBySide(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2), r.pool("images", 2))
	s.rotate(1)
	r.mood(2, mood{kind: well})
	s.rotate(2)
	s.wholly("emails", 2, 2)
	s.wholly("images", 2, 2)
	again := len(r.lives())
	s.rotate(2)
	if n := len(r.lives()); n != again {
		t.Errorf("a second rotation to the same generation started %d workers", n-again)
	}
}

// Rotate to what is there already puts right what is not so.
func TestRotateRepairs(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 3)
	p.Canary = 1
	p.Backoff.First, p.Backoff.Max = time.Hour, time.Hour
	s := r.superd(1, p)
	s.rotate(1)
	if err := s.Canary(t.Context(), r.gen(2)); err != nil {
		t.Fatal(err)
	}
	s.rotate(1) // the canary goes
	s.wholly("emails", 3, 1)
	r.toldOnce()
	s.crash()
	for _, l := range r.living() {
		if strings.HasPrefix(l.who, "emails:1@") {
			_ = syscall.Kill(l.pid, syscall.SIGKILL) // while nobody looks
		}
	}
	s = r.superd(1, p)
	s.rotate(1)
	s.wholly("emails", 3, 1)
	if f := s.heard(workers.Failed); len(f) != 1 || f[0].Slot != 1 || f[0].Exit == nil || f[0].Exit.Status.Signal() != syscall.SIGKILL {
		t.Errorf("the death that nobody saw: %+v", f)
	}
}

// Canaries run beside the others; when they fail nothing else is touched, and what
// is left of them can be removed, while what runs cannot.
func TestCanary(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 3)
	p.Canary = 2
	s := r.superd(1, p, r.pool("images", 1))
	s.rotate(1)
	if err := s.Canary(t.Context(), r.gen(2)); err != nil {
		t.Fatal(err)
	}
	if not := r.count(2, 2); not != "" {
		t.Fatal(not)
	}
	if err := s.Remove(t.Context(), r.gen(1)); err == nil {
		t.Error("the generation that the pools run on was removed")
	}
	r.mood(3, mood{kind: exit1})
	err := s.Canary(t.Context(), r.gen(3))
	var failure *workers.Failure
	if !errors.As(err, &failure) || failure.Count < 2 || failure.Allowed != 1 { // it may die a third time before that is seen
		t.Fatalf("a canary that dies: %v", err)
	}
	if err := errors.Join(s.Remove(t.Context(), r.gen(3)), s.Remove(t.Context(), r.gen(2))); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 3, 1)
	s.wholly("images", 1, 1)
	for _, l := range r.lives() {
		if strings.HasSuffix(l.who, "@1") && len(l.terms) > 0 {
			t.Errorf("%s was told to go", l.who)
		}
	}
	// Canaries that are there count in the rotation that follows.
	if err := s.Canary(t.Context(), r.gen(4)); err != nil {
		t.Fatal(err)
	}
	s.rotate(4)
	s.wholly("emails", 3, 4)
	if n := len(r.of(4)); n != 4 { // three emails, one images
		t.Errorf("%d workers of generation 4 were started, want 4", n)
	}
	for _, e := range s.heard(workers.Drained) {
		if e.Generation == r.gen(4) {
			t.Errorf("started beside its canary: %+v", e)
		}
	}
	if n := r.fewest("emails", 3); n < 3 {
		t.Errorf("at some instant only %d of 3 workers took jobs", n)
	}
}

// A release whose workers do not get well is given up after so many failures, with
// the words of the one that failed, no worker that is well is told, and back is one
// verb.
func TestBadRelease(t *testing.T) {
	for name, tt := range map[string]struct {
		mood  mood
		err   error
		proof func(context.Context, *supervisor.Child) error
		says  string
		lines string
	}{
		"exits with 1":         {mood: mood{kind: exit1}, says: "exit 1 after", lines: "cannot find vendor/autoload.php"},
		"exits with 0 at once": {mood: mood{kind: exit0}, says: "exit 0 after", lines: "cannot find vendor/autoload.php"},
		"never gets ready":     {mood: mood{kind: mute}, proof: supervisor.Notified(300 * time.Millisecond), says: "has not said READY=1"},
		"cannot be described":  {err: errors.New("no variable DB_HOST"), says: "no variable DB_HOST"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p := r.pool("emails", 4)
			if tt.proof != nil {
				usual := p.Proof
				p.Proof = func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error {
					if g.Number == 2 {
						return tt.proof
					}
					return usual(slot, g)
				}
			}
			s := r.superd(2, p)
			s.rotate(1)
			r.mood(2, tt.mood)
			r.fail(2, tt.err)
			err := s.Rotate(t.Context(), r.gen(2))
			var explained release.Explained
			if !errors.As(err, &explained) {
				t.Fatalf("rotated to a bad release: %v", err)
			}
			for _, word := range []string{"r2 (generation 2)", "shop/emails:", tt.says, "failures, 2 are put up with"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if tt.lines != "" && !slices.Contains(explained.LastLines(), tt.lines) {
				t.Errorf("last lines are %q, want %q among them", explained.LastLines(), tt.lines)
			}
			s.rotate(1)
			s.wholly("emails", 4, 1)
			if err := s.Remove(t.Context(), r.gen(2)); err != nil {
				t.Error(err)
			}
			for _, l := range r.of(1) {
				if len(l.terms) > 0 {
					t.Errorf("%s was told to go for a bad release", l.who)
				}
			}
		})
	}
}

// One that dies after it was well is put up with, if so many are, and has a
// successor of the same release when the rotation ends.
func TestLateDeaths(t *testing.T) {
	for allowed, name := range []string{"none is put up with", "one is put up with"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var s *superd
			p := r.pool("emails", 4)
			usual := p.Proof
			p.Proof = func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error {
				return func(ctx context.Context, c *supervisor.Child) error {
					for g.Number == 2 && slot > 1 && len(s.heard(workers.Failed)) == 0 { // the second batch
						select {
						case <-time.After(5 * time.Millisecond):
						case <-ctx.Done():
							return context.Cause(ctx)
						}
					}
					if err := usual(slot, g)(ctx, c); err != nil {
						return err
					}
					return os.WriteFile(r.file(fmt.Sprintf("dead-%d", c.PID())), nil, 0o600) // now it may die
				}
			}
			s = r.superd(allowed, p)
			s.rotate(1)
			r.mood(2, mood{kind: dieOnce, marker: r.file("dead")})
			err := s.Rotate(t.Context(), r.gen(2))
			if allowed == 1 {
				if err != nil {
					t.Fatal(err)
				}
				s.wholly("emails", 4, 2)
			} else if err == nil || !strings.Contains(err.Error(), "exit 7") || strings.Contains(err.Error(), "before it was well") {
				t.Errorf("one death too many: %v", err)
			}
			r.soon("it is told", func() string { // after who waits for the rotation has heard
				if len(s.heard(workers.Failed)) == 0 {
					return "no event"
				}
				return ""
			})
			f := s.heard(workers.Failed)
			if len(f) != 1 || f[0].Exit.Code() != 7 || !slices.Contains(f[0].Lines, "the database went away") ||
				f[0].Generation != r.gen(2) || f[0].PID == 0 {
				t.Errorf("events: %+v", f)
			}
		})
	}
}

// A failed rotation of a stop-first pool comes back too, and Remove does not take
// what is all that there is.
func TestStopFirstComesBack(t *testing.T) {
	r := newRig(t)
	p := r.pool("cron", 2)
	p.Order = workers.StopFirst
	p.MaxParallel = func(int) int { return 1 }
	s := r.superd(0, p)
	s.rotate(1)
	r.mood(2, mood{kind: exit1})
	if err := s.Rotate(t.Context(), r.gen(2)); err == nil {
		t.Fatal("rotated to a bad release")
	}
	if err := s.Remove(t.Context(), r.gen(2)); err == nil {
		t.Error("the only worker of a slot was removed")
	}
	s.rotate(1)
	s.wholly("cron", 2, 1)
	r.alone("cron", 0)
	if err := s.Remove(t.Context(), r.gen(2)); err != nil {
		t.Error(err)
	}
}

// No more drain than may, but going back does not wait for them.
func TestMaxDraining(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 4)
	p.MaxDraining = 3
	s := r.superd(0, p)
	r.mood(1, mood{kind: well, hold: r.file("done")})
	s.rotate(1)
	ctx, cancel := context.WithCancelCause(t.Context())
	moved := make(chan error, 1)
	go func() { moved <- s.Rotate(ctx, r.gen(2)) }()
	r.draining(s, 3)
	before := s.signs()
	time.Sleep(1500 * time.Millisecond)
	select {
	case err := <-moved:
		t.Fatalf("did not wait for a job: %v", err)
	default:
	}
	r.draining(s, 3)
	r.soon("a sign of life while jobs end", func() string {
		if s.signs() == before {
			return "none"
		}
		return ""
	})
	because := errors.New("taken back")
	cancel(because)
	if err := <-moved; !errors.Is(err, because) {
		t.Errorf("called off: %v", err)
	}
	s.rotate(1)
	r.draining(s, 3) // those of 1; the ones of 2 have ended
	go func() { moved <- s.Rotate(t.Context(), r.gen(3)) }()
	r.draining(s, 3)
	r.make("done")
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 4, 3)
	r.toldOnce()
}

// A worker whose jobs are never cut drains through several rotations and the death
// of a superd.
func TestForever(t *testing.T) {
	r := newRig(t)
	p := r.pool("video", 1)
	p.StopTimeout = supervisor.Forever
	s := r.superd(0, p)
	r.mood(1, mood{kind: well, hold: r.file("done")})
	s.rotate(1)
	old := r.living()[0]
	s.rotate(2)
	s = r.again(s, 0, p)
	r.draining(s, 1) // before anybody has said what is to run
	s.rotate(2)
	s.rotate(3)
	r.draining(s, 1)
	if use := s.InUse(); !slices.Equal(use, []string{r.gen(1).Dir, r.gen(3).Dir}) {
		t.Errorf("in use: %v", use)
	}
	for _, w := range s.pool("video").Workers {
		if w.PID == old.pid && (w.State != supervisor.Draining || w.Generation != r.gen(1)) {
			t.Errorf("the one with the long job: %+v", w)
		}
	}
	r.make("done")
	s.wholly("video", 1, 3)
	r.toldOnce()
	if ended := r.lives()[0]; ended.end == 0 {
		t.Error("the long job was cut")
	}
}

// Who outlives the stop timeout is killed, with all that it has made, and that is
// told.
func TestKilled(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 1)
	p.StopTimeout = 300 * time.Millisecond
	s := r.superd(0, p)
	r.mood(1, mood{kind: family})
	s.rotate(1)
	r.soon("both are there", func() string { return r.count(1, 2) })
	s.rotate(2)
	s.wholly("emails", 1, 2)
	r.soon("its child is gone too", func() string { return r.count(1, 0) })
	k := s.heard(workers.Killed)
	if len(k) != 1 || k[0].Pool != "emails" || k[0].Slot != 0 || k[0].Generation != r.gen(1) || k[0].Exit.Ran < 300*time.Millisecond ||
		!strings.Contains(k[0].Reason, "killed by superd") {
		t.Errorf("events: %+v", k)
	}
	r.toldOnce()
}

// The stop signal reaches the main process only; what it has made lives as long as
// it wants.
func TestOnlyTheMainProcessIsTold(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	r.mood(1, mood{kind: forks, job: 300 * time.Millisecond})
	s.rotate(1)
	s.rotate(2)
	s.wholly("emails", 2, 2)
	r.toldOnce()
	for _, l := range r.of(1) {
		if !strings.HasPrefix(l.who, "child-of-") && l.end == 0 {
			t.Errorf("%s did not finish its job", l.who)
		}
	}
}

// Nothing deployed is a state like any other, before and after.
func TestNothing(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	s.rotate(0)
	s.rotate(1)
	s.wholly("emails", 2, 1)
	if err := errors.Join(s.Canary(t.Context(), r.gen(0)), s.Remove(t.Context(), r.gen(0))); err != nil {
		t.Error(err)
	}
	s.rotate(0)
	r.soon("all are gone", func() string { return r.count(1, 0) })
	if err := s.Start(t.Context(), "emails"); err == nil || !strings.Contains(err.Error(), "no release yet") {
		t.Errorf("a start of nothing: %v", err)
	}
	r.soon("nobody is there", func() string {
		if n := len(s.pool("emails").Workers); n != 0 {
			return fmt.Sprintf("%d workers", n)
		}
		return ""
	})
}

// When ctx ends, Rotate returns with its cause, and what is there is whole.
func TestCalledOff(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3))
	s.rotate(1)
	r.mood(2, mood{kind: mute})
	because := errors.New("aborted by deploy")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, because)
	defer cancel()
	began := time.Now()
	if err := s.Rotate(ctx, r.gen(2)); !errors.Is(err, because) {
		t.Errorf("called off: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := s.pool("emails").Running; n != 3 {
		t.Errorf("%d of the old ones run, want 3", n)
	}
	s.rotate(1)
	s.wholly("emails", 3, 1)
}

// Thirty rotations leave nothing behind.
func TestManyRotations(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	s.rotate(1)
	open := descriptors(t)
	for n := 2; n <= 30; n++ {
		s.rotate(n)
	}
	s.wholly("emails", 2, 30)
	if living := s.children.Living(); len(living) != 2 {
		t.Errorf("%d children are known, want 2", len(living))
	}
	r.soon("no descriptor is left", func() string {
		if now := descriptors(t); now > open {
			return fmt.Sprintf("%d are open, were %d", now, open)
		}
		return ""
	})
	if n := r.fewest("emails", 2); n < 2 {
		t.Errorf("at some instant only %d of 2 workers took jobs", n)
	}
	r.toldOnce()
}

// A rotation that is called off for want of progress says what was in its way.
func TestCalledOffSaysWhatFailed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.superd(1000, r.pool("emails", 1))
	s.rotate(1)
	r.mood(2, mood{kind: exit1})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- s.Rotate(ctx, r.gen(2)) }()
	r.soon("a failure", func() string {
		if len(s.heard(workers.Failed)) == 0 {
			return "none yet"
		}
		return ""
	})
	late := errors.New("took longer than it may")
	cancel(late)
	err := <-ended
	var explained release.Explained
	if !errors.Is(err, late) || !errors.As(err, &explained) || !slices.Contains(explained.LastLines(), "cannot find vendor/autoload.php") {
		t.Errorf("%v", err)
	}
}

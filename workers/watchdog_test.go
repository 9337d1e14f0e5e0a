package workers_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

const dog = 4 * time.Second

func (r *rig) guarded(name string, processes int) workers.Pool {
	p := r.pool(name, processes)
	p.StopTimeout = time.Second // who hangs does not hear SIGTERM
	plain := p.Spec
	p.Spec = func(slot int, g release.Generation) (supervisor.Spec, error) {
		s, err := plain(slot, g)
		s.Watchdog = dog
		return s, err
	}
	return p
}

// A worker that hangs in its job is replaced, and people are told why; one that says
// that it lives is left alone.
func TestHangingWorkerIsReplaced(t *testing.T) {
	r := newRig(t)
	r.mood(1, mood{kind: hangs})
	r.mood(2, mood{kind: fed})
	s := r.superd(0, r.guarded("emails", 1))
	s.rotate(1)
	if got := s.pool("emails").Workers[0].Text; got != "waits for jobs" {
		t.Errorf("it says %q of itself", got)
	}
	hung := r.living()[0].pid
	r.soon("it is replaced", func() string {
		if w := s.pool("emails").Workers[0]; w.Restarts == 1 && w.PID != 0 && w.PID != hung && strings.HasPrefix(w.Last, "watchdog: ") {
			return ""
		}
		return "not yet"
	})
	failed := s.heard(workers.Failed)
	if len(failed) != 1 || failed[0].PID != hung || !strings.Contains(failed[0].Reason, "watchdog: shop/emails:0 has not said WATCHDOG=1 for "+dog.String()) {
		t.Errorf("failures: %+v", failed)
	}
	before := len(s.heard(workers.Failed))
	s.rotate(2)
	s.wholly("emails", 1, 2)
	time.Sleep(dog + dog/2)
	for _, e := range s.heard(workers.Failed)[before:] {
		if e.Generation.Number == 2 {
			t.Errorf("one that lives was ended: %+v", e)
		}
	}
}

// While a rotation is on its way its workers are watched: canaries that hang after they
// were ready are the reason why it fails, and the others go on.
func TestHangingCanaryFailsTheSwitch(t *testing.T) {
	r := newRig(t)
	r.mood(1, mood{kind: fed})
	r.mood(2, mood{kind: hangs})
	p := r.guarded("emails", 2)
	p.Canary = 1
	slow := p.Proof
	p.Proof = func(slot int, g release.Generation) func(context.Context, *supervisor.Child) error {
		if g.Number == 2 && slot == 1 {
			return supervisor.Alive(patience) // holds the rotation up until the canary has failed
		}
		return slow(slot, g)
	}
	s := r.superd(0, p)
	s.rotate(1)
	if err := s.Canary(t.Context(), r.gen(2)); err != nil {
		t.Fatal(err)
	}
	err := s.Rotate(t.Context(), r.gen(2))
	failure, ok := errors.AsType[*workers.Failure](err)
	if !ok || !strings.Contains(err.Error(), "watchdog: shop/emails:0 has not said WATCHDOG=1") || failure.Event.Generation.Number != 2 {
		t.Errorf("the rotation ends with %v", err)
	}
	s.rotate(1)
	s.wholly("emails", 2, 1)
}

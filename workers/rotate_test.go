package workers_test

import (
	"testing"
	"time"
)

// With start-first no instant has fewer workers than are wanted, each is told once,
// and a job of a minute holds nothing up.
func TestRotateIsNeverShortOfWorkers(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 5))
	r.mood(2, mood{kind: well, hold: r.file("done")})
	s.rotate(1)
	s.wholly("emails", 5, 1)
	s.rotate(2)
	s.rotate(3)
	if n := s.pool("emails").Draining; n != 5 {
		t.Errorf("%d workers of generation 2 drain, want 5: their jobs last", n)
	}
	s.rotate(2) // back, while those of 2 that were told still have their jobs
	if n := s.pool("emails").Draining; n < 5 {
		t.Errorf("%d workers drain, want at least 5", n)
	}
	s.rotate(1)
	r.make("done")
	s.wholly("emails", 5, 1)
	if n := r.fewest("emails", 5); n < 5 {
		t.Errorf("at some instant only %d of 5 workers took jobs", n)
	}
	r.toldOnce()
	if failed := s.heard("worker.failed"); len(failed) > 0 {
		t.Errorf("failures: %+v", failed)
	}
	if drained := s.heard("worker.drained"); len(drained) != 20 {
		t.Errorf("%d workers have drained, want 20", len(drained))
	}
	if s.progress == 0 {
		t.Error("there was no sign of life")
	}
	_ = time.Now
}

package workers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/workers"
)

// Workers that are too old are replaced, one at a time and never one short, also those
// that an earlier superd has started; a slot that was stopped stays empty, and another
// pool is left alone.
func TestTooOldIsRecycled(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 3)
	s := r.superd(0, p, r.pool("images", 1))
	s.rotate(1)
	if err := s.Stop(t.Context(), "emails:2", false); err != nil {
		t.Fatal(err)
	}
	old := r.living()
	p.MaxAge = time.Second
	s = r.again(s, 0, p, r.pool("images", 1))
	s.rotate(1)
	r.soon("both are replaced", func() string { // one of them may be so twice before the other
		for _, l := range r.living() {
			if l.in("emails") && slices.ContainsFunc(old, func(was life) bool { return was.pid == l.pid }) {
				return l.who + " lives"
			}
		}
		return ""
	})
	told := s.heard(workers.Recycled)
	if len(told) < 2 {
		t.Errorf("told %d times", len(told))
	}
	for _, e := range told {
		if e.Pool != "emails" || e.Slot == 2 || e.PID == 0 || !strings.Contains(e.Reason, "max_age is 1s") {
			t.Errorf("recycled: %+v", e)
		}
	}
	left := 0
	for _, was := range old {
		for _, l := range r.living() {
			if l.pid == was.pid {
				left++
				if !strings.HasPrefix(l.who, "images:") {
					t.Errorf("%s was not replaced", l.who)
				}
			}
		}
	}
	if left != 1 {
		t.Errorf("%d of the first workers live, want the one of images", left)
	}
	if n := r.fewest("emails", 2); n < 2 {
		t.Errorf("at some instant only %d of 2 workers took jobs", n)
	}
	r.toldOnce()
}

// One within its limits stays.
func TestTooLargeIsRecycled(t *testing.T) {
	r := newRig(t)
	p, roomy := r.pool("emails", 1), r.pool("images", 1)
	p.MaxMemory, roomy.MaxMemory = 1<<20, 1<<40
	s := r.superd(0, p, roomy)
	s.rotate(1)
	r.recycled(s, 1)
	for _, e := range s.heard(workers.Recycled) {
		if e.Pool != "emails" || !strings.Contains(e.Reason, "max_memory is 1024 KiB") {
			t.Errorf("recycled: %+v", e)
		}
	}
	r.toldOnce()
}

// recycled waits until n workers were replaced, wholly.
func (r *rig) recycled(s *superd, n int) {
	r.t.Helper()
	r.soon("workers are recycled", func() string {
		if told, gone := len(s.heard(workers.Recycled)), len(s.heard(workers.Drained)); told < n || gone < n {
			return fmt.Sprintf("%d told, %d gone", told, gone)
		}
		return ""
	})
}

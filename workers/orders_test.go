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

// A pool grows and shrinks at its upper end, and nobody else is touched; the order
// outlives superd.
func TestScale(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3))
	s.rotate(1)
	s.scale("emails", 5)
	s.wholly("emails", 5, 1)
	s.scale("emails", 2)
	s.wholly("emails", 2, 1)
	for _, l := range r.lives() {
		low := strings.HasPrefix(l.who, "emails:0@") || strings.HasPrefix(l.who, "emails:1@")
		if low && len(l.terms) > 0 || !low && len(l.terms) != 1 {
			t.Errorf("%s was told %d times", l.who, len(l.terms))
		}
	}
	if e := s.heard(workers.Scaled); len(e) != 2 || e[0].From != 3 || e[0].To != 5 || e[1].From != 5 || e[1].To != 2 {
		t.Errorf("events: %+v", e)
	}
	s.rotate(2)
	s.wholly("emails", 2, 2)
	s = r.again(s, 0, r.pool("emails", 3))
	s.rotate(2)
	s.wholly("emails", 2, 2)
	s = r.again(s, 0, r.pool("emails", 4)) // somebody has changed the file: it counts
	s.rotate(2)
	s.wholly("emails", 4, 2)
	for _, err := range []error{
		s.Scale(t.Context(), "emails", -1), s.Scale(t.Context(), "emails:1", 3), s.Scale(t.Context(), "letters", 3),
	} {
		if err == nil {
			t.Error("an impossible order was taken")
		}
	}
	s.scale("emails", 0)
	r.soon("all are gone", func() string { return r.count(2, 0) })
}

// What a person has stopped stays so, through rotations and the death of superd.
func TestStopStaysStopped(t *testing.T) {
	r := newRig(t)
	pools := func() []workers.Pool { return []workers.Pool{r.pool("emails", 3), r.pool("images", 2)} }
	s := r.superd(0, pools()...)
	s.rotate(1)
	if err := errors.Join(s.Stop(t.Context(), "images", false), s.Stop(t.Context(), "emails:1", false)); err != nil {
		t.Fatal(err)
	}
	stopped := func() string {
		var have []string
		for _, l := range r.living() {
			slot, _, _ := strings.Cut(l.base(), "@")
			have = append(have, slot)
		}
		slices.Sort(have)
		if !slices.Equal(have, []string{"emails:0", "emails:2"}) {
			return fmt.Sprint(have)
		}
		return ""
	}
	if not := stopped(); not != "" {
		t.Error(not)
	}
	s.rotate(2)
	r.soon("stopped after a rotation", stopped)
	s.scale("images", 3)
	s = r.again(s, 0, pools()...)
	s.rotate(2)
	r.soon("stopped after the death of superd", stopped)
	r.soon("the status says so", func() string {
		p := s.pool("emails")
		if p.Wanted == 2 && p.Running == 2 && p.Workers[1].State == supervisor.Stopped && p.Workers[1].Name == "shop/emails:1" {
			return ""
		}
		return fmt.Sprintf("%+v", p)
	})
	if err := errors.Join(s.Start(t.Context(), "images"), s.Start(t.Context(), "emails:1")); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 3, 2)
	s.wholly("images", 3, 2)
	if err := s.Stop(t.Context(), "emails:7", false); !errors.Is(err, workers.ErrUnknown) {
		t.Errorf("stop of one that is not there: %v", err)
	}
}

// A start returns when the workers are well, and says why they are not; one that has
// failed is tried again.
func TestStartWaits(t *testing.T) {
	r := newRig(t)
	p := r.pool("emails", 2)
	p.Backoff.First, p.Backoff.Max = patience, patience
	s := r.superd(0, p)
	if err := s.Start(t.Context(), "emails"); err == nil || !strings.Contains(err.Error(), "no release yet") {
		t.Errorf("without a release: %v", err)
	}
	s.rotate(1)
	if err := s.Stop(t.Context(), "emails", false); err != nil {
		t.Fatal(err)
	}
	if p := s.pool("emails"); p.Wanted != 0 || p.Stopped != 2 {
		t.Errorf("stopped: %+v", p)
	}
	r.mood(1, mood{kind: exit1})
	for _, name := range []string{"emails", "emails", "emails:1"} { // also when it pauses between two lives
		if err := s.Start(t.Context(), name); err == nil || !strings.Contains(err.Error(), "exit 1") {
			t.Errorf("%s ends at once: %v", name, err)
		}
	}
	r.mood(1, mood{kind: mute})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Start(ctx, "emails"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it does not get ready: %v", err)
	}
	if err := s.Stop(t.Context(), "emails", true); err != nil {
		t.Fatal(err)
	}
	r.mood(1, mood{kind: well})
	if err := s.Start(t.Context(), "emails"); err != nil {
		t.Error(err)
	}
	if p := s.pool("emails"); p.Running != 2 {
		t.Errorf("started: %+v", p)
	}
}

// Who waits for a start hears of a stop, and of the end of all.
func TestStartIsCutShort(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	s.rotate(1)
	r.mood(1, mood{kind: mute})
	start := func() <-chan error {
		if err := s.Stop(t.Context(), "emails", true); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Start(t.Context(), "emails") }()
		r.soon("it has begun", func() string { return r.count(1, 2) })
		return done
	}
	started := start()
	if err := s.Stop(t.Context(), "emails", true); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil || !strings.Contains(err.Error(), "stopped meanwhile") {
		t.Errorf("stopped: %v", err)
	}
	started = start()
	if err := s.StopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; !errors.Is(err, release.ErrStopping) {
		t.Errorf("the end: %v", err)
	}
}

// A stop in the middle of a rotation is obeyed at once, and the rotation ends well.
func TestStopInARotation(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3))
	s.rotate(1)
	r.mood(2, mood{kind: mute})
	moved := make(chan error, 1)
	go func() { moved <- s.Rotate(t.Context(), r.gen(2)) }()
	r.soon("it has begun", func() string { return r.count(2, 2) })
	if err := s.Stop(t.Context(), "emails", false); err != nil {
		t.Fatal(err)
	}
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	if living := r.living(); len(living) != 0 {
		t.Errorf("%v live", living)
	}
	r.mood(2, mood{kind: well})
	if err := s.Start(t.Context(), "emails"); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 3, 2)
}

// A stop waits for the job, and no longer than it is asked to; with now it does not.
func TestStopNow(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	r.mood(1, mood{kind: deaf})
	s.rotate(1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx, "emails", false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stop that takes long: %v", err)
	}
	if not := r.count(1, 2); not != "" {
		t.Error(not)
	}
	if err := s.Stop(t.Context(), "emails", true); err != nil {
		t.Fatal(err)
	}
	if not := r.count(1, 0); not != "" {
		t.Error(not)
	}
	if k := s.heard(workers.Killed); len(k) != 2 {
		t.Errorf("events: %+v", k)
	}
	r.toldOnce()
}

// A restart replaces what is meant, start-first, and keeps the old ones when the new
// ones fail.
func TestRestart(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3))
	if err := s.Restart(t.Context(), "emails"); err == nil {
		t.Error("a restart of nothing")
	}
	s.rotate(1)
	first := r.pids()
	if err := s.Restart(t.Context(), "emails:1"); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 3, 1)
	if same := common(first, r.pids()); same != 2 {
		t.Errorf("%d of 3 are the same after a restart of one", same)
	}
	if err := s.Restart(t.Context(), "emails"); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 3, 1)
	if same := common(first, r.pids()); same != 0 {
		t.Errorf("%d of 3 are the same after a restart", same)
	}
	if n := r.fewest("emails", 3); n < 3 {
		t.Errorf("at some instant only %d of 3 workers took jobs", n)
	}
	before := r.pids()
	r.mood(1, mood{kind: exit1})
	if err := s.Restart(t.Context(), "emails"); err == nil || !strings.Contains(err.Error(), "exit 1") {
		t.Errorf("a restart that fails: %v", err)
	}
	r.mood(1, mood{kind: well})
	s.wholly("emails", 3, 1)
	if same := common(before, r.pids()); same != 3 {
		t.Errorf("%d of 3 are the same after a restart that failed", same)
	}
	r.toldOnce()
	r.unique()
}

// A restart gives way to a rotation, be it the way back.
func TestRestartGivesWay(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	s.rotate(1)
	r.mood(1, mood{kind: mute})
	restarted := make(chan error, 1)
	go func() { restarted <- s.Restart(t.Context(), "emails") }()
	r.soon("it has begun", func() string { return r.count(1, 4) })
	began := time.Now()
	s.rotate(2)
	if err := <-restarted; err == nil || !strings.Contains(err.Error(), "a switch is moving the workers") {
		t.Errorf("the restart: %v", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the rotation took %s", took)
	}
	s.wholly("emails", 2, 2)
}

// A signal goes to the main processes that are meant, once.
func TestSignal(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2))
	if err := s.Signal("emails", syscall.SIGUSR1); err == nil {
		t.Error("a signal to nobody")
	}
	s.rotate(1)
	if err := errors.Join(s.Signal("emails", syscall.SIGUSR1), s.Signal("emails:1", syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	r.soon("three have come", func() string {
		text, _ := os.ReadFile(r.file("ledger"))
		one := strings.Count(string(text), "usr1 emails:0@1")
		two := strings.Count(string(text), "usr1 emails:1@1")
		if one == 1 && two >= 1 { // two signals that come together are one
			return ""
		}
		return string(text)
	})
	if err := s.Signal("letters", syscall.SIGUSR1); !errors.Is(err, workers.ErrUnknown) {
		t.Errorf("a signal to a pool that is not there: %v", err)
	}
}

// The end of all: each is told once and finishes its job, nothing is started any
// more, and who waits for a rotation hears why it does not come.
func TestStopAll(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2), r.pool("images", 2))
	r.mood(1, mood{kind: well, job: 300 * time.Millisecond})
	s.rotate(1)
	r.mood(2, mood{kind: mute})
	moved := make(chan error, 1)
	go func() { moved <- s.Rotate(t.Context(), r.gen(2)) }()
	r.soon("it has begun", func() string { return r.count(2, 4) })
	if err := s.StopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-moved; !errors.Is(err, release.ErrStopping) {
		t.Errorf("the rotation: %v", err)
	}
	if living := r.living(); len(living) != 0 {
		t.Errorf("%v live", living)
	}
	if err := s.Rotate(t.Context(), r.gen(3)); !errors.Is(err, release.ErrStopping) {
		t.Errorf("a rotation after the end: %v", err)
	}
	for _, p := range s.Status() {
		if len(p.Workers) > 0 {
			t.Errorf("started after the end: %+v", p.Workers)
		}
	}
	for _, l := range r.lives() {
		if l.end == 0 {
			t.Errorf("%s did not finish its job", l.who)
		}
	}
	r.toldOnce()
}

func (s *superd) scale(pool string, n int) {
	s.r.t.Helper()
	if err := s.Scale(s.r.t.Context(), pool, n); err != nil {
		s.r.t.Fatal(err)
	}
}

// pids are those of the workers that live.
func (r *rig) pids() []int {
	var all []int
	for _, l := range r.living() {
		all = append(all, l.pid)
	}
	return all
}

func common(a, b []int) int {
	n := 0
	for _, pid := range a {
		if slices.Contains(b, pid) {
			n++
		}
	}
	return n
}

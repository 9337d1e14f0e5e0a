package supervisor

import (
	"context"
	"syscall"
	"testing"
	"time"
)

// An end that was planned wipes out the failures before it: the next failure is the first.
func TestPlannedEndsForgive(t *testing.T) {
	p := &Process{fails: 3}
	if n := p.count(true, true, false); n != 0 || p.fails != 0 {
		t.Errorf("after a planned end it waits for failure %d, and remembers %d", n, p.fails)
	}
	if n := p.count(false, false, false); n != 1 {
		t.Errorf("the next one is failure %d", n)
	}
}

// A planned exit code of a life that has not proved itself is a failure: what ends at once,
// again and again, is not started without a pause.
func TestPlannedCodeTooSoon(t *testing.T) {
	t.Parallel()
	p := policy()
	p.Planned, p.Backoff.First, p.Backoff.Max = []int{0}, time.Hour, time.Hour
	s := newSubject(newHouse(t).open(t), "exit 0", p)
	s.policy.Proof = Notified(long)
	s.run().untilItPauses()
	if s.lives() != 1 {
		t.Errorf("%d lives", s.lives())
	}
}

// One that did not prove itself, is told for that, and leaves with a planned code, has failed.
func TestPlannedCodeOfTheUnproved(t *testing.T) {
	t.Parallel()
	p := policy()
	p.Planned, p.Proof = []int{0}, notifiedOnceThere(100*time.Millisecond)
	s := newSubject(newHouse(t).open(t), "well", p).run()
	if e := s.end(t, 0); e.Planned || e.Err == nil || e.Exit.Code() != 0 {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

// Whoever asks for a restart gets another life, whatever the policy says of ends.
func TestRestartOfWhatIsNeverRestarted(t *testing.T) {
	t.Parallel()
	p := policy()
	p.Restart = Never
	s := newSubject(newHouse(t).open(t), "well", p).run()
	s.until(Running)
	first := s.Status().PID
	s.Restart()
	eventually(t, "another life", func() bool { st := s.Status(); return st.State == Running && st.PID != first })
}

// A proof that has nothing to wait for proves nothing of a program that never ran.
func TestProofOfWhatNeverRan(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	p := policy()
	p.Proof = func(_ context.Context, c *Child) error { <-c.Exited(); return nil }
	s := newSubject(f, "well", p)
	spec := s.spec
	s.spec = func(ctx context.Context) (Spec, error) {
		is, err := spec(ctx)
		is.Argv = []string{"/nowhere/to/be/found"}
		return is, err
	}
	if e := s.run().end(t, 0); e.Proved || e.Exit.Failure == "" {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

// A stop that is cut short while the child is being made is cut short for that child.
func TestKillOfWhatIsBeingMade(t *testing.T) {
	t.Parallel()
	p := policy()
	p.StopSignal = syscall.SIGWINCH // to which everybody is deaf from the first instruction
	s := newSubject(newHouse(t).open(t), "well", p)
	s.block = make(chan struct{})
	s.run()
	eventually(t, "it is being made", func() bool { return s.lives() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	eventually(t, "it is to stop", s.isUnwanted)
	s.Kill()
	close(s.block)
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(long / 2):
		t.Error("it was given all of its time")
	}
}

package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// freeze keeps a process from whatever it would do next, dying included, as a disk that is
// gone does: until thaw.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	group := filepath.Join("/sys/fs/cgroup/freezer", "superd-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("this kernel cannot keep a process from dying: %v", err)
	}
	write := func(file, text string) {
		if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("cgroup.procs", strconv.Itoa(pid))
	write("freezer.state", "FROZEN")
	thawed := false
	thaw = func() {
		if !thawed {
			write("freezer.state", "THAWED")
		}
		thawed = true
	}
	t.Cleanup(func() {
		thaw()
		eventually(t, "nobody is in the group", func() bool { return os.Remove(group) == nil })
	})
	return thaw
}

// A process that SIGKILL does not end is told of as unkillable. Nothing takes its place, for
// it still has what it has; once it ends, things go on.
func TestUnkillable(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	p := policy()
	p.StopTimeout = 100 * time.Millisecond
	s := newSubject(f, "well", p).run()
	s.until(Running)
	pid := s.Status().PID
	thaw := freeze(t, pid)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	s.until(Unkillable)
	if err := <-stopped; err == nil {
		t.Error("it is called stopped")
	}
	s.Start()
	time.Sleep(300 * time.Millisecond)
	if st := s.Status(); st.State != Unkillable || st.PID != pid || s.lives() != 1 {
		t.Errorf("another was started: %+v", st)
	}
	thaw()
	eventually(t, "its place is taken", func() bool { st := s.Status(); return st.State == Running && st.PID != pid })
	if e := s.end(t, 0); !e.Exit.Killed || e.Exit.Status.Signal() != syscall.SIGKILL {
		t.Errorf("the end: %s", e.Exit)
	}
}

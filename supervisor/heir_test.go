package supervisor

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/pidfd"
)

// saidPID is the PID that one of the child's tree has written.
func saidPID(t *testing.T, s *subject) int {
	t.Helper()
	s.says(t, "pid ")
	pids := familyOf(t, s.Child())
	if len(pids) != 1 {
		t.Fatalf("it says %q", s.Child().Tail(100))
	}
	return pids[0]
}

func notified() Policy {
	p := policy()
	p.Proof = Notified(long)
	return p
}

// kernelTells tells whether this kernel says of any process how it has ended.
func kernelTells(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	_, known := pidfd.Exit(fd)
	return known
}

// A program goes into the background: the process that was started has ended, the life
// has not. Signals go to the heir, and the life ends as it does.
func TestHeir(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := speaking(f, "w", "heir:pid,term,print:told,exit:7 leave:0", policy())
	pid := saidPID(t, s)
	s.until(Running)
	c := s.Child()
	eventually(t, "the one that was started is gone", func() bool { return !lives(c.FirstPID()) })
	time.Sleep(300 * time.Millisecond) // which is heard, and is no end
	if st := s.Status(); st.PID != pid || st.State != Running || c.FirstPID() == pid {
		t.Errorf("status %+v, want PID %d", st, pid)
	}
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e := s.end(t, 0)
	if e.Planned || !e.Proved || e.Err != nil {
		t.Errorf("the end: %+v", e)
	}
	if told := strings.Contains(strings.Join(c.Tail(10), " "), "told I leave with 7"); !told {
		t.Errorf("what it wrote last is lost: %q", c.Tail(10))
	}
	if e.Exit.Code() != 7 && (!e.Exit.Unknown || kernelTells(t)) {
		t.Errorf("it ended with 7, and is told to have by %s", e.Exit)
	}
	s.Retire() // maybe before the next one is named, which is told then
	wait(t, "it is gone", s.Gone())
}

// The word that names it and the end of the one that was started come by two ways, and the
// end may be there first.
func TestHeirIsHeardOfAfterTheEnd(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	slow := f.start("slow", "play print:here term STATUS=hm print:said term exit:0", "here")
	slow.mu.Lock() // who hears is held up as soon as it speaks
	goOn := sync.OnceFunc(slow.mu.Unlock)
	defer goOn()
	if err := syscall.Kill(slow.proc.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has spoken", func() bool { return slices.Contains(slow.Tail(9), "said") })
	s := speaking(f, "w", "heir:pid,term,leave:0 leave:0", policy())
	pid := saidPID(t, s)
	first := s.Child()
	eventually(t, "the one that was started is gone", func() bool { return !lives(first.FirstPID()) })
	time.Sleep(300 * time.Millisecond) // its end is told
	goOn()
	eventually(t, "the heir is the main process", func() bool { return first.PID() == pid })
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); !e.Planned || lives(pid) {
		t.Errorf("the end: %s", e.Exit)
	}
}

// One that is named when the stop has begun already is told as well.
func TestHeirIsNamedLate(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := speaking(f, "w", "READY=1 term heir:pid,term,leave:4 leave:0", policy())
	s.until(Running)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); !e.Planned || e.Exit.Killed || e.Exit.Ran > long/2 { // it may hear before it listens
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

// A stop is the heir's; whoever stays behind is told after it.
func TestHeirIsStopped(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	for _, script := range []string{"heir:pid,term,print:heir_is_told,leave:0 leave:0", "heir:pid,term,print:heir_is_told,leave:0 term print:first_is_told"} {
		s := speaking(f, "w", script, policy())
		pid := saidPID(t, s)
		s.until(Running)
		c := s.Child()
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e := s.end(t, 0); !e.Planned || e.Exit.Killed || e.Exit.Code() > 0 {
			t.Errorf("the end: %s", e.Exit)
		}
		said := strings.Join(c.Tail(10), "\n")
		want := "heir_is_told"
		if strings.Contains(script, "first") {
			want = "heir_is_told\nfirst_is_told"
		}
		if !strings.HasSuffix(said, want) {
			t.Errorf("they say %q", said)
		}
		if lives(pid) {
			t.Error("the heir lives on")
		}
		s.Retire()
		wait(t, "it is gone", s.Gone())
	}
}

// Another superd knows the heir, also when the one that was started ended long ago.
func TestHeirIsAdopted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	f := h.open(t)
	s := speaking(f, "w", "heir:pid,term,wait:100,term,exit:3 leave:0", policy())
	pid := saidPID(t, s)
	s.until(Running)
	c := s.Child()
	eventually(t, "it is known", func() bool { return f.ledger.words(c.proc.PID, c.proc.Start).Main == pid })
	for range 2 {
		s.stop()
		f.leave()
		f = h.open(t)
		s = newSubject(f, "well", notified())
		s.Adopt(f.Adopted()[0])
		s.run().until(Running)
		if got := s.Status().PID; got != pid {
			t.Errorf("its PID is %d, want %d", got, pid)
		}
	}
	s.want(func() { s.wanted = wantDown }) // told by this superd, and by the next one not again
	eventually(t, "it is told", func() bool { return !s.Child().Told().IsZero() })
	s.stop()
	f.leave()
	f = h.open(t)
	s = newSubject(f, "well", notified())
	s.Adopt(f.Adopted()[0])
	s.run().until(Stopping)
	time.Sleep(500 * time.Millisecond)
	if !lives(pid) {
		t.Error("it was told twice")
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); !e.Planned || e.Exit.Code() != 3 && !e.Exit.Unknown {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

// It ends while there is no superd: that is the end of the life, and nobody says how.
func TestHeirEndsUnseen(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	f := h.open(t)
	s := speaking(f, "w", "heir:pid,term leave:0", policy())
	pid := saidPID(t, s)
	s.until(Running)
	eventually(t, "it is known", func() bool {
		c := s.Child()
		return f.ledger.words(c.proc.PID, c.proc.Start).Main == pid && !lives(c.proc.PID)
	})
	s.stop()
	f.leave()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool { return !lives(pid) })
	f = h.open(t)
	s = newSubject(f, "well", notified())
	s.Adopt(f.Adopted()[0])
	s.run()
	if e := s.end(t, 0); e.Planned || e.Exit.Code() != -1 || !strings.Contains(e.Exit.String(), "the kernel does not tell how") {
		t.Errorf("the end: %s", e.Exit)
	}
	eventually(t, "another life", func() bool { return s.Status().Restarts == 1 })
}

// The heir ends and the one that has named it stays: nothing of the kind that is to be
// kept up is there any more.
func TestHeirLeavesTheFirstBehind(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := speaking(f, "w", "heir:pid,wait:300,exit:3 term", policy())
	e := s.end(t, 0)
	if e.Planned || e.Err == nil || !strings.Contains(e.Err.Error(), "its main process") {
		t.Errorf("the end: %+v", e)
	}
	if e.Exit.Code() != 3 && !e.Exit.Unknown || lives(e.Child.FirstPID()) {
		t.Errorf("the end: %s", e.Exit)
	}
	// One that follows within a moment is a shell that has waited for it.
	v := speaking(f, "v", "heir:pid,wait:300,exit:3 leave:3 reap", policy())
	if e := v.end(t, 0); e.Err != nil || e.Exit.Code() != 3 && !e.Exit.Unknown {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

// Nobody is made a main process who is not of the tree.
func TestHeirsOfOthers(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	other := f.start("other", "play pid hang", "")
	eventually(t, "it is there", func() bool { return len(familyOf(t, other)) == 1 })
	for _, pid := range []int{other.PID(), os.Getpid(), 1, 1 << 22} {
		c := f.start("w", "play MAINPID="+strconv.Itoa(pid)+" STATUS=said term", "")
		eventually(t, "it is heard", func() bool { return c.StatusText() == "said" })
		if c.PID() != c.FirstPID() {
			t.Fatalf("process %d became its main one", pid) // it is not to be stopped
		}
		if _, killed, err := c.Stop(t.Context(), syscall.SIGTERM, long, nil); err != nil || killed {
			t.Errorf("%v, %v", killed, err)
		}
		if err := c.Acknowledge(); err != nil {
			t.Error(err)
		}
	}
}

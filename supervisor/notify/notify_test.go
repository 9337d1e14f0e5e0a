package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type ear struct {
	*Server
	mu    sync.Mutex
	heard []Message
}

func open(t *testing.T) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := Listen(filepath.Join(dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listen(t *testing.T) *ear {
	t.Helper()
	s := open(t)
	e := &ear{Server: s}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(m Message) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.heard = append(e.heard, m)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *ear) until(t *testing.T, what string, is func([]Message) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		e.mu.Lock()
		ok := is(e.heard)
		heard := len(e.heard)
		e.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s (%d messages)", what, heard)
		}
		time.Sleep(time.Millisecond)
	}
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func TestMessages(t *testing.T) {
	e := listen(t)
	c := dial(t, e.Path())
	for _, text := range []string{
		"READY=1\nSTATUS=all is well\nMAINPID=77\nEXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=1\nSTOPPING=1\nRELOADING=1\n",
		"WATCHDOG=trigger\nWATCHDOG_USEC=0\nSTATUS=",
		"WATCHDOG_USEC=30000000\nWATCHDOG=0",
		"READY=yes\nSTATUS=\xff\nMAINPID=-3\nWATCHDOG_USEC=soon\nEXTEND_TIMEOUT_USEC=99999999999999999999\nX=READY=1",
		strings.Repeat("x", maxMessage+1),
		"",
		"STATUS=" + strings.Repeat("x", maxMessage-len("STATUS=")),
	} {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	e.until(t, "six messages", func(m []Message) bool { return len(m) == 6 })
	me := os.Getpid()
	want := []Message{
		{PID: me, Ready: true, Stated: true, Status: "all is well", MainPID: 77, Extend: 1500 * time.Millisecond, Watchdog: true, Stopping: true, Reloading: true},
		{PID: me, Trigger: true, Timed: true, Stated: true},
		{PID: me, Timed: true, Every: 30 * time.Second},
		{PID: me, Stated: true, Status: "�"},
		{PID: me},
		{PID: me, Stated: true, Status: strings.Repeat("x", maxMessage-len("STATUS="))},
	}
	if !slices.Equal(e.heard, want) {
		t.Errorf("heard %+v", e.heard)
	}
}

// Who is told of an end elsewhere knows all that was said before.
func TestSettled(t *testing.T) {
	e := listen(t)
	c := dial(t, e.Path())
	for n := range 2000 {
		for range n % 7 {
			if _, err := c.Write([]byte("WATCHDOG=1")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := fmt.Fprintf(c, "STATUS=%d", n); err != nil {
			t.Fatal(err)
		}
		var others sync.WaitGroup
		for range 2 {
			others.Go(func() { <-e.Settled() })
		}
		<-e.Settled()
		e.mu.Lock()
		last := e.heard[len(e.heard)-1].Status
		e.mu.Unlock()
		if last != fmt.Sprint(n) {
			t.Fatalf("the last word heard is %q, and %d was said", last, n)
		}
		others.Wait()
	}
}

// Nor does one who speaks without a pause hold anybody up.
func TestSettledInAFlood(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		c := dial(t, s.Path())
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Write([]byte("WATCHDOG=1")) // fails once it is closed
			}
		})
	}
	all.Go(func() { _ = s.Run(ctx, func(Message) { time.Sleep(time.Millisecond) }) })
	for range 20 {
		select {
		case <-s.Settled():
		case <-time.After(time.Minute):
			t.Error("not within a minute")
		}
	}
	cancel()
	_ = s.Close() // who speaks may be waiting for room
	all.Wait()
}

// What was said is heard by who listens, or by the next one, also in the moment between.
func TestNothingIsLostAtTheEnd(t *testing.T) {
	for range 200 {
		first, next := open(t), open(t)
		c := dial(t, first.Path())
		for n := range 5 {
			if _, err := fmt.Fprintf(c, "STATUS=%d", n); err != nil {
				t.Fatal(err)
			}
		}
		var heard []string
		ctx, cancel := context.WithCancel(t.Context())
		hear := func(m Message) {
			heard = append(heard, m.Status)
			cancel()
		}
		err := first.Run(ctx, hear)
		rest, kept := first.File()
		if err := errors.Join(err, kept, next.Inherit(rest), rest.Close(), next.Run(ctx, hear), first.Close(), next.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
		if want := []string{"0", "1", "2", "3", "4"}; !slices.Equal(heard, want) {
			t.Fatalf("heard %q", heard)
		}
	}
}

// Nobody waits for one that is lost.
func TestSettledOfALostSocket(t *testing.T) {
	s := open(t)
	before := s.Settled()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), func(Message) {}); err == nil {
		t.Error("it reads what is closed")
	}
	<-before
	<-s.Settled()
}

// A child leads a session of its own; this test's own may be out of sight, which
// the kernel tells as 0 (a container that was entered, not started).
func TestSessionOf(t *testing.T) {
	child := exec.CommandContext(t.Context(), "sleep", "1m")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	if sid, err := SessionOf(pid); err != nil || sid != pid {
		t.Errorf("session %d of %d, %v", sid, pid, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	if _, err := SessionOf(pid); err == nil {
		t.Error("a process that is not has a session")
	}
}

// Everyone may write; the socket of a superd that died is replaced, and one that a
// living child has open for writing is its own matter.
func TestSocketIsReplaced(t *testing.T) {
	e := listen(t)
	if info, err := os.Stat(e.Path()); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := Listen(e.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := dial(t, e.Path()).Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	got := make(chan Message, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go again.Run(ctx, func(m Message) { got <- m })
	if m := <-got; !m.Ready {
		t.Errorf("heard %+v", m)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "directory")); err == nil {
		t.Error("a socket in no directory")
	}
}

// Descriptors that come along are closed, else a sender could use up all of ours.
func TestDescriptorsAreClosed(t *testing.T) {
	e := listen(t)
	c := dial(t, e.Path())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	fds := make([]int, 100)
	for i := range fds {
		fds[i] = int(w.Fd())
	}
	for range 50 {
		var sent error
		err := raw.Write(func(fd uintptr) bool {
			sent = unix.Sendmsg(int(fd), []byte("BARRIER=1"), unix.UnixRights(fds...), nil, 0)
			return !errors.Is(sent, unix.EAGAIN)
		})
		if err := errors.Join(err, sent); err != nil {
			t.Fatal(err)
		}
	}
	e.until(t, "fifty messages", func(m []Message) bool { return len(m) == 50 })
	if after := descriptors(t); after > before+5 {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" { // somebody holds the other end
		t.Errorf("read %v", err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestFlood(t *testing.T) {
	e := listen(t)
	var all sync.WaitGroup
	for range 8 {
		c := dial(t, e.Path())
		all.Go(func() {
			for range 2000 {
				c.Write([]byte("WATCHDOG=1"))
			}
		})
	}
	all.Wait()
	if _, err := dial(t, e.Path()).Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the one that counts", func(m []Message) bool { return len(m) > 0 && m[len(m)-1].Ready })
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=x"))
	f.Add([]byte("EXTEND_TIMEOUT_USEC=18446744073709551615\nMAINPID=99999999999"))
	f.Add([]byte("\n=\nREADY"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parse(b)
		if m.PID != 0 || m.MainPID < 0 || m.Extend < 0 || m.Extend > longest || m.Every < 0 || m.Every > longest || len(m.Status) > 3*len(b) {
			t.Fatalf("%q: %+v", b, m)
		}
		if m.Ready && !strings.Contains(string(b), "READY=1") {
			t.Fatalf("%q is ready", b)
		}
	})
}

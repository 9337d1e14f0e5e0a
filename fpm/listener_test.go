package fpm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scratch is a short path: a socket's may have 107 bytes only.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fpm-") //nolint:usetesting // that one is too long
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the workers run as another user
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path, private, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually polls until ok, for a noisy machine's patience.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

func TestListenerIsBlockingPrivateAndCloseOnExec(t *testing.T) {
	t.Parallel()
	l := listen(t, filepath.Join(scratch(t), "s"))
	err := l.control(func(fd int) error {
		status, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if status&unix.O_NONBLOCK != 0 || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("status flags %#x, descriptor flags %#x", status, flags)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(l.Path())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestListenRefusesALongPath(t *testing.T) {
	t.Parallel()
	_, err := Listen("/tmp/"+strings.Repeat("x", 110), private, 1)
	if err == nil || !strings.Contains(err.Error(), "longer than 107 bytes") {
		t.Errorf("error %v", err)
	}
}

func TestPendingAndQueue(t *testing.T) {
	t.Parallel()
	l := listen(t, filepath.Join(scratch(t), "s"))
	check := func(want int) {
		t.Helper()
		pending, err := l.Pending()
		if err != nil || pending != (want > 0) {
			t.Errorf("pending %v, %v; want %d in the queue", pending, err, want)
		}
		if n, err := l.Queue(); err != nil || n != want {
			t.Errorf("queue %d, %v; want %d", n, err, want)
		}
	}
	check(0)
	for range 3 {
		dial(t, l.Path())
	}
	check(3)
}

func TestPublish(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	a, b := listen(t, filepath.Join(dir, "a")), listen(t, filepath.Join(dir, "b"))
	public := filepath.Join(dir, "public.sock")
	elsewhere := filepath.Join(scratch(t), "public.sock")

	// A stale socket of the same name, and what an interrupted Publish left.
	stale := listen(t, public)
	if err := os.Symlink("gone", filepath.Join(dir, ".public.sock.next")); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{public, elsewhere} {
		if err := a.Publish(at); err != nil {
			t.Fatal(err)
		}
		dial(t, at)
		if !publishes(at, a.Path()) || publishes(at, b.Path()) {
			t.Error("the link is not at a")
		}
	}
	if n, _ := a.Queue(); n != 2 {
		t.Errorf("%d connections reached a, want 2", n)
	}
	if n, _ := stale.Queue(); n != 0 {
		t.Error("a connection reached the stale socket")
	}
	if to, _ := os.Readlink(public); to != "a" {
		t.Errorf("the link says %q: a directory mounted elsewhere would not work", to)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := a.Publish(filepath.Join(dir, "d")); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("publish over a directory: %v", err)
	}
}

// A flip loses nobody, and nobody who comes after it reaches the old one.
func TestPublishIsAtomic(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	public := filepath.Join(dir, "public.sock")
	both := []*Listener{listen(t, filepath.Join(dir, "0")), listen(t, filepath.Join(dir, "1"))}
	for i, l := range both {
		answer(t, l, byte('0'+i))
	}
	var live atomic.Int32 // which flip was the last; -1 while one is on its way
	if err := both[0].Publish(public); err != nil {
		t.Fatal(err)
	}
	stop, failed := make(chan struct{}), make(chan error, 4)
	for range cap(failed) {
		go func() { failed <- ask(public, &live, stop) }()
	}
	for i := range 400 {
		live.Store(-1)
		if err := both[(i+1)%2].Publish(public); err != nil {
			t.Fatal(err)
		}
		live.Store(int32(i + 1))
		time.Sleep(time.Millisecond)
	}
	close(stop)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// answer accepts on l, as a worker would, and says who it is.
func answer(t *testing.T, l *Listener, who byte) {
	t.Helper()
	fd := -1
	err := l.control(func(own int) error {
		var err error
		fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			_, _ = unix.Write(conn, []byte{who})
			_ = unix.Close(conn)
		}
	}()
	t.Cleanup(func() { _ = unix.Shutdown(fd, unix.SHUT_RD); <-done; _ = unix.Close(fd) })
}

// ask connects until stop; it fails when nobody answers, or one who was not live
// from before the connect until after it.
func ask(public string, live *atomic.Int32, stop chan struct{}) error {
	return askAt("unix", public, live, stop)
}

func askAt(network, public string, live *atomic.Int32, stop chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		before := live.Load()
		conn, err := net.Dial(network, public)
		after := live.Load()
		if err != nil {
			return err
		}
		who, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil || len(who) != 1 {
			return errors.Join(err, errors.New("no answer"))
		}
		if before >= 0 && before == after && int32(who[0]-'0') != before%2 {
			return errors.New("one who was not live answered")
		}
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	dead := listen(t, filepath.Join(dir, "dead"))
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	go func() {
		for {
			c, err := live.Accept()
			if err != nil {
				return
			}
			go func() { // an answer before and after the request has been read
				defer c.Close()
				_, _ = c.Write([]byte("so: "))
				b := make([]byte, 5)
				_, _ = io.ReadFull(c, b)
				_, _ = c.Write(b)
			}()
		}
	}()
	waiting := []net.Conn{dial(t, dead.Path()), dial(t, dead.Path()), dial(t, dead.Path())}
	for _, c := range waiting {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, len(waiting))
	for _, c := range waiting {
		go func() { b, _ := io.ReadAll(c); got <- string(b) }()
	}
	n, err := dead.Forward(t.Context(), "unix", live.Addr().String())
	if err != nil || n != len(waiting) {
		t.Fatalf("forwarded %d, %v", n, err)
	}
	for range waiting {
		if b := <-got; b != "so: hello" {
			t.Errorf("answer %q", b)
		}
	}
}

func TestForwardEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	dead, mute := listen(t, filepath.Join(dir, "dead")), listen(t, filepath.Join(dir, "mute"))
	if _, err := dial(t, dead.Path()).Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		c, err := mute.accept()
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_, err = c.Read(make([]byte, 1)) // it is forwarded
		}
		if err != nil {
			t.Error(err)
		}
	}()
	if n, err := dead.Forward(ctx, "unix", mute.Path()); n != 1 || err != nil {
		t.Errorf("forwarded %d, %v", n, err)
	}
}

package control

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestClientSaysWhatToDo(t *testing.T) {
	dir := shortDir(t)
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	mute := filepath.Join(dir, "mute.sock")
	closing, err := net.Listen("unix", mute)
	if err != nil {
		t.Fatal(err)
	}
	defer closing.Close()
	accepted := make(chan struct{})
	go func() { // ends with the listener
		defer close(accepted)
		for {
			c, err := closing.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for path, hint := range map[string]string{
		filepath.Join(dir, "none.sock"): "is superd running?",
		dead:                            "has ended and left its socket",
		mute:                            "systemctl status superd",
	} {
		_, err := NewClient(path).Status(t.Context())
		e := asError(err)
		if e.Kind != Unreachable || e.Kind.Exit() != 8 || !strings.Contains(e.Hint, hint) || !strings.Contains(e.Message, path) {
			t.Errorf("%s: %+v", path, e)
		}
		if strings.Count(e.Message, path) != 1 {
			t.Errorf("%q names the socket more than once", e.Message)
		}
		for _, err := range NewClient(path).Events(t.Context(), 0, true) { // at once, without patience
			if KindOf(err) != Unreachable {
				t.Errorf("%s: following ends with %v", path, err)
			}
		}
	}
	closing.Close()
	<-accepted
}

// A superd that is replaced while it reads a question is asked once more; what changes
// something is not said twice.
func TestClientAsksAgain(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 9)
	served := make(chan struct{})
	go func() { // ends with the listener
		defer close(served)
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			asked <- line
			if n != 1 && strings.HasPrefix(line, "GET ") {
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"healthy\":true}")
			}
			c.Close()
		}
	}()
	c := NewClient(path)
	if health, err := c.Health(t.Context()); err != nil || !health.Healthy {
		t.Errorf("%+v, %v", health, err)
	}
	if _, err := c.Rollback(t.Context(), "shop", RollbackRequest{}); err == nil {
		t.Error("nobody answered, and that is no error")
	}
	if _, err := c.Health(t.Context()); err != nil { // it is accepted after all that was said before
		t.Error(err)
	}
	l.Close()
	<-served
	if len(asked) != 4 {
		t.Errorf("%d questions", len(asked))
	}
}

func TestClientIsNotPermitted(t *testing.T) {
	needRoot(t)
	h := newHouse(t)
	out, err := inMood(t, "client", h.socket, testUsers["nobody"]).Output()
	if err != nil || !strings.Contains(string(out), "denied 9 only root may connect") {
		t.Errorf("got %s (%v)", out, err)
	}
	if err := os.Chmod(h.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err = inMood(t, "client", h.socket, testUsers["nobody"]).Output()
	if err != nil || !strings.Contains(string(out), "denied 9 root gives it") {
		t.Errorf("got %s (%v)", out, err)
	}
}

// A queue that somebody keeps full does not keep a client out: it waits for its turn.
func TestClientStandsInLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path) // the queue is full now
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := net.Dial("unix", path); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("the queue is not full: %v", err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := NewClient(path).Health(t.Context())
		answered <- err
	}()
	time.Sleep(100 * time.Millisecond) // it stands in line
	if c, _, err := unix.Accept(fd); err == nil {
		_ = unix.Close(c)
	}
	c, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(c, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
	if _, err := unix.Write(c, []byte("HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"healthy\":true}")); err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	_ = unix.Close(c)
}

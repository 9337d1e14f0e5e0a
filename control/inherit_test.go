package control

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// lodging is a directory with a path for a socket, and events for servers.
func lodging(t *testing.T) (path string, serve func(s *Socket) (stop func())) {
	t.Helper()
	dir, err := os.MkdirTemp("", "inherit") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	events, err := OpenEvents(filepath.Join(dir, "events"), log)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "s"), func(s *Socket) func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		server := NewServer(Options{Daemon: &fakeDaemon{}, Events: events, Log: log})
		server.lingering = 20 * time.Second // whoever is waited for here does ask
		go func() { done <- server.Run(ctx, s) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	}
}

func askOn(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: superd\r\n\r\n"); err != nil {
		t.Errorf("ask: %v", err)
		return
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("no answer: %v", err)
		return
	}
	if _, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("answer %s, %v", r.Status, err)
	}
	_ = r.Body.Close()
}

func dialSocket(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A server that ends answers who was accepted and asks only now; whoever comes after
// that waits for the next server, and is answered by it.
func TestSocketGoesFromOneServerToTheNext(t *testing.T) {
	path, serve := lodging(t)
	socket, err := Listen(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		stop := serve(socket)
		early := dialSocket(t, path)
		probe := dialSocket(t, path)
		askOn(t, probe) // so early has been accepted too
		var listener net.Listener
		var lock *os.File
		err := socket.Hand(func(l *net.UnixListener, k *os.File) error {
			f, err := l.File()
			if err != nil {
				return err
			}
			if listener, err = net.FileListener(f); err != nil {
				return err
			}
			_ = f.Close()
			lock, err = os.OpenFile(k.Name(), os.O_RDWR, 0) // stands for a duplicate
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		time.Sleep(50 * time.Millisecond) // it is stopping, and lingers for early
		askOn(t, early)
		<-stopped
		between := dialSocket(t, path) // nobody serves now
		if socket, err = Inherit(t.Context(), path, 0o640, listener, lock); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("the socket's mode: %v, %v", info, err)
		}
		next := serve(socket)
		askOn(t, between)
		next()
		if socket, err = Listen(t.Context(), path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_ = socket.Close()
}

// A socket that is gone when it is inherited is put back.
func TestInheritedSocketIsPutBack(t *testing.T) {
	path, serve := lodging(t)
	old, err := Listen(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	l, lock := old.listener, old.lock
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	socket, err := Inherit(t.Context(), path, 0o600, l, lock)
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(socket)
	askOn(t, dialSocket(t, path))
	stop()
}

package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// given is a listener at path as systemd passes it on: a file, with its maker gone on.
func given(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Who has connected before there was a superd is accepted, and the mode is superd's.
func TestActivated(t *testing.T) {
	path := filepath.Join(shortDir(t), "superd.sock")
	f := given(t, path)
	early, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if _, err := early.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	s, err := Activated(t.Context(), path, 0o666, f)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o666 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if _, err := Listen(t.Context(), path, 0o600); err == nil {
		t.Error("two have the same socket")
	}
	_ = s.listener.SetDeadline(time.Now().Add(10 * time.Second))
	c, err := s.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if n, err := c.Read(b); string(b[:n]) != "early" {
		t.Errorf("the first who is accepted says %q, %v", b[:n], err)
	}
	if err := errors.Join(c.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	again, err := net.Dial("unix", path) // waits for the next superd
	if err != nil {
		t.Fatal("with superd systemd's socket has gone:", err)
	}
	_ = again.Close()
}

// A socket that nobody comes to is not waited at.
func TestActivatedElsewhere(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "superd.sock")
	f := given(t, filepath.Join(dir, "another.sock"))
	if _, err := Activated(t.Context(), path, 0o600, f); !errors.Is(err, ErrElsewhere) {
		t.Errorf("at another path: %v", err)
	}
	f = given(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Activated(t.Context(), path, 0o600, f); !errors.Is(err, ErrElsewhere) {
		t.Errorf("of which the name is gone: %v", err)
	}
	begin(t, inMood(t, "listen", path, nil))
	if _, err := Activated(t.Context(), path, 0o600, f); !errors.Is(err, ErrElsewhere) {
		t.Errorf("where another process listens: %v", err)
	}
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := Activated(t.Context(), path, 0o600, plain); err == nil || errors.Is(err, ErrElsewhere) {
		t.Errorf("what is no socket: %v", err)
	}
}

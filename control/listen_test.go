package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSecondSuperdIsRefused(t *testing.T) {
	path := filepath.Join(shortDir(t), "superd.sock")
	cmd := inMood(t, "listen", path, nil)
	begin(t, cmd)
	_, err := Listen(t.Context(), path, 0o600)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("running superd, pid %d", cmd.Process.Pid)) {
		t.Fatalf("two have the same socket, or it is not said whose it is: %v", err)
	}
	// A lock that is not at its path any longer protects nobody, but the socket is alive.
	os.Remove(path + ".lock")
	if _, err := Listen(t.Context(), path, 0o600); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", cmd.Process.Pid)) {
		t.Fatalf("a socket was taken from a living program: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	s, err := Listen(t.Context(), path, 0o600)
	if err != nil {
		t.Fatalf("the socket of a dead superd cannot be taken: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestSocketHasItsModeFromTheBeginning(t *testing.T) {
	path := filepath.Join(shortDir(t), "sub", "superd.sock")
	for _, mode := range []os.FileMode{0o600, 0o666} {
		s, err := Listen(t.Context(), path, mode)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != os.ModeSocket|mode {
			t.Errorf("the socket is %v, want %v (%v)", info.Mode(), mode, err)
		}
		if _, err := os.Lstat(path + "~"); err == nil {
			t.Error("the other name is left")
		}
		s.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("the socket was removed: %v", err)
		}
	}
	if SocketMode(nil) != 0o600 || SocketMode([]Rule{{Role: RoleRead}}) != 0o666 {
		t.Error("the mode does not follow from the rules")
	}
}

func TestWhatIsNotASocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(shortDir(t), "superd.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path, 0o600); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("got %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "mine" {
		t.Errorf("the file is now %q", text)
	}
	if _, err := Listen(t.Context(), "/tmp/"+strings.Repeat("x", 103), 0o600); err == nil || !strings.Contains(err.Error(), "106 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestSocketIsPutBack(t *testing.T) {
	for name, remove := range map[string]func(path string) error{
		"socket removed":    os.Remove,
		"lock removed":      func(path string) error { return os.Remove(path + ".lock") },
		"directory removed": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"dead socket there": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			before, err := net.Dial("unix", h.socket) // was there before, and is served after
			if err != nil {
				t.Fatal(err)
			}
			defer before.Close()
			askOn(t, before) // one that has asked may wait longer
			if err := remove(h.socket); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the socket and the lock are back", func() bool {
				_, _, _, err := rawAsk(t.Context(), h.socket, "GET", "/v1/status", "")
				_, locked := os.Lstat(h.socket + ".lock")
				return err == nil && locked == nil
			})
			if _, err := Listen(t.Context(), h.socket, 0o600); err == nil {
				t.Error("a second superd can take it")
			}
			if name == "directory removed" { // long after the old listener is closed
				eventually(t, "it is removed and comes back once more", func() bool {
					os.Remove(h.socket)
					time.Sleep(1500 * time.Millisecond)
					_, _, _, err := rawAsk(t.Context(), h.socket, "GET", "/v1/status", "")
					return err == nil
				})
			}
			if name != "directory removed" {
				askOn(t, before)
			}
		})
	}
}

func TestSocketOfOthersIsNotTakenBack(t *testing.T) {
	h := newHouse(t)
	os.Remove(h.socket)
	other, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Skip("superd was quicker")
	}
	defer other.Close()
	eventually(t, "it is said that the socket is gone", func() bool { return len(h.log.with("level", "WARN")) > 0 })
	if _, _, _, err := rawAsk(withDeadline(t), h.socket, "GET", "/v1/status", ""); err == nil {
		t.Error("superd has taken the socket of a living program")
	}
	other.Close()
	os.Remove(h.socket)
	eventually(t, "the socket is back", func() bool {
		_, _, _, err := rawAsk(t.Context(), h.socket, "GET", "/v1/status", "")
		return err == nil
	})
}

// withDeadline is for asking someone who does not answer.
func withDeadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// Where others write, a link in the place of the lock leads to a file of root's: it is not
// written over.
func TestSocketsLockIsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "s")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path+".lock"); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(t.Context(), path, 0o600)
	if err == nil {
		t.Error("the link was followed")
		_ = s.Close()
	}
	if got, _ := os.ReadFile(victim); string(got) != "precious" {
		t.Errorf("the file behind the link has %q", got)
	}
}

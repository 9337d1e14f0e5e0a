package control

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

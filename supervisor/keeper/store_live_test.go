package keeper_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/keepertest"
)

// systemd's queue is short, and full when the keeper wants to say that it lives: it says so
// again at once, not when the next word would be due, for two lost words are its end.
func TestLifeIsToldAgain(t *testing.T) {
	dir, err := os.MkdirTemp("", "live") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "n")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = systemd.Close() })
	fillQueue(t, path)
	k := keepertest.StartWith(t, filepath.Join(dir, "k.sock"), nil, "env", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=120000000") // and it has begun
	conn, err := net.Dial("unixpacket", k.Socket())                                                                          // something happens: it looks around
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(300 * time.Millisecond) // it has tried in vain
	if err := systemd.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		n, _, err := systemd.ReadFrom(b)
		if err != nil {
			t.Fatalf("the keeper has not said that it lives: %v\n%s", err, k.Said())
		}
		if string(b[:n]) == "WATCHDOG=1" {
			return
		}
	}
}

func fillQueue(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		err := unix.Sendto(fd, []byte("STATUS=busy"), 0, &unix.SockaddrUnix{Name: path})
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

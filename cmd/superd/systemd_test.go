package main

import (
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/config"
)

// superd speaks in the name of the process that systemd has started, or systemd does not
// listen (NotifyAccess=main).
func TestSystemdHearsTheKeeper(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run as root: only root may speak in another's name")
	}
	t.Chdir(t.TempDir()) // paths of sockets have 107 bytes
	const path = "notify"
	ear, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ear.Close() }()
	raw, err := ear.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		t.Fatal(err)
	}
	const other = 1 // somebody who lives in every namespace
	for _, c := range []struct{ sender, heard int }{{other, other}, {1 << 30, os.Getpid()}, {0, os.Getpid()}} {
		if err := notifySystemd(path, c.sender, "READY=1"); err != nil {
			t.Fatal(err)
		}
		text, oob := make([]byte, 100), make([]byte, 100)
		n, m, _, _, err := ear.ReadMsgUnix(text, oob)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
		who, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil || int(who.Pid) != c.heard || string(text[:n]) != "READY=1" {
			t.Errorf("in the name of %d: %q came from %+v, %v", c.sender, text[:n], who, err)
		}
	}
}

func TestSystemdIsNotThere(t *testing.T) {
	if err := notifySystemd("", 1, "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	if err := notifySystemd("/nonexistent/notify", 1, "READY=1"); err == nil {
		t.Error("a socket that is not there is no error")
	}
}

func TestReloadingTellsTheTime(t *testing.T) {
	if line := reloadingLine(); !strings.HasPrefix(line, "RELOADING=1\nMONOTONIC_USEC=") || strings.HasSuffix(line, "=0") {
		t.Errorf("%q", line)
	}
}

func TestWhatIsARestart(t *testing.T) {
	for _, c := range []struct {
		job, policy string
		kept        uint32
		want        bool
	}{
		{"restart", "always", 8192, true},
		{"try-restart", "no", 1, true},
		{"restart", "always", 0, false}, // nobody keeps the sockets
		{"stop", "always", 8192, false},
		{"", "always", 8192, true}, // a signal by hand: the policy brings it back
		{"", "on-failure", 8192, false},
		{"something new", "always", 8192, false},
	} {
		if got := isRestart(c.job, c.policy, c.kept); got != c.want {
			t.Errorf("job %q, Restart=%s, %d kept: %v", c.job, c.policy, c.kept, got)
		}
	}
}

// Nothing of a stop may be cut short by systemd, however long it may take.
func TestStoppingAsksForTime(t *testing.T) {
	for _, c := range []struct {
		drain, stop time.Duration
		want        string
	}{
		{30 * time.Second, 5 * time.Minute, "EXTEND_TIMEOUT_USEC=380000000"},
		{30 * time.Second, math.MaxInt64, "EXTEND_TIMEOUT_USEC=31536020000000"},
	} {
		app := config.App{FPM: &config.FPM{DrainTimeout: c.drain}, Workers: []config.Worker{{StopTimeout: time.Second}, {StopTimeout: c.stop}}}
		cfg := &config.Config{Apps: []config.App{app}, Programs: []config.Program{
			{Name: "web", StopTimeout: 20 * time.Second, After: []string{"program.db"}}, {Name: "db", StopTimeout: 10 * time.Second}, {Name: "cache", StopTimeout: 25 * time.Second},
		}}
		if line := stoppingLine(cfg); !strings.HasSuffix(line, c.want) {
			t.Errorf("%+v: %q", c, line)
		}
	}
}

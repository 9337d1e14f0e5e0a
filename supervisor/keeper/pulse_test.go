package keeper_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
)

const pulseWithin = 1500 * time.Millisecond // and half of that again: this machine may be busy

// bePulsing is a superd with one child. It gives signs of life until it gets SIGUSR1;
// after that it hangs. With the argument "once" it asks for no more of them then.
func bePulsing(args []string) error {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	c, err := client.Dial(context.Background(), os.Getenv("SUPERD_KEEPER"))
	if err != nil {
		return err
	}
	child := 0
	for _, ch := range c.Children() {
		child = ch.PID
	}
	if child == 0 {
		ch, err := c.Spawn(context.Background(), client.Spec{Slot: "s", Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			return err
		}
		if err := ch.Open(); err != nil {
			return err
		}
		child = ch.PID
	}
	if err := c.Beat(pulseWithin); err != nil { // whoever reads the note may stop this process at once
		return err
	}
	if err := note(args[0], fmt.Sprintf("superd %d child %d", os.Getpid(), child)); err != nil {
		return err
	}
	for {
		if err := c.Beat(pulseWithin); err != nil {
			return err
		}
		select {
		case <-usr1:
			if args[1] == "once" {
				if err := c.Beat(0); err != nil {
					return err
				}
			}
			<-make(chan int)
		case <-time.After(pulseWithin / 10):
		}
	}
}

func notes(t *testing.T, file string, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(file)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) >= n && lines[0] != "" {
			return lines
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has %q, want %d lines", file, lines, n)
		}
	}
}

// A superd that hangs is killed and replaced; its child lives on.
func TestHungSuperdIsReplaced(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "notes")
	k := keepertest.StartFor(t, mood("pulsing", file, "hang")...)
	first := notes(t, file, 1)[0]
	time.Sleep(2 * pulseWithin)
	if n := len(notes(t, file, 1)); n != 1 {
		t.Fatalf("a superd that gives signs of life was replaced: %s", k.Said())
	}
	for _, sig := range []unix.Signal{unix.SIGUSR1, unix.SIGSTOP} { // dead-locked, stopped
		all := notes(t, file, 1)
		pid := 0
		if _, err := fmt.Sscanf(all[len(all)-1], "superd %d", &pid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		next := notes(t, file, len(all)+1)
		if _, child, _ := strings.Cut(first, " child "); !strings.HasSuffix(next[len(all)], " child "+child) {
			t.Errorf("after %s: %q, the first was %q", unix.SignalName(sig), next[len(all)], first)
		}
	}
	if said := k.Said(); strings.Count(said, "no sign of life") != 2 {
		t.Errorf("the keeper said: %s", said)
	}
}

// A superd that asks for no more is left alone, as one that never gave a sign.
func TestNoPulseIsAskedOfThoseWhoGiveNone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "notes")
	k := keepertest.StartFor(t, mood("pulsing", file, "once")...)
	notes(t, file, 1)
	if err := k.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * pulseWithin)
	if n := len(notes(t, file, 1)); n != 1 {
		t.Errorf("it was replaced: %s", k.Said())
	}
}

package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func listenAsJournald(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	ear, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ear.Close() })
	return ear
}

func hearLine(t *testing.T, ear *net.UnixConn) string {
	t.Helper()
	_ = ear.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 1<<18)
	n, err := ear.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestJournalHasFields(t *testing.T) {
	dir, err := os.MkdirTemp("", "jd") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ear := listenAsJournald(t, filepath.Join(dir, "s"))
	log := slog.New(&journalHandler{level: slog.LevelInfo, to: &journald{path: filepath.Join(dir, "s")}})
	log.With("app", "shop").Warn("it is so", "error", "two\nlines")
	want := "PRIORITY=4\nSYSLOG_IDENTIFIER=superd\nMESSAGE\n\x18\x00\x00\x00\x00\x00\x00\x00it is so error=two\nlines\nSUPERD_APP=shop\nSUPERD_ERROR\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"
	if got := hearLine(t, ear); got != want {
		t.Errorf("%q\nwant\n%q", got, want)
	}
	log.Info("long", "what", strings.Repeat("x", 1<<20))
	if got := hearLine(t, ear); !strings.Contains(got, "x…\nSUPERD_WHAT=xxx") || !strings.HasSuffix(got, "x\n") {
		t.Errorf("a line of 1 MiB is %d bytes", len(got))
	}
}

// A journald that does not read holds nobody up for long, and what it has missed is told.
func TestJournalThatHangs(t *testing.T) {
	dir, err := os.MkdirTemp("", "jd") //nolint:usetesting // as above
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "s")
	ear := listenAsJournald(t, path)
	to := &journald{path: path}
	const lines = 10000
	began, lost := time.Now(), 0
	for i := range lines {
		if to.send(fmt.Sprint("line ", i), 6, nil) != nil {
			lost++
		}
	}
	if took := time.Since(began); lost == 0 || took > 20*time.Second {
		t.Errorf("%d of %d lines are lost, and it took %s", lost, lines, took)
	}
	for range lines - lost {
		hearLine(t, ear)
	}
	next := ""
	for deadline := time.Now().Add(30 * time.Second); next == "" && time.Now().Before(deadline); {
		if to.send("again", 6, nil) == nil {
			next = hearLine(t, ear)
		} else {
			lost++
			time.Sleep(50 * time.Millisecond)
		}
	}
	if !strings.Contains(next, fmt.Sprintf("%d lines of superd's own log are lost", lost)) {
		t.Errorf("after it reads again the first it is told is %q, of %d", next, lost)
	}
	if got := hearLine(t, ear); !strings.Contains(got, "MESSAGE=again\n") {
		t.Errorf("then %q", got)
	}

	_ = ear.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ear = listenAsJournald(t, path) // a journald that was started again
	if err := to.send("back", 6, nil); err != nil {
		t.Fatal(err)
	}
	if got := hearLine(t, ear); !strings.Contains(got, "MESSAGE=back\n") {
		t.Errorf("the next one hears %q", got)
	}
}

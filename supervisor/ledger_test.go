package supervisor

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
)

func openTestLedger(t *testing.T, path string) (*ledger, *record) {
	t.Helper()
	words := new(record)
	l, err := openLedger(path, slog.New(slog.NewTextHandler(words, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, words
}

func TestLedgerKnowsWhoWasTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "births.ndjson")
	l, _ := openTestLedger(t, path)
	at := time.Now()
	for pid := 1; pid <= 4; pid++ {
		l.born(line{Slot: "w", PID: pid, Start: 100})
	}
	l.tell(1, 100, at)
	l.tell(2, 100, at)
	l.gone(2, 100)
	again, _ := openTestLedger(t, path)
	for pid, want := range map[int]bool{1: true, 2: false, 3: false} {
		if got := again.told(pid, 100); got.IsZero() == want || want && got.Sub(at).Abs() > time.Millisecond {
			t.Errorf("%d was told at %s", pid, got)
		}
	}
	if got := again.told(1, 101); !got.IsZero() {
		t.Error("another process with the PID was told")
	}
	there := &Child{proc: &client.Child{PID: 1, Start: 100, Slot: "w"}}
	again.compact([]*Child{there}, nil)
	if b, _ := os.ReadFile(path); bytes.Count(b, []byte("\n")) != 2 {
		t.Errorf("compacted:\n%s", b)
	}
	third, _ := openTestLedger(t, path)
	if third.told(1, 100).IsZero() || len(third.live) != 1 {
		t.Error("compaction has lost the child that is there")
	}
}

// What a crash, a full disk or somebody has left in the file costs the line it is
// in and no other.
func TestLedgerWithDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "births.ndjson")
	l, _ := openTestLedger(t, path)
	l.born(line{Slot: "w", PID: 1, Start: 100})
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "%s\nnull\n{}\n[]\n\x00\n{\"event\":\"told\",\"boot\":\"another\",\"pid\":1,\"start\":100,\"at\":\"2026-01-02T03:04:05Z\"}\n{\"event\":\"told\",\"pid", strings.Repeat("x", 100_000)) // longer than a Scanner takes
	f.Close()
	l, _ = openTestLedger(t, path)
	if len(l.live) != 1 || len(l.tolds) != 0 {
		t.Errorf("live %v, told %v", l.live, l.tolds)
	}
	l.tell(1, 100, time.Now()) // after the torn line
	l, _ = openTestLedger(t, path)
	if l.told(1, 100).IsZero() {
		t.Error("the line after a torn one is lost")
	}
}

func TestLedgerStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "births.ndjson")
	l, words := openTestLedger(t, path)
	l.compact(nil, nil)
	l.born(line{Slot: "lives", PID: 1, Start: 1})
	l.tell(1, 1, time.Now())
	for pid := 2; pid < 12_000; pid++ {
		l.add(line{Event: "born", Slot: "w", PID: pid, Start: 1})
		l.gone(pid, 1)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > ledgerRoom {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	l, _ = openTestLedger(t, path)
	if len(l.live) != 1 || l.told(1, 1).IsZero() {
		t.Errorf("%d live", len(l.live))
	}
	if words.String() != "" {
		t.Error(words)
	}
}

// Many that live are not written anew at each birth.
func TestLedgerOfMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "births.ndjson")
	l, _ := openTestLedger(t, path)
	inodes := map[uint64]bool{}
	for pid := range 10_000 {
		l.add(line{Event: "born", Slot: "w", PID: pid, Start: 1})
		var st unix.Stat_t
		if err := unix.Fstat(int(l.file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		inodes[st.Ino] = true
	}
	if len(inodes) > 5 {
		t.Errorf("written anew %d times", len(inodes))
	}
}

func TestLedgerOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("superd-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("only root can make a small disk")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "births.ndjson")
	l, words := openTestLedger(t, path)
	l.compact(nil, nil) // allocates
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	ballast.Close()
	at := time.Now()
	l.born(line{Slot: "w", PID: 1, Start: 1})
	l.tell(1, 1, at)
	if words.String() != "" {
		t.Errorf("the room was not allocated in advance: %s", words)
	}
	l, words = openTestLedger(t, path)
	if l.told(1, 1).IsZero() {
		t.Error("what was written on the full disk is lost")
	}
	for pid := 2; pid < 20_000; pid++ { // more than there is room for
		l.add(line{Event: "born", Slot: "w", PID: pid, Start: 1})
	}
	if n := strings.Count(words.String(), "going on without it"); n != 1 {
		t.Errorf("told %d times that it can't be written", n)
	}
	if n := strings.Count(words.String(), "compacted"); n > 4 {
		t.Errorf("told %d times that it can't be compacted", n)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	l.tell(19_999, 1, at)
	l, _ = openTestLedger(t, path)
	if l.told(19_999, 1).IsZero() || l.told(1, 1).IsZero() {
		t.Error("when there was room again it was not used")
	}
}

func FuzzLedgerReplay(f *testing.F) {
	f.Add([]byte("{\"event\":\"born\",\"boot\":\"b\",\"slot\":\"w\",\"pid\":1,\"start\":2,\"at\":\"2026-01-02T03:04:05Z\"}\n"))
	f.Add([]byte("{\"event\":\"told\",\"boot\":\"b\",\"pid\":1,\"start\":2,\"at\":\"2026-01-02T03:04:05Z\"}\n{\"event\":\"go"))
	f.Add([]byte("{\"event\":\"gone\",\"boot\":\"b\",\"pid\":-1,\"start\":18446744073709551615}\n\n\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &ledger{boot: "b", tolds: map[identity]time.Time{}, live: map[identity]line{}}
		l.replay(b)
		for id, x := range l.live {
			if x.Boot != "b" || x.PID != id.PID || x.Start != id.Start {
				t.Fatalf("%+v is known as %+v", x, id)
			}
		}
		// A whole line at the end counts, whatever is before it.
		word := "{\"event\":\"told\",\"boot\":\"b\",\"pid\":7,\"start\":8,\"at\":\"2026-01-02T03:04:05Z\"}\n"
		l.replay([]byte(string(b) + "\n" + word))
		if l.told(7, 8).IsZero() || l.torn {
			t.Fatal("the last line is lost")
		}
	})
}

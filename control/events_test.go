package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// running opens the events and runs them until stop.
func running(t *testing.T, path string) (e *Events, log *logged, stop func()) {
	t.Helper()
	log = &logged{}
	e, err := OpenEvents(path, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	done.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("run events: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return e, log, stop
}

// all is everything that can be read after a number.
func all(t *testing.T, e *Events, since uint64) []Event {
	t.Helper()
	var events []Event
	for {
		next, from, _ := e.after(since)
		if len(next) == 0 {
			return events
		}
		if from != since && since != 0 {
			t.Errorf("asked for what is after %d, got what is after %d", since, from)
		}
		for _, k := range next {
			var event Event
			if err := json.Unmarshal(k.line, &event); err != nil {
				t.Fatalf("%v in %q", err, k.line)
			}
			events = append(events, event)
		}
		since = next[len(next)-1].seq
	}
}

// inOrder checks that the events are message n, n+1 … without gap or double.
func inOrder(t *testing.T, events []Event, n int) {
	t.Helper()
	for i, e := range events {
		if e.Message != fmt.Sprint(n+i) {
			t.Fatalf("event %d is %q, want %d", e.Seq, e.Message, n+i)
		}
		if i > 0 && e.Seq != events[i-1].Seq+1 {
			t.Fatalf("event %d comes after event %d", e.Seq, events[i-1].Seq)
		}
	}
}

func appendAll(t *testing.T, e *Events, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if (n-from)%1000 == 999 { // no faster than the disk, or some are dropped
			eventually(t, "the events are written", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return len(e.pending) == 0
			})
		}
		e.Append(Event{Kind: "test", Message: fmt.Sprint(n)})
	}
}

func TestEventsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "events.ndjson")
	e, _, stop := running(t, path)
	appendAll(t, e, 0, 1500)
	stop() // what was appended before is written
	e, _, stop = running(t, path)
	if e.Last() != 1500 {
		t.Fatalf("the last is %d, want 1500", e.Last())
	}
	appendAll(t, e, 1500, 1600)
	stop()
	got := all(t, e, 0)
	if len(got) != 1600 || got[0].Seq != 1 {
		t.Fatalf("%d events, the first is %d", len(got), got[0].Seq)
	}
	inOrder(t, got, 0)
	inOrder(t, all(t, e, 700), 700)
}

func TestTornLinesAreDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	e, _, stop := running(t, path)
	appendAll(t, e, 0, 10)
	stop()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lastLine := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := lastLine; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		e, _, stop := running(t, path)
		appendAll(t, e, 9, 12)
		stop()
		e, _, stop = running(t, path)
		stop()
		if got := all(t, e, 0); len(got) != 12 {
			t.Fatalf("cut at %d: %d events, want 12", cut-lastLine, len(got))
		} else {
			inOrder(t, got, 0)
		}
	}
	// What is broken in the middle costs only itself.
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines[4] = []byte("{\"seq\": nonsense\x00\n")
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	e, _, _ = running(t, path)
	if got := all(t, e, 0); len(got) != 9 || got[8].Seq != 10 {
		t.Errorf("%d events after one was broken", len(got))
	}
}

func TestEventsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	e, _, stop := running(t, path)
	appendAll(t, e, 0, 2*maxEvents+maxEvents/2)
	stop()
	got := all(t, e, 0)
	if len(got) != maxEvents {
		t.Errorf("%d events are kept, want %d", len(got), maxEvents)
	}
	inOrder(t, got, 2*maxEvents+maxEvents/2-maxEvents)
	text, err := os.ReadFile(path)
	if n := bytes.Count(text, []byte("\n")); err != nil || n < maxEvents || n > 2*maxEvents {
		t.Errorf("the file has %d lines, want %d to %d (%v)", n, maxEvents, 2*maxEvents, err)
	}
	e, _, _ = running(t, path)
	inOrder(t, all(t, e, 0), 2*maxEvents+maxEvents/2-maxEvents)
	if _, from, _ := e.after(17); from != got[0].Seq-1 {
		t.Errorf("after 17, which is not kept, comes what is after %d", from)
	}
}

// A number that there was never is told as such; it does not make old events new.
func TestSinceBeyondTheEnd(t *testing.T) {
	h := newHouse(t)
	for range 5 {
		h.events.Append(Event{Kind: "test"})
	}
	eventually(t, "the events are written", func() bool { return h.events.Last() == 5 })
	var got []Event
	for e, err := range h.client().Events(t.Context(), 99, false) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 1 || got[0].Kind != EventLagged || got[0].Seq != 5 || !strings.Contains(got[0].Message, "no event number 99: the last one is 5") {
		t.Errorf("after 99 come %+v", got)
	}
	for e := range h.client().Events(t.Context(), 5, false) {
		t.Errorf("after the last one comes %+v", e)
	}
}

func TestLongEventsAreBounded(t *testing.T) {
	e, _, stop := running(t, filepath.Join(t.TempDir(), "events.ndjson"))
	code := 3
	e.Append(Event{Kind: EventSwitchEnded, Switch: "s1", App: "shop", Verdict: "rolled-back", Exit: &code, Reason: strings.Repeat("x", 10<<20)})
	for range 2000 {
		e.Append(Event{Kind: "test", Reason: strings.Repeat("x", 8<<10)})
	}
	stop()
	if e.size > maxEventBytes {
		t.Errorf("the kept events are %d bytes", e.size)
	}
	first := newKept(Event{Seq: 1, Kind: EventSwitchEnded, Switch: "s1", Exit: &code, Reason: strings.Repeat("x", 10<<20)})
	var got Event
	if err := json.Unmarshal(first.line, &got); err != nil || len(first.line) > maxEventLine || got.Switch != "s1" || *got.Exit != 3 {
		t.Errorf("a long event became %d bytes: %+v (%v)", len(first.line), got, err)
	}
}

// /dev/full is a disk that is full, and stays so until both names are real again.
func TestFullDiskCostsOnlyTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "events.ndjson")
		e, log, stop := running(t, path)
		appendAll(t, e, 0, 3)
		synctest.Wait()
		full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		e.file.file.Close()
		e.file.file = full
		if err := os.Symlink("/dev/full", path+".new"); err != nil {
			t.Fatal(err)
		}
		for n := 3; n < 8; n++ {
			appendAll(t, e, n, n+1)
			synctest.Wait()
		}
		if e.Last() != 8 {
			t.Errorf("on a full disk the last is %d, want 8: nobody may miss an event", e.Last())
		}
		if n := len(log.with("level", "WARN")); n != 1 {
			t.Errorf("it was said %d times, want once", n)
		}
		text, err := os.ReadFile(path + ".seq")
		if err != nil || strings.TrimSpace(string(text)) != "8" {
			t.Errorf("the number beside it is %q (%v)", text, err)
		}
		next, err := OpenEvents(path, slog.New(slog.DiscardHandler)) // as after a SIGKILL now
		if err != nil || next.Last() != 8 {
			t.Errorf("the next superd would go on after %d, and give a number twice (%v)", next.Last(), err)
		}
		os.Remove(path + ".new") // now there is room
		time.Sleep(retryEvents)
		appendAll(t, e, 8, 9)
		stop()
		if n := len(log.with("msg", "events are on disk again")); n != 1 {
			t.Errorf("that it is well again was said %d times", n)
		}
		e, _, stop = running(t, path)
		stop()
		if got := all(t, e, 0); len(got) != 9 {
			t.Errorf("%d events are on disk, want all 9", len(got))
		} else {
			inOrder(t, got, 0)
		}
	})
}

func TestEventsWithoutADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := OpenEvents(filepath.Join(file, "events.ndjson"), slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("a file is taken for a directory")
	}
	e.Append(Event{Kind: "test", Message: "0"})
	e.write()
	if got := all(t, e, 0); len(got) != 1 {
		t.Errorf("%d events, want 1 in memory", len(got))
	}
}

// A pipe that nobody reads is a disk that hangs.
func TestAppendDoesNotWaitForTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	e, _, stop := running(t, path)
	began := time.Now()
	for n := range 3 * maxPending {
		e.Append(Event{Kind: "test", Message: fmt.Sprint(n), Reason: strings.Repeat("x", 200)})
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	read, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var draining sync.WaitGroup
	draining.Go(func() {
		for text := make([]byte, 1<<16); ; {
			if _, err := read.Read(text); err != nil {
				return
			}
		}
	})
	e.Append(Event{Kind: "test"})
	eventually(t, "the loss is told", func() bool {
		next, _, _ := e.after(e.Last() - 1)
		for range 3 * maxPending / batchSize {
			for _, k := range next {
				if k.kind == EventLagged {
					return true
				}
			}
			if len(next) == 0 {
				break
			}
			next, _, _ = e.after(next[len(next)-1].seq)
		}
		e.Append(Event{Kind: "test"})
		return strings.Contains(fmt.Sprint(kinds(e)), EventLagged)
	})
	stop()
	read.Close()
	draining.Wait()
}

func kinds(e *Events) map[string]int {
	n := map[string]int{}
	for _, k := range e.all() {
		n[k.kind]++
	}
	return n
}

// writeEvents appends without end and prints the number of each that can be read.
func writeEvents() error {
	e, err := OpenEvents(os.Getenv("CONTROL_TEST_SOCKET"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	var done sync.WaitGroup
	done.Go(func() { _ = e.Run(context.Background()) })
	for since := e.Last(); ; {
		e.Append(Event{Kind: "test"})
		next, _, more := e.after(since)
		for _, k := range next {
			since = k.seq
			if _, err := fmt.Println(k.seq); err != nil {
				return err
			}
		}
		if len(next) == 0 {
			<-more
		}
	}
}

func TestNoNumberIsGivenTwiceWhenKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	highest := uint64(0)
	for round := range 10 {
		cmd := inMood(t, "events", path, nil)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		killed := false
		for n := 0; in.Scan(); n++ {
			var seq uint64
			if _, err := fmt.Sscan(in.Text(), &seq); err != nil {
				continue // torn by the kill
			}
			if seq <= highest {
				t.Fatalf("round %d: %d was given again after %d", round, seq, highest)
			}
			if n == 0 && round > 0 && seq > highest+1000 {
				t.Errorf("round %d begins with %d after %d", round, seq, highest)
			}
			highest = seq
			if n >= 200+17*round && !killed {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
	}
	e, err := OpenEvents(path, slog.New(slog.DiscardHandler))
	if err != nil || e.Last() < highest {
		t.Errorf("%d could be read, and %d is the last on disk (%v)", highest, e.Last(), err)
	}
	next, _, _ := e.after(highest - 1)
	if len(next) == 0 || next[0].seq != highest {
		t.Errorf("event %d could be read and is not on disk", highest)
	}
}

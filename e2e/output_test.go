//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
)

// talking is a worker that counts on both of its streams, some hundred lines in a few
// seconds, and ends its last line when it is told to go.
const talking = `
[app.shop.worker.%s]
command   = ["bash", "-c", "n=0; go=1; trap 'go=0' TERM; while [ $go = 1 ]; do echo line $n; echo complaint $n >&2; n=$((n+1)); sleep 0.02; done; echo end $n"]
processes = 1
log       = { %s }
`

// superd dies while lines flow, again and again. Raw lines are stored once, lines as
// objects at least once, each stream in its file; superctl shows all of them, those of
// rotated files too.
func TestNoLineIsLostWhenSuperdDies(t *testing.T) {
	more := fmt.Sprintf(talking, "plain", `max_size = "1KiB", keep = 1000`) +
		fmt.Sprintf(talking, "objects", `stderr = "file", format = "json"`)
	s := newSite(t, lab.Config{Children: 2, Workers: 1, More: more}, "$realpath_root")
	s.wholly("r1", 20*time.Second)
	follow, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	following := s.Superctl(follow, "logs", "-f", "-n", "1", "shop/plain")
	var seen, said lockedBuffer
	following.Stdout, following.Stderr = &seen, &said
	if err := following.Start(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		shown := strings.Count(seen.String(), "\n")
		eventually(t, time.Minute, "more is shown", func() bool { return strings.Count(seen.String(), "\n") >= shown+160 })
		if _, err := s.KillSuperd(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "superd is back", func() bool { st, err := s.Status(); return err == nil && st.Healthy })
	}
	s.ctl(0, "stop", "shop/plain", "shop/objects")
	eventually(t, time.Minute, "all is shown", func() bool { return strings.Contains(seen.String(), "end ") })
	if err := following.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := following.Wait(); err != nil {
		t.Errorf("logs -f ended with %v", err)
	}
	allFollowed(t, seen.String(), said.String())

	o := s.ctl(0, "logs", "-n", "100000", "shop/plain")
	var lines, complaints []int
	for text := range strings.Lines(o.Out) {
		text = text[strings.LastIndex(text, "|")+1:]
		lines = append(lines, numberOf(text, "line")...)
		complaints = append(complaints, numberOf(text, "complaint")...)
	}
	eachOnce(t, "lines of the raw log", lines)
	eachOnce(t, "complaints of the raw log", complaints)
	if !strings.Contains(o.Out, fmt.Sprintf("end %d", len(lines))) {
		t.Errorf("the last line is missing; superctl shows %d", len(lines))
	}
	if files, err := os.ReadDir(s.Path("log", "shop")); err != nil || len(files) < 6 {
		t.Errorf("%d files: nothing was rotated, %v", len(files), err)
	}
	eachAtLeastOnce(t, objects(t, s.Path("log", "shop", "objects-0.log")), "line")
	eachAtLeastOnce(t, objects(t, s.Path("log", "shop", "objects-0.err.log")), "complaint")
	if o := s.ctl(0, "logs", "--stream", "stderr", "-n", "5", "shop/objects"); strings.Count(o.Out, "complaint") != 5 {
		t.Errorf("five complaints are\n%s", o.Out)
	}
}

// allFollowed looks for every line once in what superctl logs -f has shown while superd died
// again and again.
func allFollowed(t *testing.T, seen, said string) {
	t.Helper()
	var lines []int
	for text := range strings.Lines(seen) {
		lines = append(lines, numberOf(text[strings.LastIndex(text, "|")+1:], "line")...)
	}
	if said != "" {
		t.Errorf("superctl said: %s", said)
	}
	if len(lines) < 100 {
		t.Fatalf("%d lines were shown", len(lines))
	}
	for i, n := range lines {
		if n != lines[0]+i {
			t.Fatalf("after line %d comes line %d; %d were shown", lines[i-1], n, len(lines))
		}
	}
	if !strings.Contains(seen, fmt.Sprintf("end %d", lines[len(lines)-1]+1)) {
		t.Errorf("the last line is missing after %d", lines[len(lines)-1])
	}
}

// A reader of logs does not hold the end of superd up, and is told that it ended.
func TestFollowersOfLogsWhileShuttingDown(t *testing.T) {
	s := newSite(t, lab.Config{Children: 2, Workers: 1}, "$realpath_root")
	s.wholly("r1", 20*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	following := s.Superctl(ctx, "logs", "-f", "shop")
	if err := following.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := s.Superctl(ctx, "logs", "-f", "shop") // reads nothing: its pipe is nobody's
	if _, err := stuck.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	s.ctl(0, "shutdown")
	select {
	case <-s.superd.Done():
	case <-time.After(30 * time.Second):
		t.Error("superd is still there after 30 s")
	}
	for _, reader := range []*exec.Cmd{following, stuck} { // they wait for another superd
		_ = reader.Process.Signal(syscall.SIGINT)
		if _ = reader.Wait(); ctx.Err() != nil {
			t.Error("superctl logs -f goes on after Ctrl-C")
		}
	}
}

func numberOf(text, word string) []int {
	var n int
	if _, err := fmt.Sscanf(strings.TrimSpace(text), word+" %d", &n); err != nil {
		return nil
	}
	return []int{n}
}

func eachOnce(t *testing.T, what string, numbers []int) {
	t.Helper()
	if len(numbers) < 100 {
		t.Errorf("only %d %s", len(numbers), what)
	}
	for i, n := range numbers {
		if i != n {
			t.Fatalf("%s: in place %d is %d", what, i, n)
		}
	}
}

func eachAtLeastOnce(t *testing.T, texts []string, word string) {
	t.Helper()
	next := 0
	for _, text := range texts {
		for _, n := range numberOf(text, word) {
			if n > next {
				t.Fatalf("after %s %d comes %d", word, next-1, n)
			}
			next = n + 1
		}
	}
	if next < 100 {
		t.Errorf("the last %s is %d", word, next)
	}
}

// objects are the lines of a log as JSON.
func objects(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for text := range strings.Lines(string(b)) {
		var o struct {
			Time          time.Time
			Process, Line string
			Labels        map[string]string
		}
		if err := json.Unmarshal([]byte(text), &o); err != nil || o.Time.IsZero() || o.Process != "shop/objects:0" || o.Labels["release"] != "r1" {
			t.Fatalf("%s has %q: %v", path, text, err)
		}
		lines = append(lines, o.Line)
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return l != "" }) {
		t.Errorf("%s is empty", path)
	}
	return lines
}

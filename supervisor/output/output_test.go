package output

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A child is the write end of a pipe and the goroutine that moves what is written.
type child struct {
	*Stream
	in   *os.File
	stop context.CancelFunc
	done chan struct{}
}

func start(t *testing.T, s *Store, name, log string) *child {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &child{s.Attach(Life{Name: name, Log: log, Out: r}), w, cancel, make(chan struct{})}
	go func() {
		defer close(c.done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.done
		w.Close()
		r.Close()
	})
	return c
}

func (c *child) say(t *testing.T, text string) {
	t.Helper()
	if _, err := c.in.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// end closes the pipe and waits until everything is stored.
func (c *child) end(t *testing.T) {
	t.Helper()
	c.in.Close()
	wait(t, c.done)
}

func wait(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("still waiting after a minute")
	}
}

// eventually polls for what has no event.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A record is a log for tests.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

func store(t *testing.T, o Options) (*Store, *record) {
	t.Helper()
	r := new(record)
	o.Log = slog.New(slog.NewTextHandler(r, nil))
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s := Open(o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, r
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBytesArriveAsTheyCame(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "shop/emails:3", "shop/emails-3.log")
	want := "first\r\n\x00\xff\xfe bytes\n\n" + strings.Repeat("x", 300_000) + "\nlast, without an end"
	c.say(t, want)
	c.end(t)
	path := filepath.Join(s.Dir, "shop/emails-3.log")
	if got := content(t, path); got != want {
		t.Errorf("file has %d bytes, want the %d that were written", len(got), len(want))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	lines := c.Tail(10)
	if len(lines) != 5 || lines[0] != "first" || lines[4] != "last, without an end" || len(lines[3]) > maxLine+3 {
		t.Errorf("tail %.100q", lines)
	}
	if got := s.Tail("shop/emails:3", 1); !slices.Equal(got, []string{"last, without an end"}) {
		t.Errorf("tail of the name %q", got)
	}
	if got := s.Names(); !slices.Equal(got, []string{"shop/emails:3"}) {
		t.Errorf("names %q", got)
	}
}

func TestWrote(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "w", "")
	re := regexp.MustCompile(`^ready \d+$`)
	ctx, cancel := context.WithCancel(t.Context())
	before, gone := c.Wrote(ctx, re), c.Wrote(ctx, regexp.MustCompile("never"))
	c.say(t, "ready\nready 1")
	select {
	case <-before:
		t.Fatal("a line that is not finished has matched")
	case <-time.After(50 * time.Millisecond):
	}
	c.say(t, "\n")
	wait(t, before)
	wait(t, c.Wrote(ctx, re)) // written already
	cancel()
	eventually(t, "the watch ends with its context", func() bool {
		c.tail.mu.Lock()
		defer c.tail.mu.Unlock()
		return len(c.watchers) == 0
	})
	select {
	case <-gone:
		t.Error("a watch that was given up has matched")
	default:
	}
}

func TestFollow(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "w", "w.log")
	c.say(t, "a\nb\nc\n")
	eventually(t, "three lines", func() bool { return len(s.Tail("w", 9)) == 3 })
	ctx, cancel := context.WithCancel(t.Context())
	lines := s.Follow(ctx, "w", 2, "")
	c.say(t, "d\n")
	for _, want := range []string{"b", "c", "d"} {
		if l := <-lines; l.Text != want || l.Name != "w" || l.At.IsZero() {
			t.Errorf("got %+v, want %s", l, want)
		}
	}
	cancel()
	if l, ok := <-lines; ok {
		t.Errorf("a line after the end: %+v", l)
	}
}

// A name that nobody has written by yet can be followed from its first line on, however
// many others come and go meanwhile.
func TestFollowBeforeTheFirstLine(t *testing.T) {
	s, _ := store(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	lines, bytes := s.Follow(ctx, "w", 9, ""), s.Overhear(ctx, "w")
	for i := range idleNames + 5 {
		start(t, s, fmt.Sprint("other ", i), "").end(t)
	}
	c := start(t, s, "w", "w.log")
	c.say(t, "first\n")
	if l := <-lines; l.Text != "first" {
		t.Errorf("got %+v", l)
	}
	if l := <-bytes; l.Text != "first\n" {
		t.Errorf("overheard %+v", l)
	}
	cancel()
	for range lines { // to its end
	}
	for range bytes {
	}
	c.end(t)
	for i := range idleNames {
		start(t, s, fmt.Sprint("another ", i), "").end(t)
	}
	if slices.Contains(s.Names(), "w") || len(s.Names()) != idleNames {
		t.Errorf("%d names are remembered, one of them that nobody follows any more", len(s.Names()))
	}
}

func TestSlowFollowerIsToldHowMuchItMissed(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "w", "w.log")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := s.Follow(ctx, "w", 0, "")
	for i := range 3 * backlog {
		c.say(t, fmt.Sprintf("line %d\n", i))
	}
	eventually(t, "all are seen", func() bool { return strings.Join(s.Tail("w", 1), "") == fmt.Sprintf("line %d", 3*backlog-1) })
	for i := range backlog {
		if l := <-lines; l.Text != fmt.Sprintf("line %d", i) || l.Missed() != 0 {
			t.Fatalf("line %d is %+v", i, l)
		}
	}
	if l := <-lines; l.Missed() != 2*backlog {
		t.Errorf("told of %d that are missing, want %d", l.Missed(), 2*backlog)
	}
	c.say(t, "goes on\n")
	if l := <-lines; l.Text != "goes on" {
		t.Errorf("got %+v", l)
	}
	c.end(t)
}

func TestTwoLivesWriteOneFile(t *testing.T) {
	s, _ := store(t, Options{})
	old, fresh := start(t, s, "w", "w.log"), start(t, s, "w", "w.log")
	var both sync.WaitGroup
	for i, c := range []*child{old, fresh} {
		both.Go(func() {
			for n := range 20_000 {
				fmt.Fprintf(c.in, "life %d line %d\n", i, n)
			}
		})
	}
	both.Wait()
	old.end(t)
	fresh.end(t)
	next := []int{0, 0}
	for line := range strings.Lines(content(t, filepath.Join(s.Dir, "w.log"))) {
		var life, n int
		if _, err := fmt.Sscanf(line, "life %d line %d\n", &life, &n); err != nil || n != next[life] {
			t.Fatalf("line %q, want line %d", line, next[life])
		}
		next[life]++
	}
	if next[0] != 20_000 || next[1] != 20_000 {
		t.Errorf("lines %v, want 20000 of each", next)
	}
	if got := old.Tail(1); !slices.Equal(got, []string{"life 0 line 19999"}) {
		t.Errorf("the tail of one life is %q", got)
	}
}

// What is left of a tree may write for ever: only what is there at the end of the
// main process is taken.
func TestFinishTakesWhatIsThere(t *testing.T) {
	s, _ := store(t, Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	left := func() (n int) {
		raw, _ := r.SyscallConn()
		raw.Control(func(fd uintptr) { n = pending(int(fd)) })
		return n
	}
	st := s.Attach(Life{Name: "w", Out: r})
	fmt.Fprintln(w, "before the end")
	st.tail.mu.Lock() // holds the drain up when it has read
	done := make(chan struct{})
	go func() { defer close(done); st.ports[0].drain() }()
	eventually(t, "it has read", func() bool { return left() == 0 })
	fmt.Fprintln(w, "after")
	st.tail.mu.Unlock()
	wait(t, done)
	if left() != len("after\n") {
		t.Error("the drain has taken what came after the end")
	}
}

func TestFinishLeavesAnOpenPipe(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "w", "w.log")
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // what the process has left behind floods on
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				c.in.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				fmt.Fprintln(c.in, "I am still here")
			}
		}
	}()
	c.Finish()
	wait(t, c.done)
	close(stop)
	<-ended
	d := start(t, s, "v", "v.log")
	d.say(t, "said just before")
	d.Finish()
	wait(t, d.done)
	if got := content(t, filepath.Join(s.Dir, "v.log")); got != "said just before" {
		t.Errorf("file has %q", got)
	}
}

// A line and the end of the pipe may come in one moment.
func TestLastLineBeforeTheEnd(t *testing.T) {
	s, _ := store(t, Options{})
	for n := range 300 {
		c := start(t, s, "w", "")
		go func() {
			fmt.Fprintln(c.in, n)
			c.in.Close()
		}()
		wait(t, c.done)
		if got := c.Tail(1); !slices.Equal(got, []string{fmt.Sprint(n)}) {
			t.Fatalf("life %d ends with %q", n, got)
		}
	}
}

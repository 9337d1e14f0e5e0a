package output

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A chooser is settings that a test changes.
type chooser struct {
	mu  sync.Mutex
	set Settings
}

func (c *chooser) settings(string, map[string]string) Settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

func (c *chooser) choose(set Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set = set
}

func choosing(set Settings) func(string, map[string]string) Settings {
	if set.Rules == (Rules{}) {
		set.Rules = Rules{MaxSize: 50 << 20, Keep: 10}
	}
	return (&chooser{set: set}).settings
}

// A pair is a life with both of its streams apart.
type pair struct {
	*Stream
	out, err *os.File
	stop     context.CancelFunc
	done     chan struct{}
}

func startLife(t *testing.T, s *Store, l Life) *pair {
	t.Helper()
	p := &pair{done: make(chan struct{})}
	var closing []*os.File
	pipe := func() (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		closing = append(closing, r, w)
		return r, w
	}
	l.Out, p.out = pipe()
	if s.Apart(l.Name) {
		l.Err, p.err = pipe()
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.Stream, p.stop = s.Attach(l), cancel
	go func() { defer close(p.done); p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-p.done
		for _, f := range closing {
			f.Close()
		}
	})
	return p
}

func (p *pair) end(t *testing.T) {
	t.Helper()
	p.out.Close()
	if p.err != nil {
		p.err.Close()
	}
	wait(t, p.done)
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestStandardErrorApart(t *testing.T) {
	s, _ := store(t, Options{Settings: choosing(Settings{Stderr: ToFile})})
	p := startLife(t, s, Life{Name: "w", Log: "shop/w.log"})
	write(t, p.out, "out\n")
	eventually(t, "the first line", func() bool { return len(p.Tail(9)) == 1 })
	write(t, p.err, "err\n")
	eventually(t, "the second line", func() bool { return len(p.Tail(9)) == 2 })
	for stream, want := range map[string][]string{Stdout: {"out"}, Stderr: {"err"}, "": {"out", "err"}} {
		a, err := s.History(t.Context(), Question{Name: "w", Stream: stream, Lines: 10})
		if err != nil || !slices.Equal(texts(a.Lines), want) {
			t.Errorf("stream %q is %q, %v; want %q", stream, texts(a.Lines), err, want)
		}
	}
	lines := s.Follow(t.Context(), "w", 10, Stderr)
	write(t, p.out, "more\n")
	write(t, p.err, "bad\n")
	for _, want := range []string{"err", "bad"} {
		if l := <-lines; l.Text != want || l.Stream != Stderr {
			t.Errorf("a follower of standard error gets %+v, want %q", l, want)
		}
	}
	p.end(t)
	if out, err := content(t, filepath.Join(s.Dir, "shop/w.log")), content(t, filepath.Join(s.Dir, "shop/w.err.log")); out != "out\nmore\n" || err != "err\nbad\n" {
		t.Errorf("files have %q and %q", out, err)
	}
}

// Whatever comes, taking the stored lines apart gives the bytes that were written.
func TestFormatsKeepEveryByte(t *testing.T) {
	long := strings.Repeat("0123456789", 20_000)
	want := "plain\n\n<b>&\"quoted\"\t\n\xff\xfe\x00 bytes\r\n" + long + "\nlast, without an end"
	for _, format := range []Format{Timestamps, JSON} {
		t.Run(string(format), func(t *testing.T) {
			s, _ := store(t, Options{Settings: choosing(Settings{Format: format})})
			p := startLife(t, s, Life{Name: "shop/emails:3", Log: "w.log", Labels: map[string]string{"release": "r42"}})
			began := time.Now().Add(-time.Millisecond)
			write(t, p.out, want)
			p.end(t)
			var got strings.Builder
			for line := range strings.Lines(content(t, filepath.Join(s.Dir, "w.log"))) {
				b, at, whose := format.parse([]byte(line))
				if at.Before(began.Truncate(time.Millisecond)) || at.After(time.Now()) {
					t.Errorf("%.80q was written at %s", line, at)
				}
				if format == JSON && (whose != "shop/emails:3" || !strings.Contains(line, `"release":"r42"`)) {
					t.Errorf("%.80q does not say whose it is", line)
				}
				got.Write(b)
			}
			if got.String() != want+"\n" {
				t.Errorf("got %d bytes back, %d were written: %.200q", got.Len(), len(want), got.String())
			}
		})
	}
}

// What is looked at is not taken out before it is stored: a superd that goes at any
// moment leaves the line that has no end in the pipe.
func TestUnfinishedLinesWaitInThePipe(t *testing.T) {
	s, _ := store(t, Options{Settings: choosing(Settings{Format: Timestamps})})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	life := func() (*Stream, func()) {
		st := s.Attach(Life{Name: "w", Log: "w.log", Out: r})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); st.Run(ctx) }()
		return st, func() { cancel(); <-done; r.SetReadDeadline(time.Time{}) }
	}
	st, leave := life()
	write(t, w, "whole\nhalf ")
	eventually(t, "the half line is seen", func() bool { return slices.Equal(st.Tail(2), []string{"whole", "half "}) })
	leave()
	st, leave = life()
	write(t, w, "and half\n")
	eventually(t, "the line is whole", func() bool { return slices.Equal(st.Tail(1), []string{"half and half"}) })
	leave()
	w.Close()
	got := regexp.MustCompile(`(?m)^\S+ `).ReplaceAllString(content(t, filepath.Join(s.Dir, "w.log")), "")
	if got != "whole\nhalf and half\n" {
		t.Errorf("file has %q", got)
	}
}

func TestFullDiskWithFormats(t *testing.T) {
	s, log := store(t, Options{Dir: small(t, "1m"), Settings: choosing(Settings{Format: JSON, Rules: Rules{MaxSize: 64 << 20, Keep: 1}})})
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	write(t, p.out, numbered(0, 10))
	eventually(t, "ten lines", func() bool { return len(p.Tail(20)) == 10 })
	ballast := fill(t, s.Dir)
	const total = 200_000
	for n := 10; n < total; n += 1000 {
		write(t, p.out, numbered(n, min(n+1000, total)))
	}
	eventually(t, "the last line is seen", func() bool { return strings.Join(p.Tail(1), "") == fmt.Sprintf("line %06d", total-1) })
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "thrown away") })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, p.out, "there is room again\n")
	p.end(t)
	lost, kept, told := 0, 0, false
	for line := range strings.Lines(content(t, filepath.Join(s.Dir, "w.log"))) {
		b, at, _ := JSON.parse([]byte(line))
		if at.IsZero() {
			t.Fatalf("a line in pieces: %.100q", line)
		}
		var n int
		if _, err := fmt.Sscanf(string(b), "[superd: %d bytes of output lost", &n); err == nil {
			lost, told = lost+n, true
			continue
		}
		kept += len(b)
	}
	if want := len(numbered(0, total)) + len("there is room again\n"); !told || kept+lost != want {
		t.Errorf("kept %d and lost %d bytes, %d were written", kept, lost, want)
	}
}

func TestNoInodes(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("superd-test", dir, "tmpfs", 0, "size=4m,nr_inodes=2"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("only root can make a small disk")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := store(t, Options{Dir: dir})
	c := start(t, s, "w", "w.log")
	for n := range 400 { // more than the pipe takes
		c.say(t, numbered(n*1000, n*1000+1000))
	}
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "thrown away") })
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	c.say(t, "there is a place again\n")
	c.end(t)
	if got := content(t, filepath.Join(dir, "w.log")); !strings.HasSuffix(got, "there is a place again\n") || !strings.Contains(got, "bytes of output lost") {
		t.Errorf("file has %.200q", got)
	}
}

// listenAt is a daemon of the system that is not there.
func listenAt(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func datagram(t *testing.T, conn *net.UnixConn) []byte {
	t.Helper()
	b := make([]byte, 256<<10)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// entry takes a message in journald's protocol apart, as journald does.
func entry(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := strings.Cut(string(b), "\n")
		if !ok {
			t.Fatalf("a field without an end: %q", b)
		}
		if name, value, ok := strings.Cut(line, "="); ok {
			fields[name], b = value, []byte(rest)
			continue
		}
		n := binary.LittleEndian.Uint64([]byte(rest))
		fields[line], b = rest[8:8+n], []byte(rest[8+n:])
		if b[0] != '\n' {
			t.Fatalf("a value without an end: %q", b)
		}
		b = b[1:]
	}
	return fields
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "o") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestJournal(t *testing.T) {
	path := filepath.Join(shortDir(t), "j")
	daemon := listenAt(t, path)
	s, _ := store(t, Options{Journal: path, Settings: choosing(Settings{Stdout: ToJournal, Stderr: ToJournal})})
	p := startLife(t, s, Life{Name: "shop/emails:3", Labels: map[string]string{"app": "shop", "release": "r\n42", "pool": "emails", "slot": "3"}})
	common := map[string]string{"SYSLOG_IDENTIFIER": "shop/emails:3", "SUPERD_APP": "shop", "SUPERD_RELEASE": "r 42", "SUPERD_POOL": "emails", "SUPERD_SLOT": "3"}
	long := strings.Repeat("x", longest+10)
	for _, tt := range []struct {
		to       *os.File
		line     string
		priority string
		messages []string
	}{
		{p.out, "hello", "6", []string{"hello"}}, {p.err, "oh", "4", []string{"oh"}}, {p.err, "<3>bad", "3", []string{"bad"}},
		{p.out, "", "6", []string{""}}, {p.out, "a\x00b=c", "6", []string{"a\x00b=c"}}, {p.out, "\xff=", "6", []string{"\xff="}},
		{p.out, long, "6", []string{long[:1<<14], long[1<<14 : 2<<14], long[2<<14 : 3<<14], long[3<<14:]}}, // the pipe is a small one
	} {
		write(t, tt.to, tt.line+"\n")
		for _, want := range tt.messages {
			got := entry(t, datagram(t, daemon))
			if got["MESSAGE"] != want || got["PRIORITY"] != tt.priority {
				t.Errorf("%.50q: message %.50q with priority %s", tt.line, got["MESSAGE"], got["PRIORITY"])
			}
			for name, value := range common {
				if got[name] != value {
					t.Errorf("%s is %q, want %q", name, got[name], value)
				}
			}
		}
	}
	if got := p.Tail(3); got[0] != "a\x00b=c" {
		t.Errorf("in memory is %.100q", got)
	}
}

func TestSyslog(t *testing.T) {
	path := filepath.Join(shortDir(t), "l")
	daemon := listenAt(t, path)
	s, _ := store(t, Options{Syslog: path, Settings: choosing(Settings{Stdout: ToSyslog, Stderr: ToSyslog})})
	p := startLife(t, s, Life{Name: "shop/emails:3"})
	write(t, p.out, "hello\n")
	if got := string(datagram(t, daemon)); !regexp.MustCompile(`^<30>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d shop/emails-3: hello$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
	write(t, p.err, "oh\n")
	if got := string(datagram(t, daemon)); !strings.HasPrefix(got, "<28>") {
		t.Errorf("got %q", got)
	}
}

// A journald that is away, or does not read, costs lines and never holds a child up.
// When it is back it is told how much is missing.
func TestJournalThatIsAwayOrStuck(t *testing.T) {
	path := filepath.Join(shortDir(t), "j")
	s, log := store(t, Options{Journal: path, Settings: choosing(Settings{Stdout: ToJournal})})
	p := startLife(t, s, Life{Name: "w"})
	const total = 100_000
	for n := 0; n < total/2; n += 1000 {
		write(t, p.out, numbered(n, n+1000))
	}
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "thrown away") })
	stuck := listenAt(t, path)
	for n := total / 2; n < total; n += 1000 {
		write(t, p.out, numbered(n, n+1000))
	}
	eventually(t, "the last line is seen", func() bool { return strings.Join(p.Tail(1), "") == fmt.Sprintf("line %06d", total-1) })
	seen := make(chan struct{})
	var ending sync.WaitGroup
	ending.Go(func() { // one of these may be thrown away too, while nobody has begun to read
		for n := 0; !isDone(seen); n++ {
			if _, err := fmt.Fprintf(p.out, "the end %03d\n", n); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	defer ending.Wait()
	defer close(seen)
	lost, kept, ends := 0, 0, 0
	for {
		message := entry(t, datagram(t, stuck))["MESSAGE"]
		var n int
		if _, err := fmt.Sscanf(message, "[superd: %d bytes of output lost", &n); err == nil {
			lost += n
			continue
		}
		kept += len(message) + 1
		if _, err := fmt.Sscanf(message, "the end %d", &ends); err == nil {
			break
		}
	}
	if want := len(numbered(0, total)) + (ends+1)*len("the end 000\n"); lost == 0 || kept+lost != want {
		t.Errorf("kept %d and lost %d bytes, %d were written", kept, lost, want)
	}
}

func TestInherit(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s, _ := store(t, Options{Console: w, Settings: choosing(Settings{Stdout: Inherit, Stderr: WithStdout})})
	one, two := startLife(t, s, Life{Name: "one"}), startLife(t, s, Life{Name: "two"})
	long := strings.Repeat("x", 10_000)
	var writing sync.WaitGroup
	for p, text := range map[*pair]string{one: "one one one\n", two: long + "\n"} {
		writing.Go(func() {
			for range 200 {
				fmt.Fprint(p.out, text)
			}
		})
	}
	seen := map[string]int{}
	in := bufio.NewReader(r)
	for range 400 {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		seen[strings.TrimSuffix(line, "\n")]++
	}
	writing.Wait()
	if seen["one one one"] != 200 || seen[long] != 200 {
		t.Errorf("got %d lines, torn ones among them", len(seen))
	}
	if flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("superd's own standard output is non-blocking now: %v", err)
	}
	if got := two.Tail(1); len(got) != 1 {
		t.Error("nothing is in memory")
	}
}

// A container runtime that does not read holds no child up.
func TestInheritWhileNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s, log := store(t, Options{Console: w, Settings: choosing(Settings{Stdout: Inherit})})
	p := startLife(t, s, Life{Name: "w"})
	for n := 0; n < 100_000; n += 1000 {
		write(t, p.out, numbered(n, n+1000))
	}
	eventually(t, "the last line is seen", func() bool { return strings.Join(p.Tail(1), "") == "line 099999" })
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "thrown away") })
	go io.Copy(io.Discard, r)
	eventually(t, "it goes on", func() bool {
		write(t, p.out, "again\n")
		time.Sleep(20 * time.Millisecond)
		return strings.Contains(log.String(), "written again")
	})
}

func TestSettingsChangeWhileItRuns(t *testing.T) {
	path := filepath.Join(shortDir(t), "j")
	daemon := listenAt(t, path)
	rules := Rules{MaxSize: 1 << 20, Keep: 2}
	now := &chooser{set: Settings{Rules: rules}}
	s, _ := store(t, Options{Journal: path, Settings: now.settings})
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	next := func(set Settings, line string) {
		t.Helper()
		set.Rules = rules
		now.choose(set)
		s.Refresh()
		write(t, p.out, line+"\n")
		eventually(t, line, func() bool { return slices.Equal(p.Tail(1), []string{line}) })
	}
	own := filepath.Join(t.TempDir(), "own.txt")
	next(Settings{}, "raw")
	next(Settings{Format: Timestamps}, "stamped")
	next(Settings{Stdout: ToNone}, "nowhere")
	next(Settings{Stdout: Target(own)}, "own")
	next(Settings{Stdout: ToJournal}, "journal")
	next(Settings{}, "raw again")
	p.end(t)
	if got := content(t, filepath.Join(s.Dir, "w.log")); !regexp.MustCompile(`^raw\n\S{24,30} stamped\nraw again\n$`).MatchString(got) {
		t.Errorf("file has %q", got)
	}
	if got := content(t, own); got != "own\n" {
		t.Errorf("file of the user's own has %q", got)
	}
	if got := entry(t, datagram(t, daemon))["MESSAGE"]; got != "journal" {
		t.Errorf("the journal has %q", got)
	}
}

func TestRotationByAgeAndTotal(t *testing.T) {
	now := &chooser{set: Settings{Rules: Rules{MaxAge: 24 * time.Hour, Keep: 3}}}
	s, _ := store(t, Options{Settings: now.settings})
	path := filepath.Join(s.Dir, "w.log")
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	say := func(line string) {
		t.Helper()
		write(t, p.out, line+"\n")
		eventually(t, line, func() bool { return slices.Equal(p.Tail(1), []string{line}) })
	}
	say("young")
	say("still young")
	if exists(path + ".1") {
		t.Error("a file that is not old is rotated")
	}
	now.choose(Settings{Rules: Rules{MaxAge: time.Nanosecond, Keep: 3}})
	s.Refresh()
	say("a new day")
	if got := content(t, path+".1"); got != "young\nstill young\n" || content(t, path) != "a new day\n" {
		t.Errorf("rotated is %q", got)
	}
	now.choose(Settings{Rules: Rules{MaxSize: 1000, Keep: 9, MaxTotal: 4000}})
	s.Refresh()
	for n := range 20 {
		say(strings.Repeat("x", 600) + fmt.Sprint(n))
	}
	total := int64(0)
	files, _ := filepath.Glob(path + "*")
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			total += info.Size()
		}
	}
	if total > 4000+700 || total < 2000 { // the one in hand ends with a line
		t.Errorf("%d bytes are kept in %q", total, files)
	}
	now.choose(Settings{Rules: Rules{MaxSize: 1000}})
	s.Refresh()
	for n := range 3 {
		say(strings.Repeat("y", 600) + fmt.Sprint(n))
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("with keep = 0 there are %q", files)
	}
}

// Two generations write one file. The next superd knows which lines are whose, whatever
// the first one died of.
func TestMarksTellLivesApart(t *testing.T) {
	dir := t.TempDir()
	kept, err := NewMarks()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	again := func() *os.File { // as the keeper gives it to each superd
		fd, err := unix.FcntlInt(kept.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "marks")
	}
	s, _ := store(t, Options{Dir: dir})
	s.KeepMarks(again())
	old, bad := startLife(t, s, Life{Name: "shop/fpm", Log: "fpm.log", Mark: "old"}), startLife(t, s, Life{Name: "shop/fpm", Log: "fpm.log", Mark: "bad"})
	for n := range 100 {
		p, name := old, "old"
		if n%3 == 0 {
			p, name = bad, "bad"
		}
		write(t, p.out, fmt.Sprintf("%s %d\n", name, n))
		eventually(t, "it is stored", func() bool { return slices.Equal(p.Tail(1), []string{fmt.Sprintf("%s %d", name, n)}) })
	}
	next, _ := store(t, Options{Dir: dir})
	next.KeepMarks(again())
	for _, name := range []string{"old", "bad"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		st := next.Attach(Life{Name: "shop/fpm", Log: "fpm.log", Mark: name, Out: r})
		st.Recall()
		lines := st.Tail(100)
		if len(lines) < 33 {
			t.Errorf("%s remembers %d lines", name, len(lines))
		}
		for _, l := range lines {
			if !strings.HasPrefix(l, name+" ") {
				t.Errorf("%s is given the line %q", name, l)
			}
		}
	}
	r, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	st := next.Attach(Life{Name: "shop/fpm", Log: "fpm.log", Mark: "new", Out: r})
	if st.Recall(); len(st.Tail(9)) > 0 {
		t.Errorf("a life that wrote nothing is given %q", st.Tail(9))
	}
}

func TestMarksOfAFileThatWasCut(t *testing.T) {
	var m marks
	for i, k := range []mark{{1, 0, 7, 0}, {1, 100, 8, 0}, {2, 50, 9, 0}, {1, 200, 7, 0}, {1, 40, 8, 0}} {
		k.seq = uint64(i + 1)
		m.all = append(m.all, k)
	}
	got := m.of(1)
	if len(got) != 2 || got[0].from != 0 || got[1].from != 40 || got[1].life != 8 {
		t.Errorf("got %+v", got)
	}
}

func TestHistoryReachesIntoRotatedFiles(t *testing.T) {
	for _, format := range []Format{Raw, Timestamps, JSON} {
		t.Run(string(format), func(t *testing.T) {
			s, _ := store(t, Options{Settings: choosing(Settings{Format: format, Rules: Rules{MaxSize: 40_000, Keep: 99, Compress: true}})})
			p := startLife(t, s, Life{Name: "w", Log: "w.log"})
			var middle time.Time
			const total = 6000
			for n := 0; n < total; n += 100 {
				if n == total/2 {
					time.Sleep(30 * time.Millisecond)              // the times of files and clocks differ by some
					middle = time.Now().Truncate(time.Millisecond) // as it is stored
					time.Sleep(5 * time.Millisecond)
				}
				write(t, p.out, numbered(n, n+100))
				eventually(t, "they are stored", func() bool { return strings.HasSuffix(strings.Join(p.Tail(1), ""), fmt.Sprint(n+99)) })
			}
			s.packing.Wait()
			a, err := s.History(t.Context(), Question{Name: "w", Lines: 5000})
			if got, want := strings.Join(texts(a.Lines), "\n")+"\n", numbered(total-5000, total); err != nil || got != want {
				t.Errorf("the last 5000 lines are %d, from %.30q: %v", len(a.Lines), got, err)
			}
			a, err = s.History(t.Context(), Question{Name: "w", Lines: total, Since: middle})
			got := texts(a.Lines)
			if err != nil || len(got) == 0 || got[len(got)-1] != fmt.Sprintf("line %06d", total-1) {
				t.Fatalf("since the middle: %d lines, %v", len(got), err)
			}
			exact := strings.Join(got, "\n")+"\n" == numbered(total/2, total)
			if format == Raw && (a.Note == "" || len(got) < total/2) || format != Raw && (a.Note != "" || !exact) {
				t.Errorf("since the middle there are %d lines from %s, and the note is %q", len(got), got[0], a.Note)
			}
			a, err = s.History(t.Context(), Question{Name: "w", Lines: 10, Until: middle})
			if got := texts(a.Lines); format != Raw && (err != nil || len(got) != 10 || got[9] != fmt.Sprintf("line %06d", total/2-1)) {
				t.Errorf("until the middle: %q, %v", got, err)
			}
		})
	}
}

func TestHistoryOfWhatIsNotInMemory(t *testing.T) {
	s, _ := store(t, Options{Settings: choosing(Settings{Log: "programs/old.log"})})
	if err := os.MkdirAll(filepath.Join(s.Dir, "programs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "programs/old.log"), []byte("of an earlier superd\n"+strings.Repeat("z", 9*chunk)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := s.History(t.Context(), Question{Name: "old", Lines: 10})
	if err != nil || len(a.Lines) != 2 || a.Lines[0].Text != "of an earlier superd" || len(a.Lines[1].Text) > 2*maxLine {
		t.Errorf("got %d lines, %v", len(a.Lines), err)
	}
}

func TestClear(t *testing.T) {
	s, _ := store(t, Options{Settings: choosing(Settings{Rules: Rules{MaxSize: 2000, Keep: 9}})})
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	for n := 0; n < 1000; n += 100 {
		write(t, p.out, numbered(n, n+100))
		eventually(t, "they are stored", func() bool { return strings.HasSuffix(strings.Join(p.Tail(1), ""), fmt.Sprint(n+99)) })
	}
	if err := s.Clear("w"); err != nil {
		t.Fatal(err)
	}
	if a, err := s.History(t.Context(), Question{Name: "w", Lines: 10}); err != nil || len(a.Lines) > 0 {
		t.Errorf("after it there is %q, %v", texts(a.Lines), err)
	}
	write(t, p.out, "fresh\n")
	p.end(t)
	if files, _ := filepath.Glob(s.Dir + "/*"); len(files) != 1 || content(t, files[0]) != "fresh\n" {
		t.Errorf("files are %q", files)
	}
	s.Settings = choosing(Settings{Log: "not/yet.log"})
	if err := s.Clear("nobody"); err != nil {
		t.Errorf("of one that has written nothing: %v", err)
	}
	if files, _ := filepath.Glob(s.Dir + "/*"); len(files) != 1 {
		t.Errorf("files are %q", files)
	}
}

func TestOverhear(t *testing.T) {
	s, _ := store(t, Options{Settings: choosing(Settings{Format: JSON})})
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	write(t, p.out, "before\n")
	eventually(t, "a line", func() bool { return len(p.Tail(1)) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	heard := s.Overhear(ctx, "w")
	var got strings.Builder
	for _, part := range []string{"prompt> ", "\x1b[1m", "\xff\n"} {
		write(t, p.out, part)
		for n := 0; n < len(part); {
			l := <-heard
			n += len(l.Text)
			got.WriteString(l.Text)
		}
	}
	if got.String() != "prompt> \x1b[1m\xff\n" {
		t.Errorf("heard %q", got.String())
	}
	cancel()
	if _, ok := <-heard; ok {
		t.Error("it goes on after its end")
	}
}

// FuzzFormats stores lines as they may come, cut anywhere, and takes them apart again.
func FuzzFormats(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n\xffc"), 3, true)
	f.Add([]byte(strings.Repeat("x", 100)+"\ny"), 7, false)
	f.Fuzz(func(t *testing.T, b []byte, most int, asJSON bool) {
		format := Timestamps
		if asJSON {
			format = JSON
		}
		p := &port{life: &Stream{life: Life{Name: "w"}}}
		var stored []byte
		size := 0
		for _, piece := range cut(b, false, 1+max(most, -most)%1000, true) {
			size += piece.size()
			stored = format.append(stored, p, piece, time.Unix(1, 0))
		}
		if size != len(b) {
			t.Fatalf("%d bytes of %d", size, len(b))
		}
		var got []byte
		for line := range strings.Lines(string(stored)) {
			text, at, _ := format.parse([]byte(line))
			if !at.Equal(time.Unix(1, 0)) {
				t.Fatalf("%q has the time %s", line, at)
			}
			got = append(got, text...)
		}
		want := string(b)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(got) != want {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// What a superd that was killed in the middle of a write has left is mended, and nothing
// else is touched.
func TestTornLinesAreMended(t *testing.T) {
	now := time.Now().Format(stamp)
	for name, tt := range map[string]struct {
		format      Format
		left, stays string
	}{
		"whole":              {JSON, "{\"time\":\"x\"}\n", "{\"time\":\"x\"}\n"},
		"torn object":        {JSON, "a\n{\"time\":\"2026", "a\n"},
		"torn at the start":  {JSON, "{\"ti", ""},
		"raw before objects": {JSON, "raw\nprompt> ", "raw\nprompt> \n"},
		"torn line":          {Timestamps, "a\n" + now + " hel", "a\n"},
		"torn time":          {Timestamps, "a\n" + now[:9], "a\n"},
		"raw before times":   {Timestamps, "prompt> ", "prompt> \n"},
		"a long line":        {Timestamps, now + " " + strings.Repeat("x", mostTorn), now + " " + strings.Repeat("x", mostTorn) + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := store(t, Options{Settings: choosing(Settings{Format: tt.format})})
			path := filepath.Join(s.Dir, "w.log")
			if err := os.WriteFile(path, []byte(tt.left), 0o600); err != nil {
				t.Fatal(err)
			}
			p := startLife(t, s, Life{Name: "w", Log: "w.log"})
			write(t, p.out, "next\n")
			p.end(t)
			got, found := strings.CutPrefix(content(t, path), tt.stays)
			b, at, _ := tt.format.parse([]byte(got))
			if !found || string(b) != "next\n" || at.IsZero() {
				t.Errorf("file has %.200q", content(t, path))
			}
		})
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

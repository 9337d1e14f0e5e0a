package output

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// numbered is lines from..to-1.
func numbered(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&b, "line %06d\n", n)
	}
	return b.String()
}

// gathered is the content of the log and its rotated files, the oldest first.
func gathered(t *testing.T, path string, keep int) string {
	t.Helper()
	var b strings.Builder
	for n := keep; n >= 1; n-- {
		old := fmt.Sprintf("%s.%d", path, n)
		if f, err := os.Open(old + ".gz"); err == nil {
			z, err := gzip.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&b, z); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if exists(old) {
				t.Errorf("%s is there twice", old)
			}
		} else if exists(old) {
			b.WriteString(content(t, old))
		}
	}
	return b.String() + content(t, path)
}

func TestRotation(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%v", compress), func(t *testing.T) {
			s, _ := store(t, Options{MaxSize: 3000, Keep: 50, Compress: compress})
			c := start(t, s, "w", "w.log")
			path := filepath.Join(s.Dir, "w.log")
			for n := 0; n < 10_000; n += 100 {
				c.say(t, numbered(n, n+100))
				eventually(t, "the pipe is empty", func() bool { return strings.HasSuffix(strings.Join(c.Tail(1), ""), fmt.Sprint(n+99)) })
			}
			c.end(t)
			s.packing.Wait()
			got := gathered(t, path, 50)
			if got != numbered(0, 10_000) {
				t.Errorf("the files together have %d bytes, want the %d that were written", len(got), len(numbered(0, 10_000)))
			}
			if !exists(path+".30") && !exists(path+".30.gz") {
				t.Error("there are fewer files than the size asks for")
			}
			if exists(path + ".gz.part") {
				t.Error("a half compressed file is left")
			}
		})
	}
}

func TestRotationKeepsAsManyAsAsked(t *testing.T) {
	s, _ := store(t, Options{MaxSize: 1000, Keep: 3})
	path := filepath.Join(s.Dir, "w.log")
	if err := os.WriteFile(path+".2", []byte("left by a rotation that was cut off\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := start(t, s, "w", "w.log")
	for n := 0; n < 2000; n += 100 {
		c.say(t, numbered(n, n+100))
		eventually(t, "the pipe is empty", func() bool { return strings.HasSuffix(strings.Join(c.Tail(1), ""), fmt.Sprint(n+99)) })
	}
	c.end(t)
	if exists(path + ".4") {
		t.Error("more than 3 are kept")
	}
	got := gathered(t, path, 3)
	if !strings.HasSuffix(numbered(0, 2000), got) || len(got) < 3*1000 {
		t.Errorf("what is kept is not the end of what was written: %d bytes from %.12q", len(got), got)
	}
}

func TestOthersMoveTheFile(t *testing.T) {
	s, _ := store(t, Options{})
	path := filepath.Join(s.Dir, "shop", "w.log")
	c := start(t, s, "w", "shop/w.log")
	n := 0
	arrives := func(t *testing.T) {
		t.Helper()
		eventually(t, "a new line in "+path, func() bool {
			n++
			c.say(t, numbered(n, n+1))
			time.Sleep(20 * time.Millisecond)
			b, err := os.ReadFile(path)
			return err == nil && strings.HasSuffix(string(b), numbered(n, n+1))
		})
	}
	arrives(t)
	for name, move := range map[string]func() error{
		"file removed":      func() error { return os.Remove(path) },
		"file renamed":      func() error { return os.Rename(path, path+".away") },
		"file replaced":     func() error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("x\n"), 0o600)) },
		"file cut":          func() error { return os.Truncate(path, 0) },
		"directory removed": func() error { return os.RemoveAll(filepath.Dir(path)) },
		"directory renamed": func() error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".away") },
		"log dir removed":   func() error { return os.RemoveAll(s.Dir) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := move(); err != nil {
				t.Fatal(err)
			}
			arrives(t)
			if strings.Contains(content(t, path), "\x00") {
				t.Error("the file has a hole")
			}
		})
	}
}

func TestNothingIsLostWhenTheFileIsRemoved(t *testing.T) {
	s, _ := store(t, Options{})
	path := filepath.Join(s.Dir, "w.log")
	c := start(t, s, "w", "w.log")
	c.say(t, "before\n")
	eventually(t, "it is written", func() bool { return len(c.Tail(1)) == 1 })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.say(t, "after\n")
	c.end(t)
	if got := content(t, path); got != "after\n" {
		t.Errorf("file has %q", got)
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	t.Parallel()
	s, log := store(t, Options{})
	target := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(target, []byte("root\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir, "w.log")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	c := start(t, s, "w", "w.log")
	c.say(t, "evil\n")
	eventually(t, "it is told", func() bool { return strings.Contains(log.String(), "thrown away") })
	if got := content(t, target); got != "root\n" {
		t.Errorf("the target of the link has %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.say(t, "good\n")
	c.end(t)
	got := content(t, path)
	if !strings.HasPrefix(got, "[superd: 5 bytes of output lost from ") || !strings.HasSuffix(got, "]\ngood\n") {
		t.Errorf("file has %q", got)
	}
	d := start(t, s, "x", "../x.log")
	d.say(t, "out\n")
	d.end(t)
	if exists(filepath.Join(s.Dir, "../x.log")) {
		t.Error("a log outside of the log directory was made")
	}
}

func TestFifoIsNoLog(t *testing.T) {
	t.Parallel()
	s, log := store(t, Options{})
	if err := unix.Mkfifo(filepath.Join(s.Dir, "w.log"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, s, "w", "w.log")
	c.say(t, "a\n")
	c.end(t) // does not hang
	if got := c.Tail(1); len(got) != 1 || got[0] != "a" {
		t.Errorf("tail %q", got)
	}
	if !strings.Contains(log.String(), "thrown away") {
		t.Errorf("nobody was told: %s", log)
	}
}

// small is a directory on a disk of its own.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("superd-test", dir, "tmpfs", 0, "size="+size); err != nil {
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
	return dir
}

// fill leaves no room in dir and returns the file that takes it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return ballast
}

func TestFullDisk(t *testing.T) {
	s, log := store(t, Options{Dir: small(t, "1m"), MaxSize: 64 << 20})
	c := start(t, s, "w", "w.log")
	c.say(t, numbered(0, 10))
	eventually(t, "ten lines", func() bool { return len(c.Tail(20)) == 10 })
	ballast := fill(t, s.Dir)

	began := time.Now()
	const total = 1_000_000 // lines; 12 MB, far more than the pipe takes
	for n := 10; n < total; n += 1000 {
		c.say(t, numbered(n, min(n+1000, total)))
	}
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("the child was held up for %s", took)
	}
	eventually(t, "the last line is seen", func() bool { return strings.Join(c.Tail(1), "") == "line 999999" })
	if heap := heapInUse(); heap > 64<<20 {
		t.Errorf("%d bytes in memory", heap)
	}
	if got := strings.Count(log.String(), "thrown away"); got != 1 {
		t.Errorf("told %d times: %s", got, log)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.say(t, "there is room again\n")
	c.end(t)
	got := content(t, filepath.Join(s.Dir, "w.log"))
	before, word, ok := strings.Cut(got, "[superd: ")
	word, after, ok2 := strings.Cut(word, "]\n")
	var lost int
	if _, err := fmt.Sscanf(word, "%d bytes of output lost", &lost); err != nil || !ok || !ok2 {
		t.Fatalf("the file does not say what is missing: %.200q", got)
	}
	before = strings.TrimSuffix(before, "\n")
	if !strings.HasPrefix(numbered(0, total), before) {
		t.Error("what was written before the loss is not what the child wrote")
	}
	if !strings.HasSuffix(after, "there is room again\n") || !strings.Contains(word, "no space left") {
		t.Errorf("after the loss: %q, why: %q", after, word)
	}
	if !strings.Contains(log.String(), "written again") {
		t.Errorf("the log does not tell of the end: %s", log)
	}
	whole := len(numbered(0, total)) + len("there is room again\n")
	if have := len(before) + lost + len(after); have != whole && have != whole-1 { // the end of a line may be the notice's own
		t.Errorf("kept and lost are %d bytes, written were %d", have, whole)
	}
}

// A short time without room costs nothing: the bytes wait in the pipe.
func TestFullDiskForAMoment(t *testing.T) {
	s, log := store(t, Options{Dir: small(t, "1m")})
	c := start(t, s, "w", "w.log")
	c.say(t, numbered(0, 1))
	eventually(t, "a line", func() bool { return len(c.Tail(1)) == 1 })
	ballast := fill(t, s.Dir)
	c.say(t, numbered(1, 1000)) // 12 kB; the page at hand takes a third of it
	eventually(t, "the disk refuses", func() bool { return failing(s, "w.log") })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.end(t)
	if got := content(t, filepath.Join(s.Dir, "w.log")); got != numbered(0, 1000) {
		t.Errorf("file has %d bytes, want all: %s", len(got), log)
	}
}

func TestFullDiskAtTheEnd(t *testing.T) {
	s, _ := store(t, Options{Dir: small(t, "64k")})
	fill(t, s.Dir)
	c := start(t, s, "w", "w.log")
	c.say(t, "fatal: why I died\n")
	c.Finish()
	wait(t, c.done)
	if got := c.Tail(1); len(got) != 1 || got[0] != "fatal: why I died" {
		t.Errorf("tail %q", got)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestFlood(t *testing.T) {
	s, _ := store(t, Options{MaxSize: 16 << 20, Keep: 2})
	for _, format := range []Format{Timestamps, JSON} { // a tenth: there is more to do, and to store
		t.Run(string(format), func(t *testing.T) {
			s, _ := store(t, Options{Settings: choosing(Settings{Format: format, Rules: Rules{MaxSize: 16 << 20, Keep: 2}})})
			p := startLife(t, s, Life{Name: "w", Log: "w.log"})
			most := uint64(0)
			line := strings.Repeat("x", 60_000) // one line of all
			for sent, step := 0, 0; sent < flood/10; step++ {
				write(t, p.out, line)
				sent += len(line)
				if step%200 == 0 {
					most = max(most, heapInUse())
				}
			}
			p.end(t)
			if most > 32<<20 {
				t.Errorf("up to %d bytes in memory", most)
			}
		})
	}
	for name, text := range map[string]string{"lines": strings.Repeat(strings.Repeat("a line of usual length ", 4)+"\n", 600), "one line without an end": strings.Repeat("x", 60_000)} {
		t.Run(name, func(t *testing.T) {
			c := start(t, s, "w "+name, "w.log")
			most := uint64(0)
			for sent, step := 0, 0; sent < flood/2; step++ {
				c.say(t, text)
				sent += len(text)
				if step%500 == 0 {
					most = max(most, heapInUse())
				}
			}
			c.end(t)
			if most > 32<<20 {
				t.Errorf("up to %d bytes in memory", most)
			}
		})
	}
}

// failing tells whether the disk refuses a file at the moment.
func failing(s *Store, log string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[filepath.Join(s.Dir, log)]
	return f != nil && f.failedFor() > 0
}

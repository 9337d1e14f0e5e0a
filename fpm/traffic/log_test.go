package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary a PHP-FPM that writes its access log.
func TestMain(m *testing.M) {
	if path := os.Getenv("SUPERD_TEST_WRITE"); path != "" {
		var n int
		_, _ = fmt.Sscan(os.Getenv("SUPERD_TEST_LINES"), &n)
		os.Exit(writeLines(path, n))
	}
	os.Exit(m.Run())
}

func writeLines(path string, n int) int {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 1
	}
	for i := range n {
		if _, err := fmt.Fprintf(f, "%d 1.500 -\n", 200+300*(i%2)); err != nil {
			return 1
		}
	}
	return 0
}

// logIn makes an empty access log on a file system of the given type; "": wherever
// temporary files are.
func logIn(t *testing.T, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	if kind != "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can mount")
		}
		if err := unix.Mount("superd-test", dir, kind, 0, options); err != nil {
			t.Fatalf("mount %s: %v", kind, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	path := filepath.Join(dir, "access.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// room is what a file takes, in bytes.
func room(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestLines(t *testing.T) {
	t.Parallel()
	path := logIn(t, "", "")
	l := Open(path)
	appendTo(t, path, "200 1.000 -\n500 20.000 -\n200 1.000 1\n503 0.1") // one of ours, and half a line
	must(t, l.Read())
	if got := l.Figures().Total; got.Answers != 2 || got.Errors != 1 {
		t.Errorf("%+v", got)
	}
	appendTo(t, path, "00 -\n200 1.\x00\x00\nhello\n\n200 -1 -\n200 NaN -\n9999 1 -\n200 1 - 2\n"+strings.Repeat("x", 3*chunk)+"\n200 7.000 -\n")
	must(t, l.Read())
	if got := l.Figures(); got.Total.Answers != 4 || got.Total.Errors != 2 || got.Recent != got.Total {
		t.Errorf("%+v", got)
	}
	l.Kill()
	if got := l.Figures(); got.Total.Failed() != 3 || got.Recent != got.Total {
		t.Errorf("%+v", got)
	}
}

// Several processes write while lines are read and freed, and superds come and go,
// some without a word. Every line counts once, and the file takes next to no room.
func TestNoLineIsLostOrCountedTwice(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]string{"here": "", "tmpfs": "tmpfs"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := logIn(t, kind, "")
			const processes, lines = 4, 50000
			var writing sync.WaitGroup
			for range processes {
				writing.Go(func() {
					cmd := exec.Command(os.Args[0])
					cmd.Env = append(os.Environ(), "SUPERD_TEST_WRITE="+path, fmt.Sprint("SUPERD_TEST_LINES=", lines))
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v: %s", err, out)
					}
				})
			}
			over := make(chan struct{})
			go func() { writing.Wait(); close(over) }()
			l := Open(path)
			var most int64
			lives := 1
			for n, done := 0, false; !done; n++ {
				select {
				case <-over:
					done = true
				default:
				}
				must(t, l.Read())
				if n%3 == 0 {
					l.mu.Lock()
					must(t, l.settle())
					l.mu.Unlock()
				}
				if n%7 == 0 { // killed, after whatever it did last
					l, lives = Open(path), lives+1
				}
				most = max(most, room(t, path))
			}
			must(t, l.Read())
			if got := l.Figures().Total; got.Answers != processes*lines || got.Errors != processes*lines/2 {
				t.Errorf("%d answers and %d errors were counted, want %d and %d", got.Answers, got.Errors, processes*lines, processes*lines/2)
			}
			must(t, l.Close())
			if at := room(t, path); at > 2*page {
				t.Errorf("what has been read takes %d bytes", at)
			}
			info, err := os.Stat(path)
			must(t, err)
			t.Logf("%d lives; of %d bytes up to %d were there at once", lives, info.Size(), most)
		})
	}
}

// A superd is killed between every two steps: before it saves, and before it frees.
func TestKilledBetweenTheSteps(t *testing.T) {
	t.Parallel()
	path := logIn(t, "", "")
	appendTo(t, path, strings.Repeat("200 1.000 -\n", 1000))
	first := Open(path)
	first.saved = time.Now() // not now
	must(t, first.Read())
	second := Open(path)
	must(t, second.reopen())
	must(t, second.count())
	must(t, second.save())
	third := Open(path)
	appendTo(t, path, strings.Repeat("500 1.000 -\n", 1000))
	must(t, third.Read())
	if got := third.Figures().Total; got.Answers != 2000 || got.Errors != 1000 {
		t.Errorf("%+v", got)
	}
	if at := room(t, path); at > 2*page {
		t.Errorf("what has been read takes %d bytes", at)
	}
}

// On a full disk nothing stops: what has been read is freed although it can't be
// saved, and is not counted again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	path := logIn(t, "tmpfs", "size=256k")
	appendTo(t, path, strings.Repeat("200 1.000 -\n", 5000))
	fill, err := os.Create(filepath.Join(filepath.Dir(path), "fill"))
	must(t, err)
	defer fill.Close()
	for err == nil {
		_, err = fill.Write(make([]byte, page))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	l := Open(path)
	if err := l.Read(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if got := l.Figures().Total; got.Answers != 5000 {
		t.Errorf("%+v", got)
	}
	if at := room(t, path); at > page {
		t.Errorf("what has been read takes %d bytes", at)
	}
	appendTo(t, path, "500 1.000 -\n") // there is room again
	next := Open(path)                 // the one before was killed without having saved
	must(t, next.Read())
	if got := next.Figures().Total; got.Answers > 400 || got.Errors != 1 {
		t.Errorf("what was freed is counted: %+v", got)
	}
	must(t, next.Close())
}

// What was freed is not read again, however much it is: here a TiB.
func TestHoleIsSkipped(t *testing.T) {
	t.Parallel()
	path := logIn(t, "", "")
	must(t, os.Truncate(path, 1<<40))
	appendTo(t, path, "200 1.000 -\n")
	l := Open(path)
	read := make(chan error, 1)
	go func() { read <- l.Read() }()
	select {
	case err := <-read:
		must(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("it is still reading the hole")
	}
	if got := l.Figures().Total; got.Answers != 1 {
		t.Errorf("%+v", got)
	}
	must(t, l.Close())
}

// A file system without holes: the file is begun anew when it is too long.
func TestNoHoles(t *testing.T) {
	t.Parallel()
	path := logIn(t, "ramfs", "")
	l := Open(path)
	for i := range 20 {
		appendTo(t, path, strings.Repeat("200 1.000 -\n", 10000))
		l.saved = time.Time{}
		must(t, l.Read())
		if info, err := os.Stat(path); err != nil || i < 8 && info.Size() < int64(i+1)*120000 { // each time may cost a line
			t.Errorf("it is cut at %d bytes, %v", info.Size(), err)
		}
	}
	if got := l.Figures().Total; got.Answers != 200000 {
		t.Errorf("%+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*tooLong {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	appendTo(t, path, "500 1.000 -\n")
	next := Open(path)
	must(t, next.Read())
	if got := next.Figures().Total; got.Answers != 200001 || got.Errors != 1 {
		t.Errorf("the next one: %+v", got)
	}
}

// A log that is gone, is another one, or is no file.
func TestLogIsGone(t *testing.T) {
	t.Parallel()
	path := logIn(t, "", "")
	appendTo(t, path, "200 1.000 -\n")
	l := Open(path)
	must(t, l.Read())
	must(t, os.Rename(path, path+".old"))
	if err := l.Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	must(t, os.WriteFile(path, []byte("500 1.000 -\n"), 0o600))
	must(t, l.Read())
	if got := l.Figures().Total; got.Answers != 2 || got.Errors != 1 {
		t.Errorf("%+v", got)
	}
	must(t, os.Truncate(path, 0))
	appendTo(t, path, "500 1.\n")
	must(t, l.Read())
	appendTo(t, path, "500 1.000 -\n")
	must(t, l.Read())
	if got := l.Figures().Total; got.Answers != 3 {
		t.Errorf("after it was cut short: %+v", got)
	}
	must(t, os.Remove(path))
	must(t, os.Mkdir(path, 0o700))
	if err := l.Read(); err == nil {
		t.Error("a directory was read")
	}
	must(t, l.Close())
}

// What was counted is unreadable: it begins anew.
func TestDamagedCounts(t *testing.T) {
	t.Parallel()
	path := logIn(t, "", "")
	must(t, os.WriteFile(path+Saved, []byte(`{"offset": 7, "total": {"answers"`), 0o600))
	appendTo(t, path, "200 1.000 -\n")
	l := Open(path)
	must(t, l.Read())
	if got := l.Figures().Total; got.Answers != 1 {
		t.Errorf("%+v", got)
	}
	must(t, l.Close())
}

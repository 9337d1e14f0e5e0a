package output

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the superd that is killed.
func TestMain(m *testing.M) {
	if total, err := strconv.Atoi(os.Getenv("OUTPUT_TEST_POUR")); err == nil {
		bePouring(total)
		os.Exit(0)
	}
	if dir := os.Getenv("OUTPUT_TEST_MOVER"); dir != "" {
		o := Options{Dir: dir, MaxSize: 200_000, Keep: 1000, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
		if format := Format(os.Getenv("OUTPUT_TEST_FORMAT")); format != "" {
			o.Settings = choosing(Settings{Format: format, Rules: Rules{MaxSize: 200_000, Keep: 1000}})
		}
		s := Open(o)
		if err := syscall.SetNonblock(3, true); err != nil { // exec has made it blocking
			panic(err)
		}
		pipe := os.NewFile(3, "pipe")
		s.Attach(Life{Name: "w", Log: "w.log", Out: pipe}).Run(context.Background())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKilled kills the mover of a child's lines again and again while the child
// writes, and looks for every line once.
func TestKilled(t *testing.T) {
	lines, n := killed(t, "", 30)
	if len(lines) != n {
		t.Errorf("%d lines, %d were written", len(lines), n)
	}
	for i, l := range lines {
		if want := numberedLine(i); l != want {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	t.Logf("%d lines over 30 kills", n)
}

// TestKilledWithFormats does it where lines are stored with something around them:
// every line is there, in order, and only what was stored at the moment of a death may
// be there twice.
func TestKilledWithFormats(t *testing.T) {
	for _, format := range []Format{Timestamps, JSON} {
		t.Run(string(format), func(t *testing.T) {
			const kills = 12
			lines, n := killed(t, format, kills)
			next, twice := 0, 0
			for i, l := range lines {
				text, at, _ := format.parse([]byte(l + "\n"))
				if at.IsZero() {
					t.Fatalf("line %d is torn: %q", i, l)
				}
				var number int
				if _, err := fmt.Sscanf(string(text), "line %d", &number); err != nil || string(text) != numberedLine(number)+"\n" {
					t.Fatalf("line %d is %q", i, text)
				}
				switch {
				case number == next:
					next++
				case number < next: // told again from where a superd had not taken it off
					twice, next = twice+1, number+1
				default:
					t.Fatalf("after line %d comes line %d", next-1, number)
				}
			}
			if next != n || twice > kills {
				t.Errorf("the last line is %d of %d, %d times some were stored again", next, n, twice)
			}
			t.Logf("%d lines over %d kills, stored again %d times", n, kills, twice)
		})
	}
}

func numberedLine(n int) string { return fmt.Sprintf("line %06d %s", n, strings.Repeat("x", n%300)) }

// killed is the lines that are stored, and how many were written.
func killed(t *testing.T, format Format, kills int) ([]string, int) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	written := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { w.Close(); written <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				fmt.Fprintln(w, numberedLine(n))
				n++
			}
		}
	}()
	mover := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "OUTPUT_TEST_MOVER="+dir, "OUTPUT_TEST_FORMAT="+string(format))
		cmd.ExtraFiles = []*os.File{r}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	size := func() (sum int64) {
		files, _ := filepath.Glob(dir + "/*")
		for _, f := range files {
			if info, err := os.Stat(f); err == nil {
				sum += info.Size()
			}
		}
		return sum
	}
	for round := range kills {
		cmd, before := mover(), size()
		eventually(t, "it moves", func() bool { return size() > before })
		time.Sleep(time.Duration(round) * time.Millisecond) // anywhere in its work
		cmd.Process.Kill()
		cmd.Wait()
	}
	close(stop)
	last := mover()
	n := <-written
	if err := last.Wait(); err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSuffix(gathered(t, filepath.Join(dir, "w.log"), 1000), "\n")
	return strings.Split(text, "\n"), n
}

package output

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the superd that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("OUTPUT_TEST_MOVER"); dir != "" {
		s := Open(Options{Dir: dir, MaxSize: 200_000, Keep: 1000, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
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
				fmt.Fprintf(w, "line %06d %s\n", n, strings.Repeat("x", n%300))
				n++
			}
		}
	}()
	mover := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "OUTPUT_TEST_MOVER="+dir)
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
	for round := range 30 {
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
	lines := strings.Split(gathered(t, filepath.Join(dir, "w.log"), 1000), "\n")
	if len(lines) != n+1 {
		t.Errorf("%d lines, %d were written", len(lines)-1, n)
	}
	for i, l := range lines[:len(lines)-1] {
		if want := fmt.Sprintf("line %06d %s", i, strings.Repeat("x", i%300)); l != want {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	t.Logf("%d lines over 30 kills", n)
}

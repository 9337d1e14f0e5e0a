// Package keepertest gives tests a real keeper of their own: the real binary, with
// a program in superd's place that only sleeps, so that the test commands.
package keepertest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Keeper is a running superd-keeper.
type Keeper struct {
	t      testing.TB
	socket string
	cmd    *exec.Cmd
	words  *words
	gone   chan struct{}
	code   int

	mu   sync.Mutex
	left []process // what it kept when it was killed
}

// Start starts a keeper, waits until it serves, and ends it and everything it
// keeps at the end of the test.
func Start(t testing.TB) *Keeper {
	t.Helper()
	return StartFor(t, "sleep", "infinity")
}

// StartFor is Start with a program of the test's own in superd's place.
func StartFor(t testing.TB, superd ...string) *Keeper {
	t.Helper()
	return Launch(t, nil, superd...).serving()
}

// StartProgram is StartFor with another program in the keeper's place too.
func StartProgram(t testing.TB, keeper string, superd ...string) *Keeper {
	t.Helper()
	return launch(t, keeper, socketFor(t), nil, superd).serving()
}

// StartWith is Start for a given socket, with a prefix before the command as in Launch
// and with files, which become descriptors 3, 4 and so on.
func StartWith(t testing.TB, socket string, files []*os.File, prefix ...string) *Keeper {
	t.Helper()
	return launch(t, Binary(t), socket, prefix, []string{"sleep", "infinity"}, files...).serving()
}

// serving waits until the keeper serves.
func (k *Keeper) serving() *Keeper {
	t := k.t
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err := os.Stat(k.socket); err == nil {
			return k
		}
		select {
		case <-k.gone:
			t.Fatalf("keeper ended with %d before it served: %s", k.code, k.Said())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("keeper does not serve: %s", k.Said())
		}
	}
}

// Launch starts a keeper and does not wait for it. prefix, such as prlimit with its
// arguments, is put before its command and must become it by exec.
func Launch(t testing.TB, prefix []string, superd ...string) *Keeper {
	t.Helper()
	return LaunchAt(t, socketFor(t), prefix, superd...)
}

func socketFor(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "k.sock")
}

// LaunchAt is Launch for a given socket.
func LaunchAt(t testing.TB, socket string, prefix []string, superd ...string) *Keeper {
	t.Helper()
	return launch(t, Binary(t), socket, prefix, superd)
}

func launch(t testing.TB, keeper, socket string, prefix, superd []string, files ...*os.File) *Keeper {
	t.Helper()
	argv := append(append(append([]string{}, prefix...), keeper, "run", "--socket", socket, "--"), superd...)
	k := &Keeper{t: t, socket: socket, words: &words{}, gone: make(chan struct{})}
	k.cmd = exec.Command(argv[0], argv[1:]...)
	k.cmd.Stderr = k.words
	k.cmd.ExtraFiles = files
	k.cmd.WaitDelay = time.Second // what it keeps may hold its standard error
	if err := k.cmd.Start(); err != nil {
		t.Fatalf("start keeper: %v", err)
	}
	go func() {
		_ = k.cmd.Wait()
		k.code = k.cmd.ProcessState.ExitCode()
		close(k.gone)
	}()
	t.Cleanup(k.end)
	return k
}

// Socket is where the keeper serves.
func (k *Keeper) Socket() string { return k.socket }

// PID is the keeper's.
func (k *Keeper) PID() int { return k.cmd.Process.Pid }

// Said is what the keeper and the program in superd's place wrote to standard error.
func (k *Keeper) Said() string { return k.words.String() }

// Gone is closed when the keeper has ended.
func (k *Keeper) Gone() <-chan struct{} { return k.gone }

// Code is the keeper's exit code once it is gone, -1 after a signal.
func (k *Keeper) Code() int { return k.code }

// Signal sends sig to the keeper, which passes it on to who commands: the test,
// unless a program of its own does.
func (k *Keeper) Signal(sig os.Signal) error { return k.cmd.Process.Signal(sig) }

// Kill ends the keeper alone, with SIGKILL. What it kept lives on until the end of
// the test.
func (k *Keeper) Kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = append(k.left, family(k.PID())...)
	_ = k.cmd.Process.Kill()
	<-k.gone
}

// end kills the keeper and its whole family. The keeper is stopped meanwhile, so
// that it starts nothing, and dies last, so that nothing leaves the family.
func (k *Keeper) end() {
	_ = k.cmd.Process.Signal(unix.SIGSTOP)
	for range 1000 {
		alive := 0
		for _, p := range family(k.PID()) {
			if p.kill() {
				alive++
			}
		}
		if alive == 0 {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	k.Kill()
	for _, p := range k.left {
		for _, q := range append(family(p.pid), p) {
			q.kill()
		}
	}
}

type process struct {
	pid   int
	start string
}

// kill reports whether it was still there.
func (p process) kill() bool {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	f := stat(p.pid)
	if len(f) < 20 || f[19] != p.start || f[0] == "Z" {
		return false
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// stat are the fields of /proc/PID/stat from the third on.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// family are all descendants of a process.
func family(pid int) []process {
	names, _ := filepath.Glob("/proc/[1-9]*")
	parents, all := map[int]int{}, map[int]process{}
	for _, n := range names {
		p, err := strconv.Atoi(filepath.Base(n))
		if f := stat(p); err == nil && len(f) >= 20 {
			parents[p], _ = strconv.Atoi(f[1])
			all[p] = process{p, f[19]}
		}
	}
	var found []process
	for p := range all {
		for up, depth := parents[p], 0; up > 0 && depth < 1000; up, depth = parents[up], depth+1 {
			if up == pid {
				found = append(found, all[p])
				break
			}
		}
	}
	return found
}

var binary = sync.OnceValues(build)

// Binary is a path to the keeper's binary, built from this source. It is good as
// long as the test's process lives, and leaves no file behind.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "superd-keeper")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "superd/cmd/superd-keeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build superd-keeper: %w\n%s", err, out)
	}
	fd, err := unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}

// words collects what is written, from one goroutine, for another.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Leaf is the cgroup of one life of a child. One that was removed holds nobody, and has
// no figures.
type Leaf struct{ dir string }

// ErrBusy is why a leaf was not removed: somebody lives in it.
var ErrBusy = errors.New("processes live in it")

// Name is the leaf's name in its tree.
func (l *Leaf) Name() string { return filepath.Base(l.dir) }

// Open is the directory, for a child to be born in. The caller closes it.
func (l *Leaf) Open() (*os.File, error) {
	f, err := os.OpenFile(l.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a cgroup: %w", err)
	}
	return f, nil
}

// PIDs are the processes that live in it and in what they have made below it. One that
// this process cannot see, for it is of another PID namespace, is left out.
func (l *Leaf) PIDs() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list the processes of a cgroup: %w", err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil // one that moved while we looked is there twice
}

// Kill sends SIGKILL to everything in it at once: nothing escapes by a fork.
func (l *Leaf) Kill() error {
	if err := write(l.dir, "cgroup.kill", "1"); err != nil && !gone(err) {
		return fmt.Errorf("kill a cgroup: %w", err)
	}
	return nil
}

// Empty waits until nobody lives in it, for no longer than d, and tells whether that is
// so. What has ended and was not reaped yet does not live.
func (l *Leaf) Empty(d time.Duration) (bool, error) {
	f, err := os.Open(filepath.Join(l.dir, "cgroup.events"))
	if gone(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch a cgroup: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	for end := time.Now().Add(d); ; {
		var b [256]byte
		n, err := f.ReadAt(b[:], 0)
		if gone(err) {
			return true, nil
		}
		populated, ok := find(b[:n], "populated")
		if !ok {
			return false, fmt.Errorf("watch a cgroup: cgroup.events says %q: %w", b[:n], err)
		}
		left := time.Until(end)
		if populated == 0 || left <= 0 {
			return populated == 0, nil
		}
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}} // the kernel wakes who watches at each change
		if _, err := unix.Poll(p, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("watch a cgroup: %w", err)
		}
	}
}

// Remove removes it, with what its processes have made below it. ErrBusy tells that
// somebody lives in it; one that is gone is no error.
func (l *Leaf) Remove() error {
	var below []string
	err := unix.Rmdir(l.dir)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		if empty, looked := l.Empty(0); looked == nil && !empty {
			return ErrBusy // and whatever is below it stays too
		}
		_ = filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error { // what cannot be read cannot be removed either, which is told
			if err == nil && d.IsDir() {
				below = append(below, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(below) { // the deepest come last
			err = unix.Rmdir(dir)
		}
	}
	switch {
	case err == nil, gone(err):
		return nil
	case errors.Is(err, unix.EBUSY):
		return ErrBusy
	}
	return fmt.Errorf("remove a cgroup: %w", err)
}

// Memory is what its processes take, in bytes: all that is charged to them but files that
// the kernel keeps at hand, which it drops when somebody needs the room. False where the
// kernel does not count it.
func (l *Leaf) Memory() (int64, bool) {
	all, ok := figure(l.dir, "memory.current")
	if !ok {
		return 0, false
	}
	b, err := os.ReadFile(filepath.Join(l.dir, "memory.stat"))
	if err != nil {
		return 0, false
	}
	files, ok := find(b, "file")
	shared, _ := find(b, "shmem") // is counted as files, and cannot be dropped
	return max(0, all-max(0, files-shared)), ok
}

// CPU is the time of processors that all processes that ever were in it have used.
func (l *Leaf) CPU() (time.Duration, bool) {
	n, ok := field(l.dir, "cpu.stat", "usage_usec")
	return time.Duration(n) * time.Microsecond, ok
}

// OOMKills is how many of its processes the kernel has ended for want of memory; false
// where that is not counted.
func (l *Leaf) OOMKills() (int64, bool) { return field(l.dir, "memory.events", "oom_kill") }

// gone tells that the cgroup is there no longer: ENODEV is what its open files say then.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// figure is a file that holds one number.
func figure(dir, file string) (int64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}

// field is a number in a file of lines "name number".
func field(dir, file, name string) (int64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	return find(b, name)
}

func find(text []byte, name string) (int64, bool) {
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == name {
			n, err := strconv.ParseInt(string(f[1]), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

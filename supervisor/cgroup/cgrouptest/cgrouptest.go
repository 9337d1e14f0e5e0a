// Package cgrouptest gives tests a real cgroup v2 of their own, to divide as if systemd
// had delegated it.
package cgrouptest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a new cgroup below the root of the machine's hierarchy. At the end of the test
// whatever lives in it is killed and it is removed. A test is skipped where this process
// may not make one: without root.
func Dir(t testing.TB) string {
	t.Helper()
	dir := Try(t)
	if dir == "" {
		t.Skip("no cgroup v2 can be made here")
	}
	return dir
}

// Try is Dir, or "" where there can be none.
func Try(t testing.TB) string {
	t.Helper()
	top := mount(t)
	if top == "" {
		return ""
	}
	dir, err := os.MkdirTemp(top, "superd-test-") //nolint:usetesting // not any directory
	if err != nil {
		t.Logf("no cgroup can be made: %v", err)
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		t.Log("this kernel cannot kill a cgroup: Linux 5.14 can")
		_ = os.Remove(dir)
		return ""
	}
	t.Cleanup(func() { remove(t, dir) })
	return dir
}

// remove waits for what it has killed: a cgroup with a process in it cannot be removed.
func remove(t testing.TB, dir string) {
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		_ = exec.Command("find", dir, "-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
		if err = os.Remove(dir); err == nil || os.IsNotExist(err) {
			return
		}
	}
	t.Errorf("the cgroup of the test is left: %v", err)
}

// mount is where cgroup v2 is mounted, a place of the test's own if it is nowhere, and ""
// if it cannot be.
func mount(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 && unix.Access(f[4], unix.W_OK) == nil {
			return f[4]
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		t.Logf("there is no cgroup v2: %v", err)
		return ""
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

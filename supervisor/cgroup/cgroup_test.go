package cgroup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"superd/supervisor/cgroup"
	"superd/supervisor/cgroup/cgrouptest"
)

const long = 60 * time.Second // this machine may be busy

func open(t *testing.T) *cgroup.Tree {
	t.Helper()
	tree, err := cgroup.Open(cgrouptest.Dir(t), "children", false)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func leaf(t *testing.T, tree *cgroup.Tree, name string) *cgroup.Leaf {
	t.Helper()
	l, err := tree.Make(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs a shell script that is born in the leaf.
func run(t *testing.T, l *cgroup.Leaf, script string) *exec.Cmd {
	t.Helper()
	dir, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := exec.Command("/bin/sh", "-c", script)
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

func pids(t *testing.T, l *cgroup.Leaf) []int {
	t.Helper()
	all, err := l.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", long, what)
		}
	}
}

// What lives in a leaf is told and killed whole: a process of a session of its own whose
// parent is gone, and one that has made a cgroup below for itself and ignores signals.
func TestKillReachesEverything(t *testing.T) {
	tree := open(t)
	l, other := leaf(t, tree, "shop/emails:3@7"), leaf(t, tree, "other")
	if l.Name() != "shop.emails:3@7" {
		t.Errorf("the leaf is called %s", l.Name())
	}
	bystander := run(t, other, "exec sleep 1000")
	inner := filepath.Join(tree.Dir(), l.Name(), "inner")
	run(t, l, "setsid sh -c 'trap \"\" TERM; sleep 1000 & sleep 1000' & mkdir "+inner+"; sh -c 'echo $$ >"+inner+"/cgroup.procs; trap \"\" TERM; sleep 1000; true' & wait")
	eventually(t, "they are all there", func() bool { return len(pids(t, l)) == 6 })
	if err := os.Mkdir(filepath.Join(inner, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if empty, err := l.Empty(0); empty || err != nil {
		t.Errorf("empty: %v, %v", empty, err)
	}
	if err := l.Remove(); !errors.Is(err, cgroup.ErrBusy) {
		t.Errorf("removed while it is lived in: %v", err)
	}
	if _, err := os.Stat(filepath.Join(inner, "empty")); err != nil {
		t.Errorf("half of it was removed: %v", err)
	}
	if err := l.Kill(); err != nil {
		t.Fatal(err)
	}
	if empty, err := l.Empty(long); !empty || err != nil {
		t.Fatalf("after the kill: %v, %v; %v live", empty, err, pids(t, l))
	}
	if err := l.Remove(); err != nil {
		t.Errorf("remove: %v", err)
	}
	if tree.Leaf("shop/emails:3@7") != nil {
		t.Error("it is there still")
	}
	if got := pids(t, other); !slices.Equal(got, []int{bystander.Process.Pid}) {
		t.Errorf("of the other leaf live %v", got)
	}
}

// Of a process is told in which leaf it is, also below one.
func TestOf(t *testing.T) {
	tree := open(t)
	l := leaf(t, tree, "shop/emails:3@7")
	c := run(t, l, "exec sleep 1000")
	if got := tree.Of(c.Process.Pid); got != l.Name() {
		t.Errorf("it is in %q", got)
	}
	inner := filepath.Join(tree.Dir(), l.Name(), "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if got := tree.Of(c.Process.Pid); got != l.Name() {
		t.Errorf("below it is in %q", got)
	}
	for _, pid := range []int{os.Getpid(), 1, 1 << 30} {
		if got := tree.Of(pid); got != "" {
			t.Errorf("process %d is in %q", pid, got)
		}
	}
	if got := open(t).Of(c.Process.Pid); got != "" {
		t.Errorf("of another tree it is in %q", got)
	}
}

// Who waits for a leaf to be empty is woken when it is.
func TestEmptyIsToldAtOnce(t *testing.T) {
	l := leaf(t, open(t), "x")
	c := run(t, l, "read x; exit 0")
	_ = c // its standard input is /dev/null: it ends at once
	if empty, err := l.Empty(long); !empty || err != nil {
		t.Errorf("%v, %v", empty, err)
	}
	run(t, l, "exec sleep 1000")
	began := time.Now()
	if empty, err := l.Empty(50 * time.Millisecond); empty || err != nil {
		t.Errorf("%v, %v", empty, err)
	}
	if d := time.Since(began); d < 50*time.Millisecond {
		t.Errorf("gave up after %s", d)
	}
}

// Everything of a leaf that is gone says so without an error.
func TestLeafThatIsGone(t *testing.T) {
	tree := open(t)
	l := leaf(t, tree, "x")
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Remove(), l.Kill()); err != nil {
		t.Error(err)
	}
	if empty, err := l.Empty(0); !empty || err != nil {
		t.Errorf("%v, %v", empty, err)
	}
	if got := pids(t, l); len(got) != 0 {
		t.Errorf("processes %v", got)
	}
	if _, ok := l.CPU(); ok {
		t.Error("it has a figure")
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree.Dir()); err == nil {
		t.Error("an empty tree is left")
	}
	again := leaf(t, tree, "y") // as after systemd has tidied up
	if all, err := tree.Leaves(); err != nil || len(all) != 1 || all[0].Name() != again.Name() {
		t.Errorf("leaves %v, %v", all, err)
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
	if tree.Leaf("y") == nil {
		t.Error("a leaf was removed with the tree")
	}
}

// The time of processors is counted, also of those that have ended meanwhile.
func TestCPU(t *testing.T) {
	l := leaf(t, open(t), "x")
	run(t, l, "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); exec sleep 1000")
	eventually(t, "it has counted", func() bool {
		n, ok := l.CPU()
		return ok && n > 50*time.Millisecond
	})
}

// Figures of memory, as Linux 6.1 writes them; this reads files, whoever wrote them.
func TestMemory(t *testing.T) {
	dir := t.TempDir()
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "children", "x", file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "children", "x"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "children", "cgroup.kill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := cgroup.Open(dir, "children", false)
	if err != nil {
		t.Fatal(err)
	}
	l := tree.Leaf("x")
	if _, ok := l.Memory(); ok {
		t.Error("a figure without a file")
	}
	if _, ok := l.OOMKills(); ok {
		t.Error("a count without a file")
	}
	put("memory.current", "104857600\n")
	if _, ok := l.Memory(); ok {
		t.Error("what is of files is not known, and a figure is told")
	}
	put("memory.stat", "anon 50331648\nfile 41943040\nkernel 2097152\nfile_mapped 4096\nshmem 8388608\n")
	if n, ok := l.Memory(); !ok || n != (100-40+8)<<20 {
		t.Errorf("%d, %v", n, ok)
	}
	put("memory.events", "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\noom_group_kill 0\n")
	if n, ok := l.OOMKills(); !ok || n != 3 {
		t.Errorf("%d, %v", n, ok)
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte("oom_kill 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, ok := tree.OOMKills(); !ok || n != 7 {
		t.Errorf("%d, %v", n, ok)
	}
}

// Where the memory controller is for cgroup v2 to give, a leaf counts for real.
func TestRealMemory(t *testing.T) {
	base := cgrouptest.Dir(t)
	if b, err := os.ReadFile(filepath.Join(base, "cgroup.controllers")); err != nil || !strings.Contains(string(b), "memory") {
		t.Skip("the memory controller is not to be had here")
	}
	tree, err := cgroup.Open(base, "children", true)
	if err != nil || !tree.HasMemory() {
		t.Fatalf("%v", err)
	}
	l := leaf(t, tree, "x")
	dir := filepath.Join(tree.Dir(), "x")
	for file, text := range map[string]string{"memory.max": strconv.Itoa(64 << 20), "memory.swap.max": "0"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil && file == "memory.max" {
			t.Fatal(err)
		}
	}
	run(t, l, "exec sleep 1000")
	eventually(t, "it has counted", func() bool { n, ok := l.Memory(); return ok && n > 0 })
	c := run(t, l, "x=x; while :; do x=$x$x; done")
	if err := c.Wait(); err == nil {
		t.Error("it has all the memory it wants")
	}
	if n, ok := l.OOMKills(); !ok || n < 1 {
		t.Errorf("%d kills are counted, %v", n, ok)
	}
}

// A controller that is asked for and is not there is no reason to have no leaves.
func TestNoMemoryController(t *testing.T) {
	base := cgrouptest.Dir(t)
	if b, err := os.ReadFile(filepath.Join(base, "cgroup.controllers")); err != nil || strings.Contains(string(b), "memory") {
		t.Skip("the memory controller is there")
	}
	tree, err := cgroup.Open(base, "children", true)
	if err != nil {
		t.Fatal(err)
	}
	if tree.HasMemory() {
		t.Error("it says that memory is counted")
	}
	leaf(t, tree, "x")
}

// What cannot kill is no cgroup for us.
func TestNoCgroup(t *testing.T) {
	dir := t.TempDir()
	if _, err := cgroup.Open(dir, "children", false); !errors.Is(err, cgroup.ErrNone) {
		t.Errorf("%v", err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 0 {
		t.Errorf("it leaves %v", all)
	}
	if _, err := cgroup.Open(filepath.Join(dir, "nowhere"), "children", false); !errors.Is(err, cgroup.ErrNone) {
		t.Errorf("%v", err)
	}
}

func TestNames(t *testing.T) {
	tree := open(t)
	for name, want := range map[string]string{
		"memory/x":               "memory_x",
		"cgroup.procs":           "cgroup_procs",
		"..":                     "_.",
		"a b\n\x00c":             "a_b__c",
		strings.Repeat("ä", 200): strings.Repeat("_", 255),
	} {
		if l := leaf(t, tree, name); l.Name() != want {
			t.Errorf("%q is called %q", name, l.Name())
		}
	}
}

// The kernel tells who watches a file of a cgroup that it has changed, as superd relies on
// for memory.events; here it is the one that is to be had everywhere.
func TestKernelTellsOfChanges(t *testing.T) {
	tree := open(t)
	l := leaf(t, tree, "x")
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(filepath.Join(tree.Dir(), "cgroup.events")); err != nil {
		t.Fatal(err)
	}
	run(t, l, "exec sleep 1000") // below what is watched
	select {
	case e := <-w.Events:
		if !e.Has(fsnotify.Write) {
			t.Errorf("told %v", e)
		}
	case err := <-w.Errors:
		t.Error(err)
	case <-time.After(long):
		t.Error("nothing is told")
	}
}

func TestHas(t *testing.T) {
	dir := cgrouptest.Dir(t)
	tree, err := cgroup.Open(dir, "children", false)
	if err != nil {
		t.Fatal(err)
	}
	own := "/" + filepath.Base(dir)
	for path, is := range map[string]bool{own: true, own + "/children/x": true, "/outer" + own: false, "/system.slice/mysql.service": false, "/": false, "": false} {
		if tree.Has(path) != is {
			t.Errorf("%s: %v", path, !is)
		}
	}
}

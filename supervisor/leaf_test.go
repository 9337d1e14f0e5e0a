package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
	"superd/supervisor/cgroup/cgrouptest"
	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
)

// newGroupedHouse is a house with a real cgroup to divide.
func newGroupedHouse(t *testing.T) *house {
	t.Helper()
	base := cgrouptest.Dir(t)
	h := newHouse(t)
	h.base = base
	return h
}

// leaves are the leaves there are, by name without the mark.
func (h *house) leaves(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(h.base, "children"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		if e.IsDir() {
			names = append(names, e.Name()[:strings.LastIndexByte(e.Name(), '-')])
		}
	}
	slices.Sort(names)
	return names
}

func (h *house) noLeaves(t *testing.T) {
	t.Helper()
	eventually(t, "no leaf is left", func() bool { return len(h.leaves(t)) == 0 })
}

// beHiding has a grandchild that shows none of what a tree is known by: it has a session
// of its own, a parent that is gone, and an empty environment. It is deaf too.
func beHiding(args []string) {
	if len(args) > 0 && args[0] == "word" {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"MOOD=ready", "NOTIFY_SOCKET=" + os.Getenv("NOTIFY_SOCKET")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		return
	}
	if len(args) > 0 && args[0] == "speaker" {
		if err := again("hide word").Run(); err != nil {
			panic(err)
		}
		<-terms
		return
	}
	if len(args) > 0 {
		cmd := exec.Command("/bin/sh", "-c", `trap "" TERM HUP; while :; do sleep 0.05; done`)
		cmd.Env = []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println("hidden", cmd.Process.Pid)
		return
	}
	if err := again("hide parent").Run(); err != nil {
		panic(err)
	}
	fmt.Println("complete")
	<-terms
}

func hidden(t *testing.T, c *Child) int {
	t.Helper()
	for _, l := range c.Tail(10) {
		if pid, ok := strings.CutPrefix(l, "hidden "); ok {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Kill(n, unix.SIGKILL) }) // it is gone, or is what the test complains of
			return n
		}
	}
	t.Fatalf("nobody hides: %v", c.Tail(10))
	return 0
}

// A stop takes everything that the child has started, also what nothing but its cgroup
// shows to be of it. Without a cgroup it lives on: that is what the leaf is for.
func TestStopTakesWhoHides(t *testing.T) {
	h := newGroupedHouse(t)
	f := h.open(t)
	c, other := f.start("shop/w:1", "hide", "complete"), f.start("other", "hide", "complete")
	pid, bystander := hidden(t, c), hidden(t, other)
	if got := h.leaves(t); !slices.Equal(got, []string{"other@1", "shop.w:1@1"}) {
		t.Errorf("leaves %v", got)
	}
	if exit, killed, err := c.Stop(t.Context(), syscall.SIGTERM, 3*time.Second, nil); err != nil || killed || exit.Code() != 0 {
		t.Errorf("%s, %v, %v", exit, killed, err)
	}
	if lives(pid) {
		t.Error("what hides lives")
	}
	if err := c.Acknowledge(); err != nil {
		t.Error(err)
	}
	if got := h.leaves(t); !slices.Equal(got, []string{"other@1"}) {
		t.Errorf("leaves %v", got)
	}
	if !lives(bystander) || !lives(other.PID()) {
		t.Error("another child's was taken")
	}
	if err := other.KillTree(t.Context()); err != nil || lives(bystander) || lives(other.PID()) {
		t.Errorf("kill: %v", err)
	}
	wait(t, "its end is told", other.Exited())
	if err := other.Acknowledge(); err != nil || !other.Exit().Killed {
		t.Errorf("%s, %v", other.Exit(), err)
	}
	h.noLeaves(t)

	bare := newHouse(t).open(t).start("w", "hide", "complete")
	pid = hidden(t, bare)
	if _, _, err := bare.Stop(t.Context(), syscall.SIGTERM, 300*time.Millisecond, nil); err != nil || !lives(pid) {
		t.Errorf("it was found without a leaf (%v): then this test shows nothing", err)
	}
}

// Whose word it is that somebody says who hides is known by the leaf.
func TestWordOfWhoHides(t *testing.T) {
	c := newGroupedHouse(t).open(t).start("w", "hide speaker", "")
	wait(t, "it is ready", c.Ready())
}

// The next superd finds the leaves of the children that it adopts.
func TestLeavesAreAdopted(t *testing.T) {
	h := newGroupedHouse(t)
	f := h.open(t)
	pid := hidden(t, f.start("w", "hide", "complete"))
	gone := f.start("gone", "well", "")
	f.leave()
	if err := unix.Kill(gone.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g := h.open(t)
	if got := h.leaves(t); !slices.Equal(got, []string{"gone@1", "w@1"}) {
		t.Errorf("leaves %v: that of a child whose end is not told yet has its figures", got)
	}
	for _, c := range g.Adopted() {
		if _, _, err := c.Stop(t.Context(), syscall.SIGTERM, 300*time.Millisecond, nil); err != nil {
			t.Error(err)
		}
		if err := c.Acknowledge(); err != nil {
			t.Error(err)
		}
	}
	if lives(pid) {
		t.Error("what hides lives")
	}
	h.noLeaves(t)
	if err := g.Shutdown(0); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(h.base + "/children*"); len(left) > 0 {
		t.Errorf("superd has ended for good and %v is left", left)
	}
}

// A leaf that a crash has left between its making and the birth goes with the next superd,
// and one that is lived in after its child's end goes with the last who lives there.
func TestNoLeafStaysForEver(t *testing.T) {
	t.Parallel()
	h := newGroupedHouse(t)
	f := h.open(t)
	c := f.start("w", "hide", "complete")
	pid := hidden(t, c)
	if _, err := f.groups.Make("v@1-AAAA"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(c.PID(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait(t, "its end is told", c.Exited())
	if err := c.Acknowledge(); err != nil {
		t.Fatal(err)
	}
	keep := f.start("keep", "well", "")
	f.leave()
	g := h.open(t)
	if got := h.leaves(t); !slices.Equal(got, []string{"keep@1", "w@1"}) {
		t.Errorf("leaves %v", got)
	}
	if len(g.leftovers) > 0 || !lives(pid) || !lives(keep.PID()) {
		t.Errorf("what a child has left behind is ended, though its keeper is there: %v", g.leftovers)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its leaf goes", func() bool { return slices.Equal(h.leaves(t), []string{"keep@1"}) })
	g.leave()
}

// The keeper is killed, and with it the ledger is gone: only the leaf tells who is left. It
// is ended, by the usual signal, before anything is started.
func TestLeafIsTheLastWitness(t *testing.T) {
	h := newGroupedHouse(t)
	f := h.open(t)
	file := filepath.Join(h.dir, "story")
	say := func(what string) string { return strings.Replace(shellLine, "$1", what, 1) }
	old, err := f.Start(t.Context(), scripted("w", `trap '`+say("old asked")+`; sleep 0.3; `+say("old finished")+`; exit 0' TERM; `+say("old began")+`; while :; do sleep 0.02; done`, file))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has begun", func() bool { return strings.Contains(contents(file), "began") })
	h.keeper.Kill()
	if err := <-f.ran; !errors.Is(err, client.ErrClosed) {
		t.Errorf("superd without a keeper: %v", err)
	}
	f.leave = func() {}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(h.dir, "state", "births.ndjson")); err != nil {
		t.Fatal(err)
	}
	h.keeper = keepertest.Start(t)
	g := h.open(t)
	if _, err := g.Start(t.Context(), scripted("w", say("new began")+`; exec sleep 1000`, file)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one has begun", func() bool { return strings.Contains(contents(file), "new began") })
	var story []string
	for l := range strings.Lines(contents(file)) {
		_, what, _ := strings.Cut(strings.TrimSpace(l), " ")
		story = append(story, what)
	}
	if got := strings.Join(story, ", "); got != "old began, old asked, old finished, new began" {
		t.Errorf("it went: %s", got)
	}
	if lives(old.PID()) {
		t.Error("the old one lives")
	}
	if got := h.leaves(t); !slices.Equal(got, []string{"w@1"}) {
		t.Errorf("leaves %v", got)
	}
	if len(g.ledger.living()) != 1 {
		t.Errorf("the ledger has %v", g.ledger.living())
	}
}

// One that has written something else over its environment is known by its leaf.
func TestLeafIsAMark(t *testing.T) {
	tree, err := cgroup.Open(cgrouptest.Dir(t), "children", false)
	if err != nil {
		t.Fatal(err)
	}
	c := &Children{groups: tree}
	if _, err := tree.Make(leafName("w@1", "MARK")); err != nil {
		t.Fatal(err)
	}
	in, out := exec.Command("/bin/sleep", "1000"), sleeper(t, "NO=MARK")
	in.Env = []string{"NO=MARK"}
	dir, err := c.leafOf("w@1", "MARK").Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	in.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := in.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Process.Kill(); _ = in.Wait() })
	for cmd, is := range map[*exec.Cmd]bool{in: true, out: false} {
		s, err := readStat(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		pidfd := isChild(identity{s.pid, s.start}, "MARK", c.leafOf("w@1", "MARK"))
		if (pidfd != nil) != is {
			t.Errorf("taken for a child: %v, want %v", pidfd != nil, is)
		}
		_ = pidfd.Close()
	}
}

// Who is root may leave its leaf, and is stopped all the same.
func TestAstray(t *testing.T) {
	h := newGroupedHouse(t)
	f := h.open(t)
	if err := os.Mkdir(filepath.Join(h.base, "elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := f.start("w", "deaf", "deaf")
	if err := os.WriteFile(filepath.Join(h.base, "elsewhere", "cgroup.procs"), []byte(strconv.Itoa(c.PID())), 0); err != nil {
		t.Fatal(err)
	}
	sums, err := Footprints([]*Child{c})
	if err != nil || sums[c] == 0 {
		t.Errorf("it takes %d bytes, %v", sums[c], err)
	}
	if _, killed, err := c.Stop(t.Context(), syscall.SIGTERM, 100*time.Millisecond, nil); err != nil || !killed || lives(c.PID()) {
		t.Errorf("%v, %v", killed, err)
	}
}

// A keeper that can have nobody born in a cgroup, for it is older or the kernel refuses, is
// no reason to start nothing. It is told once.
func TestWithoutLeavesItGoesOn(t *testing.T) {
	h := newHouse(t)
	h.base = t.TempDir()
	if err := os.Mkdir(filepath.Join(h.base, "children"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.base, "children", "cgroup.kill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := h.open(t)
	for _, name := range []string{"w", "v"} {
		c := f.start(name, "family", "family complete")
		if got := h.leaves(t); len(got) != 0 {
			t.Errorf("leaves %v", got)
		}
		pids := familyOf(t, c)
		if err := c.KillTree(t.Context()); err != nil || len(pids) == 0 {
			t.Errorf("kill of %v: %v", pids, err)
		}
		end(t, pids...)
	}
	if n := strings.Count(f.words.String(), "no cgroup of their own"); n != 1 {
		t.Errorf("it was told %d times: %s", n, f.words)
	}
}

// All of the tree counts, also who hides.
func TestFootprintOfALeaf(t *testing.T) {
	h := newGroupedHouse(t)
	c := h.open(t).start("w", "hide", "complete")
	sums, err := Footprints([]*Child{c})
	if err != nil {
		t.Fatal(err)
	}
	if all, its := sums[c], proportional(c.PID())+proportional(hidden(t, c)); all < its/2 || proportional(hidden(t, c)) == 0 || all <= proportional(c.PID()) {
		t.Errorf("the tree takes %d bytes, of which the two that are known take %d", all, its)
	}
}

// What the kernel has charged to a leaf has the work of those too who have ended, and of
// who hides.
func TestCharges(t *testing.T) {
	h := newGroupedHouse(t)
	f := h.open(t)
	c := f.script("busy", `setsid env -i /bin/sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done' & wait; exec sleep 1000`)
	idle := f.start("idle", "well", "")
	eventually(t, "its work is charged", func() bool { return f.Charges()[c.PID()].CPU > 50*time.Millisecond })
	all := f.Charges()
	if charge := all[c.PID()]; len(all) != 2 || charge.Age <= 0 || charge.Age > 2*long || charge.Whole != f.groups.HasMemory() {
		t.Errorf("charges: %+v", all)
	}
	if err := idle.KillTree(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, "its end is told", idle.Exited())
	if err := idle.Acknowledge(); err != nil {
		t.Fatal(err)
	}
	if all := f.Charges(); len(all) != 1 {
		t.Errorf("charges: %+v", all)
	}
	if all := newHouse(t).open(t).Charges(); len(all) != 0 {
		t.Errorf("charges without cgroups: %+v", all)
	}
}

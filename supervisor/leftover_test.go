package supervisor

import (
	"context"
	"errors"
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

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
)

// record writes a line with this process's name into a file, from a shell.
const shellLine = `echo "$(date +%s%N) $1" >> $FILE`

func scripted(name, script, file string) Spec {
	s := spec(name, "")
	s.Argv = []string{"/bin/sh", "-c", script, "sh"}
	s.Env = []string{"PATH=/bin:/usr/bin", "FILE=" + file}
	s.StopSignal, s.StopTimeout = syscall.SIGQUIT, 20*time.Second
	return s
}

// The keeper is killed, and superd ends for that, without touching a child. The next
// superd, with the next keeper, ends each of them in its own manner before anything is
// started: one finishes what it has in hand, a deaf one is killed at its time. A
// process that only looks like one of them is not touched.
func TestLeftoversOfALostKeeper(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	file := filepath.Join(h.dir, "story")
	say := func(what string) string { return strings.Replace(shellLine, "$1", what, 1) }
	_, err := f.Start(t.Context(), scripted("w", `trap '`+say("old asked")+`; sleep 0.5; `+say("old finished")+`; exit 0' QUIT; trap '' TERM; `+say("old began")+`; while :; do sleep 0.02; done`, file))
	if err != nil {
		t.Fatal(err)
	}
	deaf := scripted("deaf", `trap '' QUIT TERM; `+say("deaf began")+`; while :; do sleep 0.02; done`, file)
	deaf.StopTimeout = 300 * time.Millisecond
	d, err := f.Start(t.Context(), deaf)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have begun", func() bool { return strings.Count(contents(file), "began") == 2 })
	stranger := exec.Command("sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	s, err := readStat(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	f.ledger.born(line{Slot: "no mark", PID: s.pid, Start: s.start, Mark: "NOTITS"})
	f.ledger.born(line{Slot: "another", PID: s.pid, Start: s.start + 1, Mark: "NOTITS"})

	h.keeper.Kill()
	if err := <-f.ran; !errors.Is(err, client.ErrClosed) {
		t.Errorf("superd without a keeper: %v", err)
	}
	f.leave = func() {}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := readStat(d.PID()); err != nil || strings.Contains(contents(file), "asked") {
		t.Fatalf("the loss of the keeper touched the children: %v, %s", err, contents(file))
	}

	h.keeper = keepertest.Start(t)
	g := h.open(t)
	if n := len(g.Adopted()); n != 0 {
		t.Errorf("%d children are adopted from a keeper that knows none", n)
	}
	n, err := g.Start(t.Context(), scripted("w", say("new began")+`; exec sleep 1000`, file))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one has begun", func() bool { return strings.Contains(contents(file), "new began") })
	var story []string
	for l := range strings.Lines(contents(file)) {
		_, what, _ := strings.Cut(strings.TrimSpace(l), " ")
		story = append(story, what)
	}
	got := strings.Join(story, ", ")
	if !strings.HasSuffix(got, "old asked, old finished, new began") || strings.Count(got, "old asked") != 1 {
		t.Errorf("it went: %s", got)
	}
	if p, err := readStat(d.PID()); err == nil && !p.isDead() && p.start == d.proc.Start {
		t.Error("the deaf one lives")
	}
	if p, err := readStat(s.pid); err != nil || p.isDead() {
		t.Error("a stranger was ended")
	}
	if len(g.ledger.living()) != 1 {
		t.Errorf("the ledger has %v", g.ledger.living())
	}
	if _, _, err := n.Stop(t.Context(), syscall.SIGTERM, long, nil); err != nil {
		t.Error(err)
	}
}

func contents(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}

// A superd that dies while it ends leftovers is followed by one that goes on: nobody is
// asked twice.
func TestLeftoversAreAskedOnce(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	file := filepath.Join(h.dir, "story")
	_, err := f.Start(t.Context(), scripted("w", `trap 'echo asked >> $FILE' QUIT; trap 'exit 0' USR1; echo began >> $FILE; while :; do sleep 0.02; done`, file))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has begun", func() bool { return contents(file) != "" })
	h.keeper.Kill()
	<-f.ran
	f.leave = func() {}
	_ = f.Close()
	h.keeper = keepertest.Start(t)
	var pid int
	for range 3 {
		g := h.open(t)
		eventually(t, "it is asked", func() bool { return strings.Contains(contents(file), "asked") })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := g.Start(ctx, spec("w", "well")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second one is started beside the first: %v", err)
		}
		cancel()
		if len(g.leftovers) != 1 {
			t.Fatalf("leftovers: %v", g.leftovers)
		}
		pid = g.leftovers[0].PID()
		g.leave()
	}
	g := h.open(t)
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start(t.Context(), spec("w", "well")); err != nil {
		t.Error(err)
	}
	if n := strings.Count(contents(file), "asked"); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// A PID that has a new owner is a stranger's. The kernel gives the very PID anew only
// in a PID namespace of one's own, so that is where this looks.
func TestReusedPIDIsAStranger(t *testing.T) {
	if os.Getenv("REUSED_PID") == "" {
		c := exec.Command("unshare", "-fp", "--mount-proc", self(), "-test.run=^TestReusedPIDIsAStranger$", "-test.v")
		c.Env = append(os.Environ(), "REUSED_PID=1")
		if said, err := c.CombinedOutput(); err != nil || !strings.Contains(string(said), "the PID was given anew") {
			t.Errorf("%v: %s", err, said)
		}
		return
	}
	l, err := openLedger(filepath.Join(t.TempDir(), "births"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &Children{ledger: l, log: l.log}
	mark := markName + "MARK"
	first := sleeper(t, mark)
	s, err := readStat(first.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	l.born(line{Slot: "w", PID: s.pid, Start: s.start, Mark: "MARK"})
	if found := c.findLeftovers(nil); len(found) != 1 || found[0].PID() != s.pid {
		t.Fatalf("the child itself is not found: %v", found)
	}
	if found := c.findLeftovers([]*client.Child{{PID: s.pid, Start: s.start}}); len(found) != 0 {
		t.Errorf("what the keeper has is taken for a leftover: %v", found)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	time.Sleep(30 * time.Millisecond) // the kernel's clock for births ticks every 10 ms
	var second *exec.Cmd
	for range 100 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(s.pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		second = sleeper(t, mark) // it even has the mark, as who has copied an environment
		if second.Process.Pid == s.pid {
			break
		}
	}
	if second.Process.Pid != s.pid {
		t.Fatalf("the PID %d was not given anew", s.pid)
	}
	fmt.Println("the PID was given anew")
	if found := c.findLeftovers(nil); len(found) != 0 {
		t.Error("a stranger is taken for a child, for it has a child's PID")
	}
	now, err := readStat(s.pid)
	if err != nil {
		t.Fatal(err)
	}
	l.born(line{Slot: "v", PID: s.pid, Start: now.start, Mark: "ANOTHER"})
	if found := c.findLeftovers(nil); len(found) != 0 {
		t.Error("a process without the mark is taken for a child")
	}
}

func sleeper(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("/bin/sleep", "1000")
	c.Env = env
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

package keeper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

// A diary is what the superds of a test write down.
type diary struct {
	t    *testing.T
	file string
}

func newDiary(t *testing.T) diary { return diary{t, filepath.Join(t.TempDir(), "diary")} }

func (d diary) lines() []string {
	b, err := os.ReadFile(d.file)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// find returns the nth line that begins as the format says, scanned into values.
func (d diary) find(n int, what string) string {
	d.t.Helper()
	line := ""
	eventually(d.t, fmt.Sprintf("line %d of %q is in the diary", n, what), func() bool {
		seen := 0
		for _, l := range d.lines() {
			if strings.Contains(l, what) {
				if seen++; seen == n {
					line = l
					return true
				}
			}
		}
		return false
	})
	return line
}

func (d diary) claimed(n int) (pid int) {
	d.t.Helper()
	if _, err := fmt.Sscanf(d.find(n, "claimed"), "claimed %d", &pid); err != nil {
		d.t.Fatal(err)
	}
	return pid
}

func gone(t *testing.T, k *keepertest.Keeper) int {
	t.Helper()
	select {
	case <-k.Gone():
		return k.Code()
	case <-time.After(patience):
		t.Fatalf("the keeper does not leave: %s", k.Said())
	}
	return -1
}

func TestSuperdIsStartedAgain(t *testing.T) {
	d := newDiary(t)
	k := keepertest.StartFor(t, mood("superd", d.file, "shutdown", "0s")...)
	pid := d.claimed(1)
	var pgid int
	line := d.find(1, "claimed")
	if _, err := fmt.Sscanf(line[strings.Index(line, "pgid"):], "pgid %d", &pgid); err != nil || pgid != pid {
		t.Errorf("superd %d is in process group %d: a terminal's Ctrl-C would reach it", pid, pgid)
	}
	quickest := patience
	for life := 2; life <= 3; life++ {
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		next := d.claimed(life)
		took := time.Since(began)
		t.Logf("superd %d commands %s after the death of %d", next, took, pid)
		if next == pid {
			t.Errorf("PID %d after %s", next, took)
		}
		pid, quickest = next, min(quickest, took)
	}
	if quickest > 2*time.Second { // the other may have been held up by the machine
		t.Errorf("not even one came within two seconds, but after %s", quickest)
	}
	if err := k.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := gone(t, k); code != 5 {
		t.Errorf("the keeper left with %d", code)
	}
}

// A superd that ends again and again is started more and more slowly, and its
// child never notices.
func TestCrashLoopIsSlowedDown(t *testing.T) {
	t.Parallel()
	var lines []string
	var took time.Duration
	for try := 0; try < 3 && took < 6*time.Second; try++ { // pauses of 0.1, 1 and 5 s, unless a life was held up and so healthy
		d := newDiary(t)
		began := time.Now()
		keepertest.StartFor(t, mood("crashing", d.file)...)
		d.find(5, "life")
		lines, took = d.lines(), time.Since(began)
		t.Logf("five lives within %s", took)
	}
	if took < 6*time.Second {
		t.Errorf("%d lives in %s: %v", len(lines), took, lines)
	}
	child := 0
	for _, l := range lines {
		var life, c int
		if _, err := fmt.Sscanf(l, "life %d child %d", &life, &c); err != nil || child != 0 && c != child {
			t.Errorf("%s, before it was child %d", l, child)
		}
		child = c
	}
	if !alive(child) {
		t.Error("the child is gone")
	}
}

func TestSuperdThatCannotBeginEndsTheKeeper(t *testing.T) {
	for want, argv := range map[int][]string{
		7: {"sh", "-c", "exit 7"},
		0: {"true"},
		1: {"/nowhere/superd"},
	} {
		k := keepertest.Launch(t, nil, argv...)
		if code := gone(t, k); code != want {
			t.Errorf("%v: the keeper left with %d: %s", argv, code, k.Said())
		}
		if _, err := os.Stat(k.Socket()); err == nil {
			t.Errorf("%v: the socket is still there", argv)
		}
		if want == 1 && !strings.Contains(k.Said(), "start /nowhere/superd: no such file or directory") {
			t.Errorf("said %q", k.Said())
		}
	}
	// One that is killed is another matter: it is started again.
	d := newDiary(t)
	k := keepertest.Launch(t, nil, "sh", "-c", "echo life >>"+d.file+"; kill -9 $$")
	d.find(3, "life")
	select {
	case <-k.Gone():
		t.Errorf("the keeper left: %s", k.Said())
	default:
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	d := newDiary(t)
	k := keepertest.StartFor(t, mood("superd", d.file, "ignore", "0s")...)
	pid := d.claimed(1)
	for _, s := range []struct {
		sent unix.Signal
		got  string
	}{{unix.SIGHUP, "hangup"}, {unix.SIGUSR1, "user defined signal 1"}, {unix.SIGUSR2, "user defined signal 2"}, {unix.SIGTERM, "terminated"}} {
		if err := k.Signal(s.sent); err != nil {
			t.Fatal(err)
		}
		d.find(1, fmt.Sprintf("%d got %s", pid, s.got))
	}
	for i, s := range []unix.Signal{unix.SIGINT, unix.SIGQUIT} {
		if err := k.Signal(s); err != nil {
			t.Fatal(err)
		}
		d.find(i+2, fmt.Sprintf("%d got terminated", pid))
	}
	// It was told to end and dies: the next one is told too, after its claim.
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next := d.claimed(2)
	d.find(1, fmt.Sprintf("%d got terminated", next))
}

// After an upgrade the one who commands is not the one the keeper has started.
func TestSuperdIsWhoCommands(t *testing.T) {
	t.Parallel()
	d := newDiary(t)
	k := keepertest.StartFor(t, mood("superd", d.file, "shutdown", "0s")...)
	first := d.claimed(1)
	argv := mood("superd", d.file, "shutdown", "0s")
	next := exec.Command(argv[0], argv[1:]...)
	next.Env = append(os.Environ(), "SUPERD_KEEPER="+k.Socket())
	if err := next.Start(); err != nil {
		t.Fatal(err)
	}
	defer next.Wait()
	defer next.Process.Kill()
	if pid := d.claimed(2); pid != next.Process.Pid {
		t.Fatalf("PID %d commands", pid)
	}
	d.find(1, fmt.Sprintf("%d fenced", first))
	eventually(t, "the first one has left", func() bool { return !alive(first) })
	if err := k.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.find(1, fmt.Sprintf("%d got hangup", next.Process.Pid))
	time.Sleep(300 * time.Millisecond)
	if n := strings.Count(strings.Join(d.lines(), "\n"), "began"); n != 2 {
		t.Errorf("%d superds have begun, although one commands", n)
	}
	if err := next.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.claimed(3)
	if err := k.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := gone(t, k); code != 5 {
		t.Errorf("the keeper left with %d", code)
	}
}

// A superd that was not listening yet when the end was asked for is told later.
func TestStopBetweenTwoLivesIsRemembered(t *testing.T) {
	t.Parallel()
	d := newDiary(t)
	k := keepertest.StartFor(t, mood("superd", d.file, "shutdown", "5s")...)
	first := d.claimed(1)
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var second int
	if _, err := fmt.Sscanf(d.find(2, "began"), "began %d", &second); err != nil {
		t.Fatal(err)
	}
	mine := dial(t, k) // commands while the second one still waits
	spawn(t, mine, program("s", "sleep", "1000"))
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	later := dialRaw(t, k)
	later.send(wire.Frame{Op: wire.Drop, ID: 1})
	later.expect(wire.Done, wire.Stale) // now the keeper knows that nobody commands
	if err := k.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.find(1, fmt.Sprintf("%d got terminated", second))
	if code := gone(t, k); code != 5 {
		t.Errorf("the keeper left with %d: %s", code, k.Said())
	}
	lines := strings.Join(d.lines(), "\n")
	claim, told := strings.Index(lines, fmt.Sprintf("claimed %d", second)), strings.Index(lines, fmt.Sprintf("%d got", second))
	if claim < 0 || told < claim {
		t.Errorf("it was told before it had claimed:\n%s", lines)
	}
}

func TestStopWithNothingToKeep(t *testing.T) {
	k := keepertest.Start(t) // its superd dies of SIGTERM
	if err := k.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := gone(t, k); code != 0 {
		t.Errorf("the keeper left with %d: %s", code, k.Said())
	}
}

func TestShutdownLeavesNothing(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	stubborn := "trap '' TERM HUP INT; while :; do sleep 1000; done"
	ch := spawn(t, c, shell("a", stubborn))
	spawn(t, c, program("b", "sh", "-c", "setsid sh -c \"$1\" & setsid setsid sh -c \"$1\" & wait", "sh", stubborn))
	spawn(t, c, program("c", mood("burst", "5", stubborn)...))
	waiting, err := c.Spawn(t.Context(), shell("d", "exit 0")) // at its gate
	if err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Slot != "c" {
		t.Fatalf("%+v", e)
	}
	all := []int{ch.PID, waiting.PID}
	eventually(t, "the orphans are there", func() bool {
		pids, _ := children(t, k.PID())
		all = append(all, pids...)
		return len(pids) >= 5
	})
	if err := c.Shutdown(42); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Spawn(t.Context(), shell("e", "exit 0")); err == nil {
		t.Error("a child was made on the way out")
	}
	if code := gone(t, k); code != 42 {
		t.Errorf("the keeper left with %d: %s", code, k.Said())
	}
	for _, pid := range all {
		if alive(pid) {
			t.Errorf("PID %d is left", pid)
		}
	}
	if _, err := os.Stat(k.Socket()); err == nil {
		t.Error("the socket is left")
	}
}

// The keeper talks to a standard error that nobody reads any more; it must neither
// die of it nor wait for it.
func TestNobodyListensToTheKeeper(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(r, w *os.File) error{
		"closed": func(r, _ *os.File) error { return r.Close() },
		"full": func(_, w *os.File) error {
			fd := int(w.Fd()) // makes it blocking
			if err := unix.SetNonblock(fd, true); err != nil {
				return err
			}
			for b := make([]byte, 4096); ; {
				if _, err := unix.Write(fd, b); err != nil {
					return unix.SetNonblock(fd, false)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			if err := spoil(r, w); err != nil {
				t.Fatal(err)
			}
			d := newDiary(t)
			dir := shortDir(t)
			cmd := exec.Command(keepertest.Binary(t), append([]string{"run", "--socket", dir + "/k.sock", "--"}, mood("superd", d.file, "shutdown", "0s")...)...)
			cmd.Stderr = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			for life := 1; life <= 3; life++ {
				if err := unix.Kill(d.claimed(life), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			d.claimed(4)
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
				t.Errorf("the keeper left: %v", err)
			}
		})
	}
}

// In a container the keeper is PID 1: every orphan is its own, and its exit code
// is the container's.
func TestKeeperAsInit(t *testing.T) {
	dir := shortDir(t)
	copyFile(t, keepertest.Binary(t), dir+"/keeper")
	script := `kill -9 1 || exit 4 # which the kernel does not let happen from inside
		for i in $(seq 50); do (true & (true &) ) ; done
		n=50; while [ $n -gt 0 ] && grep -qs '(.*) Z 1 ' /proc/[0-9]*/stat; do sleep 0.1; n=$((n-1)); done
		: >` + dir + `/zombies; [ $n -gt 0 ] || grep -sc '(.*) Z 1 ' /proc/[0-9]*/stat | grep -v ':0' >` + dir + `/zombies; exit 3`
	unshare := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace to be had: %v %s", err, out)
	}
	cmd := exec.Command(unshare[0], append(unshare[1:], dir+"/keeper", "run", "--socket", dir+"/k.sock", "--", "sh", "-c", script)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%v: %s", err, out)
	}
	if zombies, err := os.ReadFile(dir + "/zombies"); err != nil || len(zombies) > 0 {
		t.Errorf("%v: zombies are left: %s", err, zombies)
	}
}

// Without anybody who reads the pipes, children must not block for ever.
func TestOutputIsDrainedWhenNobodyCommands(t *testing.T) {
	t.Parallel()
	k := keepertest.Start(t)
	c := dial(t, k)
	dir := t.TempDir()
	flood := spawn(t, c, shell("flood", "head -c 4000000 /dev/zero; touch "+dir+"/done; sleep 1000"))
	spawn(t, c, shell("closed", "exec >&- 2>&-; exec sleep 1000")) // has nothing to be drained
	finished := func() bool { _, err := os.Stat(dir + "/done"); return err == nil }
	ticks := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.PID()))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		var user, system int
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &system)
		return user + system
	}
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		if finished() {
			t.Fatal("the keeper throws output away although somebody commands")
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the flood is over", finished)
	before := ticks()
	time.Sleep(2 * time.Second)
	if used := ticks() - before; used > 30 {
		t.Errorf("the keeper has used %d ticks", used)
	}
	if !strings.Contains(k.Said(), "thrown away") {
		t.Errorf("it did not say so: %s", k.Said())
	}
	c = dial(t, k) // and stops when somebody commands
	line := spawn(t, c, shell("s", "echo kept; exec sleep 1000"))
	time.Sleep(200 * time.Millisecond) // in which the keeper could take it away
	if got := lineOf(t, line.Out); got != "kept" {
		t.Errorf("got %q", got)
	}
	if !alive(flood.PID) {
		t.Error("the child is gone")
	}
}

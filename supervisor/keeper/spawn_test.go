package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

func TestExitCodesAreExact(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	for script, want := range map[string]syscall.WaitStatus{
		"exit 0": 0, "exit 1": 1 << 8, "exit 111": 111 << 8, "exit 127": 127 << 8, "exit 255": 255 << 8,
		"kill -9 $$": 9, "kill -15 $$": 15, "kill -1 $$": 1,
		"ulimit -c unlimited; cd /tmp; kill -SEGV $$": 11, // with or without a core
	} {
		out, e := run(t, c, shell("s", script))
		if e.Status&^0x80 != want&^0x80 && e.Status != want || e.Failure != "" {
			t.Errorf("%s: got %+v, want status %d", script, e, want)
		}
		if out != "" {
			t.Errorf("%s wrote %q", script, out)
		}
		if ago := time.Since(e.At); ago < 0 || ago > patience {
			t.Errorf("%s ended %s ago", script, ago)
		}
	}
}

func TestGateThatIsDroppedRunsNothing(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	file := filepath.Join(t.TempDir(), "ran")
	ch, err := c.Spawn(t.Context(), shell("s", "touch "+file))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-c.Exits():
		t.Fatalf("it did not wait at its gate: %+v", e)
	case <-time.After(100 * time.Millisecond):
	}
	ch.Drop()
	e := exit(t, c)
	if e.Status != 111<<8 || !strings.HasPrefix(e.Failure, "gate:") {
		t.Errorf("got %+v", e)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the program ran")
	}
}

func TestFailuresAreNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	c := dial(t, keepertest.Start(t))
	for name, tt := range map[string]struct {
		change func(*client.Spec)
		want   string
	}{
		"missing":         {func(s *client.Spec) { s.Argv = []string{"/nowhere/php"} }, "exec /nowhere/php: no such file or directory"},
		"not in PATH":     {func(s *client.Spec) { s.Argv = []string{"php-nowhere"} }, "exec php-nowhere: no such file or directory"},
		"not executable":  {func(s *client.Spec) { s.Path = write("plain", "x", 0o644) }, "exec " + dir + "/plain: permission denied"},
		"a directory":     {func(s *client.Spec) { s.Path = dir }, "exec " + dir + ": permission denied"},
		"no format":       {func(s *client.Spec) { s.Path = write("format", "hello", 0o755) }, "exec " + dir + "/format: exec format error"},
		"no interpreter":  {func(s *client.Spec) { s.Path = write("script", "#!/nowhere/sh\n", 0o755) }, "its interpreter"},
		"no directory":    {func(s *client.Spec) { s.Dir = "/nowhere" }, "chdir /nowhere: no such file or directory"},
		"limit":           {func(s *client.Spec) { s.Limits = []client.Limit{{Resource: unix.RLIMIT_CORE, Soft: 2, Hard: 1}} }, "setrlimit core: invalid argument"},
		"too much to run": {func(s *client.Spec) { s.Env = append(s.Env, "BIG="+strings.Repeat("x", 1<<20)) }, "argument list too long"},
	} {
		s := shell("s", "exit 7")
		tt.change(&s)
		out, e := run(t, c, s)
		if !strings.Contains(e.Failure, tt.want) || e.Status != 111<<8 || out != "" {
			t.Errorf("%s: got %+v and output %q, want a failure with %q", name, e, out, tt.want)
		}
	}
}

// Whatever a path is, its failure is told: one that no frame holds would be told for ever.
func TestFailureOfALongPath(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	for length, want := range map[int]string{4090: "no such file or directory", 100_000: "file name too long"} {
		s := shell("s", "exit 7")
		s.Dir = "/" + strings.Repeat("long/", length/5)
		if _, e := run(t, c, s); e.Status != 111<<8 || !strings.HasPrefix(e.Failure, "chdir /long/long/") || !strings.HasSuffix(e.Failure, want) {
			t.Errorf("%d bytes: %+v", length, e)
		}
	}
	s := shell("s", "exit 7")
	s.Argv = []string{strings.Repeat("/long", 818)}
	if _, e := run(t, c, s); e.Status != 111<<8 || !strings.HasSuffix(e.Failure, "no such file or directory") {
		t.Errorf("a program: %+v", e)
	}
	s.Argv = []string{strings.Repeat("x", 300)}
	if _, err := c.Spawn(t.Context(), s); err == nil || !strings.Contains(err.Error(), "xxx…: file name too long") {
		t.Errorf("a name that no file can have: %v", err)
	}
	if out, e := run(t, c, shell("s", "echo on")); out != "on\n" {
		t.Errorf("afterwards: %+v: %q", e, out)
	}
}

// Who changes the limit of the keeper means its children, too.
func TestLimitThatWasSetSince(t *testing.T) {
	k := keepertest.Launch(t, mood("dirty"), "sleep", "infinity")
	eventually(t, "the keeper serves", func() bool { _, err := os.Stat(k.Socket()); return err == nil })
	c := dial(t, k)
	files := func() string {
		out, _ := run(t, c, shell("s", "ulimit -Sn; ulimit -Hn"))
		return strings.Join(strings.Fields(out), " ")
	}
	if got := files(); got != "777 4000" {
		t.Errorf("as it was given: %s", got)
	}
	if err := unix.Prlimit(k.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1500, Max: 4000}, nil); err != nil {
		t.Fatal(err)
	}
	if got := files(); got != "1500 4000" {
		t.Errorf("as it was set: %s", got)
	}
}

// A stage that is killed says nothing. It must not look like a program that was.
func TestStageThatDiesIsAFailure(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	ch, err := c.Spawn(t.Context(), shell("s", "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(ch.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Failure == "" || !e.Status.Signaled() {
		t.Errorf("got %+v", e)
	}
}

// While a child waits at its gate the keeper goes on writing to its memory. If the child had
// a copy of it, each page would be copied for it.
func TestStageHasNoneOfTheKeepersMemory(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	for i := range 100 { // of what it has taken since the first, some later one gets nothing
		run(t, c, shell("s"+strconv.Itoa(i), "exit 0"))
	}
	ch, err := c.Spawn(t.Context(), shell("s", "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	mine, its := anonymous(t, k.PID()), anonymous(t, ch.PID)
	t.Logf("the keeper has %d kB, the child %d kB", mine, its)
	if its > mine/2 {
		t.Errorf("the child has %d kB of the %d kB that the keeper has", its, mine)
	}
	if err := ch.Open(); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Status != 7<<8 {
		t.Errorf("got %+v", e)
	}
}

// anonymous is how much memory a process has that is of no file, in kB.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "Anonymous:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no anonymous memory in\n%s", b)
	return 0
}

// Without privilege a child can only be who the keeper is.
func TestWithoutPrivilege(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root to give privilege up")
	}
	dir := shortDir(t)
	keeper, superd := filepath.Join(dir, "keeper"), filepath.Join(dir, "superd")
	copyFile(t, keepertest.Binary(t), keeper)
	copyFile(t, mood("")[0], superd)
	if err := os.Chown(dir, 54321, 54321); err != nil {
		t.Fatal(err)
	}
	// Its socket is not for the test's user, so a superd of its own commands.
	cmd := exec.Command("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups",
		keeper, "run", "--socket", dir+"/k.sock", "--", superd, "mood:unprivileged", dir+"/report")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	report, err := os.ReadFile(dir + "/report")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"same user: exit 7", "root: setgid 0: operation not permitted", "groups: setgroups: operation not permitted"} {
		if !strings.Contains(string(report), want) {
			t.Errorf("no %q in the report:\n%s", want, report)
		}
	}
}

// shortDir is open to other users and short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = writeProgram(to, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writeProgram writes what is executed next. Meanwhile nothing is forked: the child of
// another test would have the file open for writing too, for a moment, and the kernel
// runs no such file (golang.org/issue/22315).
func writeProgram(to string, b []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, b, 0o755)
}

// Whatever the keeper was started with, a child has what its specification says.
func TestChildrenAreClean(t *testing.T) {
	k := keepertest.Launch(t, mood("dirty"), "sleep", "infinity")
	eventually(t, "the keeper serves", func() bool { _, err := os.Stat(k.Socket()); return err == nil })
	c := dial(t, k)
	given, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	s := program("s", "cat", "/proc/self/status", "/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/stat")
	s.Dir, s.Umask, s.Nice = "/usr", 0o027, 7
	s.Limits = []client.Limit{{Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}, {Resource: unix.RLIMIT_FSIZE, Soft: 4096, Hard: 8192}}
	s.Env = []string{"A=1", "PATH=/usr/bin:/bin", "A=1", "B=ü=\n"}
	s.Files = []*os.File{given, given}
	if os.Getuid() == 0 {
		s.UID, s.GID, s.Groups = 65534, 65533, []uint32{33, 4}
	}
	out, e := run(t, c, s)
	if e.Status != 0 {
		t.Fatalf("%+v: %s", e, out)
	}
	line := func(name string) string {
		for l := range strings.Lines(out) {
			if rest, ok := strings.CutPrefix(l, name); ok {
				return strings.Join(strings.Fields(rest), " ")
			}
		}
		return "?"
	}
	want := map[string]string{
		"SigBlk:": "0000000000000000", "SigIgn:": "0000000000000000", "SigPnd:": "0000000000000000", "Umask:": "0027",
		"Max open files": "777 4000 files", "Max core file size": "0 0 bytes", "Max file size": "4096 8192 bytes",
	}
	if os.Getuid() == 0 {
		want["Uid:"], want["Gid:"], want["Groups:"] = "65534 65534 65534 65534", "65533 65533 65533 65533", "4 33"
		want["CapEff:"], want["CapPrm:"], want["CapInh:"] = "0000000000000000", "0000000000000000", "0000000000000000"
	}
	for name, w := range want {
		if got := line(name); got != w {
			t.Errorf("%s is %q, want %q", name, got, w)
		}
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if got := lines[len(lines)-2]; got != "0" {
		t.Errorf("oom_score_adj is %s", got)
	}
	// pid (comm) state ppid pgrp session … nice is field 19.
	f := strings.Fields(lines[len(lines)-1])
	if f[0] != f[4] || f[0] != f[5] || f[18] != "7" {
		t.Errorf("group %s and session %s of PID %s, nice %s", f[4], f[5], f[0], f[18])
	}

	s.Argv = []string{"env", "-0"}
	if out, _ = run(t, c, s); out != strings.Join(s.Env, "\x00")+"\x00" {
		t.Errorf("environment is %q", out)
	}
	s.Argv = []string{"sh", "-c", "pwd; cat <&3; ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p'"}
	out, _ = run(t, c, s)
	hostname, err := io.ReadAll(given)
	if err != nil || len(hostname) != 0 {
		t.Fatalf("the child read its file on its own: %q %v", hostname, err) // shared offset: it has read it
	}
	fds := out[strings.Index(out, "0 /dev/null"):]
	got := []string{}
	for l := range strings.Lines(fds) {
		got = append(got, strings.Fields(l)[0])
	}
	// ls itself opens one for the directory
	if n := strings.Join(got, " "); !strings.HasPrefix(out, "/usr\n") || n != "0 1 2 3 4 5" {
		t.Errorf("descriptors are %s: %s", n, out)
	}
}

// Groups that the keeper has are none of a child's.
func TestChildHasNoGroupsOfTheKeeper(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root to have other groups")
	}
	k := keepertest.Launch(t, []string{"setpriv", "--groups", "4,33"}, "sleep", "infinity")
	eventually(t, "the keeper serves", func() bool { _, err := os.Stat(k.Socket()); return err == nil })
	c := dial(t, k)
	s := shell("s", "grep ^Groups /proc/self/status")
	s.UID, s.GID, s.Groups = 65534, 65533, nil
	if out, e := run(t, c, s); strings.Join(strings.Fields(out), " ") != "Groups:" {
		t.Errorf("%q, %+v", out, e)
	}
}

// A program is looked for as execvp(3) does: what can't be run, and what is no directory,
// does not end the search.
func TestPathIsSearched(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/tool": 0o644, "b/tool": 0o755, "a/locked": 0o644, "file": 0o644} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho $0\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	path := "PATH=" + dir + "/file:" + dir + "/none:" + dir + "/a:" + dir + "/b"
	for name, want := range map[string]string{"tool": dir + "/b/tool\n", "locked": "exec locked: permission denied", "nothing": "exec nothing: no such file or directory"} {
		s := program("s", name)
		s.Env = []string{path}
		if out, e := run(t, c, s); out+e.Failure != want {
			t.Errorf("%s: output %q, %+v", name, out, e)
		}
	}
}

// Nobody else can tell a program its PID before it runs.
func TestChildIsToldItsPID(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	s := shell("s", `test "$WATCHDOG_PID" = $$ && echo "$A and $B"`)
	s.Env = append(s.Env, "A=before", client.OwnPID, "B=behind")
	if out, e := run(t, c, s); e.Status != 0 || out != "before and behind\n" {
		t.Errorf("%+v: %q", e, out)
	}
}

func TestOutputAndFilesArriveWhole(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	var files []*os.File
	for i := range 100 {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "file %d\n", i)
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	s := program("s", "bash", "-c", "for i in $(seq 3 102); do cat <&$i; done; echo err >&2; printf end")
	s.Files = files
	out, e := run(t, c, s)
	if n := strings.Count(out, "\n"); e.Status != 0 || n != 101 || !strings.HasPrefix(out, "file 0\nfile 1\n") || !strings.HasSuffix(out, "file 99\nerr\nend") {
		t.Errorf("%+v, %d lines: %s", e, n, out)
	}
	s.Files = make([]*os.File, 129)
	if _, err := c.Spawn(t.Context(), s); err == nil {
		t.Error("129 files were taken")
	}
}

func TestSlotIsTakenUntilAcknowledged(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	taken := func(when string) {
		t.Helper()
		if _, err := c.Spawn(t.Context(), shell("s", "exit 0")); !errors.Is(err, client.ErrSlotTaken) {
			t.Errorf("%s: got %v", when, err)
		}
	}
	ch := spawn(t, c, shell("s", "exec sleep 1000"))
	taken("while it lives")
	acknowledge(t, c, client.Exit{Slot: "s", PID: ch.PID})
	taken("after an acknowledgement of nothing")
	if err := unix.Kill(ch.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e := exit(t, c)
	taken("before its exit is acknowledged")
	acknowledge(t, c, client.Exit{Slot: "s", PID: ch.PID + 1})
	taken("after the acknowledgement of another PID")
	acknowledge(t, c, e)
	acknowledge(t, c, e) // twice is once
	run(t, c, shell("s", "exit 0"))
}

// Who gives up waiting must not leave a slot taken for ever.
func TestSpawnNobodyWaitsForIsUndone(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	file := filepath.Join(t.TempDir(), "ran")
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		ch, err := c.Spawn(ctx, shell("s", "touch "+file))
		cancel()
		if err == nil {
			ch.Drop()
			acknowledge(t, c, exit(t, c))
		} else if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, client.ErrSlotTaken) {
			t.Fatal(err)
		}
	}
	var ch *client.Child
	eventually(t, "the slot is free again", func() bool {
		var err error
		ch, err = c.Spawn(t.Context(), shell("s", "exit 3"))
		return err == nil
	})
	if err := ch.Open(); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.PID != ch.PID || e.Status != 3<<8 {
		t.Errorf("got the exit of another: %+v", e)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a program ran that nobody waited for")
	}
}

func TestManyDieAtOnce(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	const n = 300
	want := map[string]client.Exit{}
	for i := range n {
		ch := spawn(t, c, program(fmt.Sprintf("s%d", i), "sleep", "1000"))
		want[ch.Slot] = client.Exit{PID: ch.PID, Start: ch.Start}
	}
	for _, w := range want {
		if err := unix.Kill(w.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// None is acknowledged yet, and orders are answered meanwhile.
	if out, _ := func() (string, error) {
		ch := spawn(t, c, shell("meanwhile", "echo here"))
		eventually(t, "it has ended", func() bool { return !alive(ch.PID) })
		return output(t, ch), nil
	}(); out != "here\n" {
		t.Errorf("got %q", out)
	}
	var heard []client.Exit
	for range n + 1 {
		e := exit(t, c)
		if w := want[e.Slot]; e.Slot != "meanwhile" && (e.PID != w.PID || e.Start != w.Start || e.Status != 9) {
			t.Errorf("%+v, want %+v", e, w)
		}
		delete(want, e.Slot)
		heard = append(heard, e)
	}
	if len(want) > 0 {
		t.Errorf("not heard of %v", want)
	}
	for _, e := range heard {
		acknowledge(t, c, e)
	}
	// An order that is answered is behind them: what is not read yet when superd goes is
	// told again to the next one.
	if err := errors.Join(c.Drop("nothing"), c.Close()); err != nil {
		t.Fatal(err)
	}
	if c = dial(t, k); len(c.Children()) != 0 {
		t.Errorf("%d children are left", len(c.Children()))
	}
}

func TestOrphansAreReaped(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	before, _ := children(t, k.PID())
	storm := spawn(t, c, program("storm", mood("burst", "500", "exit 0")...))
	e := exit(t, c)
	if e.PID != storm.PID || e.Status != 0 {
		t.Fatalf("%+v: %s", e, output(t, storm))
	}
	eventually(t, "no orphan is left", func() bool {
		now, zombies := children(t, k.PID())
		return zombies == 0 && len(now) == len(before)
	})
	// Orphans that stay are the keeper's.
	spawn(t, c, program("stay", mood("burst", "3", "exec sleep 1000")...))
	exit(t, c)
	eventually(t, "the orphans are the keeper's", func() bool {
		now, zombies := children(t, k.PID())
		return zombies == 0 && len(now) == len(before)+3
	})
}

func TestNothingLeaks(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	lives := func(n int) {
		for i := range n {
			run(t, c, shell(fmt.Sprintf("s%d", i%3), "exit 0"))
			if err := c.Put("one", os.Stderr); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Drop("one"); err != nil {
			t.Fatal(err)
		}
	}
	lives(5)
	before, size := descriptors(t, k.PID()), mapped(t, k.PID())
	lives(200)
	if after := descriptors(t, k.PID()); after != before {
		t.Errorf("descriptors went from %d to %d", before, after)
	}
	if after := mapped(t, k.PID()); after > size+8<<20 { // 200 rooms take 13 MiB, and Go takes 4 at a time
		t.Errorf("mapped memory went from %d to %d bytes", size, after)
	}
}

// mapped is how many bytes a process has mapped that it may write to.
func mapped(t *testing.T, pid int) (bytes uint64) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var may string
		if n, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); n != 3 {
			t.Fatalf("%q: %v", line, err)
		}
		if strings.HasPrefix(may, "rw") {
			bytes += to - from
		}
	}
	return bytes
}

func BenchmarkSpawn(b *testing.B) {
	c := dial(b, keepertest.Start(b))
	for b.Loop() {
		ch := spawn(b, c, program("s", "true"))
		acknowledge(b, c, exit(b, c))
		_, _ = ch.Out.Close(), ch.Pidfd.Close()
	}
}

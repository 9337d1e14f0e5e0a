package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
	"superd/supervisor/cgroup/cgrouptest"
)

// limited gives what is started with the prefix little memory, by whichever version of
// cgroups has the memory controller here.
func limited(t *testing.T, h *house) (prefix string) {
	t.Helper()
	const limit = "33554432"
	if h.base != "" {
		if b, err := os.ReadFile(filepath.Join(h.base, "cgroup.controllers")); err == nil && strings.Contains(string(b), "memory") {
			if err := os.WriteFile(filepath.Join(h.base, "memory.max"), []byte(limit), 0); err != nil {
				t.Fatal(err)
			}
			_ = os.WriteFile(filepath.Join(h.base, "memory.swap.max"), []byte("0"), 0) // where there is swap
			return ""
		}
	}
	dir, err := os.MkdirTemp("/sys/fs/cgroup/memory", "superd-test-") //nolint:usetesting // not any directory
	if err != nil {
		t.Skipf("nobody's memory can be limited here: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup of the test is removed", func() bool { return os.Remove(dir) == nil })
	})
	for _, file := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(limit), 0); err != nil && file == "memory.limit_in_bytes" {
			t.Fatal(err)
		}
	}
	return "echo $$ >" + dir + "/cgroup.procs; "
}

// canRead tells whether the kernel's log speaks of our PIDs and may be read.
func canRead(f *fleet) bool {
	return f.shortage.hasLog()
}

func (f *fleet) script(name, script string) *Child {
	f.t.Helper()
	s := spec(name, "")
	s.Argv, s.Env = []string{"/bin/sh", "-c", script}, []string{"PATH=/bin:/usr/bin"}
	c, err := f.Start(f.t.Context(), s)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// The kernel ends a child for want of memory, for real: that is what is told. What a
// person has killed is not, nor what superd has, although memory was short just before.
func TestOutOfMemory(t *testing.T) {
	h := newHouse(t)
	h.base = cgrouptest.Try(t)
	prefix := limited(t, h)
	f := h.open(t)
	c := f.script("hungry", prefix+"exec tail /dev/zero")
	wait(t, "the kernel kills it", c.Exited())
	sure := canRead(f) || prefix == "" // then its leaf tells
	switch text := c.Exit().String(); {
	case sure && (c.Exit().OOM != OOMKill || !strings.HasPrefix(text, "out of memory: killed by the kernel after ")):
		t.Errorf("%q: %s", c.Exit().OOM, text)
	case !sure && (c.Exit().OOM != OOMMaybe || !strings.HasPrefix(text, "signal SIGKILL after ") || !strings.Contains(text, ", possibly out of memory")):
		t.Errorf("%q: %s", c.Exit().OOM, text)
	}
	c = f.start("w", "well", "")
	if err := c.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "it is killed", c.Exited())
	if sure && c.Exit().OOM != NoOOM {
		t.Errorf("who was killed by hand: %s", c.Exit())
	}
	c = f.start("v", "deaf", "deaf")
	exit, _, err := c.Stop(t.Context(), syscall.SIGTERM, 10*time.Millisecond, nil)
	if err != nil || exit.OOM != NoOOM || !strings.HasPrefix(exit.String(), "killed by superd after ") {
		t.Errorf("who was killed by superd: %s, %v", exit, err)
	}
}

// Where the log does not tell, the leaf does; and it tells of what is not the main process.
func TestShortageByLeaf(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "children", "x")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		filepath.Join(base, "children", "cgroup.kill"): "", filepath.Join(base, "memory.events"): "oom 1\noom_kill 4\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := cgroup.Open(base, "children", false)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(base, "kmsg")
	const killed, exited = syscall.WaitStatus(unix.SIGKILL), syscall.WaitStatus(137 << 8)
	born := uint64(1000) // 10 s after boot
	for _, c := range []struct {
		name, events, log string
		before, after     string
		status            syscall.WaitStatus
		killed            bool
		want              OOM
		text              string
	}{
		{name: "a clean end", status: 0, want: NoOOM, text: "exit 0 after 2s"},
		{name: "by hand", events: "0", status: killed, want: NoOOM, text: "signal SIGKILL after 2s"},
		{name: "the leaf says so", events: "1", status: killed, want: OOMKill, text: "out of memory: killed by the kernel after 2s"},
		{name: "another of the tree", events: "2", status: exited, want: OOMTree, text: "exit 137 after 2s; out of memory: the kernel had killed another of its processes"},
		{name: "another, and superd killed", events: "2", status: killed, killed: true, want: OOMTree, text: "killed by superd after 2s; out of memory: the kernel had killed another of its processes"},
		{name: "somebody, somewhere", events: "0", before: "4", after: "5", status: killed, want: OOMMaybe, text: "signal SIGKILL after 2s, possibly out of memory: the kernel has killed for it just then"},
		{name: "superd, while memory is short", before: "4", after: "5", status: killed, killed: true, want: NoOOM, text: "killed by superd after 2s"},
		{name: "another signal", before: "4", after: "5", status: syscall.WaitStatus(unix.SIGSEGV), want: NoOOM, text: "signal SIGSEGV after 2s"},
		{name: "the log names it", log: "3,1,20000000,-;Memory cgroup out of memory: Killed process 77 (php) total-vm:1kB", before: "4", after: "5", status: killed, want: OOMKill, text: "out of memory: killed by the kernel after 2s"},
		{name: "the log names another", events: "1", log: "3,1,20000000,-;Out of memory: Killed process 771 (php) total-vm:1kB", before: "4", after: "5", status: killed, want: OOMTree, text: "signal SIGKILL after 2s; out of memory: the kernel had killed another of its processes"},
		{name: "the log names who had its PID before", log: "3,1,2000000,-;Out of memory: Killed process 77 (php) total-vm:1kB", before: "4", after: "5", status: killed, want: NoOOM, text: "signal SIGKILL after 2s"},
	} {
		set := func(n string) {
			if err := os.WriteFile(filepath.Join(base, "memory.events"), []byte("oom_kill "+n+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_ = os.Remove(filepath.Join(dir, "memory.events"))
		if c.events != "" {
			if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte("oom_kill "+c.events+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if c.before != "" {
			set(c.before)
		}
		s := newShortage(tree)
		s.log = ""
		if c.log != "" {
			s.log = log
			if err := os.WriteFile(log, []byte(c.log), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if c.after != "" {
			set(c.after)
		}
		now := time.Now()
		ch := &Child{children: &Children{came: now.Add(-time.Hour)}, leaf: tree.Leaf("x")}
		exit := Exit{Status: c.status, Ran: 2 * time.Second, Killed: c.killed, OOM: s.part(ch, identity{77, born}, c.status, now, c.killed)}
		if exit.OOM != c.want || exit.String() != c.text {
			t.Errorf("%s: %q: %s", c.name, exit.OOM, exit)
		}
		if ch.children.came = now.Add(time.Hour); c.want == OOMMaybe && s.part(ch, identity{77, born}, c.status, now, c.killed) != NoOOM {
			t.Errorf("%s: of a time before this superd something is claimed", c.name)
		}
	}
}

func TestVictim(t *testing.T) {
	for record, want := range map[string]int{
		"3,512,7213456,-;Out of memory: Killed process 4711 (php) total-vm:12kB, anon-rss:1kB\n SUBSYSTEM=x\n": 4711,
		"3,512,7213456,-;Memory cgroup out of memory: Killed process 12 (a b) (c) total-vm":                    12,
		"3,512,7213456,-;Memory cgroup out of memory: Killed process 12, UID 33, (php) total-vm":               12,
		"6,512,7213456,-;oom_reaper: reaped process 4711 (php), now anon-rss:0kB":                              0,
		"6,512,7213456,-;Killed process 4711 (php) by a joker":                                                 0,
		"6,512,x,-;Out of memory: Killed process 4711 (php)":                                                   0,
		"3,512;Out of memory: Killed process x":                                                                0,
		"":                                                                                                     0,
	} {
		v, ok := parseVictim([]byte(record))
		if ok != (want != 0) || ok && (v.pid != want || v.at != 7213456*time.Microsecond || v.name == "") {
			t.Errorf("%q: %+v, %v", record, v, ok)
		}
	}
}

func TestGroupOfAVictim(t *testing.T) {
	const said = "6,511,7213455,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/system.slice,task_memcg=/system.slice/superd.service,task=a,pid=1,b,pid=4711,uid=33\n SUBSYSTEM=x\n"
	if pid, group, ok := parseGroup([]byte(said)); !ok || pid != 4711 || group != "/system.slice/superd.service" {
		t.Errorf("%d, %q, %v", pid, group, ok)
	}
	for _, record := range []string{"", "6,5,7,-;oom-kill:constraint=CONSTRAINT_NONE,task=a,pid=1,uid=0", "6,5,7,-;oom-kill:constraint=C,task_memcg=/,task=a,pid=,uid=0", "6,5,7,-;x,task_memcg=/,task=a,pid=1"} {
		if pid, group, ok := parseGroup([]byte(record)); ok {
			t.Errorf("%q: %d, %q", record, pid, group)
		}
	}
}

func TestCounterOfTheMachine(t *testing.T) {
	if n, ok := ofMachine("pgfault"); !ok || n < 1000 {
		t.Errorf("%d page faults, %t", n, ok)
	}
	if n, ok := ofMachine("pgfaul"); ok || n != 0 {
		t.Errorf("a counter that is not there: %d, %t", n, ok)
	}
}

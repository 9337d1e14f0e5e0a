//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/supervisor/cgroup/cgrouptest"
)

// A worker with a process that shows nothing of whose it is: no parent, a session and an
// environment of its own, deaf to SIGTERM. 77777 is how this test finds it.
const hidingWorker = `#!/bin/sh
(setsid env -i /bin/sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done; : 77777' </dev/null >/dev/null 2>&1 &)
exec php8.2 -r 'while (true) sleep(1);'
`

// Under systemd each child is in a cgroup of its own below superd's unit, also after the
// keeper was killed; a stop takes what nothing but that shows to be of it, and no cgroup
// is left.
func TestUnitCgroups(t *testing.T) {
	m := newUnit(t, strings.Replace(systemdConfig, `["php8.2", "-r", "while (true) sleep(1);"]`, `["/srv/hide"]`, 1))
	m.install("/srv/hide", []byte(hidingWorker), 0o755)
	m.install("/srv/shop/releases/r1/public/index.php", []byte("<?php echo 'r1';"), 0o644)
	m.start()
	m.active()
	m.must("superctl", "switch", "r1")
	eventually(t, 30*time.Second, "each worker has its hidden one", func() bool { return len(m.hidden()) == 2 })

	leaves := m.leaves()
	var names []string
	for _, l := range leaves {
		names = append(names, l[:strings.LastIndexByte(l, '-')])
	}
	if len(names) != 3 || !strings.HasPrefix(names[0], "shop.fpm@") || !strings.HasPrefix(names[1], "shop.jobs:0@") || !strings.HasPrefix(names[2], "shop.jobs:1@") {
		t.Fatalf("the leaves are %v", leaves)
	}
	for _, p := range append(m.fleet(), m.hidden()...) {
		if g := m.group(p); !slices.ContainsFunc(leaves, func(l string) bool { return strings.HasSuffix(g, "/"+l) }) {
			t.Errorf("%s is in %s", p, g)
		}
	}
	if g := m.group("/proc/" + m.show("MainPID")); g != "/system.slice/superd.service" {
		t.Errorf("the keeper is in %s", g)
	}

	was := m.hidden()
	m.must("superctl", "restart", "shop/jobs:0")
	eventually(t, 30*time.Second, "the hidden one has gone with its worker and their leaf, and the next one is there", func() bool {
		now := m.hidden()
		return len(now) == 2 && (slices.Contains(was, now[0]) != slices.Contains(was, now[1])) && len(m.leaves()) == 3 && len(m.fleet()) == 3
	})

	leaves, before, main := m.leaves(), m.fleet(), m.show("MainPID")
	m.must("kill", "-9", main)
	m.follow(main)
	m.same("the keeper's SIGKILL", before)
	if now := m.leaves(); !slices.Equal(now, leaves) {
		t.Errorf("the leaves were %v and are %v", leaves, now)
	}

	m.must("systemctl", "stop", "superd")
	if left := append(m.fleet(), m.hidden()...); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if journal := m.must("journalctl", "--no-pager", "-u", "superd"); strings.Contains(journal, "was left behind") {
		t.Errorf("superd has left something to stop-post:\n%s", journal)
	}
	if left := m.leaves(); len(left) > 0 {
		t.Errorf("leaves are left: %v", left)
	}
	m.must("systemctl", "start", "superd")
	m.active()
	eventually(t, time.Minute, "everything has a leaf again", func() bool { return len(m.leaves()) == 3 && len(m.hidden()) == 2 })
}

// leaves are the cgroups of children in the machine.
func (m *machine) leaves() []string {
	m.t.Helper()
	return strings.Fields(m.must("bash", "-c", `cd /sys/fs/cgroup/system.slice/superd.service/children-* 2>/dev/null && ls -d */ | tr -d / | LC_ALL=C sort; true`))
}

// hidden are the processes that workers hide, as /proc/PID. What one of them has just
// forked is called as it is, and not meant.
func (m *machine) hidden() []string {
	m.t.Helper()
	return strings.Fields(m.must("bash", "-c", `exec 2>/dev/null
hides() { case "$(tr '\0' ' ' <$1/cmdline)" in "/bin/sh -c trap"*": 77777 ") true;; *) false;; esac; }
for p in /proc/[0-9]*; do hides $p && ! hides /proc/$(sed 's/.*) //' $p/stat | cut -d' ' -f2) && echo $p; done; true`))
}

// group is the cgroup of a process, given as fleet and hidden name it.
func (m *machine) group(process string) string {
	m.t.Helper()
	dir, _, _ := strings.Cut(process, " ")
	return strings.TrimPrefix(m.must("bash", "-c", fmt.Sprintf("grep ^0:: %s/cgroup", dir)), "0::")
}

// In a container that may write to its cgroup superd, as its first process, gives each
// child one, and leaves none behind.
func TestContainerCgroups(t *testing.T) {
	group := cgrouptest.Dir(t)
	b := newBare(t, 0, strings.Replace(containerShop, `["sh", "-c", "echo a line of the worker; (sleep 0.1 &); exec sleep 1000"]`, "[\"$DIR/hide\"]\nstop_timeout = \"1s\"", 1))
	b.write("hide", hidingWorker)
	if err := os.Chmod(b.path("hide"), 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `set -e
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
for d in /run /var/log /var/lib; do mount -t tmpfs none $d; done
cd /
exec env -i PATH="$PATH" "$1/bin/superd" run --config "$1/superd.toml"`
	c := exec.CommandContext(context.Background(), "unshare", "--fork", "--pid", "--cgroup", "--mount-proc", "--kill-child", "sh", "-c", script, "sh", b.dir)
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	b.pid1 = true
	b.launch(c)
	b.wellInside()
	if code, said := b.inside(b.path("bin/superctl"), "switch", "r2"); code != 0 {
		t.Fatalf("switch: exit %d: %s", code, said)
	}
	leaf := func() (name string, processes int) {
		for _, dir := range all(t, filepath.Join(group, "children-*", "shop.jobs:0@*")) {
			procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			name, processes = filepath.Base(dir), strings.Count(string(procs), "\n")
		}
		return name, processes
	}
	was := ""
	eventually(t, 20*time.Second, "the worker and what it hides are in a leaf", func() bool {
		name, n := leaf()
		was = name
		return n >= 2
	})
	if code, said := b.inside(b.path("bin/superctl"), "restart", "shop/jobs"); code != 0 {
		t.Errorf("restart: exit %d: %s", code, said)
	}
	eventually(t, 20*time.Second, "the leaf of the life before has gone with all that was in it", func() bool {
		name, n := leaf()
		return name != "" && name != was && n >= 2 && len(all(t, filepath.Join(group, "children-*", was))) == 0
	})
	if code := b.tell(syscall.SIGTERM); code != 0 {
		t.Errorf("it ends with %d:\n%s", code, b.said.String())
	}
	if left := all(t, filepath.Join(group, "*", "cgroup.procs")); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

func all(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

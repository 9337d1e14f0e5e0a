//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A machine is systemd as PID 1 in namespaces of its own, on a copy of this machine's
// root (overlayfs), with the shipped unit and the built programs installed. It sees
// nothing of this machine's /tmp, /run and processes, and starts none of its services.
// Its disk outlives a reboot.
type machine struct {
	t     *testing.T
	dir   string
	init  int // PID of its PID 1, as seen here
	boot  *exec.Cmd
	over  chan struct{} // closed when boot has ended
	waits sync.WaitGroup
	says  *lockedBuffer
}

// lockedBuffer is written by the machine's console and read by the story.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// cage moves itself into a cgroup of its own, which the machine sees as the root. Whatever
// ends the story ends the machine: descriptor 3 is the story's.
const cage = `set -eu
{ read -r word || true; [ "${word:-}" = over ] || kill -9 $$; } <&3 >/dev/null 2>&1 &
exec 3<&-
mkdir -p "$D/cg"
mount -t cgroup2 none "$D/cg"
mkdir -p "$D/cg/$NAME"
echo $$ >"$D/cg/$NAME/cgroup.procs"
exec unshare --kill-child=KILL --fork --pid --uts --ipc --cgroup --mount --propagation private bash -c "$INNER"`

// inner makes the machine's file systems, and an identity of this boot, and becomes its
// PID 1.
const inner = `set -eu
mount -t overlay overlay -o "lowerdir=/,upperdir=$D/up,workdir=$D/work" "$D/root"
cd "$D/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
cat /proc/sys/kernel/random/uuid >"$D/boot_id" && mount --bind "$D/boot_id" proc/sys/kernel/random/boot_id
mount --bind /sys sys && mount -o remount,bind,ro sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm && mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts && ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
find etc/systemd/system usr/lib/systemd/system -path '*.wants/*' ! -name '*journald*' ! -name superd.service -delete
rm -rf usr/lib/systemd/system-generators/*
mkdir -p etc/systemd/system/multi-user.target.wants
ln -sf /usr/lib/systemd/system/superd.service etc/systemd/system/multi-user.target.wants/superd.service
pivot_root . mnt
exec chroot . bash -c 'umount -l /mnt; exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --show-status=no --log-target=console'`

func newMachine(t *testing.T) *machine {
	dir, err := os.MkdirTemp("", "sd") //nolint:usetesting // its path is short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, says: &lockedBuffer{}}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatalf("mount the machine's disk: %v", err)
	}
	t.Cleanup(m.end)
	for _, d := range []string{"up", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// install puts a file where the machine has it.
func (m *machine) install(path string, content []byte, mode os.FileMode) {
	m.t.Helper()
	at := filepath.Join(m.dir, "up", path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(at, content, mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) installFile(path, from string, mode os.FileMode) {
	m.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.install(path, content, mode)
}

// start boots it. A kernel that refuses something essential is told with its words.
func (m *machine) start() {
	m.t.Helper()
	boot := exec.Command("unshare", "--mount", "--propagation", "private", "bash", "-c", cage)
	boot.Env = append(os.Environ(), "D="+m.dir, "NAME="+filepath.Base(m.dir), "INNER="+inner)
	boot.Stdout, boot.Stderr = m.says, m.says
	listens, lives, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	boot.ExtraFiles = []*os.File{listens}
	err = boot.Start()
	_ = listens.Close() // boot has its own
	if err != nil {
		m.t.Fatalf("make namespaces for a machine: %v", err)
	}
	over := make(chan struct{})
	m.boot, m.over = boot, over
	m.waits.Go(func() {
		defer close(over)
		_ = boot.Wait()                    // how it ended is no news
		_, _ = lives.WriteString("over\n") // if anybody still listens
		_ = lives.Close()
	})
	deadline := time.Now().Add(time.Minute)
	for !m.boots() {
		select {
		case <-over:
			m.t.Fatalf("the machine does not boot; this kernel, or the container that this runs in, refuses something that systemd needs (namespaces, overlayfs, cgroup v2; root is needed too):\n%s", m.says)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("systemd is not PID 1 of the machine after a minute; the console said:\n%s", m.says)
		}
	}
}

// boots tells whether systemd is PID 1 of it by now.
func (m *machine) boots() bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.boot.Process.Pid, m.boot.Process.Pid)) // it may have ended
	for child := range strings.FieldsSeq(string(b)) {
		comm, err := os.ReadFile("/proc/" + child + "/comm")
		pid, _ := strconv.Atoi(child)
		if err == nil && strings.TrimSpace(string(comm)) == "systemd" {
			m.init = pid
			return true
		}
	}
	return false
}

// halt ends the machine as a power cut does, or the death of its PID 1.
func (m *machine) halt() {
	if m.boot == nil {
		return
	}
	if m.init > 0 {
		_ = syscall.Kill(m.init, syscall.SIGKILL) // and the kernel all the others
	} else {
		_ = m.boot.Process.Kill()
	}
	<-m.over
	m.boot, m.init = nil, 0
}

// off turns it off in order, as `systemctl poweroff` does.
func (m *machine) off() {
	m.t.Helper()
	m.must("systemctl", "poweroff")
	select {
	case <-m.over:
	case <-time.After(2 * time.Minute):
		m.t.Fatalf("the machine does not turn itself off; the console said:\n%s", m.says)
	}
	m.boot, m.init = nil, 0
}

func (m *machine) end() {
	if m.t.Failed() {
		if m.boot != nil && m.init > 0 {
			out, _ := m.run("journalctl", "--no-pager", "-n", "60", "-u", "superd")
			m.t.Logf("journal:\n%s", out)
		}
		m.t.Logf("console:\n%s", m.says.String())
	}
	m.halt()
	m.waits.Wait()
	const sweep = `mount -t cgroup2 none "$D/cg" && find "$D/cg/$NAME" -depth -type d -exec rmdir {} +`
	c := exec.Command("unshare", "--mount", "--propagation", "private", "bash", "-c", sweep)
	c.Env = append(os.Environ(), "D="+m.dir, "NAME="+filepath.Base(m.dir))
	if out, err := c.CombinedOutput(); err != nil {
		m.t.Errorf("remove the machine's cgroups: %v: %s", err, out)
	}
	if err := errors.Join(syscall.Unmount(m.dir, syscall.MNT_DETACH), os.Remove(m.dir)); err != nil {
		m.t.Errorf("remove the machine: %v", err)
	}
}

// run runs a command in the machine, for two minutes at most, and returns what it writes to
// standard output; if it fails, to standard error too.
func (m *machine) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	enter := []string{"-t", strconv.Itoa(m.init), "-m", "-u", "-i", "-p", "-C", "-r", "-w", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if err != nil {
		out.Write(complaints.Bytes())
	}
	return strings.TrimSpace(out.String()), err
}

func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// show is a property of superd's unit.
func (m *machine) show(property string) string {
	out, _ := m.run("systemctl", "show", "superd", "-p", property, "--value")
	return out
}

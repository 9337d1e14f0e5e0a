//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const containerShop = `
[app.shop]
root = "$DIR/shop"
user = "www-data"

[app.shop.switch]
watch = "300ms"

[app.shop.fpm]
binary = "php-fpm8.2"
max_children = 2

[app.shop.worker.jobs]
command = ["sh", "-c", "echo a line of the worker; (sleep 0.1 &); exec sleep 1000"]
min_healthy_time = "200ms"
log = { stdout = "inherit" }
`

// container starts superd as PID 1 of namespaces of its own, as `docker run --read-only`
// with a volume does: nothing of the environment but PATH, nothing to write to but the
// volume, /run, /tmp and superd's own directories, which are empty and go with it. keep
// is where superd's state outlives it; "" is nowhere.
func (b *bare) container(keep string) {
	b.t.Helper()
	script := `set -e
mount --make-rprivate /
mount --bind /tmp /tmp
[ -z "$2" ] || { mkdir -p /var/lib/superd; mount --bind "$2" /var/lib/superd; }
[ -n "$2" ] || mount -t tmpfs none /var/lib
for d in /run /var/log; do mount -t tmpfs none $d; done
mount --bind /etc /etc
mount -o remount,bind,ro /etc
mount -o remount,bind,ro /
cd /
exec env -i PATH="$PATH" "$1/bin/superd" run --config "$1/superd.toml"`
	c := exec.CommandContext(context.Background(), "unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "sh", "-c", script, "sh", b.dir, keep)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b.pid1 = true
	b.launch(c)
}

// init is the PID that the container's PID 1 has here.
func (b *bare) init() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", b.cmd.Process.Pid, b.cmd.Process.Pid))
	return number(string(text))
}

// inside is what `docker exec` does.
func (b *bare) inside(args ...string) (code int, said string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	argv := append([]string{"-t", strconv.Itoa(b.init()), "-m", "-p", "env", "-i", b.env[0]}, args...)
	c := exec.CommandContext(ctx, "nsenter", argv...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, _ := c.CombinedOutput() // the code is looked at
	return c.ProcessState.ExitCode(), string(out)
}

func (b *bare) wellInside() {
	b.t.Helper()
	eventually(b.t, 30*time.Second, "all is well in the container", func() bool {
		select {
		case <-b.done:
			b.t.Fatalf("the container ended with %d:\n%s", b.cmd.ProcessState.ExitCode(), b.said.String())
		default:
		}
		if b.init() == 0 {
			return false
		}
		code, _ := b.inside(b.path("bin/superctl"), "status")
		return code == 0
	})
}

// tell sends a signal to PID 1, as the engine does, and returns the container's code.
func (b *bare) tell(sig syscall.Signal) int {
	b.t.Helper()
	b.kill(b.init(), sig)
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		b.t.Fatalf("the container does not end of %s:\n%s", sig, b.said.String())
	}
	return b.cmd.ProcessState.ExitCode()
}

// superd is PID 1: it takes in and reaps orphans that are not its own, writes everything
// to its own output, answers the engine's signals, and ends with the code that is meant.
func TestContainer(t *testing.T) {
	b := newBare(t, 0, containerShop)
	b.container("")
	b.wellInside()
	if code, said := b.inside("sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"); code != 0 || !strings.Contains(said, "superd-keeper") {
		t.Fatalf("PID 1 is %s", said)
	}
	if code, said := b.inside(b.path("bin/superctl"), "switch", "r2"); code != 0 {
		t.Fatalf("switch: exit %d: %s", code, said)
	}
	eventually(t, 10*time.Second, "a line of a child is in the container's output", func() bool {
		return strings.Contains(b.said.String(), "a line of the worker")
	})
	for range 20 { // of docker exec, and left to PID 1
		b.inside("sh", "-c", "(sleep 0.05 &)")
	}
	eventually(t, 10*time.Second, "no zombie and no orphan is left", func() bool {
		_, said := b.inside("ps", "-e", "-o", "stat=,args=")
		return !strings.Contains(said, "sleep 0.") && !strings.Contains(said, "defunct")
	})

	_, before := b.inside(b.path("bin/superctl"), "--json", "status")
	b.write("superd.toml", strings.ReplaceAll(containerShop, "$DIR", b.dir)+"processes = 2\n")
	b.kill(b.init(), syscall.SIGHUP)
	eventually(t, 20*time.Second, "SIGHUP reloads", func() bool {
		_, said := b.inside(b.path("bin/superctl"), "status")
		return strings.Contains(said, "shop/jobs:1")
	})
	_, pid, _ := strings.Cut(before, `"pid":`)
	if number(pid) <= 1 {
		t.Fatalf("no PID of superd: %s\n%s", before, b.said.String())
	}
	if code, said := b.inside("kill", "-9", strconv.Itoa(number(pid))); code != 0 {
		t.Fatal(said)
	}
	eventually(t, 20*time.Second, "a superd that was killed is replaced", func() bool {
		code, said := b.inside(b.path("bin/superctl"), "--json", "status")
		_, next, _ := strings.Cut(said, `"pid":`)
		return code == 0 && number(next) != number(pid)
	})
	if code := b.tell(syscall.SIGTERM); code != 0 {
		t.Errorf("after SIGTERM it ends with %d", code)
	}
	if said := b.said.String(); !strings.Contains(said, "superd has stopped everything") {
		t.Errorf("it did not stop in order: %s", said)
	}
}

// Ctrl-C ends it in order too, and a configuration that is refused is exit 5.
func TestContainerExitCodes(t *testing.T) {
	b := newBare(t, 0, containerShop)
	b.container("")
	b.wellInside()
	if code := b.tell(syscall.SIGINT); code != 0 || !strings.Contains(b.said.String(), "superd has stopped everything") {
		t.Errorf("after SIGINT: exit %d: %s", code, b.said.String())
	}
	b.write("superd.toml", "nonsense = 1\n")
	b.container("")
	<-b.done
	if code := b.cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("a refused configuration: exit %d", code)
	}
}

// The engine kills the container in the middle; the next one has the same volume. PIDs
// begin anew there, so those of before mean other processes now. And two containers with
// one volume: the second is refused.
func TestContainerAgain(t *testing.T) {
	b := newBare(t, 0, containerShop)
	keep := b.path("volume")
	if err := os.Mkdir(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		b.container(keep)
		b.wellInside()
		if i > 0 {
			b.tell(syscall.SIGKILL)
			continue
		}
		second := &bare{t: t, dir: b.dir, bin: b.bin, env: b.env, file: b.file}
		second.container(keep)
		select {
		case <-second.done:
		case <-time.After(time.Minute):
			t.Fatal("two containers have one volume")
		}
		if code := second.cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(second.said.String(), "the state directory is in use") {
			t.Errorf("the second: exit %d: %s", code, second.said.String())
		}
		if code, said := b.inside(b.path("bin/superctl"), "status"); code != 0 {
			t.Errorf("the first, after the second: exit %d: %s", code, said)
		}
		if code := b.tell(syscall.SIGKILL); code == 0 {
			t.Error("it was not killed")
		}
	}
	b.container(keep)
	b.wellInside()
	if _, said := b.inside("ps", "-e", "-o", "args="); strings.Count(said, "sleep 1000") != 1 {
		t.Errorf("the workers: %s", said)
	}
	if code := b.tell(syscall.SIGTERM); code != 0 {
		t.Errorf("it ends with %d", code)
	}
}

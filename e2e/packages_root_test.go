//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
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
)

// A cleanRoot is Debian as debootstrap lays it, with nothing that it could do without:
// no systemd, no PHP. It has processes, /run and /tmp of its own.
type cleanRoot struct {
	t    *testing.T
	dir  string
	boot *exec.Cmd
	init int // PID of what its processes live as long as, as seen here
	env  []string
}

// stay mounts what a root needs and waits.
const stay = `set -eu
cd "$D/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
exec chroot . sleep infinity`

// bootstrap lays the root that others are copies of.
func bootstrap(dir string) error {
	out, err := exec.Command("bash", "-c", `. /etc/os-release; exec debootstrap --variant=minbase "$VERSION_CODENAME" "$0"`, dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("debootstrap: %w\n%s", err, out)
	}
	return nil
}

// newCleanRoot is a copy of base, in memory.
func newCleanRoot(t *testing.T, base string) *cleanRoot {
	dir, err := os.MkdirTemp("", "cr") //nolint:usetesting // its path is short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	r := &cleanRoot{t: t, dir: dir}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatalf("mount the disk of a clean root: %v", err)
	}
	t.Cleanup(r.end)
	for _, d := range []string{"up", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("overlay", dir+"/root", "overlay", 0, "lowerdir="+base+",upperdir="+dir+"/up,workdir="+dir+"/work"); err != nil {
		t.Fatalf("mount a clean root: %v", err)
	}
	r.boot = exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-c", stay)
	r.boot.Env = append(os.Environ(), "D="+dir)
	r.boot.Stderr = os.Stderr
	if err := r.boot.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "a clean root is there", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", r.boot.Process.Pid, r.boot.Process.Pid))
		if err != nil {
			return false
		}
		if r.init, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return false
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.init))
		return err == nil && string(comm) == "sleep\n"
	})
	return r
}

func (r *cleanRoot) end() {
	if r.boot != nil {
		_ = r.boot.Process.Kill() // and with it all of the root's processes
		_ = r.boot.Wait()         // how it ended is no news
	}
	if err := errors.Join(syscall.Unmount(r.dir+"/root", syscall.MNT_DETACH), syscall.Unmount(r.dir, syscall.MNT_DETACH), os.Remove(r.dir)); err != nil {
		r.t.Errorf("remove the clean root: %v", err)
	}
}

// command is one in the root, which has nothing of this machine's environment.
func (r *cleanRoot) command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"-t", strconv.Itoa(r.init), "-m", "-p", "-r", "-w", "--"}
	c := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	c.Env = append(r.env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root", "DEBIAN_FRONTEND=noninteractive")
	return c
}

// run runs a command in the root, for two minutes at most.
func (r *cleanRoot) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := r.command(ctx, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *cleanRoot) must(args ...string) string {
	r.t.Helper()
	out, err := r.run(args...)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// install puts a file there.
func (r *cleanRoot) install(path, content string) {
	r.t.Helper()
	at := filepath.Join(r.dir, "root", path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// copyIn puts a file of this machine there, and tells its name in the root.
func (r *cleanRoot) copyIn(from string) string {
	r.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		r.t.Fatal(err)
	}
	r.install("/root/"+filepath.Base(from), string(content))
	return "/root/" + filepath.Base(from)
}

// foreground is `superd run` there, until the root ends or it does.
type foreground struct {
	done chan error
	says *lockedBuffer
}

func (r *cleanRoot) superd() *foreground {
	r.t.Helper()
	f := &foreground{done: make(chan error, 1), says: &lockedBuffer{}}
	c := r.command(context.Background(), "superd", "run")
	c.Stdout, c.Stderr = f.says, f.says
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { f.done <- c.Wait() }()
	eventually(r.t, time.Minute, "superd is here", func() bool {
		_, err := r.run("superctl", "status")
		return err == nil
	})
	return f
}

// ended waits for the end of `superd run`.
func (f *foreground) ended(t *testing.T) {
	t.Helper()
	select {
	case err := <-f.done:
		if err != nil {
			t.Errorf("superd ended with %v\n%s", err, f.says)
		}
	case <-time.After(time.Minute):
		t.Fatalf("superd still runs\n%s", f.says)
	}
}

// workers are the PIDs of the app's workers, once all of them run.
func (r *cleanRoot) workers(want int) []int {
	r.t.Helper()
	var pids []int
	eventually(r.t, time.Minute, "the workers run", func() bool {
		pids = nil
		out, err := r.run("superctl", "status", "--json")
		var s struct {
			Apps []struct {
				Pools []struct {
					Workers []struct {
						State string `json:"state"`
						PID   int    `json:"pid"`
					} `json:"workers"`
				} `json:"pools"`
			} `json:"apps"`
		}
		if err != nil || json.Unmarshal([]byte(out), &s) != nil || len(s.Apps) != 1 {
			return false
		}
		for _, pool := range s.Apps[0].Pools {
			for _, w := range pool.Workers {
				if w.PID > 0 {
					pids = append(pids, w.PID)
				}
			}
		}
		return len(pids) == want
	})
	slices.Sort(pids)
	return pids
}

const packageApp = `
[app.shop]
root = "/srv/shop"
user = "nobody"
[app.shop.worker.jobs]
command   = ["sh", "-c", "echo up; exec sleep 100000"]
processes = 3
min_healthy_time = "100ms"
`

// liveOnACleanRoot goes through the life of the package where there is no systemd: installed,
// upgraded while superd runs, upgraded in vain, removed, purged.
func (p *packages) liveOnACleanRoot(t *testing.T) {
	r := newCleanRoot(t, p.base)
	old, newer := r.copyIn(p.old.deb), r.copyIn(p.new.deb)
	r.must("dpkg", "-i", old)
	if out := r.must("superd", "check", "/etc/superd/superd.toml"); !strings.Contains(out, "fine (0 apps") {
		t.Errorf("superd check: %s", out)
	}
	for _, program := range []string{"superd", "superctl", "/usr/lib/superd/superd-keeper"} {
		if out := r.must(program, "version"); !strings.Contains(out, "1.0.0 (commit "+packageCommit+", "+packageDate+")") {
			t.Errorf("%s version: %s", program, out)
		}
	}
	r.must("getent", "group", "superd")

	superd := r.superd()
	r.install("/etc/superd/conf.d/shop.toml", packageApp)
	r.install("/srv/shop/releases/r1/index.php", "")
	r.must("ln", "-s", "releases/r1", "/srv/shop/current")
	r.must("superctl", "reload")
	before := r.workers(3)

	if out := r.must("dpkg", "-i", newer); !strings.Contains(out, "has taken over from 1.0.0") || !strings.Contains(out, "superd-keeper 2.0.0") {
		t.Errorf("the upgrade said:\n%s", out)
	}
	if now := r.workers(3); !slices.Equal(now, before) {
		t.Errorf("the upgrade of the package changed the workers from %v to %v", before, now)
	}

	r.must("sh", "-c", "echo 'nonsense = 1' >/etc/superd/conf.d/bad.toml")
	out := r.must("dpkg", "-i", old)
	if !strings.Contains(out, "nonsense") || !strings.Contains(out, "goes on as before") {
		t.Errorf("an upgrade to a superd that refuses its configuration said:\n%s", out)
	}
	if out := r.must("superctl", "version"); !strings.Contains(out, "superd   2.0.0") {
		t.Errorf("after an upgrade in vain: %s", out)
	}
	if now := r.workers(3); !slices.Equal(now, before) {
		t.Errorf("an upgrade in vain changed the workers from %v to %v", before, now)
	}

	r.must("dpkg", "-r", "superd")
	superd.ended(t)
	for _, pid := range before {
		if _, err := r.run("kill", "-0", strconv.Itoa(pid)); err == nil {
			t.Errorf("worker %d outlived the package", pid)
		}
	}
	r.has("removed", true, "/etc/superd/superd.toml", "/etc/superd/conf.d/shop.toml", "/var/lib/superd/events.ndjson", "/var/lib/superd/apps/shop/state", "/var/log/superd/shop")
	r.has("removed", false, "/usr/bin/superd", "/usr/bin/superctl", "/usr/lib/superd")
	r.purge()
}

// purge takes everything of superd, and nothing of an application, wherever it is.
func (r *cleanRoot) purge() {
	r.t.Helper()
	theirs := []string{
		"/srv/shop/releases/r1/index.php", "/var/lib/superd/blog/releases/r1/journal", "/var/lib/superd/apps/news/releases/r1/state",
		"/var/log/superd/wiki/releases/r1/x.log", "/etc/superd/docs/releases/r1/x.toml",
	}
	for _, path := range theirs {
		r.install(path, "")
	}
	out := r.must("dpkg", "-P", "superd")
	if !strings.Contains(out, "/var/lib/superd has what superd did not make") {
		r.t.Errorf("the purge said:\n%s", out)
	}
	r.has("purged", true, theirs...)
	left := r.must("find", "/etc/superd", "/var/lib/superd", "/var/log/superd", "-type", "f")
	if n := len(strings.Fields(left)); n != len(theirs)-1 {
		r.t.Errorf("after the purge there are:\n%s", left)
	}
	r.has("purged", false, "/run/superd")
	r.must("rm", "-r", "/etc/superd", "/var/lib/superd", "/var/log/superd")
}

func (r *cleanRoot) has(when string, want bool, paths ...string) {
	r.t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", r.init, path)); (err == nil) != want {
			r.t.Errorf("%s: %s is there: %v", when, path, err == nil)
		}
	}
}

// liveAsRPM: the same by rpm, whose scripts are others, with a socket elsewhere, which
// they find.
func (p *packages) liveAsRPM(t *testing.T) {
	r := newCleanRoot(t, p.base)
	rpm := func(args ...string) string {
		t.Helper()
		enter := []string{"-t", strconv.Itoa(r.init), "-m", "-p", "--"}
		args = append([]string{"rpm", "--root", filepath.Join(r.dir, "root"), "--nodeps"}, args...)
		out, err := exec.Command("nsenter", append(enter, args...)...).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("failed")) {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	rpm("-i", p.old.rpm)
	r.must("sed", "-i", `1i socket = "/run/elsewhere.sock"`, "/etc/superd/superd.toml")
	r.must("superd", "check", "/etc/superd/superd.toml")
	r.env = []string{"SUPERD_SOCKET=/run/elsewhere.sock"}
	superd := r.superd()
	r.must("sh", "-c", "echo '# mine' >>/etc/superd/superd.toml")
	rpm("-U", p.new.rpm)
	if out := r.must("superctl", "version"); !strings.Contains(out, "superd   2.0.0") {
		t.Errorf("after the upgrade: %s", out)
	}
	if out := r.must("tail", "-n1", "/etc/superd/superd.toml"); out != "# mine" {
		t.Errorf("the upgrade changed the configuration: %s", out)
	}
	rpm("-e", "superd")
	superd.ended(t)
	r.has("removed", false, "/usr/bin/superd")
	r.has("removed", true, "/var/lib/superd/events.ndjson", "/etc/superd/superd.toml.rpmsave")
}

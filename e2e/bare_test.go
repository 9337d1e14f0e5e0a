//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/fpm/fastcgi"
)

// A bare is an installation with nothing but superd and PHP: two releases of one page,
// for stories about whom superd runs as and where.
type bare struct {
	t    *testing.T
	dir  string
	bin  string
	uid  uint32   // whose it all is, and who runs it
	env  []string // the whole of superd's, and of superctl's
	file string   // superd.toml
	cmd  *exec.Cmd
	said lockedBuffer
	done chan struct{}
	pid1 bool // superd is PID 1 of namespaces, and cmd waits for it
}

// nobody is the user of that name, on Debian as elsewhere.
const nobody = 65534

// newBare makes it in a directory of its own. more goes into superd.toml, in which $DIR
// is that directory.
func newBare(t *testing.T, uid uint32, more string) *bare {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bare") //nolint:usetesting // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bare{t: t, dir: dir, bin: filepath.Join(dir, "bin"), uid: uid, file: filepath.Join(dir, "superd.toml")}
	b.env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + filepath.Join(dir, "home")}
	for _, r := range []string{"r1", "r2"} {
		b.write("shop/releases/"+r+"/public/index.php", `<?php echo "`+r+` ", posix_getuid(), " ", getenv("SECRET") === false ? "no secret" : "a secret";`)
	}
	b.write("home/.keep", "")
	b.write("shop/shared/.env", "SECRET=of-the-deploy-user\n")
	b.write("superd.toml", strings.ReplaceAll(more, "$DIR", dir))
	if err := os.Symlink("releases/r1", b.path("shop/current")); err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob("../bin/super*")
	if err != nil || len(programs) < 3 {
		t.Fatalf("the programs: %v %v; make build", programs, err)
	}
	for _, p := range programs {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b.write("bin/"+filepath.Base(p), string(text))
		if err := os.Chmod(b.path("bin/"+filepath.Base(p)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.give(dir, uid); err != nil {
		t.Fatal(err)
	}
	return b
}

// give makes all below path a user's.
func (b *bare) give(path string, uid uint32) error {
	return filepath.Walk(path, func(p string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(p, int(uid), int(uid)))
	})
}

func (b *bare) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bare) write(name, text string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// command is a program of superd's, run by whose it all is.
func (b *bare) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, b.path("bin/"+name), args...)
	c.Env, c.Dir = b.env, b.dir
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: b.uid, Gid: b.uid}}
	return c
}

// run is a program that ends by itself.
func (b *bare) run(name string, args ...string) (code int, said string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := b.command(ctx, name, args...)
	out, _ := c.CombinedOutput() // the code is looked at
	return c.ProcessState.ExitCode(), string(out)
}

// ctl is superctl, as somebody types it who names no socket.
func (b *bare) ctl(want int, args ...string) string {
	b.t.Helper()
	code, said := b.run("superctl", args...)
	if code != want {
		b.t.Fatalf("superctl %s: exit %d, want %d: %s\n%s", strings.Join(args, " "), code, want, said, b.said.String())
	}
	return said
}

// launch starts superd, by the command that is given or its own.
func (b *bare) launch(c *exec.Cmd) {
	b.t.Helper()
	if c == nil {
		c = b.command(context.Background(), "superd", "run", "--config", b.file)
	}
	c.Stdout, c.Stderr = &b.said, &b.said
	c.WaitDelay = 10 * time.Second
	b.cmd, b.done = c, make(chan struct{})
	if err := c.Start(); err != nil {
		b.t.Fatal(err)
	}
	done := b.done
	go func() { _ = c.Wait(); close(done) }()
	b.t.Cleanup(func() {
		b.stop()
		if b.t.Failed() {
			b.t.Logf("superd said:\n%s", b.said.String())
		}
	})
}

// kill sends a signal to one process, which must be one: 0 would be this whole test.
func (b *bare) kill(pid int, sig syscall.Signal) {
	b.t.Helper()
	if pid <= 1 {
		b.t.Fatalf("%s is to be sent to process %d:\n%s", sig, pid, b.said.String())
	}
	if err := syscall.Kill(pid, sig); err != nil {
		b.t.Fatalf("%s to process %d: %v", sig, pid, err)
	}
}

// stop ends superd in order and returns its exit code.
func (b *bare) stop() int {
	b.t.Helper()
	select {
	case <-b.done:
		return b.cmd.ProcessState.ExitCode()
	default:
	}
	pid := b.cmd.Process.Pid
	if b.pid1 {
		pid = b.init()
	}
	if pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may end just now
	}
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		b.t.Errorf("superd does not end:\n%s", b.said.String())
		_ = b.cmd.Process.Kill()
		<-b.done
	}
	return b.cmd.ProcessState.ExitCode()
}

// well waits until superctl says that all is as it should be.
func (b *bare) well() {
	b.t.Helper()
	eventually(b.t, 30*time.Second, "superctl status says that all is well", func() bool {
		select {
		case <-b.done:
			b.t.Fatalf("superd ended with %d", b.cmd.ProcessState.ExitCode())
		default:
		}
		code, _ := b.run("superctl", "status")
		return code == 0
	})
}

// page is what PHP answers at the socket.
func (b *bare) page(socket string) string { return b.pageAt("unix", socket) }

func (b *bare) pageAt(network, address string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := fastcgi.Do(ctx, network, address, fastcgi.Request{
		Params: fastcgi.Script(b.path("shop/current/public"), "/index.php", "/", "GET", "shop.example"),
	})
	if err != nil {
		return err.Error()
	}
	return string(r.Body)
}

// family is who descends from a process, with the user of each.
func family(pid int) map[int]int {
	parents, users := map[int]int{}, map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			var n int
			if _, err := fmt.Sscanf(line, "PPid:\t%d", &n); err == nil {
				parents[child] = n
			}
			if _, err := fmt.Sscanf(line, "Uid:\t%d", &n); err == nil {
				users[child] = n
			}
		}
	}
	all := map[int]int{}
	for child := range parents {
		for p, n := child, 0; p > 0 && n < 100; p, n = parents[p], n+1 {
			if p == pid && child != pid {
				all[child] = users[child]
			}
		}
	}
	return all
}

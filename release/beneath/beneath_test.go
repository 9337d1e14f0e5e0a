package beneath

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// An app is a root of user deploy, beside a secret of root's.
type app struct{ root, secret string }

// deploy owns the links that are tried; nobody with that number has to exist.
const deploy = 12345

func newApp(t *testing.T) app {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	a := app{filepath.Join(dir, "shop"), filepath.Join(dir, "secret")}
	must(t, os.MkdirAll(filepath.Join(a.root, "releases", "r1"), 0o755))
	must(t, os.MkdirAll(filepath.Join(a.root, "shared"), 0o755))
	must(t, os.WriteFile(filepath.Join(a.root, "shared", ".env"), []byte("A=1"), 0o600))
	must(t, os.WriteFile(a.secret, []byte("root's"), 0o600))
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// link makes one of a user's.
func (a app) link(t *testing.T, uid int, target, name string) string {
	t.Helper()
	path := filepath.Join(a.root, name)
	must(t, os.Symlink(target, path))
	must(t, os.Lchown(path, uid, uid))
	return path
}

func read(f *os.File, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give links to others")
	}
}

// up is the root of the app, from within a release.
const up = "../.."

// The layouts of the deploy tools: what a release shares is linked from within it.
func TestLinksInsideAreFollowed(t *testing.T) {
	needRoot(t)
	a := newApp(t)
	must(t, os.Symlink("shop", a.root+".link"))
	for name, path := range map[string]string{
		"no link":                filepath.Join(a.root, "shared/.env"),
		"relative, of Deployer":  a.link(t, deploy, up+"/shared/.env", "releases/r1/.env"),
		"absolute, of Capistano": a.link(t, deploy, filepath.Join(a.root, "shared/.env"), "releases/r1/.env.abs"),
		"a directory on the way": filepath.Join(a.link(t, deploy, up+"/shared", "releases/r1/conf"), ".env"),
		"a link to a link":       a.link(t, deploy, ".env", "releases/r1/.env.twice"),
		"the root behind a link": a.root + ".link/shared/.env",
	} {
		root := a.root
		if name == "the root behind a link" {
			root += ".link"
		}
		if got, err := read(Open(root, path)); err != nil || got != "A=1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestLinksOutAreRefused(t *testing.T) {
	needRoot(t)
	a := newApp(t)
	must(t, os.MkdirAll(a.root+"-other", 0o755)) // begins as the root's name does
	must(t, os.WriteFile(a.root+"-other/x", []byte("root's"), 0o600))
	for name, path := range map[string]string{
		"absolute":                a.link(t, deploy, a.secret, "a"),
		"relative":                a.link(t, deploy, "../secret", "b"),
		"a directory on the way":  filepath.Join(a.link(t, deploy, "..", "c"), "secret"),
		"a twin's name":           a.link(t, deploy, a.root+"-other/x", "d"),
		"a link to a link out":    a.link(t, deploy, "a", "e"),
		"through root's own link": filepath.Join(a.link(t, 0, "..", "f"), "secret"),
		"out and in and out":      a.link(t, deploy, "../shop/../secret", "g"),
		"root's link elsewhere":   a.link(t, deploy, a.link(t, 0, a.secret, "h"), "i"),
	} {
		if got, err := read(Open(a.root, path)); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	magic := a.link(t, deploy, "/proc/self/environ", "m")
	if _, err := read(Open(a.root, magic)); err == nil {
		t.Error("a link to superd's own environment was followed")
	}
}

// What an administrator has linked stays as it is.
func TestLinkOfRootMayLeadOut(t *testing.T) {
	needRoot(t)
	a := newApp(t)
	if got, err := read(Open(a.root, a.link(t, 0, a.secret, "a"))); err != nil || got != "root's" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := read(Open(a.root, a.link(t, 0, "../secret", "b"))); err != nil || got != "root's" {
		t.Errorf("%q, %v", got, err)
	}
}

// The path is exchanged for a link to the secret again and again while it is opened.
// Nothing of the secret is ever read.
func TestNoRaceLeadsOut(t *testing.T) {
	needRoot(t)
	a := newApp(t)
	path := filepath.Join(a.root, "shared", ".env")
	out := a.link(t, deploy, a.secret, "shared/out")
	done := make(chan struct{})
	var exchanging sync.WaitGroup
	exchanging.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, out, unix.RENAME_EXCHANGE)
			}
		}
	})
	well := 0
	for range 20000 {
		got, err := read(Open(a.root, path))
		if got == "root's" {
			t.Error("the secret was read")
			break
		}
		if err == nil {
			well++
		}
	}
	close(done)
	exchanging.Wait()
	if well == 0 {
		t.Error("it was never opened: nothing was tried")
	}
}

// Without openat2 the same is refused.
func TestStepwise(t *testing.T) {
	a := newApp(t)
	must(t, os.Symlink("../secret", filepath.Join(a.root, "out")))
	must(t, os.Symlink("shared", filepath.Join(a.root, "dir")))
	dir, err := unix.Open(a.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(dir)
	for _, by := range []func(int, string, int) (int, error){straight, stepwise} {
		for name, want := range map[string]error{
			"shared/.env": nil, "./shared/.env": nil,
			"out": unix.ELOOP, "dir/.env": unix.ENOTDIR, "../secret": unix.EXDEV, "shared/nothing": unix.ENOENT,
		} {
			fd, err := by(dir, name, unix.O_RDONLY|unix.O_CLOEXEC)
			if err == nil {
				_ = unix.Close(fd)
			}
			onTheWay := name == "dir/.env" && errors.Is(err, unix.ELOOP) // as openat2 says it
			if !errors.Is(err, want) && !onTheWay {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	n := open0(t)
	for range 10 {
		fd, err := stepwise(dir, "shared/.env", unix.O_RDONLY|unix.O_CLOEXEC)
		must(t, err)
		must(t, unix.Close(fd))
	}
	if now := open0(t); now != n {
		t.Errorf("%d descriptors are open, were %d", now, n)
	}
}

func open0(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}

func TestHolds(t *testing.T) {
	a := newApp(t)
	must(t, os.Symlink("shop", a.root+".link"))
	for path, want := range map[string]bool{
		a.root + "/x": true, a.root: false, a.root + "/../secret": false, a.root + "-other/x": false, "/etc/passwd": false,
	} {
		if Holds(a.root, path) != want {
			t.Errorf("%s: %t", path, !want)
		}
	}
	if !Holds(a.root+".link", a.root+"/releases/r1/.env") {
		t.Error("below what the root is a link to")
	}
}

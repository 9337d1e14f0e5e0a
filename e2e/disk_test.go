//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// A disk is a small file system that can be filled.
type disk struct {
	t    *testing.T
	path string
}

// mountDisk puts a small file system at path.
func mountDisk(t *testing.T, path, size string) *disk {
	t.Helper()
	if err := errors.Join(os.MkdirAll(path, 0o755), syscall.Mount("small", path, "tmpfs", 0, "mode=755,nr_inodes=3000,size="+size)); err != nil {
		t.Fatal(err)
	}
	return &disk{t, path}
}

func (d *disk) filling() string { return filepath.Join(d.path, "fill") }

// fill leaves no byte, or no inode.
func (d *disk) fill(what string) {
	d.t.Helper()
	if err := os.Mkdir(d.filling(), 0o700); err != nil {
		d.t.Fatal(err)
	}
	var err error
	for i := 0; err == nil; i++ {
		var text []byte
		if what == "bytes" {
			text = make([]byte, 8<<20)
		}
		err = os.WriteFile(filepath.Join(d.filling(), strconv.Itoa(i)), text, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatalf("fill %s with %s: %v", d.path, what, err)
	}
}

func (d *disk) free() {
	d.t.Helper()
	if err := os.RemoveAll(d.filling()); err != nil {
		d.t.Fatal(err)
	}
}

// newDiskSite is a site of which one directory is a small disk.
func newDiskSite(t *testing.T, where string) (s *site, d *disk, failpoint string) {
	t.Helper()
	l, redis := newLab(t)
	s = &site{Lab: l, t: t, redis: redis}
	if where == "shop" {
		owner, err := os.Stat(l.Path("shop", "shared"))
		if err != nil {
			t.Fatal(err)
		}
		d = mountDisk(t, l.Path("shop"), "128m")
		uid, gid := owner.Sys().(*syscall.Stat_t).Uid, owner.Sys().(*syscall.Stat_t).Gid
		if l.Shop, err = shop.New(l.Path("shop"), int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
		addRelease(t, l, "r1")
		addRelease(t, l, "r2")
		if err := l.Shop.Point("r1"); err != nil {
			t.Fatal(err)
		}
	} else {
		d = mountDisk(t, l.Path(where), "16m")
	}
	t.Cleanup(func() { // before the lab is deleted
		if s.superd != nil {
			if err := s.superd.Stop(); err != nil {
				t.Error(err)
			}
		}
		if err := syscall.Unmount(d.path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	addRelease(t, l, "sick", shop.SickOnceLive())
	if err := l.Configure(lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.superd, err = l.StartSuperd("SUPERD_FAILPOINT=" + l.Path("failpoint")); err != nil {
		t.Fatal(err)
	}
	if s.nginx, err = l.StartNginx(l.FPMSocket(), "$realpath_root"); err != nil {
		t.Fatal(err)
	}
	return s, d, l.Path("failpoint")
}

// The disk of the logs, of the state, or of the app and its releases has no byte or no
// inode left from any phase of a switch on: no request fails, the app is wholly on one
// release while the disk is full, also if superd is killed just then, nobody says that
// this is the release's fault, and once there is room the next switch goes well.
func TestFullDisks(t *testing.T) {
	for _, where := range []string{"log", "state", "shop"} {
		for _, what := range []string{"bytes", "inodes"} {
			t.Run(where+" without "+what, func(t *testing.T) {
				t.Parallel()
				fullDisks(t, where, what)
			})
		}
	}
}

func fullDisks(t *testing.T, where, what string) {
	s, d, failpoint := newDiskSite(t, where)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: quickPages})
	for i, point := range []string{
		"preparing.before", "starting.before", "verifying.before", "promoting.before", "rotating.before",
		"watching.before", "committing.before", "rolling-back.before",
	} {
		to := map[string]string{"r1": "r2", "r2": "r1"}[s.status().Apps[0].Live.Release]
		goal := to
		if point == "rolling-back.before" {
			goal = "sick"
		}
		s.fullFrom(d, what, failpoint, point, goal, i%2 == 1)
		d.free()
		s.ctl(0, "switch", map[string]string{"r1": "r2", "r2": "r1"}[s.status().Apps[0].Live.Release])
	}
	unharmed(t, run.Stop())
}

// fullFrom switches to a release; at a point of it the disk is full, and superd killed if
// so wished.
func (s *site) fullFrom(d *disk, what, failpoint, point, to string, kill bool) {
	s.t.Helper()
	from := s.status().Apps[0].Live.Release
	if err := os.WriteFile(failpoint, []byte(point+" stop"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	pid := s.status().PID
	done := make(chan lab.Outcome, 1)
	go func() { done <- s.Ctl("switch", to) }()
	eventually(s.t, 30*time.Second, "superd comes to "+point, func() bool { return stopped(pid) })
	d.fill(what)
	how := syscall.SIGCONT
	if kill {
		how = syscall.SIGKILL
	}
	if err := syscall.Kill(pid, how); err != nil {
		s.t.Fatal(err)
	}
	o := <-done
	live := s.settles(from, to)
	s.wholly(live, 20*time.Second)
	said := fmt.Sprintf("%s full (%s) from %s, killed %v: live is %s, superctl ended with %d", d.path, what, point, kill, live, o.Code)
	if to == "sick" && live == to {
		s.t.Errorf("%s: it is ill", said)
	}
	s.t.Log(said)
	if strings.Contains(s.ctl(0, "releases").Out, "no space left") {
		s.t.Errorf("%s: the release is blamed for that\n%s", said, s.Ctl("releases"))
	}
}

// stopped tells whether a process is stopped by a signal.
func stopped(pid int) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false
	}
	stat, err := p.Stat()
	return err == nil && stat.State == "T"
}

package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup/cgrouptest"
)

// The cgroup that is ours to divide is the one that systemd has marked, or the parent of
// the one that we are in; never another, whatever we may write.
func TestBase(t *testing.T) {
	top := cgrouptest.Dir(t)
	for _, d := range []string{"a.service", "a.service/keeper", "a.service/b.service", "plain.service", "plain.service/keeper"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(filepath.Join(top, "a.service"), "trusted.delegate", []byte("1"), 0); err != nil {
		t.Skipf("no attribute can be set: %v", err)
	}
	if err := unix.Setxattr(filepath.Join(top, "plain.service"), "trusted.delegate", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	mounts := "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /nowhere rw shared:9 - cgroup2 cgroup2 rw\n42 31 0:38 /x " + top + " rw,nosuid - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		self, mounts, init, want string
		below                    bool
	}{
		{self: "0::/x/a.service", want: "a.service"},
		{self: "9:name=systemd:/\n0::/x/a.service/keeper", want: "a.service", below: true},
		{self: "0::/x/a.service/b.service"}, // a unit of its own, which is not delegated
		{self: "0::/x/plain.service"},
		{self: "0::/x/plain.service/keeper"},
		{self: "0::/x/nothing"},
		{self: "0::/y"},    // not mounted
		{self: "0::/../x"}, // outside of the namespace
		{self: "8:pids:/x/a.service"},
		{self: "0::/x", init: "superd-keeper"}, // in a container it would be /
		{self: "0::/", mounts: "42 31 0:38 / " + top + " rw - cgroup2 cgroup2 rw\n", init: "superd-keeper\n", want: "."},
		{self: "0::/", mounts: "42 31 0:38 / " + top + " rw - cgroup2 cgroup2 rw\n", init: "systemd\n"},
		{self: "0::/", mounts: "42 31 0:38 / " + filepath.Dir(top) + " rw - cgroup2 cgroup2 rw\n", init: "superd-keeper\n"}, // no container
	} {
		if c.mounts == "" {
			c.mounts = mounts
		}
		dir, below, err := witness{[]byte(c.self + "\n"), []byte(c.mounts), []byte(c.init)}.base()
		switch {
		case c.want == "" && !errors.Is(err, ErrNone):
			t.Errorf("%s, %s: taken for ours: %s, %v", c.self, c.init, dir, err)
		case c.want != "" && (err != nil || dir != filepath.Join(top, c.want) || below != c.below):
			t.Errorf("%s: %s, below %v, %v", c.self, dir, below, err)
		}
	}
}

// A test's own process is where its user has started it, which is not ours.
func TestFindHere(t *testing.T) {
	tree, err := Find(t.TempDir())
	if err == nil {
		t.Cleanup(func() { _ = tree.Close() })
		t.Skipf("this test runs in a cgroup of its own: %s", tree.Dir())
	}
	if !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestUnescape(t *testing.T) {
	if s := unescape(`/a\040b\134040`); s != `/a b\040` {
		t.Error(s)
	}
}

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Which cgroup is ours to divide? systemd marks the one of a unit with Delegate=yes by an
// extended attribute (systemd.exec(5) and cgroup.c of systemd: trusted.delegate, since
// version 251 user.delegate). superd is in that one, or with DelegateSubgroup= in one just
// below. A container whose first process is superd's keeper has all of its cgroup
// namespace. Anything else belongs to somebody who would not like it, whatever the file
// modes say: root may write everywhere.

// A witness is what the kernel says of this process.
type witness struct {
	self   []byte // /proc/self/cgroup
	mounts []byte // /proc/self/mountinfo
	init   []byte // /proc/1/comm
}

// keeperName is the name of the keeper's process, see proc_pid_comm(5).
const keeperName = "superd-keeper"

// base is the delegated cgroup, and whether this process is below it and not in it.
func (w witness) base() (dir string, below bool, err error) {
	path, ok := unified(w.self)
	if !ok {
		return "", false, fmt.Errorf("%w: this machine has no cgroup v2", ErrNone)
	}
	top, own, ok := locate(w.mounts, path)
	if !ok {
		return "", false, fmt.Errorf("%w: the file system of cgroup v2 is not mounted where %s is to be seen", ErrNone, path)
	}
	parent := filepath.Dir(own)
	switch {
	case delegated(own):
		dir = own
	case own != top && !isUnit(own) && delegated(parent):
		dir, below = parent, true
	case path == "/" && !isRoot(own) && strings.TrimSpace(string(w.init)) == keeperName:
		dir = own
	default:
		return "", false, fmt.Errorf("%w: %s is not delegated (Delegate=yes in the unit)", ErrNone, path)
	}
	if err := unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK); err != nil {
		return "", false, fmt.Errorf("%w: %s may not be written: %w", ErrNone, dir, err)
	}
	return dir, below, nil
}

// unified is the path of the cgroup v2 in /proc/PID/cgroup.
func unified(text []byte) (string, bool) {
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/..")
		}
	}
	return "", false
}

// locate is where the cgroup of that path is to be seen, and the top of that mount.
// Mounts are in order, and a later one may hide an earlier one.
func locate(mountinfo []byte, path string) (top, own string, ok bool) {
	for line := range strings.Lines(string(mountinfo)) {
		before, after, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(kind) == 0 || kind[0] != "cgroup2" {
			continue
		}
		root, at := strings.TrimSuffix(unescape(f[3]), "/"), unescape(f[4])
		rest, inside := strings.CutPrefix(path, root)
		if !inside || rest != "" && rest[0] != '/' {
			continue
		}
		dir := filepath.Join(at, rest)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			top, own, ok = at, dir, true
		}
	}
	return top, own, ok
}

// unescape gives back the blanks of a path in mountinfo (proc_pid_mountinfo(5)).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func delegated(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		var b [8]byte
		n, err := unix.Getxattr(dir, name, b[:])
		if err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// isUnit tells whether a cgroup is called like those that systemd makes for its units.
func isUnit(dir string) bool {
	switch filepath.Ext(dir) {
	case ".service", ".scope", ".slice", ".socket", ".mount", ".swap":
		return true
	}
	return false
}

// isRoot tells the root of all cgroups, which has no events, from that of a namespace.
func isRoot(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.events"))
	return errors.Is(err, os.ErrNotExist)
}

// Package cgroup gives each child of superd a cgroup of its own, its leaf, below the one
// that systemd has delegated to superd's unit (Delegate=yes), or that a container is. Only
// cgroup v2 counts: what lives in a leaf can be told, counted and killed whole by the
// kernel, whoever its parents were and whatever session it made for itself.
//
// The invariant: nothing is read, written or made outside of the delegated cgroup, and
// there only below a directory that has the name of this superd.
package cgroup

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone is why there are no leaves: this process is in no cgroup that is its own. The
// error around it says what is missing.
var ErrNone = errors.New("no cgroup of its own")

// A Tree is where the leaves of one superd are. Its methods may be called from any
// goroutine, and by two superds at once while one follows the other.
type Tree struct {
	base string // the delegated cgroup
	dir  string // of the leaves
}

// Find is the tree for the superd whose state is in the directory state: two superds in
// one delegated cgroup have two trees, and one that comes again after a crash has the
// same. The error is ErrNone where there is no delegated cgroup; nothing was made then.
func Find(state string) (*Tree, error) {
	var w witness
	var err error
	if w.self, err = os.ReadFile("/proc/self/cgroup"); err != nil {
		return nil, fmt.Errorf("find the own cgroup: %w", err)
	}
	if w.mounts, err = os.ReadFile("/proc/self/mountinfo"); err != nil {
		return nil, fmt.Errorf("find the own cgroup: %w", err)
	}
	if w.init, err = os.ReadFile("/proc/1/comm"); err != nil {
		w.init = nil // hidden (hidepid=): then this is no container of ours
	}
	base, below, err := w.base()
	if err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(state))
	return Open(base, fmt.Sprintf("children-%08x", h.Sum32()), below)
}

// Open is the tree called name in the delegated cgroup at base. memory says that no
// process is in base itself, nor will be: only then the kernel lets its controllers be
// used below. Where they are not there, leaves have no figures of memory.
func Open(base, name string, memory bool) (*Tree, error) {
	t := &Tree{base: base, dir: filepath.Join(base, name)}
	if err := t.make(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if _, err := os.Stat(filepath.Join(t.dir, "cgroup.kill")); err != nil {
		_ = os.Remove(t.dir) // it is empty, or of another superd
		return nil, fmt.Errorf("%w: the kernel cannot kill a cgroup (Linux 5.14 can)", ErrNone)
	}
	if memory {
		_ = write(base, "cgroup.subtree_control", "+memory")  // not delegated, or of v1: then there is no figure
		_ = write(t.dir, "cgroup.subtree_control", "+memory") // likewise
	}
	return t, nil
}

func (t *Tree) make() error {
	err := os.Mkdir(t.dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// HasMemory tells whether the kernel counts the memory of each leaf.
func (t *Tree) HasMemory() bool {
	b, err := os.ReadFile(filepath.Join(t.dir, "cgroup.subtree_control"))
	return err == nil && slices.Contains(strings.Fields(string(b)), "memory")
}

// Dir is where the leaves are.
func (t *Tree) Dir() string { return t.dir }

// Make makes a leaf. The name is the caller's; what a file cannot be called is replaced.
func (t *Tree) Make(name string) (*Leaf, error) {
	l := t.leaf(name)
	err := os.Mkdir(l.dir, 0o755)
	if errors.Is(err, os.ErrNotExist) { // systemd removes what is empty when a unit ends
		if err = t.make(); err == nil {
			err = os.Mkdir(l.dir, 0o755)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return l, nil
}

// Leaf is the leaf of that name, nil if there is none.
func (t *Tree) Leaf(name string) *Leaf {
	l := t.leaf(name)
	if info, err := os.Stat(l.dir); err != nil || !info.IsDir() {
		return nil
	}
	return l
}

// Leaves are all leaves, by name.
func (t *Tree) Leaves() ([]*Leaf, error) {
	all, err := os.ReadDir(t.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var leaves []*Leaf
	for _, e := range all {
		if e.IsDir() {
			leaves = append(leaves, t.leaf(e.Name()))
		}
	}
	return leaves, nil
}

// Of is the name of the leaf that a process is in, "" if it is in none.
func (t *Tree) Of(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "" // gone, or not to be seen
	}
	path, _ := unified(text)
	_, below, _ := strings.Cut(path, "/"+filepath.Base(t.dir)+"/")
	name, _, _ := strings.Cut(below, "/")
	if name == "" || t.Leaf(name) == nil { // of a tree of the same name elsewhere
		return ""
	}
	return name
}

// Close removes the directory of the leaves if none is left in it.
func (t *Tree) Close() error {
	err := unix.Rmdir(t.dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}

// OOMKills is how many processes the kernel has ended for want of memory in the whole
// delegated cgroup; false where that is not counted.
func (t *Tree) OOMKills() (int64, bool) { return field(t.base, "memory.events", "oom_kill") }

// Has tells whether a cgroup, as the kernel names it, is the delegated one or below it.
func (t *Tree) Has(path string) bool {
	for dir := path; len(dir) > 1; dir = filepath.Dir(dir) {
		if strings.HasSuffix(t.base, dir) {
			return true
		}
	}
	return false
}

// Events is the file of OOMKills. Who watches it hears when it changes (inotify(7)), for
// whatever is below.
func (t *Tree) Events() string { return filepath.Join(t.base, "memory.events") }

func (t *Tree) leaf(name string) *Leaf { return &Leaf{filepath.Join(t.dir, clean(name))} }

// maxName is NAME_MAX of Linux.
const maxName = 255

// clean is a name that a cgroup can have. The files in one are called cgroup.* and
// memory.*; a leaf lies among those of the tree, so it must not be called so.
func clean(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_:@+.", c) >= 0:
		case c == '/':
			b[i] = '.'
		default:
			b[i] = '_'
		}
	}
	if i := strings.IndexByte(string(b), '.'); i == 0 || i > 0 && isController(string(b[:i])) {
		b[i] = '_'
	}
	return string(b[:min(len(b), maxName)])
}

func isController(s string) bool {
	return slices.Contains([]string{"cgroup", "cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "irq", "perf_event", "dmem"}, s)
}

func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"superd/release/beneath"
)

// Tree is the disk of an app: the directory of its releases, the link current, its
// hooks. It implements Files. The link always leads to a whole release, old or new:
// it is exchanged or renamed over, never removed.
type Tree struct {
	App      string
	Root     string // holds what follows, unless that is absolute
	Releases string // "releases"
	Current  string // "current"
	Required []string

	UID, GID uint32 // who must be able to read a release
	Groups   []uint32

	MinFreeBytes  uint64 // floors of the file system of the releases; 0: none
	MinFreeInodes uint64
	KeepReleases  int // 0: nothing is ever pruned

	Before, After Hook
	Test          func(ctx context.Context, g Generation) error                       // `php-fpm -t`, say; may be nil
	RunHook       func(ctx context.Context, h Hook, g Generation, env []string) error // needed with a hook
	InUse         func() map[string]bool                                              // directories that processes run from; may be nil
	Good          func() []Generation                                                 // that were live, last first; may be nil

	changing sync.RWMutex // guards what Terms are about

	moving sync.Mutex // is held while the link is moved from here
	moves  uint64     // how often it was
	put    string     // where to, last
}

// A Hook is a command to run around a switch, in the directory of the new release.
type Hook struct {
	Command []string
	Timeout time.Duration
}

// Check tells whether to could be switched to, and touches nothing.
func (t *Tree) Check(ctx context.Context, from, to Generation) error {
	at, err := t.Resolve(to.Release)
	if err != nil {
		return err
	}
	if at.Dir != to.Dir {
		return fmt.Errorf("release %s is at %s now, not at %s", to.Release, at.Dir, to.Dir)
	}
	if err := t.complete(to.Dir); err != nil {
		return err
	}
	if err := t.floors(); err != nil {
		return err
	}
	where, err := t.Where(ctx)
	if err != nil {
		return err
	}
	if where != "" && where != to.Dir && !from.IsZero() && where != from.Dir {
		return fmt.Errorf("%w, neither at %s nor at %s", t.moved(where), from.Release, to.Release)
	}
	if t.Test == nil {
		return nil
	}
	return t.Test(ctx, to)
}

// Prepare is Check, the links that a rollback will need on a disk that may be full
// by then, and the before hook unless it is a rollback.
func (t *Tree) Prepare(ctx context.Context, from, to Generation) error {
	if err := t.Check(ctx, from, to); err != nil {
		return err
	}
	for i, g := range []Generation{to, from} {
		if err := t.spare(i, g); err != nil {
			return fmt.Errorf("make spare link: %w", err)
		}
	}
	if _, kind := About(ctx); kind == KindRollback {
		return nil
	}
	return t.hook(ctx, "before", t.terms().Before, from, to)
}

// Finish runs the after hook and prunes old releases that nothing runs from.
func (t *Tree) Finish(ctx context.Context, from, to Generation) error {
	hook := t.hook(ctx, "after", t.terms().After, from, to)
	for i := range spares {
		_ = os.Remove(t.spareName(i)) // the next Prepare makes them anew
	}
	return errors.Join(hook, t.prune(ctx, from, to))
}

func (t *Tree) hook(ctx context.Context, when string, h Hook, from, to Generation) error {
	if len(h.Command) == 0 {
		return nil
	}
	id, kind := About(ctx)
	env := []string{
		"SUPERD_APP=" + t.App, "SUPERD_RELEASE=" + to.Release, "SUPERD_RELEASE_DIR=" + to.Dir,
		"SUPERD_FROM=" + from.Release, "SUPERD_TO=" + to.Release,
		"SUPERD_SWITCH_ID=" + id, "SUPERD_ACTION=" + string(kind),
	}
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("took longer than its timeout of %s", h.Timeout))
		defer cancel()
	}
	err := t.RunHook(ctx, h, to, env)
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("run %s hook %q: %w", when, h.Command[0], err)
	}
	return nil
}

// Resolve finds the release that people mean by name: the name of a directory of
// the releases, a path to it, or "latest", which is the one whose directory was
// changed last. The generation it returns has no number yet.
func (t *Tree) Resolve(name string) (Generation, error) {
	if name == "latest" {
		dirs, err := t.list()
		if err != nil || len(dirs) == 0 {
			return Generation{}, errors.Join(fmt.Errorf("there is no release in %s", t.releases()), err)
		}
		name = dirs[0].Name()
	}
	entry, err := t.entry(name)
	if err != nil {
		return Generation{}, fmt.Errorf("release %q: %w", name, err)
	}
	base, err := t.base()
	if err != nil {
		return Generation{}, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(base, entry))
	if err != nil {
		return Generation{}, fmt.Errorf("release %q: %w", name, err)
	}
	if filepath.Dir(dir) != base || strings.HasPrefix(filepath.Base(dir), ".") {
		return Generation{}, fmt.Errorf("release %q leads to %s, which is not a release in %s", name, dir, base)
	}
	d, err := beneath.OpenDir(base, dir)
	if err != nil {
		return Generation{}, fmt.Errorf("release %q is not a directory: %w", name, err)
	}
	return Generation{Release: filepath.Base(dir), Dir: dir}, d.Close()
}

// entry is the name of the directory entry that name stands for.
func (t *Tree) entry(name string) (string, error) {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", errors.New("is not a name") // it could not be told or written down as it is
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", errors.New("leads upwards (..)")
	}
	if bare := strings.TrimRight(name, "/"); bare != "" && !strings.Contains(bare, "/") {
		name = bare // a shell that completes r1 in the releases directory writes r1/
	}
	if strings.Contains(name, "/") {
		path := filepath.Clean(name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(t.Root, path)
		}
		dir := filepath.Dir(path)
		if real, err := filepath.EvalSymlinks(t.releases()); dir != filepath.Clean(t.releases()) && (err != nil || dir != real) {
			return "", fmt.Errorf("is not a release in %s", t.releases())
		}
		name = filepath.Base(path)
	}
	if strings.HasPrefix(name, ".") {
		return "", errors.New("a release does not begin with a dot")
	}
	return name, nil
}

// open opens the directory of the releases. Who deploys may have put a link in its
// place: one that leads out of the root of the app is not followed, lest superd switch
// to, tell of, or delete what is somebody else's.
func (t *Tree) open() (*os.File, error) {
	d, err := beneath.OpenDir(t.Root, t.releases())
	if err != nil {
		return nil, fmt.Errorf("open releases: %w", err)
	}
	return d, nil
}

// base is the real path of that directory.
func (t *Tree) base() (string, error) {
	d, err := t.open()
	if err != nil {
		return "", err
	}
	base, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
	return base, errors.Join(err, d.Close())
}

// list is the directories of the releases, the last changed first.
func (t *Tree) list() ([]fs.FileInfo, error) {
	d, err := t.open()
	if err != nil {
		return nil, err
	}
	dirs, err := listIn(d)
	return dirs, errors.Join(err, d.Close())
}

func listIn(releases *os.File) ([]fs.FileInfo, error) {
	entries, err := releases.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var dirs []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			dirs = append(dirs, info)
		}
	}
	slices.SortStableFunc(dirs, func(a, b fs.FileInfo) int {
		if c := b.ModTime().Compare(a.ModTime()); c != 0 {
			return c
		}
		return strings.Compare(b.Name(), a.Name())
	})
	return dirs, nil
}

// complete tells whether a release has what it must have, as the app's user sees it.
func (t *Tree) complete(dir string) error {
	terms := t.terms()
	return asUser(terms.UID, terms.GID, terms.Groups, func() error {
		if _, err := os.ReadDir(dir); err != nil {
			return fmt.Errorf("the app's user cannot read the release: %w", err)
		}
		for _, name := range terms.Required {
			file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the release is not complete: %w", err)
			}
			if err != nil {
				return fmt.Errorf("the app's user cannot read the release: %w", err)
			}
			_ = file.Close()
		}
		return nil
	})
}

// floors tells whether the disk has room enough to begin.
func (t *Tree) floors() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(t.releases(), &disk); err != nil {
		return fmt.Errorf("ask for free space of %s: %w", t.releases(), err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < t.MinFreeBytes {
		return fmt.Errorf("%s has %d MiB free, less than the %d MiB it needs", t.releases(), free>>20, t.MinFreeBytes>>20)
	}
	if disk.Files > 0 && disk.Ffree < t.MinFreeInodes {
		return fmt.Errorf("%s has %d inodes free, less than the %d it needs", t.releases(), disk.Ffree, t.MinFreeInodes)
	}
	return nil
}

// dir is the real path of the release with that name.
func (t *Tree) dir(name string) string {
	base, err := filepath.EvalSymlinks(t.releases())
	if err != nil {
		base = t.releases()
	}
	return filepath.Join(base, name)
}

func (t *Tree) releases() string { return t.below(t.Releases) }

func (t *Tree) below(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(t.Root, path)
}

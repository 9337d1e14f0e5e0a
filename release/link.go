package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// spares is how many links wait beside current: to the new release and to the old
// one. Where links can be exchanged one would do.
const spares = 2

// Where is the real directory that the link current points at, or would point at if
// it existed; "" when there is no link. It fails with ErrNotLink when something else
// has its name.
func (t *Tree) Where(context.Context) (string, error) {
	text, err := t.read()
	if err != nil || text == "" {
		return "", err
	}
	return t.lead(text)
}

// read is the text of the link current, "" when there is none.
func (t *Tree) read() (string, error) {
	text, err := os.Readlink(t.current())
	switch {
	case err == nil:
		return text, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, unix.EINVAL):
		return "", fmt.Errorf("%s %w", t.current(), ErrNotLink)
	}
	return "", fmt.Errorf("read link: %w", err)
}

// lead is where a link beside current with that text leads to.
func (t *Tree) lead(text string) (string, error) {
	path := text
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(t.current()), path)
	}
	dir, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t.dangling(path), nil
	}
	if err != nil {
		return "", fmt.Errorf("follow link %s: %w", t.current(), err)
	}
	return dir, nil
}

// dangling is the real path that path would have, were its last part there.
func (t *Tree) dangling(path string) string {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return filepath.Clean(path)
	}
	return filepath.Join(parent, filepath.Base(path))
}

// Point moves the link current to g and syncs its directory. It fails with
// ErrLinkMoved, leaving the link as it is, when that is neither at g nor at was.
func (t *Tree) Point(ctx context.Context, was, g Generation) error {
	if g.IsZero() {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.moving.Lock()
	defer t.moving.Unlock()
	text, err := t.read()
	where := ""
	if err == nil && text != "" {
		where, err = t.lead(text)
	}
	switch {
	case err != nil && !was.IsZero():
		return fmt.Errorf("%w: %w", ErrLinkMoved, err) // a directory, a loop; not ours
	case errors.Is(err, ErrNotLink):
		return err
	case where == g.Dir:
		return syncDir(filepath.Dir(t.current())) // an earlier superd may not have come to it
	case text != "" && !was.IsZero() && where != was.Dir:
		return t.moved(where)
	}
	spare, err := t.findSpare(g)
	if err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	if err := t.replace(spare, text); err != nil {
		return err
	}
	t.moves, t.put = t.moves+1, g.Dir
	if err := syncDir(filepath.Dir(t.current())); err != nil {
		return fmt.Errorf("sync directory of %s: %w", t.current(), err)
	}
	if where, err := t.Where(ctx); err != nil || where != g.Dir {
		return errors.Join(t.moved(where), err)
	}
	return nil
}

// replace puts the spare link where current is, if current still has the text seen
// before. By exchange: what comes out shows whose link it was, is put back if it
// is not the expected one, and is else the spare link for the way back.
func (t *Tree) replace(spare, seen string) error {
	current := t.current()
	if seen == "" {
		err := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, current, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			return t.moved("where it was missing")
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return linkError("make", current, err)
		}
		return linkError("make", current, os.Rename(spare, current))
	}
	err := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, current, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkError("move", current, os.Rename(spare, current))
	}
	if errors.Is(err, unix.ENOENT) {
		return t.moved("nowhere: it is gone")
	}
	if err != nil {
		return linkError("move", current, err)
	}
	if old, err := os.Readlink(spare); err == nil && old == seen {
		return nil
	}
	back := unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, current, unix.RENAME_EXCHANGE)
	return errors.Join(t.moved("just now"), linkError("give back", current, back))
}

// findSpare is a link beside current that leads to g, one made in advance if there is.
func (t *Tree) findSpare(g Generation) (string, error) {
	text := t.text(g)
	for i := range spares {
		if have, err := os.Readlink(t.spareName(i)); err == nil && have == text {
			return t.spareName(i), nil
		}
	}
	return t.spareName(0), t.spare(0, g)
}

// spare makes the spare link with that number lead to g.
func (t *Tree) spare(number int, g Generation) error {
	if g.IsZero() {
		return nil
	}
	name := t.spareName(number)
	if have, err := os.Readlink(name); err == nil && have == t.text(g) {
		return nil
	}
	// If a directory was exchanged with it, that one is someone's, and is not removed.
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(t.text(g), name)
}

// text is what the link to g says: absolute if the present one is, else relative,
// which is short enough to need no block of its own on a full disk.
func (t *Tree) text(g Generation) string {
	target := filepath.Join(t.releases(), g.Release)
	if present, err := t.read(); err == nil && filepath.IsAbs(present) {
		return target
	}
	relative, err := filepath.Rel(filepath.Dir(t.current()), target)
	if err != nil {
		return target
	}
	return relative
}

func (t *Tree) moved(where string) error {
	return fmt.Errorf("%w: %s is at %s", ErrLinkMoved, t.current(), where)
}

func (t *Tree) current() string { return t.below(t.Current) }

func (t *Tree) spareName(number int) string {
	return filepath.Join(filepath.Dir(t.current()), fmt.Sprintf(".%s.superd-%d", filepath.Base(t.current()), number))
}

func linkError(verb, path string, err error) error {
	if err != nil {
		return fmt.Errorf("%s link %s: %w", verb, path, err)
	}
	return nil
}

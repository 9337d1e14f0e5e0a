package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const trash = ".trash-"

// prune deletes releases older than to until KeepReleases are left, counting good
// ones first. It never deletes what is live or was before, what processes run
// from, what current leads to, or what is newer: that may be still on its way up.
func (t *Tree) prune(ctx context.Context, from, to Generation) error {
	if t.terms().KeepReleases <= 0 {
		return nil
	}
	releases, err := t.open() // what is deleted is in this directory, whatever its name leads to meanwhile
	if err != nil {
		return fmt.Errorf("prune releases: %w", err)
	}
	defer releases.Close() //nolint:errcheck // nothing is written to it
	dirs, err := listIn(releases)
	if err != nil {
		return fmt.Errorf("prune releases: %w", err)
	}
	keep, err := t.keep(ctx, dirs, from, to)
	if err != nil {
		return fmt.Errorf("prune releases: %w", err)
	}
	older := false
	for _, d := range dirs {
		if older && !keep[d.Name()] {
			err = errors.Join(err, discard(releases, d.Name()))
		}
		older = older || d.Name() == to.Release
	}
	return errors.Join(err, emptyTrash(ctx, releases))
}

// keep is the names of the releases that must stay.
func (t *Tree) keep(ctx context.Context, dirs []fs.FileInfo, from, to Generation) (map[string]bool, error) {
	there := map[string]bool{}
	for _, d := range dirs {
		there[d.Name()] = true
	}
	keep, most := map[string]bool{to.Release: true}, t.terms().KeepReleases
	if !from.IsZero() {
		keep[from.Release] = true
	}
	if t.Good != nil {
		for _, g := range t.Good() {
			// Two at least: after a restart of the same release that is the way back.
			if there[g.Release] && len(keep) < max(2, most) {
				keep[g.Release] = true
			}
		}
	}
	older := false
	for _, d := range dirs { // fewer good ones than wanted: others count
		if older && len(keep) < most {
			keep[d.Name()] = true
		}
		older = older || d.Name() == to.Release
	}
	if t.InUse != nil {
		for dir := range t.InUse() {
			keep[filepath.Base(dir)] = true
		}
	}
	where, err := t.Where(ctx)
	keep[filepath.Base(where)] = true
	return keep, err
}

// discard takes a release out of sight in one step, so that what is left of it after
// a crash is not taken for a release.
func discard(releases *os.File, name string) error {
	in := int(releases.Fd())
	for n := range 100 {
		err := unix.Renameat2(in, name, in, fmt.Sprintf("%s%s.%d", trash, name, n), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return linkError("discard", filepath.Join(releases.Name(), name), err)
		}
	}
	return fmt.Errorf("discard %s: too much of that name is in the trash already", filepath.Join(releases.Name(), name))
}

// emptyTrash deletes what was discarded, now or before a crash. It follows no link.
func emptyTrash(ctx context.Context, releases *os.File) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", releases.Fd()))
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing is written to it
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		if ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if strings.HasPrefix(e.Name(), trash) {
			err = errors.Join(err, root.RemoveAll(e.Name()))
		}
	}
	return err
}

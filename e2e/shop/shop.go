// Package shop is a small but real PHP shop: a front controller, a health route, a
// queue on Redis and workers for it. It makes releases of it, good ones and bad ones.
//
// Every file of a release has the release's name stamped into it, and every page
// tells the stamps of all the files that ran for it: an answer that was put together
// from two releases shows.
package shop

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed all:app
var app embed.FS

//go:embed all:queues
var queues embed.FS

// A Shop is a root with releases/, shared/ and the link current.
type Shop struct{ Root string }

// New makes an empty shop below root. What workers write goes to shared/, which
// belongs to uid and gid.
func New(root string, uid, gid int) (*Shop, error) {
	s := &Shop{Root: root}
	shared := filepath.Join(root, "shared")
	err := errors.Join(os.MkdirAll(filepath.Join(root, "releases"), 0o755), os.MkdirAll(shared, 0o755))
	if err == nil {
		err = os.Chown(shared, uid, gid)
	}
	if err != nil {
		return nil, fmt.Errorf("make shop: %w", err)
	}
	return s, nil
}

// Ledger is the file into which workers write which jobs they began and ended.
func (s *Shop) Ledger() string { return filepath.Join(s.Root, "shared", "ledger") }

// Release is the directory of a release.
func (s *Shop) Release(name string) string { return filepath.Join(s.Root, "releases", name) }

// Add makes a release, with the flaws given.
func (s *Shop) Add(name string, flaws ...Flaw) error {
	err := s.unpack(app, "app", name)
	for _, flaw := range flaws {
		if err == nil {
			err = flaw.spoil(s.Release(name))
		}
	}
	if err != nil {
		return fmt.Errorf("make release %s: %w", name, err)
	}
	return nil
}

// AddQueues puts Laravel's and Symfony's workers into a release. What they say of
// themselves to superd is in words/, which is for the caller to write.
func (s *Shop) AddQueues(name string) error {
	if err := s.unpack(queues, "queues", name); err != nil {
		return fmt.Errorf("add queues to release %s: %w", name, err)
	}
	return nil
}

// unpack copies files into a release, with its name stamped into them.
func (s *Shop) unpack(files embed.FS, top, name string) error {
	return fs.WalkDir(files, top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		target := filepath.Join(s.Release(name), relative)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		text, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, bytes.ReplaceAll(text, []byte("@RELEASE@"), []byte(name)), 0o644)
	})
}

// Point makes current lead to the release, as deploy tools do: a link is made aside
// and renamed.
func (s *Shop) Point(name string) error {
	current := filepath.Join(s.Root, "current")
	aside := current + ".new"
	_ = os.Remove(aside) // left by a run that was cut off, if at all
	if err := os.Symlink(filepath.Join("releases", name), aside); err != nil {
		return fmt.Errorf("point to %s: %w", name, err)
	}
	if err := os.Rename(aside, current); err != nil {
		return fmt.Errorf("point to %s: %w", name, err)
	}
	return nil
}

// Current is the release to which the link leads.
func (s *Shop) Current() string {
	target, err := os.Readlink(filepath.Join(s.Root, "current"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

package release

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A sight is what the link current looks like. Two are equal if nobody has touched it.
type sight struct {
	text    string
	dir     string // where it leads; "" unless that can be told
	lost    string // why that is not a release; it may be mended by moving the link
	blocked string // why nothing can be said, or done, about it
	inode   uint64
	changed time.Duration // of the inode, as its file system counts
}

// sound tells whether the link leads to a release.
func (s sight) sound() bool { return s.lost == "" && s.blocked == "" }

// release is the name of the release, "" unless it is sound.
func (s sight) release() string {
	if !s.sound() {
		return ""
	}
	return filepath.Base(s.dir)
}

// A view is a sight, and what superd itself has done to the link up to then.
type view struct {
	sight
	moves uint64
	put   string
}

// look never sees the link while superd itself is moving it.
func (t *Tree) look() view {
	t.moving.Lock()
	defer t.moving.Unlock()
	return view{sight: t.sight(), moves: t.moves, put: t.put}
}

func (t *Tree) sight() sight {
	link := t.current()
	text, err := t.read()
	if err != nil {
		return sight{blocked: err.Error()}
	}
	if text == "" {
		return sight{lost: fmt.Sprintf("the link %s is missing", link)}
	}
	s := sight{text: text}
	if info, err := os.Lstat(link); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			s.inode, s.changed = stat.Ino, time.Duration(stat.Ctim.Nano())
		}
	}
	if s.dir, err = t.lead(text); err != nil {
		s.blocked = err.Error()
		return s
	}
	if g, err := t.Resolve(s.dir); err != nil {
		s.lost = fmt.Sprintf("the link %s leads astray: %v", link, err)
	} else if g.Dir != s.dir {
		s.lost = fmt.Sprintf("the link %s leads astray, to %s", link, s.dir)
	}
	return s
}

// leadsTo tells whether the link leads to g now.
func (t *Tree) leadsTo(g Generation) bool { return t.look().dir == g.Dir }

// hints are the kernel's, that something has happened to the link: inotify on the
// directory that it is in, and on the next one should that be replaced.
type hints struct {
	link    string
	watcher *fsnotify.Watcher // nil: none come
	dir     os.FileInfo       // that is listened to
}

// listen makes sure that hints come of the directory that is there now, and tells why
// none do.
func (h *hints) listen() string {
	path := filepath.Dir(h.link)
	now, err := os.Stat(path) // before the watch, so that a replacement in between is noticed next time
	if err == nil && h.watcher != nil && os.SameFile(now, h.dir) {
		return ""
	}
	h.close()
	if err != nil {
		return err.Error()
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Sprintf("inotify: %v", err)
	}
	if err := watcher.Add(path); err != nil {
		_ = watcher.Close() // it watches nothing
		return fmt.Sprintf("inotify: %v", err)
	}
	h.watcher, h.dir = watcher, now
	return ""
}

// wait returns true when it is time to look: there is a hint, the Switcher has
// changed, or patience is over. It returns false when ctx has ended.
func (h *hints) wait(ctx context.Context, changed <-chan struct{}, patience time.Duration) bool {
	var events <-chan fsnotify.Event
	var errs <-chan error
	if h.watcher != nil {
		events, errs = h.watcher.Events, h.watcher.Errors
	}
	over := time.After(patience)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
			return true
		case <-over:
			return true
		case <-errs: //nolint:errcheck // whatever it is, hints were lost
			return true
		case e := <-events:
			if e.Name == filepath.Dir(h.link) { // the directory itself is going
				h.close()
				return true
			}
			if e.Name == h.link {
				return true
			}
		}
	}
}

func (h *hints) close() {
	if h.watcher != nil {
		_ = h.watcher.Close() // nothing is read from it any longer
		h.watcher = nil
	}
}

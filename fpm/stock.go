package fpm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor"
)

// What a superd finds when it comes: masters that live, their listeners with the
// keeper, and what a crash has left of others.

// Adopt takes a master that an earlier superd has started; false: it is not ours.
// Call it before Run.
func (w *Web) Adopt(c *supervisor.Child) bool {
	if c.Name() != w.name() {
		return false
	}
	var n note
	if err := json.Unmarshal(c.Note(), &n); err != nil || n.App != w.o.App || !isBase(n.Base) || filepath.Base(n.Home) != n.Base {
		return false
	}
	at := n.place
	if now, err := readPlace(at.Home); err == nil && now.Base == at.Base {
		at = now // with handoff by reload the note is older
	}
	for _, s := range w.all() {
		if s.at.Base == at.Base {
			s.adopt(c, n.Life)
			return true
		}
	}
	s := newServer(w, at)
	s.adopt(c, n.Life)
	w.add(s)
	return true
}

var bases = regexp.MustCompile(`^([0-9]+(-[0-9]+)?|reload)$`)

// isBase tells whether a directory of that name is one of a server's.
func isBase(name string) bool { return bases.MatchString(name) }

// takeStock finds out what an earlier superd has left: masters that were adopted get
// their listeners back, the one that the public path leads to is served on even when
// its master is dead, and what nobody runs is removed.
func (w *Web) takeStock() error {
	for _, dir := range []string{w.o.RunDir, filepath.Dir(w.o.Listen)} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the web server passes it
			return fmt.Errorf("make room for sockets: %w", err)
		}
	}
	if err := os.Chmod(w.o.RunDir, 0o711); err != nil { //nolint:gosec // see openDirectory
		return fmt.Errorf("make room for sockets: %w", err)
	}
	for _, s := range w.all() {
		if err := s.reclaim(); err != nil {
			return err
		}
	}
	if err := w.resume(); err != nil {
		return err
	}
	w.choose()
	return w.sweep()
}

// reclaim takes back the listeners of an adopted master. Should that not be possible
// it gets new ones, and a new master: users come before explanations.
func (s *server) reclaim() error {
	var errs [2]error
	s.web, errs[0] = s.borrow("web", s.at.socket(), 3)
	s.status, errs[1] = s.borrow("status", s.at.statusSocket(), 4)
	if err := errors.Join(errs[:]...); err != nil {
		if err := s.replaceListeners(); err != nil {
			return err
		}
		s.proc.Restart()
		s.tell(Note, fmt.Errorf("its listeners are new: %w", err))
	}
	if info, err := os.Stat(filepath.Join(s.at.Home, leavingFile)); err == nil {
		s.leaving = newDeparture(info.ModTime().Add(s.owner.o.Drain))
		if !s.adopted.Told().IsZero() {
			s.proc.Retire() // before Run: there is to be no other after it
		}
	}
	return nil
}

// borrow is a listener from the keeper, or from the master, which has it as fd.
func (s *server) borrow(name, path string, fd int) (*Listener, error) {
	held := s.owner.held(s.at.Base, name)
	if f, ok := s.owner.o.Children.Held(held); ok {
		return inherit(path, f), nil
	}
	master, err := unix.PidfdOpen(s.adopted.PID(), 0)
	if err != nil {
		return nil, fmt.Errorf("take back %s: %w", path, err)
	}
	defer unix.Close(master) //nolint:errcheck // a handle
	got, err := unix.PidfdGetfd(master, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("take back %s: the keeper does not have it, and from its master: %w", path, err)
	}
	l := inherit(path, os.NewFile(uintptr(got), path)) //nolint:gosec // a descriptor is not negative
	if err := s.owner.o.Children.Hold(held, l.File()); err != nil {
		return nil, errors.Join(fmt.Errorf("leave %s with the keeper: %w", path, err), l.Close())
	}
	return l, nil
}

func (s *server) replaceListeners() (err error) {
	for _, l := range []*Listener{s.web, s.status} {
		if l != nil {
			_ = l.Close() // half of a pair
		}
	}
	if err := openDirectory(s.at.Home); err != nil {
		return err
	}
	for _, path := range []string{s.at.socket(), s.at.statusSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if s.web, err = s.open(s.at.socket(), "web"); err != nil {
		return err
	}
	if s.status, err = s.open(s.at.statusSocket(), "status"); err != nil {
		return err
	}
	if home, ok := s.owner.published(); ok && home == s.at.Home {
		return s.web.admit(s.owner.o.Access)
	}
	return nil
}

// resume goes on with what the public path leads to: its queue may have waited since
// the master and superd died together.
func (w *Web) resume() error {
	home, ok := w.published()
	if !ok {
		return nil
	}
	for _, s := range w.all() {
		if s.at.Home == home {
			w.live = s
			return nil
		}
	}
	at, err := readPlace(home)
	if err != nil || at.App != w.o.App {
		return nil //nolint:nilerr // nothing that could be gone on with; Promote begins anew
	}
	web, ok := w.o.Children.Held(w.held(at.Base, "web"))
	if !ok {
		return nil
	}
	status, ok := w.o.Children.Held(w.held(at.Base, "status"))
	if !ok {
		return web.Close()
	}
	s := newServer(w, at)
	s.web, s.status = inherit(at.socket(), web), inherit(at.statusSocket(), status)
	w.servers, w.live = append(w.servers, s), s
	return nil
}

// choose lets go of all but one of the servers of a generation: a restart was cut
// short. The one that serves stays, or else the newest.
func (w *Web) choose() {
	for _, s := range w.servers {
		best := w.find(s.generation())
		if w.live != nil && w.live.generation() == s.generation() {
			best = w.live
		}
		if s != best && s.leaving == nil {
			s.leaving = newDeparture(time.Now().Add(w.o.Drain))
		}
	}
}

// sweep removes what belongs to no server.
func (w *Web) sweep() error {
	prefix := "fpm/" + w.o.App + "/"
	for _, name := range w.o.Children.HeldNames() {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if f, ok := w.o.Children.Held(name); ok {
			_ = f.Close() // the keeper has the last one
		}
		if err := w.o.Children.Drop(name); err != nil {
			return fmt.Errorf("drop %s: %w", name, err)
		}
	}
	entries, err := os.ReadDir(w.o.RunDir)
	if err != nil {
		return fmt.Errorf("clear %s: %w", w.o.RunDir, err)
	}
	for _, e := range entries {
		ours := e.IsDir() && (isBase(e.Name()) || strings.HasPrefix(e.Name(), testPrefix))
		if !ours || w.taken(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(w.o.RunDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clear %s: %w", w.o.RunDir, err)
		}
	}
	return nil
}

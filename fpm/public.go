package fpm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"superd/release"
)

// The public path is a link to the listener of the server that serves. It is the
// truth about who that is: it outlives superd, and every master. Where users come by
// TCP the link is one of superd's own, and the port is made to follow it.

// link is the path of it.
func (w *Web) link() string {
	if w.address != "" {
		return filepath.Join(w.o.RunDir, servingFile)
	}
	return w.o.Listen
}

const servingFile = "serving"

// publish makes the public path lead to s alone. It does nothing when that is so.
func (w *Web) publish(s *server) error {
	shared, err := w.unshare()
	if err != nil {
		return err
	}
	if !shared && publishes(w.link(), s.at.socket()) && w.serving() == s {
		return nil
	}
	if w.address != "" {
		err = w.lead(s)
	} else if err = errors.Join(s.opens(), s.web.admit(w.access())); err == nil {
		err = s.web.Publish(w.o.Listen)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.live = s
	w.mu.Unlock()
	return w.endOthersKept()
}

// endOthersKept frees the users of all servers but the one that serves from
// connections that are kept.
func (w *Web) endOthersKept() error {
	for _, other := range w.all() {
		if other != w.serving() {
			if err := w.do(other.endKept); err != nil {
				return err
			}
		}
	}
	return nil
}

// lead sends all who come by TCP to s from now on. The link goes first: when superd
// dies in between, the next one takes the second step, and no user goes back.
func (w *Web) lead(s *server) error {
	if err := s.opens(); err != nil {
		return err
	}
	before, err := os.Readlink(w.link())
	if err != nil {
		before = ""
	}
	if err := s.private.Publish(w.link()); err != nil {
		return err
	}
	if err = w.port(w.address).point(s.at.Seat); err == nil {
		return nil
	}
	if before == "" {
		return errors.Join(err, os.Remove(w.link()))
	}
	was := Listener{path: filepath.Join(w.o.RunDir, before)}
	return errors.Join(err, was.Publish(w.link()))
}

// unpublish shuts the door: the public path leads nowhere.
func (w *Web) unpublish() error {
	_, shared := w.unshare()
	w.mu.Lock()
	live := w.live
	w.live = nil
	w.mu.Unlock()
	if live == nil || !publishes(w.link(), live.at.socket()) {
		return shared
	}
	err := shared
	if w.address != "" {
		err = w.port(w.address).point(door)
	}
	if err = errors.Join(err, os.Remove(w.link())); err != nil {
		return fmt.Errorf("close the public path: %w", err)
	}
	return nil
}

// republish puts the public path back when somebody has removed it.
func (w *Web) republish() {
	live := w.serving()
	if live == nil {
		return
	}
	if _, err := os.Lstat(w.link()); !errors.Is(err, os.ErrNotExist) {
		return
	}
	done, ok := w.tryTake()
	if !ok {
		return // somebody is about to decide where it leads
	}
	defer done()
	if w.serving() != live {
		return
	}
	err := live.own().Publish(w.link())
	w.tell(Note, live.generation(), errors.Join(fmt.Errorf("%s had been removed and was put back", w.link()), err), nil)
}

func (w *Web) tryTake() (func(), bool) {
	select {
	case w.turn <- struct{}{}:
		return func() { <-w.turn }, true
	default:
		return nil, false
	}
}

// serves tells whether s must not be taken away. Both the link and our own memory
// can say so.
func (w *Web) serves(s *server) bool {
	return w.serving() == s || w.sharedWith(s) || s.at.Address == w.address && publishes(w.link(), s.at.socket())
}

// Serving is the generation that the public path leads to, as the disk has it, which
// is the truth after a crash too.
func (w *Web) Serving() (release.Generation, bool) {
	if live := w.serving(); live != nil && w.sharing() {
		return live.generation(), true // the path turns
	}
	home, ok := w.published()
	if !ok {
		return release.Generation{}, false
	}
	at, err := readPlace(home)
	if err != nil || at.App != w.id() || at.Address != w.address {
		return release.Generation{}, false
	}
	return at.Generation, true
}

// published is the directory of the server that the public path leads to.
func (w *Web) published() (string, bool) {
	to, err := os.Readlink(w.link())
	if err != nil {
		return "", false
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(w.link()), to)
	}
	return filepath.Dir(to), true
}

// admit lets those connect that may connect to the public path.
func (l *Listener) admit(a Access) error {
	err := os.Lchown(l.path, a.UID, a.GID)
	if err == nil {
		err = os.Chmod(l.path, a.Mode.Perm())
	}
	if err != nil {
		return fmt.Errorf("open %s to the web server: %w", l.path, err)
	}
	return nil
}

// fits tells early what would only be found out at the flip.
func (w *Web) fits() error {
	at, err := os.Lstat(w.link())
	if err == nil && at.IsDir() {
		return fmt.Errorf("the public path %s is a directory", w.link())
	}
	return nil
}

package fpm

import (
	"context"
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

	"superd/release"
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
	if err := json.Unmarshal(c.Note(), &n); err != nil || n.App != w.id() || !isBase(n.Base) || filepath.Base(n.Home) != n.Base {
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
func (w *Web) takeStock(ctx context.Context) error {
	for _, dir := range []string{w.o.RunDir, filepath.Dir(w.link())} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the web server passes it
			return fmt.Errorf("make room for sockets: %w", err)
		}
	}
	if err := os.Chmod(w.o.RunDir, 0o711); err != nil { //nolint:gosec // see openDirectory
		return fmt.Errorf("make room for sockets: %w", err)
	}
	if w.address == "" {
		if err := leadBack(w.link()); err != nil {
			return err
		}
		_ = os.Remove(filepath.Join(w.o.RunDir, servingFile)) // users came by TCP once; it would lie if they did again
	}
	w.takePorts(ctx)
	for _, s := range w.all() {
		if err := s.reclaim(); err != nil {
			return err
		}
	}
	if err := w.resume(); err != nil {
		return err
	}
	if err := w.settlePorts(); err != nil {
		return err
	}
	w.choose()
	if w.live != nil {
		if err := w.live.opens(); err != nil { // of the one that the link leads to it is true already
			return err
		}
	}
	return w.sweep()
}

// settlePorts sends users to the server that serves, where superd may have died before
// it did, and closes addresses that nobody uses.
func (w *Web) settlePorts() error {
	var err error
	if w.live != nil && w.address != "" {
		err = w.port(w.address).point(w.live.at.Seat)
	}
	for _, p := range w.ports {
		err = errors.Join(err, p.free(door))
	}
	return err
}

// takePorts takes back the addresses of TCP that are in use. Where the seats are not
// as they should be, nobody knows where connections go: all of it is made anew, and
// who waits there has to ask again. That takes a keeper that has lost its sockets.
func (w *Web) takePorts(ctx context.Context) {
	inUse := map[string]bool{}
	for _, name := range w.o.Children.HeldNames() {
		if rest, ok := strings.CutPrefix(name, portNames(w.id())); ok {
			address, _, _ := strings.Cut(rest, "/")
			inUse[address] = true
		}
	}
	for _, s := range w.all() {
		inUse[s.at.Address] = true
	}
	for address := range inUse {
		if _, ok := tcp(address); !ok {
			continue
		}
		p := w.port(address)
		if err := p.adopt(); err != nil {
			err = errors.Join(err, w.endAll(ctx, address), p.abandon())
			w.tell(Note, release.Generation{}, fmt.Errorf("the listeners of %s are new: %w", address, err), nil)
		}
	}
}

// endAll kills the masters whose users come to address, with their workers, and waits
// until they are gone: only then can the address be another's.
func (w *Web) endAll(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("took longer than 10s"))
	defer cancel()
	var errs []error
	for _, s := range w.all() {
		if s.at.Address != address {
			continue
		}
		for _, c := range append(s.spare, s.adopted) {
			errs = append(errs, c.KillTree(ctx))
		}
		s.at.Seat = noSeat
	}
	return errors.Join(errs...)
}

// reclaim takes back the listeners of an adopted master. Should that not be possible
// it gets new ones, and a new master: users come before explanations.
func (s *server) reclaim() error {
	if err := s.takeBack(); err != nil {
		if err := s.replaceListeners(); err != nil {
			return err
		}
		s.proc.Restart()
		s.tell(Note, fmt.Errorf("its listeners are new: %w", err))
	}
	if info, err := os.Stat(filepath.Join(s.at.Home, leavingFile)); err == nil {
		s.leaving = newDeparture(info.ModTime().Add(s.owner.drain()))
		if !s.adopted.Told().IsZero() {
			s.proc.Retire() // before Run: there is to be no other after it
		}
	}
	return nil
}

// noSeat is that of a server whose users do not come by TCP, or whose seat is lost.
const noSeat = 0

func (s *server) takeBack() error {
	var errs [3]error
	s.status, errs[0] = s.borrow("status", s.at.statusSocket(), 4)
	switch {
	case s.at.Address == "":
		s.web, errs[1] = s.borrow("web", s.at.socket(), 3)
		return errors.Join(errs[:]...)
	case s.at.Seat == noSeat:
		errs[1] = s.sit()
	default:
		s.web, errs[1] = s.owner.port(s.at.Address).claim(s.at.Seat)
	}
	s.private, errs[2] = s.borrow("web", s.at.socket(), 5)
	return errors.Join(errs[:]...)
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

func (s *server) replaceListeners() error {
	for _, l := range []*Listener{s.own(), s.status} {
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
	if err := s.openAll(); err != nil {
		return err
	}
	if home, ok := s.owner.published(); ok && home == s.at.Home && s.at.Address == "" {
		return s.web.admit(s.owner.access())
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
		if s.at.Home == home && s.at.Address == w.address {
			w.live = s
			return nil
		}
	}
	at, err := readPlace(home)
	if err != nil || at.App != w.id() || at.Address != w.address || w.taken(at.Base) {
		return nil //nolint:nilerr // nothing that could be gone on with; Promote begins anew
	}
	own, ok := w.o.Children.Held(w.held(at.Base, "web"))
	if !ok {
		return nil
	}
	status, ok := w.o.Children.Held(w.held(at.Base, "status"))
	if !ok {
		return own.Close()
	}
	s := newServer(w, at)
	s.status = inherit(at.statusSocket(), status)
	if at.Address == "" {
		s.web = inherit(at.socket(), own)
		if err := s.web.limit(w.backlog()); err != nil { // see Park
			w.o.Log.Warn("the backlog is not what is configured", "listener", s.web.path, "error", err)
		}
	} else {
		s.private = inherit(at.socket(), own)
		if s.web, err = w.port(at.Address).claim(at.Seat); err != nil {
			return errors.Join(own.Close(), status.Close()) // made anew, as above
		}
	}
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
			s.leaving = newDeparture(time.Now().Add(w.drain()))
		}
	}
}

// sweep removes what belongs to no server.
func (w *Web) sweep() error {
	prefix := "fpm/" + w.id() + "/"
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

package fpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/release"
)

// What a server consists of besides its processes: its directory with configuration
// and sockets, and the duplicates of the sockets that the keeper holds.

// A server's directory has one of these two, from its birth on: that it is to leave
// is a rename, which a full disk does not stop.
const (
	stayingFile = "staying"
	leavingFile = "leaving"
)

// held is the name that the keeper knows a socket by.
func (w *Web) held(base, socket string) string { return "fpm/" + w.o.App + "/" + base + "/" + socket }

func (w *Web) rendering(at place, p Pool) rendering {
	return rendering{at: at, pool: p, literal: w.o.Handoff == Reload}
}

// build makes all that a master needs, and has PHP-FPM look at it.
func (s *server) build(ctx context.Context) error {
	pool, err := s.owner.o.Pool(s.at.Generation)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.at.home); err != nil {
		return fmt.Errorf("clear the place of an earlier one: %w", err)
	}
	if err := s.configure(s.at, pool); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.at.home, stayingFile), nil, 0o600); err != nil {
		return err
	}
	if err := try(ctx, s.owner.rendering(s.at, pool), s.at.home); err != nil {
		return err
	}
	if s.web, err = s.open(s.at.socket(), "web"); err != nil {
		return err
	}
	s.status, err = s.open(s.at.statusSocket(), "status")
	return err
}

// configure writes the files of the pool, for this master and those after it.
func (s *server) configure(at place, p Pool) error {
	if err := s.owner.rendering(at, p).write(at.home); err != nil {
		return err
	}
	if err := at.write(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool = &p
	return nil
}

// open makes a listener that outlives superd. Only superd can connect to it yet.
func (s *server) open(path, name string) (*Listener, error) {
	l, err := Listen(path, private, s.owner.o.Backlog)
	if err != nil {
		return nil, err
	}
	if err := s.owner.o.Children.Hold(s.owner.held(s.at.Base, name), l.File()); err != nil {
		return nil, errors.Join(fmt.Errorf("leave %s with the keeper: %w", path, err), l.Close())
	}
	return l, nil
}

// demolish removes what is left of a server that has no processes.
func (s *server) demolish() error {
	var errs []error
	for name, l := range map[string]*Listener{"web": s.web, "status": s.status} {
		if l != nil {
			errs = append(errs, l.Close(), s.owner.o.Children.Drop(s.owner.held(s.at.Base, name)))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.at.home))...)
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

// test has PHP-FPM look at a configuration for g that nothing uses.
func (w *Web) test(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	pool, err := w.o.Pool(g)
	if err != nil {
		return err
	}
	if err := openDirectory(w.o.RunDir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(w.o.RunDir, testPrefix)
	if err != nil {
		return err
	}
	r := w.rendering(place{Generation: g, App: w.o.App, Base: filepath.Base(dir), home: dir}, pool)
	if err = r.write(dir); err == nil {
		err = try(ctx, r, dir)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

const testPrefix = "test-"

// try asks PHP-FPM whether it could start. What is to be preloaded is loaded.
func try(ctx context.Context, r rendering, dir string) error {
	cmd := exec.CommandContext(ctx, r.pool.Binary, append([]string{"-t"}, r.arguments(dir)...)...) //nolint:gosec // the operator's
	cmd.Env, cmd.Dir = r.master(dir), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // preloading may have forked
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(out), "?")), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	return explain(fmt.Errorf("php-fpm -t: %w: %s", err, verdict(lines)), lines)
}

// verdict is the first line that names an error, without the time before it.
func verdict(lines []string) string {
	for _, line := range lines {
		for _, mark := range []string{"ERROR: ", "ALERT: ", "Fatal error: ", "Parse error: "} {
			if _, text, ok := strings.Cut(line, mark); ok {
				return text
			}
		}
	}
	return lines[len(lines)-1]
}

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

// reclaim takes back the listeners of an adopted master.
func (s *server) reclaim() error {
	var err error
	if s.web, err = s.owner.reclaim(&s.at, s.at.socket(), "web", s.adopted.PID(), 3); err != nil {
		return err
	}
	if s.status, err = s.owner.reclaim(&s.at, s.at.statusSocket(), "status", s.adopted.PID(), 4); err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Join(s.at.home, leavingFile)); err == nil {
		s.leaving = newDeparture(info.ModTime().Add(s.owner.o.Drain))
	}
	return nil
}

// reclaim is a listener from the keeper, or, should it not be there, from the master
// itself, which has it as descriptor fd.
func (w *Web) reclaim(at *place, path, name string, pid, fd int) (*Listener, error) {
	if f, ok := w.o.Children.Held(w.held(at.Base, name)); ok {
		return inherit(path, f), nil
	}
	master, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("take back %s: %w", path, err)
	}
	defer unix.Close(master) //nolint:errcheck // a handle
	got, err := unix.PidfdGetfd(master, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("take back %s: the keeper does not have it, and its master: %w", path, err)
	}
	l := inherit(path, os.NewFile(uintptr(got), path))
	if err := w.o.Children.Hold(w.held(at.Base, name), l.File()); err != nil {
		return nil, errors.Join(fmt.Errorf("leave %s with the keeper: %w", path, err), l.Close())
	}
	return l, nil
}

// resume goes on with what the public path leads to: its queue may have waited since
// the master and superd died together.
func (w *Web) resume() error {
	home, ok := w.published()
	if !ok {
		return nil
	}
	for _, s := range w.all() {
		if s.at.home == home {
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

// published is the directory of the server that the public path leads to.
func (w *Web) published() (string, bool) {
	to, err := os.Readlink(w.o.Listen)
	if err != nil {
		return "", false
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(w.o.Listen), to)
	}
	return filepath.Dir(to), true
}

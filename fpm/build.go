package fpm

import (
	"context"
	"errors"
	"fmt"
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

// unusedFile is there as long as no user can have reached the server.
const unusedFile = "unused"

// held is the name that the keeper knows a socket by.
func (w *Web) held(base, socket string) string { return "fpm/" + w.id() + "/" + base + "/" + socket }

func (w *Web) rendering(at place, p Pool) rendering {
	return rendering{at: at, pool: p.startingWith(at.Crowd), literal: w.o.Handoff == Reload}
}

// build makes all that a master needs, and has PHP-FPM look at it.
func (s *server) build(ctx context.Context) error {
	pool, err := s.owner.o.Pool(s.at.Generation)
	if err != nil {
		return err
	}
	if pool.PM == "dynamic" {
		crowd := s.owner.crowd(ctx)
		s.mu.Lock()
		s.at.Crowd = crowd
		s.mu.Unlock()
	}
	if err := os.RemoveAll(s.at.Home); err != nil {
		return fmt.Errorf("clear the place of an earlier one: %w", err)
	}
	if err := s.configure(s.at, pool); err != nil {
		return err
	}
	for _, word := range []string{stayingFile, unusedFile} {
		if err := os.WriteFile(filepath.Join(s.at.Home, word), nil, 0o600); err != nil {
			return err
		}
	}
	if err := try(ctx, s.owner.rendering(s.at, pool), s.at.Home); err != nil {
		return err
	}
	return s.openAll()
}

// openAll makes the listeners.
func (s *server) openAll() (err error) {
	own, err := s.open(s.at.socket(), "web")
	if err != nil {
		return err
	}
	if s.at.Address == "" {
		s.web = own
	} else {
		s.private = own
	}
	if s.status, err = s.open(s.at.statusSocket(), "status"); err != nil || s.web != nil {
		return err
	}
	return s.sit()
}

// sit takes a seat at the address of s, and writes down which.
func (s *server) sit() error {
	seat, l, err := s.owner.port(s.at.Address).take()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.web, s.at.Seat = l, seat
	s.mu.Unlock()
	return s.at.write()
}

// configure writes the files of the pool, for this master and those after it.
func (s *server) configure(at place, p Pool) error {
	if err := s.owner.rendering(at, p).write(at.Home); err != nil {
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
	l, err := Listen(path, private, s.owner.backlog())
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
	own := map[string]*Listener{"web": s.own(), "status": s.status}
	if s.at.Seat != noSeat {
		errs = append(errs, s.owner.port(s.at.Address).free(s.at.Seat))
	}
	for name, l := range own {
		if l != nil {
			errs = append(errs, l.Close(), s.owner.o.Children.Drop(s.owner.held(s.at.Base, name)))
		}
	}
	s.owner.count() // for the last time
	return errors.Join(append(errs, os.RemoveAll(s.at.Home))...)
}

// own is the listener in the directory of s.
func (s *server) own() *Listener {
	if s.at.Address != "" {
		return s.private
	}
	return s.web
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
	r := w.rendering(place{Generation: g, App: w.id(), Base: filepath.Base(dir), Home: dir, Address: w.address}, pool)
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

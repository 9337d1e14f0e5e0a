package fpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"superd/supervisor"
)

// How a server leaves without anybody noticing. The public path leads elsewhere by
// then. Its queue must have been empty for a while and all workers idle before its
// master is told: SIGQUIT cuts a running sleep() short, and the queue of a master
// that is gone is answered by nobody. What has come into the queue all the same is
// handed to the one that serves.

const (
	quiet     = 100 * time.Millisecond // an empty queue this long: nobody who looked the path up before the flip is under way
	look      = 20 * time.Millisecond  // how often the queue is looked at
	quitGrace = 2 * time.Second        // what an idle master may take to end
	blind     = 5 * time.Second        // without an answer from the status page the queue alone decides
)

// A departure is a server on its way out.
type departure struct {
	deadline time.Time
	silent   bool // nobody can be hurt
	once     sync.Once
	stay     chan struct{} // closed: it is wanted again
	decided  chan struct{} // closed when it is too late for that, or it stays
	stays    bool          // valid then
	calm     bool          // likewise: it has nothing to do
}

func newDeparture(deadline time.Time) *departure {
	return &departure{deadline: deadline, stay: make(chan struct{}), decided: make(chan struct{})}
}

func (s *server) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving != nil
}

// opens takes note that users may reach s from now on.
func (s *server) opens() error {
	if err := os.Remove(filepath.Join(s.at.Home, unusedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write down that users may come: %w", err)
	}
	return nil
}

// retire writes down that s is to leave, and has it leave: at once when no user can
// have reached it, whatever hangs in it. Only where somebody has removed its directory
// does the next superd not know.
func (s *server) retire() error {
	if fileExists(filepath.Join(s.at.Home, unusedFile)) {
		return s.dismiss()
	}
	if err := s.mark(stayingFile, leavingFile); err != nil {
		s.tell(Note, err)
	}
	return s.depart(newDeparture(time.Now().Add(s.owner.drain())))
}

// dismiss ends a server that nobody may have used, at once.
func (s *server) dismiss() error {
	d := newDeparture(time.Now())
	d.silent = true
	return errors.Join(s.mark(stayingFile, leavingFile), s.depart(d))
}

// mark moves the word on whether s stays. The time of the file is when it was moved.
func (s *server) mark(from, to string) error {
	now := time.Now()
	err := os.Rename(filepath.Join(s.at.Home, from), filepath.Join(s.at.Home, to))
	if errors.Is(err, fs.ErrNotExist) && fileExists(filepath.Join(s.at.Home, to)) {
		return nil // Stop does not write down what is over when superd is
	}
	if err == nil {
		err = os.Chtimes(filepath.Join(s.at.Home, to), now, now)
	}
	if err != nil {
		return fmt.Errorf("write down that it is %s: %w", to, err)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// depart has s leave.
func (s *server) depart(d *departure) error {
	s.mu.Lock()
	s.leaving = d
	s.mu.Unlock()
	return s.owner.do(s.leave)
}

// stay keeps a server that is leaving and reports whether it was not too late. When
// it was, it is gone when stay returns, or ctx has ended.
func (s *server) stay(ctx context.Context) bool {
	s.mu.Lock()
	d := s.leaving
	s.mu.Unlock()
	if d == nil {
		return true
	}
	d.once.Do(func() { close(d.stay) })
	select {
	case <-d.decided:
	case <-s.owner.ending:
		return false
	case <-ctx.Done():
		return false
	}
	if d.stays {
		return true
	}
	s.wait(ctx)
	return false
}

// wait returns when s has left, or ctx ends.
func (s *server) wait(ctx context.Context) {
	select {
	case <-s.left:
	case <-s.owner.ending:
	case <-ctx.Done():
	}
}

// leave is the whole departure. When superd ends in the middle the next one begins
// it again.
func (s *server) leave(ctx context.Context) {
	s.mu.Lock()
	d := s.leaving
	s.mu.Unlock()
	if !s.idle(ctx, d) {
		return
	}
	s.proc.Retire()
	if err := s.quit(ctx, d); err != nil {
		return
	}
	if err := s.forward(ctx); err != nil {
		s.tell(Note, err)
	}
	err := s.demolish()
	s.owner.remove(s)
	close(s.left)
	s.tell(Retired, err)
}

// idle returns true when s has nothing to do or its time is over. It returns false
// when s stays after all, or ctx ends.
func (s *server) idle(ctx context.Context, d *departure) bool {
	defer close(d.decided)
	over := time.After(time.Until(d.deadline))
	tick := time.NewTicker(look)
	defer tick.Stop()
	calm := calm{since: time.Now(), seen: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.stay:
			d.stays = s.keep()
			return !d.stays
		case <-over:
			return true
		case <-tick.C:
			if calm.over(ctx, s) {
				d.calm = true
				return true
			}
		}
	}
}

// keep takes back that s is to leave.
func (s *server) keep() bool {
	if err := s.mark(leavingFile, stayingFile); err != nil {
		s.tell(Note, err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = nil
	return true
}

// calm watches for a server to have nothing to do.
type calm struct {
	since time.Time // the queue has been empty
	seen  time.Time // when the status page last answered
}

// over looks once and tells whether it is.
func (c *calm) over(ctx context.Context, s *server) bool {
	child := s.proc.Child()
	if child == nil {
		state := s.proc.Status().State
		return state == supervisor.Backing || state == supervisor.Cooling // who waits is handed on sooner than served
	}
	if !child.Told().IsZero() {
		return true // by an earlier superd
	}
	pending, err := s.web.Pending()
	if err != nil || pending {
		c.since = time.Now()
		return false
	}
	if time.Since(c.since) < quiet {
		return false
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("took longer than a second"))
	defer cancel()
	w, err := s.workers(ctx)
	if err != nil {
		return time.Since(c.seen) > blind
	}
	c.seen = time.Now()
	if w.busy() > 0 {
		return false
	}
	pending, err = s.web.Pending()
	return err == nil && !pending
}

// quit waits for the end of a master that has been told to go, and kills it with
// all it has when its time is over.
func (s *server) quit(ctx context.Context, d *departure) error {
	last := d.deadline
	if soonest := time.Now().Add(quitGrace); d.calm && last.Before(soonest) {
		last = soonest
	}
	over := time.After(time.Until(last))
	for {
		select {
		case <-s.proc.Gone():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			over = nil
			if !d.silent {
				s.tell(Killed, fmt.Errorf("its requests did not end within %s: they are cut", s.owner.drain()))
			}
			s.proc.Kill()
		}
	}
}

// forward hands what is left in the queue to the server that serves.
func (s *server) forward(ctx context.Context) error {
	live := s.owner.serving()
	if live == nil || live == s {
		return nil
	}
	if s.owner.isParked() {
		if pending, err := s.web.Pending(); err != nil || pending {
			return errors.Join(errors.New("connections that had come before superd was to start again are cut"), err)
		}
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.owner.drain(), // superd's end waits for the answers
		fmt.Errorf("took longer than %s", s.owner.drain()))
	defer cancel()
	return s.owner.hand(ctx, s.web, live)
}

// hand gives what waits in the queue of l to the server that serves, where its users
// reach it.
func (w *Web) hand(ctx context.Context, l *Listener, live *server) error {
	network, to := "unix", live.at.socket()
	if live.at.Address != "" {
		network, to = "tcp", live.at.Address
	}
	_, err := l.Forward(ctx, network, to)
	return err
}

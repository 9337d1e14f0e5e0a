package fpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"superd/fpm/traffic"
	"superd/release"
)

// Handoff by reload is for hosts that cannot hold two masters in memory: one server
// in one place, whose configuration is rewritten and which is told SIGUSR2. What that
// costs: new requests wait until the last one that runs has ended (the drain timeout
// at most, then it is cut) and PHP has started anew; a sleep() that runs is cut
// short; nothing can be checked before users meet it; going back is a second reload.

const reloadBase = "reload"

// reload makes the one server run g.
func (w *Web) reload(ctx context.Context, g release.Generation) error {
	s, err := w.reloading(ctx)
	if err != nil {
		return err
	}
	if s == nil {
		at := place{Generation: g, App: w.id(), Base: reloadBase, Home: filepath.Join(w.o.RunDir, reloadBase), Address: w.address}
		if s, err = w.begin(ctx, at); err != nil {
			return err
		}
	} else if !s.runs(ctx, g) {
		if err := w.renew(ctx, s, g); err != nil {
			return err
		}
	}
	if err := w.publish(s); err != nil {
		return err
	}
	for _, other := range w.all() { // from before the handoff was by reload
		if other != s && !other.isLeaving() {
			err = errors.Join(err, other.retire())
		}
	}
	return err
}

// reloading is the one server, once a former one that did not come up is gone.
func (w *Web) reloading(ctx context.Context) (*server, error) {
	for _, s := range w.all() {
		if s.at.Base != reloadBase {
			continue
		}
		if s.at.Address != w.address && !s.isLeaving() { // there is no room for two
			if err := s.retire(); err != nil {
				return nil, err
			}
		}
		if s.at.Address != w.address {
			s.wait(ctx)
		} else if s.stay(ctx) {
			return s, nil
		}
	}
	return nil, context.Cause(ctx)
}

// runs tells whether the master of s runs g, by its own account.
func (s *server) runs(ctx context.Context, g release.Generation) bool {
	if s.generation() != g {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	w, err := s.workers(ctx)
	return err == nil && w.pool == s.section()
}

func (s *server) section() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at.section()
}

// renew has PHP-FPM look at the new configuration, puts it in place and reloads the
// master. It returns when the workers of g accept.
func (w *Web) renew(ctx context.Context, s *server, g release.Generation) error {
	pool, err := w.o.Pool(g)
	if err != nil {
		return err
	}
	if err := w.test(ctx, g); err != nil {
		return err
	}
	s.mu.Lock()
	at := s.at
	at.Generation, at.Turn = g, at.Turn+1
	s.mu.Unlock()
	if err := s.configure(at, pool); err != nil {
		return err
	}
	s.mu.Lock()
	before := s.at
	s.at.Generation, s.at.Turn = at.Generation, at.Turn
	s.mu.Unlock()
	present := s.present()
	if s.proc.Child() == nil {
		s.proc.Start()
	} else if err := s.proc.Signal(syscall.SIGUSR2); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.runs(ctx, g) {
		select {
		case <-ctx.Done():
			return explain(context.Cause(ctx), s.tail())
		case <-w.ending:
			return errEnding
		case f := <-s.failed:
			if f.life > present {
				return explain(fmt.Errorf("reload: %w", f.err), s.tail())
			}
			s.proc.Start() // it may have died of the configuration of before
		case <-tick.C:
		}
	}
	w.count() // for the last time: whoever wrote it is gone
	for _, name := range []string{before.pinFile(), before.accessFile(), before.accessFile() + traffic.Saved} {
		_ = os.Remove(filepath.Join(at.Home, name)) // one more small file is no harm
	}
	return nil
}

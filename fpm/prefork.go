package fpm

import (
	"context"
	"net"
	"path/filepath"
	"time"
)

// A generation whose workers come and go would begin with a few of them, or none, while
// as many users ask as before: those who come right after the promotion would wait for
// PHP-FPM to make more. With pm = dynamic it makes 1, 2, 4 … a second, and no more than
// min_spare_servers (fpm_pctl_perform_idle_server_maintenance). So it begins with as many as
// the one that serves has: dynamic by its settings, ondemand by visitors of superd's own.
// The way back has those that are left of it: nothing is to hold that up.

const (
	preforkLimit = 900 * time.Millisecond // for all of them
	preforkEach  = 15 * time.Millisecond  // for the master to make one; it may go on while the next comes
	preforkLook  = time.Millisecond
)

// crowd is how many workers the generation that serves has; 0: nobody serves, or knows.
func (w *Web) crowd(ctx context.Context) int {
	live := w.serving()
	if live == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	has, err := live.workers(ctx)
	if err != nil {
		return 0
	}
	return has.active + has.idle
}

// startingWith is p with n workers at its start, if it is dynamic. PHP-FPM takes no more
// than it would keep when all of them are idle.
func (p Pool) startingWith(n int) Pool {
	if p.PM == "dynamic" {
		p.StartServers = min(max(p.StartServers, n), p.MaxSpareServers)
	}
	return p
}

// prefork has the master of s, which is about to get its first users, make workers until
// there are as many as the generation that serves has. With ondemand it makes one when
// somebody comes and none is idle, so somebody comes and does not say what for: the first
// byte of a request keeps a worker. Not sooner: PHP-FPM ends those that are idle for 10 s,
// and the checks may take longer. That it fails does no harm, so nobody is told; the
// error is that ctx has ended. To an address of TCP there is no way in that leads to s yet.
func (s *server) prefork(ctx context.Context) error {
	if s.at.Address != "" || s.owner.serving() == nil || !fileExists(filepath.Join(s.at.Home, unusedFile)) {
		return nil // first of all, so that a way back does not wait for a file to be read
	}
	pool, err := s.owner.o.Pool(s.generation())
	if err != nil || pool.PM != "ondemand" {
		return nil //nolint:nilerr // it has its configuration already
	}
	n := min(s.owner.crowd(ctx), pool.MaxChildren)
	limited, cancel := context.WithTimeout(ctx, pool.patience())
	defer cancel()
	for come, waiting := 0, 0; come-waiting < n && come < 2*n && limited.Err() == nil; come++ {
		visitor, err := (&net.Dialer{}).DialContext(limited, "unix", s.at.socket())
		if err != nil {
			break
		}
		defer visitor.Close() //nolint:errcheck // all at the end, so that each has a worker of its own
		if _, err := visitor.Write([]byte{1}); err != nil {
			break
		}
		waiting = s.admit(limited, waiting)
	}
	return context.Cause(ctx)
}

// patience is how long a visitor may stay: PHP-FPM ends a worker that has had a request for
// too long, also one that is still to be read (fpm_request_check_timed_out).
func (p Pool) patience() time.Duration {
	if p.RequestTerminateTimeout > 0 {
		return min(preforkLimit, p.RequestTerminateTimeout/2)
	}
	return preforkLimit
}

// admit gives the master time to make a worker for who has come, and tells how many wait
// then; before is how many did already. Somebody was taken in when that holds for two
// looks: until it reads, a worker that has accepted counts as idle, and whoever comes then
// gets none (fpm_request_is_idle).
func (s *server) admit(ctx context.Context, before int) (waiting int) {
	over := time.After(preforkEach)
	tick := time.NewTicker(preforkLook)
	defer tick.Stop()
	for taken := 0; taken < 2; taken++ {
		var err error
		if waiting, err = s.web.Queue(); err != nil {
			return 0 // nobody knows: they come as fast as they can
		}
		if waiting > before {
			taken = -1
		}
		select {
		case <-ctx.Done():
			return waiting
		case <-over:
			return waiting
		case <-tick.C:
		}
	}
	return waiting
}

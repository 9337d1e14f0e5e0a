package fpm

import (
	"context"
	"net"
	"time"
)

// A generation whose workers come and go would begin with a few of them, or none, while
// as many users ask as before: those who come right after the promotion would wait until
// PHP-FPM has made more, which with pm = dynamic are 1, 2, 4 in the first three seconds
// (fpm_pctl_perform_idle_server_maintenance). So it begins with as many as the one that
// serves has, as far as its settings let it keep them.

const (
	preforkLimit = 900 * time.Millisecond // for all of them; a request may be allowed a second, no less
	preforkEach  = 50 * time.Millisecond  // for the master to make one
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

// startingWith is p with n workers at its start. PHP-FPM takes no more than it would keep
// when all of them are idle.
func (p Pool) startingWith(n int) Pool {
	p.StartServers = min(max(p.StartServers, n), p.MaxSpareServers)
	return p
}

// prefork has the master of s make workers until there are as many as the generation that
// serves has. With ondemand it makes one when somebody comes and none is idle, so
// somebody comes and does not say what for: the first byte of a request keeps a worker.
// It is no harm when that fails, so nobody is told. To an address of TCP there is no
// way in that leads to s before its promotion.
func (s *server) prefork(ctx context.Context) {
	pool, err := s.owner.o.Pool(s.generation())
	if err != nil || pool.PM != "ondemand" || s.at.Address != "" {
		return
	}
	n := min(s.owner.crowd(ctx), pool.MaxChildren)
	ctx, cancel := context.WithTimeout(ctx, preforkLimit)
	defer cancel()
	for come, waiting := 0, 0; come-waiting < n && ctx.Err() == nil; come++ {
		visitor, err := (&net.Dialer{}).DialContext(ctx, "unix", s.at.socket())
		if err != nil {
			return
		}
		defer visitor.Close() //nolint:errcheck // all at the end, so that each has a worker of its own
		if _, err := visitor.Write([]byte{1}); err != nil {
			return
		}
		waiting = s.admit(ctx)
	}
}

// admit gives the master of s time to make a worker for who has come, and tells how many
// wait all the same: it made none when it saw one idle that was not, and looks again when
// the next one comes.
func (s *server) admit(ctx context.Context) (waiting int) {
	over := time.After(preforkEach)
	tick := time.NewTicker(preforkLook)
	defer tick.Stop()
	for {
		waiting, err := s.web.Queue()
		if err != nil || waiting == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return waiting
		case <-over:
			return waiting
		case <-tick.C:
		}
	}
}

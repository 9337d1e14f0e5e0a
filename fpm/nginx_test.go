package fpm

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

// A crowd is users behind nginx, who ask again as soon as they are answered.
type crowd struct {
	shop  *shop
	stop  chan struct{}
	users sync.WaitGroup

	mu      sync.Mutex
	answers []answered
	wrong   []string
}

type answered struct {
	asked time.Time
	by    string // the release
}

func (s *shop) crowd(users int, method, uri string) *crowd {
	c := &crowd{shop: s, stop: make(chan struct{})}
	for range users {
		c.users.Go(func() {
			client := s.client("document_root")
			for !isClosed(c.stop) {
				asked := time.Now()
				a, err := fetch(client, method, uri)
				c.mu.Lock()
				if err != nil {
					c.wrong = append(c.wrong, err.Error())
				} else {
					c.answers = append(c.answers, answered{asked, a.Self})
				}
				c.mu.Unlock()
			}
		})
	}
	return c
}

func (c *crowd) end() {
	close(c.stop)
	c.users.Wait()
}

// since counts the answers to what was asked from then on, and those by release.
func (c *crowd) since(when time.Time, release string) (all, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.answers {
		if a.asked.After(when) {
			all++
			if a.by == release {
				by++
			}
		}
	}
	return all, by
}

// The whole way, with a web server, at saturation: nothing fails, and whoever asks
// once a switch has returned is answered by the new release.
func TestSwitchesBehindNginx(t *testing.T) {
	t.Parallel()
	everyWay(t, switchesBehindNginx)
}

func switchesBehindNginx(t *testing.T, s *shop) {
	s.point("r1")
	s.nginx()
	l := s.superd()
	l.serve(s.generation(1))
	for n := uint64(2); n <= 5; n++ {
		before := s.crowd(40, http.MethodGet, "/?ms=20")
		time.Sleep(300 * time.Millisecond)
		l.serve(s.generation(n))
		flipped := time.Now()
		time.Sleep(300 * time.Millisecond)
		before.end()
		all, old := before.since(flipped, s.generation(n-1).Release)
		if all == 0 || old > 0 || len(before.wrong) > 0 {
			t.Errorf("%d answers after the flip, %d of them of the release before; failed: %v", all, old, before.wrong)
		}
	}
	l.gone(s.generation(4))
}

// nginx keeps its connections to the generation that it has used, and goes on asking
// there: nothing fails, but only those who come by a new connection get the new
// release. See docs/decisions/0008-tcp.md.
func TestKeptConnections(t *testing.T) {
	t.Parallel()
	everyWay(t, keptConnections)
}

func keptConnections(t *testing.T, s *shop) {
	const drain = 6 * time.Second
	s.change = func(o *Options, _ *Pool) { o.Drain = drain }
	s.keep = [2]string{"fastcgi_keep_conn on;", "keepalive 8; keepalive_timeout 1s;"}
	s.point("r1")
	s.nginx()
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.serve(g1)
	c := s.crowd(4, http.MethodPost, "/?ms=20")
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	l.serve(g2)
	flipped := time.Now()
	time.Sleep(2 * time.Second)
	c.end()
	all, old := c.since(flipped, "r1")
	t.Logf("%d answers in the 2s after the flip, %d of the old release; %d failed", all, old, len(c.wrong))
	if all == 0 || len(c.wrong) > 0 {
		t.Errorf("%d answers, failed: %v", all, c.wrong)
	}
	l.gone(g1) // nginx has let go of the connections a second after the last request
	if took := time.Since(began); len(s.told(Killed)) > 0 || took > drain {
		t.Errorf("cut: %v after %s", s.told(Killed), took)
	}
	l.must("start", l.Start(t.Context(), g1))
	end := s.crowd(4, http.MethodPost, "/?ms=20")
	time.Sleep(500 * time.Millisecond)
	l.must("promote", l.Promote(t.Context(), g1))
	l.must("retire", l.Retire(t.Context(), g2))
	flipped = time.Now()
	l.gone(g2)
	took := time.Since(flipped)
	time.Sleep(500 * time.Millisecond)
	end.end()
	all, old = end.since(flipped, "r2")
	t.Logf("users who never pause: the old generation left after %s, %d of %d answers were its; %d failed: %.3v", took, old, all, len(end.wrong), end.wrong)
}

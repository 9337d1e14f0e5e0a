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
		eventually(t, "all ask again", func() bool { all, _ := before.since(flipped, ""); return all >= 40 })
		before.end()
		all, old := before.since(flipped, s.generation(n-1).Release)
		if old > 0 || len(before.wrong) > 0 {
			t.Errorf("%d answers after the flip, %d of them of the release before; failed: %v", all, old, before.wrong)
		}
	}
	l.gone(s.generation(4))
}

// nginx keeps its connections and asks again on them. They are ended when nobody is
// asking, so users of kept connections get the new release too, soon after the flip,
// and no request is lost. Of those that nginx may not repeat one may come in the
// microseconds in which its connection ends: see docs/decisions/0021-kept-connections.md.
func TestKeptConnections(t *testing.T) {
	t.Parallel()
	everyWay(t, keptConnections)
}

func keptConnections(t *testing.T, s *shop) {
	s.keep = [2]string{"fastcgi_keep_conn on;", "keepalive 8; keepalive_timeout 60s;"}
	s.point("r1")
	s.nginx()
	l := s.superd()
	l.serve(s.generation(1))
	total, lost := 0, 0
	for n := uint64(2); n <= 5; n++ {
		release := s.generation(n - 1).Release
		post, get := s.crowd(3, http.MethodPost, "/?ms=20"), s.crowd(3, http.MethodGet, "/?ms=5")
		time.Sleep(300 * time.Millisecond)
		l.serve(s.generation(n))
		flipped := time.Now()
		for _, c := range []*crowd{post, get} {
			eventually(t, "for a second nobody meets the release before", func() bool {
				all, old := c.since(time.Now().Add(-time.Second), release)
				return all > 0 && old == 0
			})
		}
		post.end()
		get.end()
		for _, c := range []*crowd{post, get} {
			if c == post {
				lost += len(c.wrong)
			} else if len(c.wrong) > 0 {
				t.Errorf("generation %d: failed: %v", n, c.wrong)
			}
			_, late := c.since(flipped, release)
			total += len(c.answers)
			t.Logf("%d answers, %d of the release before to what was asked after the flip", len(c.answers), late)
		}
		l.gone(s.generation(n - 1)) // nobody's kept connection holds it up
	}
	if notes := append(s.told(Note), s.told(Killed)...); len(notes) > 0 { // nor has the end of a drain ended them
		t.Errorf("told: %v", notes)
	}
	t.Logf("%d answers in all, %d POSTs lost", total, lost)
	if lost > 1 {
		t.Errorf("%d POSTs lost", lost)
	}
}

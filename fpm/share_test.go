package fpm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/release"
)

// A candidate that is let down now and then by a timer has had its part all the same, and
// never much more of it at once. A machine that stood still changes nothing.
func TestTurns(t *testing.T) {
	t.Parallel()
	for _, part := range []float64{0.01, 0.05, 0.1, 0.25, 0.5, 0.9} {
		turns := turns{part: part}
		for n := range 3000 {
			begin, length := turns.next(float64(n%10) / 10)
			if begin < 0 || length < 0 || begin+length > cycle || length > 0 && length < least {
				t.Fatalf("%v: a turn of %s at %s", part, length, begin)
			}
			if most := max(least, time.Duration(part*(2-part)*float64(cycle))); length > most {
				t.Fatalf("%v: a turn of %s, over %s", part, length, most)
			}
			all, had := cycle, length
			switch {
			case n%7 == 0 && length > 0:
				all, had = cycle+30*time.Millisecond, length+30*time.Millisecond // back late
			case n%11 == 0:
				all = cycle + 15*time.Millisecond // there late
			case n%100 == 1 && length > 0:
				before := turns
				turns.passed(cycle+3*time.Second, length+3*time.Second)
				turns.passed(cycle+3*time.Second, length)
				if turns != before {
					t.Fatalf("what stood still counts: %+v after %+v", turns, before)
				}
			}
			turns.passed(all, had)
		}
		if got := float64(turns.had) / float64(turns.all); math.Abs(got-part) > 0.002 {
			t.Errorf("it had %.4f of the time, and is owed %v", got, part)
		}
	}
}

// tally counts who answers, and how.
type tally struct {
	mu     sync.Mutex
	from   map[string]int
	failed []string
}

// users ask n times, so many a second, whatever becomes of the answers.
func (s *shop) users(ctx context.Context, n, perSecond int) *tally {
	c := &tally{from: map[string]int{}}
	s.more(ctx, c, n, perSecond)
	return c
}

// more is n users more, who are counted too.
func (s *shop) more(ctx context.Context, c *tally, n, perSecond int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for range n {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking.Go(func() { c.take(s.get("")) })
	}
}

// measure counts n users, and more where a machine that stood still has sent too many one
// way and they have not evened out.
func (s *shop) measure(n int, ok func(c *tally) bool) *tally {
	c := s.users(s.t.Context(), n, 200)
	for try := 1; try < 3 && !ok(c); try++ {
		s.more(s.t.Context(), c, n, 200)
	}
	return c
}

func (c *tally) take(a reply, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.failed = append(c.failed, err.Error())
	case a.Self != a.Part || a.Self != a.Root || a.Self != a.Cwd || a.Self != a.Env:
		c.failed = append(c.failed, fmt.Sprintf("a mixed answer: %+v", a))
	default:
		c.from[a.Self]++
	}
}

// part is the measured one of r2, and what chance may make of it in n requests: five
// times the standard deviation.
func (c *tally) part(want float64) (got, chance float64) {
	n := float64(c.from["r1"] + c.from["r2"])
	return float64(c.from["r2"]) / n, 5 * math.Sqrt(want*(1-want)/n)
}

// The promise: the candidate gets its part within three points, of a few hundred
// requests a second; nobody's answer fails or is of both; and afterwards all are
// where they are to be. For TCP there is TestPortIsSplit too.
func TestShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host  string
		parts []float64
	}{
		"unix": {parts: []float64{0.05, 0.10, 0.25, 0.50}},
		"IPv4": {host: "127.0.0.1", parts: []float64{0.10, 0.25}},
		"IPv6": {host: "::1", parts: []float64{0.10}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			if c.host != "" {
				s.address = freeAddress(t, c.host)
			}
			l := s.superd()
			l.serve(s.generation(1))
			next := s.generation(2)
			l.must("start", l.Start(t.Context(), next))
			for _, part := range c.parts {
				s.sharesExactly(l, next, part)
			}
			l.must("promote", l.Promote(t.Context(), next))
			if c := s.users(t.Context(), 100, 200); c.from["r2"] != 100 {
				t.Errorf("after it was promoted: %v, %v", c.from, c.failed)
			}
		})
	}
}

func (s *shop) sharesExactly(l *life, next release.Generation, part float64) {
	s.t.Helper()
	l.must("share", l.Share(s.t.Context(), next, part))
	if st, _ := l.status(next); st.State != Canary {
		s.t.Errorf("the candidate is %s", st.State)
	}
	exact := func(c *tally) bool {
		got, chance := c.part(part)
		return math.Abs(got-part) <= max(0.03, chance)
	}
	c := s.measure(1000, exact)
	got, _ := c.part(part)
	s.t.Logf("asked for %2.0f %%, measured %4.1f %% of %d", part*100, got*100, c.from["r1"]+c.from["r2"])
	if !exact(c) {
		s.t.Errorf("asked for %v, measured %v", part, got)
	}
	if len(c.failed) > 0 {
		s.t.Errorf("%d failed: %s", len(c.failed), c.failed[0])
	}
}

// sharing is a shop whose users are shared by r1, which serves, and r2.
func (s *shop) sharing(part float64) (l *life, main, next release.Generation) {
	s.t.Helper()
	l, main, next = s.superd(), s.generation(1), s.generation(2)
	l.serve(main)
	l.must("start", l.Start(s.t.Context(), next))
	l.must("share", l.Share(s.t.Context(), next, part))
	eventually(s.t, "both answer", func() bool {
		c := s.users(s.t.Context(), 20, 200)
		return c.from["r1"] > 0 && c.from["r2"] > 0
	})
	return l, main, next
}

// all tells whether every user is answered by that release.
func (s *shop) all(release string) {
	s.t.Helper()
	if c := s.users(s.t.Context(), 100, 200); c.from[release] != 100 {
		s.t.Errorf("not all are answered by %s: %v, %v", release, c.from, c.failed)
	}
	if _, err := os.Lstat(wayBack(s.public())); err == nil {
		s.t.Error("there is a way back, and nobody shares")
	}
}

// Nothing takes either of the two away, both masters may die, and the way back is one
// step, after which nobody meets the candidate.
func TestShareEnds(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, s *shop) {
		l, main, next := s.sharing(0.5)
		for _, g := range []release.Generation{main, next} {
			if err := l.Retire(t.Context(), g); err == nil || !strings.Contains(err.Error(), "it is serving") {
				t.Errorf("retire %s: %v", g, err)
			}
		}
		if err := l.Restart(t.Context()); err == nil {
			t.Error("restarted in the middle of a share")
		}
		load := s.load()
		load.closed(20, "")
		for _, g := range []release.Generation{main, next} {
			st, _ := l.status(g)
			if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "another master", func() bool {
				now, _ := l.status(g)
				return now.PID != st.PID && now.PID != 0 && now.Idle+now.Active == 8
			})
		}
		l.must("go back", l.Promote(t.Context(), main))
		load.done()
		s.all("r1")
		l.must("retire", l.Retire(t.Context(), next))
		l.gone(next)
		s.all("r1")
	})
}

// superd is killed while the path leads to the candidate: the next one leads it back
// before anything else. At an address of TCP the kernel has gone on to divide.
func TestShareOutlivesNoSuperd(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, s *shop) {
		l, main, next := s.sharing(0.5)
		candidate := l.find(next)
		own := l.find(main).at.socket()
		l.end()
		if s.address == "" {
			if !publishes(s.public(), own) {
				t.Error("superd has ended, and the path does not lead to what serves")
			}
			back := Listener{path: own}
			if err := errors.Join(back.Publish(wayBack(s.public())), candidate.web.Publish(s.public())); err != nil {
				t.Fatal(err)
			}
			if _, err := s.get(""); err != nil {
				t.Errorf("while there is no superd: %v", err)
			}
		} else if c := s.users(t.Context(), 60, 200); c.from["r2"] == 0 || len(c.failed) > 0 {
			t.Errorf("while there is no superd: %v, %v", c.from, c.failed)
		}
		second := s.superd()
		s.all("r1")
		if g, ok := second.Serving(); !ok || g != main {
			t.Errorf("%s serves", g)
		}
		second.must("retire", second.Retire(t.Context(), next))
		second.gone(next)
	})
}

// Somebody removes the way back, again and again: the path is led back all the same.
func TestShareWithoutWayBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l, main, _ := s.sharing(0.1)
	stop := make(chan struct{})
	var robbing sync.WaitGroup
	robbing.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = os.Remove(wayBack(s.public()))
			}
		}
	})
	few := func(c *tally) bool { got, chance := c.part(0.1); return got <= 0.13+chance }
	c := s.measure(400, few)
	close(stop)
	robbing.Wait()
	if !few(c) || len(c.failed) > 0 {
		t.Errorf("it got %v, and failed: %v", c.from, c.failed)
	}
	l.must("go back", l.Promote(t.Context(), main))
	s.all("r1")
}

// Users who come again at once meet a candidate that fails at once no oftener than
// their part, and some chance.
func TestShareOfFastFailures(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.deploy("r1", "<?php usleep(20000); echo 'r1';")
	s.deploy("r2", "<?php http_response_code(500); echo 'r2';")
	l := s.superd()
	l.serve(s.generation(1))
	l.must("start", l.Start(t.Context(), s.generation(2)))
	l.must("share", l.Share(t.Context(), s.generation(2), 0.1))
	v := s.visitors(8)
	count := func() (mine, all float64) {
		mine, others := float64(v.answers["r2"].Load()), float64(v.answers["r1"].Load())
		return mine, mine + others
	}
	eventually(t, "of many users no more than their part meet the candidate", func() bool {
		mine, all := count()
		return all > 1500 && mine <= 0.16*all
	})
	v.leave()
	mine, all := count()
	t.Logf("%.1f %% of %.0f", 100*mine/all, all)
}

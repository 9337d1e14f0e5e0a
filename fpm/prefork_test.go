package fpm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/release"
)

// dynamic is a shop with few workers at its start, which may become more.
func (s *shop) dynamic(pm string) {
	s.change = func(_ *Options, p *Pool) {
		p.PM, p.StartServers, p.MinSpareServers, p.MaxSpareServers = pm, 1, 1, 5
	}
}

// crowd has six workers at work, and waits until all of them are done. Nobody asks again: who
// does before his worker rests gets another one.
func (l *life) crowd() {
	l.shop.t.Helper()
	in := l.shop.gate()
	for range 6 {
		in.enter(0)
	}
	in.open()
}

// workers is how many g has while nobody asks.
func (l *life) workers(g release.Generation) int {
	l.shop.t.Helper()
	var at Status
	eventually(l.shop.t, "nobody is at work", func() bool {
		st, ok := l.status(g)
		at = st
		return ok && st.Active == 0 && st.Idle >= 0
	})
	return at.Idle
}

// As many workers are ready for those who come first as there were before: in the next
// generation, also when it gets only a part of the users at first, and in the next master.
// With ondemand they are made within a limit of time, so that on a busy machine one or two of
// the six may not have come; one that is busier than that has three tries.
func TestGenerationBeginsWithWorkers(t *testing.T) {
	t.Parallel()
	for pm, want := range map[string]int{"ondemand": 4, "dynamic": 5} {
		for how, lead := range map[string]func(*life, release.Generation) error{
			"promoted": func(l *life, g release.Generation) error { return l.Promote(t.Context(), g) },
			"shared":   func(l *life, g release.Generation) error { return l.Share(t.Context(), g, 0.5) },
		} {
			t.Run(pm+"/"+how, func(t *testing.T) {
				t.Parallel()
				n := 0
				for try := 0; try < 3 && n < want; try++ {
					n = nextBeginsWith(t, pm, lead)
				}
				if n < want {
					t.Errorf("it begins with %d workers, want %d", n, want)
				}
			})
		}
	}
}

// nextBeginsWith is how many workers a generation has that comes after one with six.
func nextBeginsWith(t *testing.T, pm string, lead func(*life, release.Generation) error) int {
	t.Helper()
	s := newShop(t)
	s.dynamic(pm)
	l := s.superd()
	first, next := s.generation(1), s.generation(2)
	l.serve(first)
	if n := l.workers(first); n > 1 {
		t.Errorf("the first generation of all begins with %d workers", n)
	}
	l.crowd()
	l.must("start", l.Start(t.Context(), next))
	l.must("lead users there", lead(l, next))
	return l.workers(next)
}

func TestMasterBeginsWithWorkers(t *testing.T) {
	t.Parallel()
	for pm, want := range map[string]int{"ondemand": 4, "dynamic": 5} {
		t.Run(pm, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			s.dynamic(pm)
			l := s.superd()
			g := s.generation(1)
			l.serve(g)
			n := 0
			for try := 0; try < 3 && n < want; try++ {
				l.crowd()
				l.must("restart", l.Restart(t.Context()))
				eventually(t, "the master before is gone", func() bool { return len(l.all()) == 1 })
				n = l.workers(g)
			}
			if n < want {
				t.Errorf("it begins with %d workers, want %d", n, want)
			}
			if pm == "ondemand" {
				return // who comes first to it may be nobody's at all
			}
			l.end()
			l = s.superd() // which knows what the earlier one has written down
			st, _ := l.status(g)
			end(t, st.PID)
			eventually(t, "the next master", func() bool {
				now, _ := l.status(g)
				return now.PID != 0 && now.PID != st.PID
			})
			if n := l.workers(g); n < want {
				t.Errorf("the next master begins with %d workers, want %d", n, want)
			}
		})
	}
}

// Nobody but users comes to a generation that has some.
func TestPreforkKeepsAwayFromUsers(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.dynamic("ondemand")
	l := s.superd()
	first, next := s.generation(1), s.generation(2)
	l.serve(first)
	users := s.gate()
	for range 3 {
		// In the script, and not only with a worker: one that was just made counts as idle until
		// it reads, and PHP-FPM makes none for who comes then.
		users.enter(0)
	}
	l.must("start what serves", l.Start(t.Context(), first))
	l.must("promote what serves", l.Promote(t.Context(), first))
	users.open()
	before := l.workers(first)
	if before > 4 {
		t.Errorf("%d workers for three users", before)
	}
	l.must("promote the next", l.Promote(t.Context(), next))
	l.crowd()
	l.must("go back", l.Promote(t.Context(), first))
	if n := l.workers(first); n > before {
		t.Errorf("on the way back it got %d workers, had %d", n, before)
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "log/shop/fpm.log"))
	if err != nil || strings.Contains(string(text), "max_children") {
		t.Errorf("%v, %s", err, text)
	}
}

// An order that was called off while visitors came is not carried out.
func TestPreforkEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.dynamic("ondemand")
	l := s.superd()
	l.serve(s.generation(1))
	l.crowd()
	l.must("start", l.Start(t.Context(), s.generation(2)))
	why := errors.New("called off")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := l.find(s.generation(2)).prefork(ctx); !errors.Is(err, why) {
		t.Errorf("prefork: %v", err)
	}
}

// A restart that is called off then leaves what serves, and no second master.
func TestRestartIsCalledOffWhileWorkersAreMade(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	why := errors.New("called off")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	s.dynamic("ondemand")
	l := s.superdOf(func(o Options) (*Web, someWeb) {
		var w *Web
		pool := o.Pool
		o.Pool = func(g release.Generation) (Pool, error) {
			if len(w.all()) == 2 { // the new master is up, and is to have its workers
				cancel(why)
			}
			return pool(g)
		}
		w = New(o)
		return w, w
	})
	g := s.generation(1)
	l.serve(g)
	before, _ := l.status(g)
	if err := l.Restart(ctx); !errors.Is(err, why) {
		t.Errorf("restart: %v", err)
	}
	eventually(t, "one master", func() bool { return len(l.all()) == 1 })
	if now, _ := l.status(g); now.PID != before.PID || s.answeredBy() != "r1" {
		t.Errorf("%+v serves, it was %+v", now, before)
	}
}

func TestPatience(t *testing.T) {
	for limit, want := range map[time.Duration]time.Duration{0: preforkLimit, time.Second: 500 * time.Millisecond, time.Minute: preforkLimit} {
		if got := (Pool{RequestTerminateTimeout: limit}).patience(); got != want {
			t.Errorf("with %s: %s, want %s", limit, got, want)
		}
	}
}

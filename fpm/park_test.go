package fpm

import (
	"context"
	"errors"
	"testing"
	"time"

	"superd/release"
)

// A superd that is started again: who is in is answered, who comes waits, and nobody
// is refused.
func TestParkLosesNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, parkLosesNothing)
}

func parkLosesNothing(t *testing.T, s *shop) {
	g := s.generation(1)
	load := s.load()
	for life := range 3 {
		l := s.superd()
		l.serve(g)
		if life == 0 {
			load.open(60)
			l.must("start", l.Start(t.Context(), s.generation(2))) // one that is parked in the other sense
		}
		time.Sleep(200 * time.Millisecond)
		st, _ := l.status(g)
		if life > 0 && (st.State != Serving || len(l.Status(t.Context())) != 1) {
			t.Errorf("in life %d: %+v", life, l.Status(t.Context()))
		}
		if life == 2 {
			break
		}
		l.must("park", l.Park(t.Context()))
		if living := l.children.Living(); len(living) > 0 {
			t.Errorf("%d children live on", len(living))
		}
		if !s.open() {
			t.Error("who comes is refused")
		}
		l.end()
		time.Sleep(200 * time.Millisecond)
		if !s.open() {
			t.Error("who comes is refused while there is no superd")
		}
	}
	load.done()
	if load.slept.Load() == 0 {
		t.Error("no request slept: nothing is proved about sleeps")
	}
	if killed := s.told(Killed); len(killed) > 0 {
		t.Errorf("requests were cut: %v", killed)
	}
}

// With one master there is no second place: it ends where it is, and the door stays open.
func TestParkWithReload(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.change = func(o *Options, _ *Pool) { o.Handoff = Reload }
	g := s.generation(1)
	l := s.superd()
	l.serve(g)
	in := make(chan error, 1)
	go func() {
		_, err := s.get("ms=10000") // the end of its master cuts that short
		in <- err
	}()
	eventually(t, "somebody is in", func() bool { st, _ := l.status(g); return st.Active == 1 })
	l.must("park", l.Park(t.Context()))
	if err := <-in; err != nil {
		t.Errorf("who was in: %v", err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := s.get("")
		waits <- err
	}()
	l.end()
	s.superd().serve(g)
	if err := <-waits; err != nil {
		t.Errorf("who came meanwhile: %v", err)
	}
}

// Where another server cannot be made, such as on a full disk, the one there is goes and
// its door stays open all the same.
func TestParkWithoutRoom(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	l.o.Pool = func(release.Generation) (Pool, error) { return Pool{}, errors.New("no room") }
	l.must("park", l.Park(t.Context()))
	if notes := s.told(Note); len(notes) != 1 {
		t.Errorf("told %v", notes)
	}
	if !s.open() || len(l.children.Living()) > 0 {
		t.Errorf("open %v, %d children", s.open(), len(l.children.Living()))
	}
	l.end()
	next := s.superd()
	next.serve(g)
	if a, err := s.get(""); err != nil || a.Self != g.Release {
		t.Errorf("%+v, %v", a, err)
	}
}

// As many may wait as the kernel allows, whatever the backlog is in the usual case.
func TestParkedQueueIsWide(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.change = func(o *Options, _ *Pool) { o.Backlog = 4 }
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	l.must("park", l.Park(t.Context()))
	answers := make(chan error, 100)
	for range cap(answers) {
		go func() {
			_, err := s.get("")
			answers <- err
		}()
	}
	eventually(t, "all wait", func() bool { n, err := l.serving().web.Queue(); return err == nil && n == cap(answers) })
	l.end()
	next := s.superd()
	next.serve(g)
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

func TestParkOfNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	l.must("park", l.Park(context.Background()))
	if s.open() {
		t.Error("nothing serves, and the door is open")
	}
}

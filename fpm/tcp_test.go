package fpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/release"
)

func newTCPShop(t *testing.T) *shop {
	t.Helper()
	s := newShop(t)
	s.address = freeAddress(t, "127.0.0.1")
	return s
}

// answeredBy is which release a user gets, by a new connection.
func (s *shop) answeredBy() string {
	s.t.Helper()
	a, err := s.get("")
	if err != nil {
		s.t.Error(err)
	}
	return a.Self
}

// Once a flip has returned nobody reaches the other generation any more, and the
// listeners do not grow in number.
func TestHundredFlips(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	l := s.superd()
	both := []release.Generation{s.generation(1), s.generation(2)}
	l.serve(both[0])
	l.must("start", l.Start(t.Context(), both[1]))
	at, _ := tcp(s.address)
	before, err := listening(at)
	l.must("list", err)
	load := s.load()
	load.closed(4, "")
	wrong := 0
	for n := range 100 {
		g := both[(n+1)%2]
		l.must("promote", l.Promote(t.Context(), g))
		for range 3 {
			if s.answeredBy() != g.Release {
				wrong++
			}
		}
	}
	load.done()
	after, err := listening(at)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d listeners, before %d: %v", len(after), len(before), err)
	}
	if wrong > 0 {
		t.Errorf("%d answers of the other generation after a flip", wrong)
	}
	l.must("retire", l.Retire(t.Context(), both[1]))
	l.gone(both[1])
	l.serve(s.generation(3))
	l.gone(both[0])
	for n := uint64(4); n <= 6; n++ { // generations come and go, and leave their seats to others
		l.serve(s.generation(n))
		l.gone(s.generation(n - 1))
	}
	if after, err := listening(at); err != nil || len(after) > len(before)+1 {
		t.Errorf("%d listeners, before %d: %v", len(after), len(before), err)
	}
}

// superd is killed between any two steps of a publish and of a retirement; users
// notice nothing, and the next one goes on.
func TestNextSuperdGoesOnFromAnyStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		die      func(l *life, from, to *server)
		during   string // who serves between the two superds
		from, to State  // afterwards; "" for gone
	}{
		{"nothing done", func(*life, *server, *server) {}, "r1", Serving, Parked},
		{"linked", func(l *life, _, to *server) {
			l.must("link", to.private.Publish(l.link()))
		}, "r1", Parked, Serving},
		{"pointed", func(l *life, _, to *server) {
			l.must("lead", l.lead(to))
		}, "r2", Parked, Serving},
		{"retirement written down", func(l *life, from, to *server) {
			l.must("lead", errors.Join(l.lead(to), from.mark(stayingFile, leavingFile)))
		}, "r2", "", Serving},
		{"told to go", func(l *life, from, to *server) {
			l.must("lead", errors.Join(l.lead(to), from.mark(stayingFile, leavingFile)))
			l.calms(from)
			l.must("quit", from.proc.Signal(unix.SIGQUIT))
		}, "r2", "", Serving},
		{"its master gone", func(l *life, from, to *server) {
			l.must("lead", errors.Join(l.lead(to), from.mark(stayingFile, leavingFile)))
			l.calms(from)
			from.proc.Retire()
			<-from.proc.Gone()
		}, "r2", "", Serving},
		{"its directory gone too", func(l *life, from, to *server) {
			l.must("lead", errors.Join(l.lead(to), from.mark(stayingFile, leavingFile)))
			l.calms(from)
			from.proc.Retire()
			<-from.proc.Gone()
			l.must("remove", os.RemoveAll(from.at.Home))
		}, "r2", "", Serving},
		{"the door shut", func(l *life, _, _ *server) { l.must("shut", l.port(l.address).point(door)) }, "", Serving, Parked},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newTCPShop(t)
			first := s.superd()
			g1, g2 := s.generation(1), s.generation(2)
			first.serve(g1)
			first.must("start", first.Start(t.Context(), g2))
			load := s.load()
			load.open(40)
			first.killIn(func() { c.die(first, first.find(g1), first.find(g2)) })
			if c.during != "" && s.answeredBy() != c.during {
				t.Errorf("between two superds, %s does not serve", c.during)
			}
			second := s.superd()
			for g, want := range map[release.Generation]State{g1: c.from, g2: c.to} {
				if want == "" {
					second.gone(g)
					continue
				}
				eventually(t, fmt.Sprintf("%s is %s", g, want), func() bool { st, ok := second.status(g); return ok && st.State == want })
				if now := s.answeredBy(); want == Serving && now != g.Release {
					t.Errorf("%s serves, and %s answers", g, now)
				}
			}
			second.serve(s.generation(3)) // and can switch
			if now := s.answeredBy(); now != "r1" {
				t.Errorf("%s answers after a switch to generation 3", now)
			}
			load.done()
		})
	}
}

// calms waits, as leave does, until s has nothing to do: its end would cut a sleep.
func (l *life) calms(s *server) {
	l.shop.t.Helper()
	c := calm{since: time.Now(), seen: time.Now()}
	eventually(l.shop.t, "it has nothing to do", func() bool { return c.over(l.shop.t.Context(), s) })
}

// killIn does something and ends superd before anything else can happen.
func (l *life) killIn(do func()) {
	l.shop.t.Helper()
	defer l.end()
	do()
}

// A client far away takes its time for the handshake. Where its connection arrives,
// everybody has left by then.
func TestLateConnectionsAreHandedOn(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	l := s.superd()
	l.serve(s.generation(1))
	l.serve(s.generation(2))
	l.gone(s.generation(1))
	p := l.port(s.address)
	live := l.find(s.generation(2)).at.Seat
	free := 3 - live
	take := func(taken bool) { p.mu.Lock(); defer p.mu.Unlock(); p.taken[free] = taken }
	take(true) // while connections go there nobody is to hand them on, they would come back
	l.must("point", p.point(free))
	late := make(chan error, 10)
	for range cap(late) {
		go func() {
			a, err := s.get("")
			if err == nil && a.Self != "r2" {
				err = fmt.Errorf("answered by %s", a.Self)
			}
			late <- err
		}()
	}
	eventually(t, "they wait where nobody is", func() bool { n, err := p.seats[free].Queue(); return err == nil && n == cap(late) })
	l.must("point", p.point(live))
	take(false)
	for range cap(late) {
		if err := <-late; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the seat is free", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.taken[free] })
	// And the seat can be used again: it is blocking, or workers would not stay.
	l.serve(s.generation(3))
	if l.find(s.generation(3)).at.Seat != free {
		t.Errorf("seat %d, %d was free", l.find(s.generation(3)).at.Seat, free)
	}
	l.must("look", l.find(s.generation(3)).web.control(func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if flags&unix.O_NONBLOCK != 0 {
			t.Error("the listener does not block: workers end at full speed")
		}
		return err
	}))
	if now := s.answeredBy(); now != "r1" {
		t.Errorf("%s answers", now)
	}
}

// Who comes while the app stops is not let in, and those who are in are answered.
func TestStopShutsTheDoor(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	in := s.gate()
	in.enter(0)
	stopped := make(chan error, 1)
	go func() { stopped <- l.Stop(t.Context()) }()
	eventually(t, "it is leaving", func() bool { st, _ := l.status(g); return st.State == Draining })
	if c, err := net.DialTimeout("tcp", s.address, 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a user got in while the app stopped")
	}
	in.open()
	l.must("stop", <-stopped)
	refuses(t, s.address)
}

// Nobody reaches a candidate but superd, by a socket that is private.
func TestCandidateIsPrivate(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	s.change = func(_ *Options, p *Pool) { p.INI = map[string]string{"memory_limit": "77M"} }
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.must("start", l.Start(t.Context(), g1))
	ask := func(g release.Generation) (reply, error) {
		return get(t.Context(), "unix", l.Socket(g), filepath.Join(g.Dir, "public"), "ini[]=memory_limit&ini[]=doc_root")
	}
	a, err := ask(g1)
	if err != nil || a.Self != "r1" || a.Env != "r1" || a.INI[0] != "77M" || a.INI[1] != filepath.Join(g1.Dir, "public") {
		t.Errorf("%+v, %v", a, err)
	}
	if c, err := net.DialTimeout("tcp", s.address, 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Error("a user got in before anything was promoted")
	}
	if err := connectAs(t, l.Socket(g1), "www-data"); err == nil {
		t.Error("the web server may connect to a candidate's private socket")
	}
	l.must("promote", l.Promote(t.Context(), g1))
	// All workers of the candidate are busy for nobody, and it is asked all the same.
	l.must("start", l.Start(t.Context(), g2))
	if a, err := ask(g2); err != nil || a.Self != "r2" || s.answeredBy() != "r1" {
		t.Errorf("%+v, %v", a, err)
	}
	for range 8 + 3 {
		go func() { _, _ = s.get("ms=20000") }()
	}
	eventually(t, "all are busy", func() bool { st, _ := l.status(g1); return st.Active == 8 && st.Queue == 3 })
	began := time.Now()
	if a, err := ask(g1); err != nil || a.Self != "r1" || time.Since(began) > 15*time.Second {
		t.Errorf("%+v, %v after %s", a, err, time.Since(began))
	}
}

// The configuration gets another listen: those who come to the old one are served
// until the app is on the new one and the old has drained.
func TestListenChanges(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	g := s.generation(1)
	next := func(address string) *life {
		t.Helper()
		s.address = address
		l := s.superd()
		before := s.answeredBy
		if now, ok := l.Serving(); ok && now != g {
			t.Errorf("serving %v", now)
		}
		l.must("promote", l.Promote(t.Context(), g))
		eventually(t, "one server", func() bool { return len(l.Status(context.Background())) == 1 })
		if before() != "r1" {
			t.Errorf("%s does not answer", s.listen())
		}
		return l
	}
	first := next("")
	for _, address := range []string{freeAddress(t, "127.0.0.1"), freeAddress(t, "::1"), "", freeAddress(t, "127.0.0.1"), ""} {
		was := s.address
		first.end()
		if s.answeredBy() != "r1" {
			t.Errorf("%s: nobody answers between two superds", s.listen())
		}
		first = next(address)
		if at, ok := tcp(was); ok {
			eventually(t, was+" is closed", func() bool { inodes, err := listening(at); return err == nil && len(inodes) == 0 })
		}
	}
	first.must("stop", first.Stop(t.Context()))
	first.end()
	if names := s.held(); len(names) > 0 {
		t.Errorf("the keeper still has %v", names)
	}
}

// The keeper has lost a seat, and nobody knows any more where connections go: users
// are served again at once.
func TestSeatsThatTheKeeperLost(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	first := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	first.serve(g1)
	first.must("start", first.Start(t.Context(), g2))
	first.must("promote", first.Promote(t.Context(), g2))
	if err := first.children.Drop(first.port(s.address).held(door)); err != nil {
		t.Fatal(err)
	}
	for _, l := range first.port(s.address).seats {
		_ = l.Close() // with superd
	}
	first.end()
	second := s.superd()
	eventually(t, "it serves", func() bool { st, _ := second.status(g2); return st.State == Serving && st.Idle == 8 })
	for range 20 {
		if now := s.answeredBy(); now != "r2" {
			t.Errorf("%s answers", now)
		}
	}
	notes := s.told(Note)
	if len(notes) != 1 || !strings.Contains(notes[0].Reason, "listeners of "+s.address+" are new") {
		t.Errorf("told: %+v", notes)
	}
	second.serve(s.generation(3))
	if now := s.answeredBy(); now != "r1" {
		t.Errorf("%s answers after a switch", now)
	}
}

func TestAddressOfAStranger(t *testing.T) {
	t.Parallel()
	s := newTCPShop(t)
	stranger, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	l := s.superd()
	err = l.Start(t.Context(), s.generation(1))
	if err == nil || !strings.Contains(err.Error(), s.address) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("start on an address of somebody else: %v", err)
	}
	if len(l.Status(t.Context())) != 0 || exists(filepath.Join(s.dir, "run", "1")) {
		t.Errorf("something is left: %+v", l.Status(t.Context()))
	}
	if err := stranger.Close(); err != nil {
		t.Fatal(err)
	}
	l.serve(s.generation(1))
	if s.answeredBy() != "r1" {
		t.Error("nobody answers")
	}
}

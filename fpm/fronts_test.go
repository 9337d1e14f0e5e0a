package fpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
)

// A mover is a superd whose app can get another address.
type mover struct {
	*life
	*Fronts
}

func (s *shop) mover(listen string) *mover {
	s.t.Helper()
	m := &mover{}
	m.life = s.superdOf(func(o Options) (*Web, someWeb) {
		o.Listen = listen
		m.Fronts = NewFronts(o)
		m.idle = 2 * time.Second
		return m.primary().Web, m.Fronts
	})
	return m
}

func (m *mover) moveTo(g release.Generation) {
	m.shop.t.Helper()
	ctx := m.shop.t.Context()
	before, _ := m.primary().Serving()
	m.must("start", m.Start(ctx, g))
	m.must("promote", m.Promote(ctx, g))
	m.must("retire", m.Retire(ctx, before))
}

func networkOf(listen string) string {
	if _, ok := tcp(listen); ok {
		return "tcp"
	}
	return "unix"
}

// askAs asks at an address as a user does, and tells which release answered.
func (s *shop) askAs(listen string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	params := fastcgi.Script(filepath.Join(s.dir, "releases/r1/public"), "index.php", "/index.php", http.MethodGet, "")
	delete(params, fastcgi.Own)
	r, err := fastcgi.Do(ctx, networkOf(listen), listen, fastcgi.Request{Params: params})
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", r.Status, r.Body)
	}
	if err != nil {
		return "", err
	}
	return string(r.Body), nil
}

// comers ask at an address until it is told to stop, and counts.
func (s *shop) comers(listen string) (stop func() int) {
	enough, ended := make(chan struct{}), make(chan struct{})
	answered := 0
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-enough:
				return
			case <-tick.C:
			}
			if _, err := s.askAs(listen); err != nil {
				s.t.Errorf("at %s: %v", listen, err)
				return
			}
			answered++
		}
	}()
	return func() int {
		close(enough)
		<-ended
		return answered
	}
}

func (s *shop) answersAt(listen, want string) {
	s.t.Helper()
	if by, err := s.askAs(listen); by != want || err != nil {
		s.t.Errorf("at %s: answer %q, %v, want %s", listen, by, err, want)
	}
}

// The address moves, in each way there is, while users come to both; releases move on
// both, superd dies and comes again; nobody is refused. Who comes to the former one no
// longer is the end of it, and not before.
func TestAddressMoves(t *testing.T) {
	t.Parallel()
	for name, kinds := range map[string][2]string{
		"unix to unix": {"unix", "unix"}, "unix to TCP": {"unix", "tcp"}, "TCP to unix": {"tcp", "unix"}, "TCP to TCP": {"tcp", "tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			for _, r := range []string{"r1", "r2"} {
				s.deploy(r, "<?php usleep(2000); echo '@release@';")
			}
			var at [2]string
			for i, kind := range kinds {
				at[i] = filepath.Join(s.dir, "run", fmt.Sprintf("fpm-%d.sock", i))
				if kind == "tcp" {
					at[i] = freeAddress(t, "127.0.0.1")
				}
			}
			addressMoves(t, s, at[0], at[1])
		})
	}
}

func addressMoves(t *testing.T, s *shop, from, to string) {
	m := s.mover(from)
	m.moveTo(s.generation(1))
	old := s.comers(from)
	m.must("relisten", m.Relisten(t.Context(), to))
	m.must("relisten again", m.Relisten(t.Context(), to))
	fresh := s.comers(to)
	m.moveTo(s.generation(2))
	s.answersAt(from, "r2")
	s.answersAt(to, "r2")
	m.end()
	m = s.mover(to) // the file of the configuration has it by now
	m.moveTo(s.generation(3))
	s.answersAt(from, "r1")
	s.answersAt(to, "r1")
	time.Sleep(2500 * time.Millisecond) // longer than nobody may come
	if formers := m.Formers(); len(formers) != 1 || formers[0].Listen != from {
		t.Errorf("formers: %+v", formers)
	}
	if n := old(); n < 50 {
		t.Errorf("only %d were answered at the former address", n)
	}
	eventually(t, "the former address is closed", func() bool { return len(m.Formers()) == 0 })
	if c, err := net.Dial(networkOf(from), from); err == nil {
		_ = c.Close()
		t.Errorf("%s is open", from)
	}
	s.answersAt(to, "r1")
	if n := fresh(); n < 50 {
		t.Errorf("only %d were answered at the new address", n)
	}
	m.end()
	m = s.mover(to)
	s.answersAt(to, "r1")
	if n := len(m.fronts()); n != 1 {
		t.Errorf("%d addresses are remembered", n)
	}
	if !slices.ContainsFunc(s.told(Note), func(e Event) bool { return strings.Contains(e.Reason, from+" is closed") }) {
		t.Error("nobody was told that it is closed")
	}
}

// An address that cannot be had changes nothing, and the way back to a former one is
// free: it is open.
func TestAddressThatCannotBeHad(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	m := s.mover(s.public())
	m.moveTo(s.generation(1))
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	before, err := os.ReadFile(filepath.Join(s.dir, "run", frontsFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Relisten(t.Context(), stranger.Addr().String()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("took the address of another program: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(s.dir, "run", frontsFile)); err != nil || string(after) != string(before) || len(m.fronts()) != 1 {
		t.Errorf("%s, %v", after, err)
	}
	other := filepath.Join(s.dir, "run", "other.sock")
	m.must("there", m.Relisten(t.Context(), other))
	if list, err := os.ReadFile(filepath.Join(s.dir, "run", frontsFile)); err != nil || !strings.Contains(string(list), other) || !strings.Contains(string(list), s.public()) {
		t.Errorf("the next superd would find %s, %v", list, err)
	}
	m.must("and back", m.Relisten(t.Context(), s.public()))
	if formers := m.Formers(); m.primary().Listen != s.public() || len(formers) != 1 || formers[0].Listen != other {
		t.Errorf("formers %+v", formers)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("never mind"))
	if err := m.Relisten(ctx, filepath.Join(s.dir, "run", "third.sock")); err == nil {
		t.Error("a cancelled one was done")
	}
}

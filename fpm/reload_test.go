package fpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"superd/release"
)

func reloading(t *testing.T) *shop {
	s := newShop(t)
	s.change = func(o *Options, p *Pool) {
		o.Handoff = Reload
		p.Env = map[string]string{"PATH": os.Getenv("PATH"), "AWKWARD": `'"${HOME};\`}
	}
	return s
}

func TestReload(t *testing.T) {
	t.Parallel()
	s := reloading(t)
	l := s.superd()
	g1, g2, g3 := s.generation(1), s.generation(2), s.generation(3)
	l.must("start", l.Start(t.Context(), g1))
	if got := l.Socket(g1); got != "" {
		t.Errorf("a candidate has a socket: %s", got)
	}
	l.must("promote", l.Promote(t.Context(), g1))
	is := func(l *life, g release.Generation) {
		t.Helper()
		a, err := s.get("env[]=AWKWARD")
		if err != nil || a.Self != g.Release || a.Env != g.Release || a.Part != g.Release || fmt.Sprint(a.Getenv) != `['"${HOME};\]` {
			t.Errorf("%+v, %v, want %s", a, err, g)
		}
		if now, ok := l.Serving(); !ok || now != g {
			t.Errorf("serving %v, want %v", now, g)
		}
		all := l.Status(context.Background())
		if len(all) != 1 || all[0].Generation != g || all[0].State != Serving || all[0].PID == 0 {
			t.Errorf("%+v", all)
		}
	}
	is(l, g1)
	was, _ := l.status(g1)
	load := s.load()
	load.closed(8, "")
	l.must("promote", l.Promote(t.Context(), g2))
	is(l, g2)
	l.must("promote again", l.Promote(t.Context(), g2))
	l.must("retire", l.Retire(t.Context(), g1))
	is(l, g2)
	l.must("promote back", l.Promote(t.Context(), g1))
	is(l, g1)
	l.must("restart", l.Restart(t.Context()))
	is(l, g1)
	load.done() // they waited, and were answered
	if st, _ := l.status(g1); st.PID != was.PID || st.Restarts != 0 {
		t.Errorf("%+v, was %+v", st, was)
	}
	l.end()
	next := s.superd()
	is(next, g1)
	next.must("promote", next.Promote(t.Context(), g3))
	is(next, g3)
	if st, _ := next.status(g3); st.PID != was.PID {
		t.Errorf("%+v, was %+v", st, was)
	}
	if dirs := next.InUse(); len(dirs) != 1 || dirs[0] != g3.Dir {
		t.Errorf("in use: %v", dirs)
	}
	next.must("stop", next.Stop(t.Context()))
}

func TestReloadKeepsWhatIsGood(t *testing.T) {
	t.Parallel()
	s := reloading(t)
	extra := filepath.Join(s.dir, "extra.conf")
	write := func(text string) {
		if err := os.WriteFile(extra, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	change := s.change
	s.change = func(o *Options, p *Pool) { change(o, p); p.Include = []string{extra} }
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.must("promote", l.Promote(t.Context(), g1))
	write("nonsense = 1\n")
	for what, err := range map[string]error{"start": l.Start(t.Context(), g2), "promote": l.Promote(t.Context(), g2)} {
		var why release.Explained
		if err == nil || !strings.Contains(err.Error(), "nonsense") || !errors.As(err, &why) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a, err := s.get(""); err != nil || a.Self != "r1" {
		t.Errorf("%+v, %v", a, err)
	}
	// One that passes the test and cannot start: it is found out, and going back works.
	write("[another]\nuser = www-data\nlisten = /does/not/exist/x.sock\npm = static\npm.max_children = 1\n")
	if err := l.Promote(t.Context(), g2); err == nil || !strings.Contains(err.Error(), "exit 78") {
		t.Errorf("promote: %v", err)
	}
	write("")
	l.must("promote back", l.Promote(t.Context(), g1))
	if a, err := s.get(""); err != nil || a.Self != "r1" {
		t.Errorf("%+v, %v", a, err)
	}
	st, _ := l.status(g1)
	if err := l.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another master", func() bool { now, _ := l.status(g1); return now.PID != st.PID && now.Idle+now.Active == 8 })
	l.must("promote", l.Promote(t.Context(), g2))
	if a, err := s.get(""); err != nil || a.Self != "r2" {
		t.Errorf("%+v, %v", a, err)
	}
}

// Who changes the handoff loses nothing: what runs is taken over either way.
func TestHandoffIsChanged(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first := s.superd()
	first.serve(s.generation(1))
	load := s.load()
	load.open(40)
	first.end()

	s.change = func(o *Options, _ *Pool) { o.Handoff = Reload }
	second := s.superd()
	second.must("promote", second.Promote(t.Context(), s.generation(2)))
	second.gone(s.generation(1))
	second.must("promote", second.Promote(t.Context(), s.generation(3)))
	second.end()

	s.change = nil
	third := s.superd()
	third.must("promote what serves", third.Promote(t.Context(), s.generation(3)))
	third.serve(s.generation(4))
	third.gone(s.generation(3))
	close(load.stop)
	load.users.Wait()
	for _, w := range load.wrong { // a reload cuts sleeps short
		if w != "a sleep was cut short" {
			t.Error(w)
		}
	}
	if now, _ := third.Serving(); now != s.generation(4) {
		t.Errorf("serving %v", now)
	}
}

//go:build e2e

package e2e

import (
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// A site is a lab with everything running: nginx in front of the shop that superd
// keeps up, on release r1.
type site struct {
	*lab.Lab
	t      *testing.T
	redis  *lab.Redis
	superd *lab.Server
	nginx  *lab.WebServer
}

// newLab is a lab that ends with the test, with Redis and good releases r1 and r2,
// r1 being current.
func newLab(t *testing.T) (*lab.Lab, *lab.Redis) {
	t.Helper()
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Story())
		}
		if err := l.End(); err != nil {
			t.Errorf("end of the lab: %v", err)
		}
	})
	redis, err := l.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	addRelease(t, l, "r1")
	addRelease(t, l, "r2")
	if err := l.Shop.Point("r1"); err != nil {
		t.Fatal(err)
	}
	return l, redis
}

func addRelease(t *testing.T, l *lab.Lab, name string, flaws ...shop.Flaw) {
	t.Helper()
	if err := l.Shop.Add(name, flaws...); err != nil {
		t.Fatal(err)
	}
}

// newSite starts it all. root is nginx's variable, env goes to superd.
func newSite(t *testing.T, c lab.Config, root string, env ...string) *site {
	t.Helper()
	l, redis := newLab(t)
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd(env...)
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(l.FPMSocket(), root)
	if err != nil {
		t.Fatal(err)
	}
	return &site{Lab: l, t: t, redis: redis, superd: superd, nginx: nginx}
}

// ctl runs superctl and holds it to its exit code.
func (s *site) ctl(want int, args ...string) lab.Outcome {
	s.t.Helper()
	o := s.Ctl(args...)
	if o.Failed != nil || o.Code != want {
		s.t.Errorf("want exit %d: %s", want, o)
	}
	return o
}

// wholly waits until the app runs on release and on nothing else.
func (s *site) wholly(release string, within time.Duration) {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for {
		unlike := s.Unlike(release)
		if unlike == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not wholly on %s after %s: %s", release, within, unlike)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// status is the answer of now.
func (s *site) status() lab.Status {
	s.t.Helper()
	status, err := s.Status()
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// events are all since superd began.
func (s *site) events() []lab.Event {
	s.t.Helper()
	events, err := s.Events(0)
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

// unharmed holds a load to what users were promised.
func unharmed(t *testing.T, r load.Report) {
	t.Helper()
	t.Logf("users noticed:\n%s", r)
	for what, n := range map[string]int{
		"requests failed": r.Failed(), "answers were mixed from two releases": r.Mixed, "sleeps were cut short": r.Cut,
	} {
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	if len(r.Samples) == 0 {
		t.Error("nothing was asked")
	}
}

// eventually waits for what must become true.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

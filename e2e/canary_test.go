//go:build e2e

package e2e

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/release"
)

// canary is the configuration of a shop that lets some users meet a candidate first.
func canary(share, time string) lab.Config {
	return lab.Config{Children: 16, Watch: "1s", Drain: "5s", CanaryShare: share, CanaryTime: time}
}

var quickPages = []load.Route{{Name: "5 ms", Path: "/", Share: 100}}

// The last switch as the history has it.
func (s *site) lastSwitch() (last release.Record) {
	s.t.Helper()
	var all []release.Record
	if err := json.Unmarshal([]byte(s.ctl(0, "history", "--json", "-n", "1").Out), &all); err != nil || len(all) != 1 {
		s.t.Fatalf("history: %v, %d switches", err, len(all))
	}
	return all[0]
}

// A good release: for a while some users meet it, as many as was asked for, none of
// them has a bad answer or one of both, and then all of them are there. So it is when
// all processes of a release are rolled.
func TestCanaryShare(t *testing.T) {
	s := newSite(t, canary("20%", "5s"), "$realpath_root")
	for _, args := range [][]string{{"switch", "r2"}, {"switch", "r2", "--restart"}} {
		run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 200, Mix: quickPages})
		o := s.CtlOnTerminal(nil, args...)
		t.Log(o)
		if o.Code != 0 || !strings.Contains(o.Out, "canary ") || !strings.Contains(o.Out, "0 of them failed, of 20 %") {
			t.Errorf("exit %d, and the share must be told", o.Code)
		}
		unharmed(t, run.Stop())
		s.wholly("r2", 15*time.Second)
		sharing := s.lastSwitch().Sharing
		if sharing == nil {
			t.Fatal("history tells of no share")
		}
		t.Logf("asked for %v, measured %+v", sharing.Share, *sharing)
		n := float64(sharing.Requests + sharing.Others)
		if chance := 5 * math.Sqrt(0.2*0.8/n); n < 500 || math.Abs(sharing.Measured-0.2) > max(0.03, chance) || sharing.Failed > 0 {
			t.Errorf("measured %+v", *sharing)
		}
	}
	s.ctl(0, "rollback")
	last := s.lastSwitch()
	shares := func(e lab.Event) bool { return e.Switch == last.ID && e.Phase == "canary" }
	if last.Sharing != nil || slices.ContainsFunc(s.events(), shares) {
		t.Errorf("a rollback had a canary: %+v", last)
	}
}

// A release that checks find well and that fails its users hurts no more than its
// share of them, and goes back by itself, with the figures.
func TestCanaryFails(t *testing.T) {
	s := newSite(t, canary("10%", "40s"), "$document_root")
	addRelease(t, s.Lab, "bad")
	spoilLater(t, s.Shop.Release("bad"), s.Shop.Ledger()+"-bad", "http_response_code(500); exit('the payment service is not configured');")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 200, Mix: quickPages})
	time.Sleep(2 * time.Second) // something to compare with
	o := s.CtlOnTerminal(nil, "switch", "bad")
	t.Log(o)
	for _, words := range []string{"rolled-back", "max_error_rate", "its share: "} {
		if o.Code != 3 || !strings.Contains(o.Out, words) {
			t.Errorf("exit %d, and %q must be said", o.Code, words)
		}
	}
	s.wholly("r1", 15*time.Second)
	r := run.Stop()
	last := s.lastSwitch()
	if last.Sharing == nil || last.Reached != release.Canary || !last.Blame {
		t.Fatalf("history has %+v", last)
	}
	all := last.Sharing.Requests + last.Sharing.Others
	bad := float64(r.Failed())
	t.Logf("%.0f of %d answers during the canary were bad; %+v", bad, all, *last.Sharing)
	if n := float64(all); bad == 0 || bad > 0.1*n+max(0.03*n, 5*math.Sqrt(0.1*0.9*n)) {
		t.Errorf("%.0f of %d answers were bad", bad, all)
	}
	if r.Mixed != 0 || r.Cut != 0 {
		t.Errorf("%d answers were mixed, %d cut short", r.Mixed, r.Cut)
	}
}

// superd dies by SIGKILL while users are shared: the next one takes the candidate
// away from them before anything else.
func TestKilledInCanary(t *testing.T) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(canary("50%", "1500ms")); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd("SUPERD_FAILPOINT=" + file)
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(l.FPMSocket(), "$document_root")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis, superd: superd, nginx: nginx}
	run := load.Start(load.Plan{URL: nginx.URL, Rate: 100, Mix: quickPages})
	for _, point := range []string{"canary.before", "canary.shared", "canary.after"} {
		s.killAt(deed{kind: "switch", point: point}, file)
		s.childrenAreOfThisLife()
	}
	unharmed(t, run.Stop())
	if _, err := os.Stat(l.Path("run", "shop", ".fpm.sock.back")); err == nil {
		t.Error("there is a way back, and nobody shares")
	}
}

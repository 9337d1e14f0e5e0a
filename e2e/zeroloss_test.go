//go:build e2e

package e2e

import (
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// longestGap is how long no page may arrive because of a switch.
const longestGap = 250 * time.Millisecond

// still asks a plain php-fpm beside superd's, which nobody switches: what its users
// wait is the machine's own doing. Call what it returns for the report.
func (s *site) still() func() load.Report {
	s.t.Helper()
	fpm, err := s.StartPHPFPM("still", 4, "0", s.redis.Socket)
	if err != nil {
		s.t.Fatal(err)
	}
	nginx, err := s.StartNginx(fpm.Socket, "$realpath_root")
	if err != nil {
		s.t.Fatal(err)
	}
	run := load.Start(load.Plan{URL: nginx.URL, Rate: 50, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	return func() load.Report {
		r := run.Stop()
		if err := fpm.Stop(); err != nil { // the masters are counted later
			s.t.Error(err)
		}
		return r
	}
}

func noGap(t *testing.T, r, still load.Report) {
	t.Helper()
	t.Logf("the machine's own longest gap is %s", still.Gap)
	if r.Gap >= longestGap+still.Gap {
		t.Errorf("the longest gap between two pages was %s at %s, want less than %s", r.Gap, r.GapAt, longestGap+still.Gap)
	}
}

// Ten switches and ten rollbacks under a constant stream of requests: nobody
// notices any of them.
func TestSwitchesUnderLoad(t *testing.T) {
	s := newSite(t, lab.Config{Children: 32, Watch: "500ms"}, "$document_root")
	still := s.still()
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 300})
	began := time.Now()
	spans := s.thereAndBack(10)
	if rest := time.Minute - time.Since(began); rest > 0 {
		time.Sleep(rest)
	}
	r := run.Stop()
	unharmed(t, r)
	noGap(t, r, still())
	if stale := r.Stale(spans); stale != 0 {
		t.Errorf("%d requests sent after the end of a switch were answered by the old release", stale)
	}
	s.wholly("r1", 40*time.Second)
}

// The same when PHP cannot keep up: 200 clients that never pause, on 8 children.
// Their connections wait in the queue, and a queue is what a switch must not lose.
func TestSwitchesAtSaturation(t *testing.T) {
	s := newSite(t, lab.Config{Children: 8, Watch: "500ms"}, "$realpath_root")
	still := s.still()
	run := load.Start(load.Plan{URL: s.nginx.URL, Clients: 200, Timeout: time.Minute})
	time.Sleep(2 * time.Second) // until the queue is long
	spans := s.thereAndBack(5)
	r := run.Stop()
	unharmed(t, r)
	noGap(t, r, still())
	if stale := r.Stale(spans); stale != 0 {
		t.Errorf("%d requests sent after the end of a switch were answered by the old release", stale)
	}
	s.wholly("r1", time.Minute)
}

// A request runs in one release also where nginx goes through the link for each file
// and PHP caches nothing: because it is pinned. Without the pin, the same load finds
// mixed answers.
func TestOneRequestOneRelease(t *testing.T) {
	for name, tt := range map[string]struct {
		unpinned bool
		kept     func(load.Report) bool
	}{
		"pinned":   {false, func(r load.Report) bool { return r.Mixed == 0 }},
		"unpinned": {true, func(r load.Report) bool { return r.Mixed > 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lab.Config{Workers: 1, Watch: "300ms", NoCaches: true, Unpinned: tt.unpinned}, "$document_root")
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50, Mix: []load.Route{{Name: "300 ms sleep", Path: "/slow?ms=300", Share: 1}}})
			s.thereAndBack(2)
			r := run.Stop()
			t.Logf("users noticed:\n%s", r)
			if r.Failed() > 0 || !tt.kept(r) {
				t.Errorf("%d failed, %d mixed", r.Failed(), r.Mixed)
			}
		})
	}
}

// thereAndBack switches from r1 to r2 and rolls back, so many times. It tells when
// which release alone was to answer.
func (s *site) thereAndBack(times int) []load.Span {
	s.t.Helper()
	var spans []load.Span
	add := func(o lab.Outcome, release string) {
		s.t.Helper()
		if n := len(spans); n > 0 {
			spans[n-1].Until = o.Began
		}
		live := s.status().Apps[0].Live
		if live.Release != release {
			s.t.Fatalf("live is %s after %s", live.Release, o)
		}
		spans = append(spans, load.Span{From: o.Ended, Release: release, Generation: live.Number})
		time.Sleep(200 * time.Millisecond) // for requests that are sent in between
	}
	for range times {
		add(s.ctl(0, "switch", "r2"), "r2")
		add(s.ctl(0, "rollback"), "r1")
	}
	spans[len(spans)-1].Until = time.Now().Add(time.Hour)
	return spans
}

//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// Redis is gone while a good release is watched: it is not to blame, so nothing is
// taken back. The switch is paused and says so; users who need no Redis notice
// nothing. A person takes it back, for users at once, or lets it go on when Redis is
// there again.
func TestDatabaseDown(t *testing.T) {
	for _, tt := range []struct{ name, decides, on string }{
		{"a person goes back", "rollback", "r1"},
		{"a person goes on", "resume", "r2"},
		{"it goes on by itself", "nobody", "r2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, lab.Config{Watch: "5s", Drain: "5s", Rotations: 2}, "$realpath_root") // workers die without Redis, more often than that
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50, Mix: quickPages})
			s.ctl(0, "switch", "r2", "--wait=no")
			s.reaches("watching")
			if err := s.redis.End(); err != nil {
				t.Fatal(err)
			}
			var paused lab.Event
			eventually(t, 60*time.Second, "the switch is paused", func() bool {
				for _, e := range s.events() {
					if e.Kind == "switch.ended" || e.Phase == "rolling-back" {
						t.Fatalf("it did not wait: %+v", e)
					}
					if e.Kind == "switch.paused" {
						paused = e
					}
				}
				return paused.Seq != 0
			})
			if !strings.Contains(paused.Reason, "inconclusive") {
				t.Errorf("it is paused because of %q", paused.Reason)
			}
			if o := s.ctl(6, "switch", "r1"); !strings.Contains(o.Err, "paused") {
				t.Errorf("who asks for another one is told %q", o.Err)
			}
			if tt.decides == "rollback" { // users go back at once; workers of any release need Redis to be ready
				s.ctl(0, "rollback", "--wait=no")
				eventually(t, 20*time.Second, "users are on r1, without Redis", func() bool {
					for _, g := range s.status().Apps[0].FPM.Generations {
						if g.State == "live" {
							return g.Release == "r1"
						}
					}
					return false
				})
			}
			var err error
			if s.redis, err = s.StartRedis(); err != nil {
				t.Fatal(err)
			}
			if tt.decides == "resume" {
				s.ctl(0, "resume")
			}
			eventually(t, 60*time.Second, "the switch has ended", func() bool { return s.status().Apps[0].Switch == nil })
			if live := s.status().Apps[0].Live.Release; live != tt.on {
				t.Errorf("%s is live, want %s", live, tt.on)
			}
			s.wholly(tt.on, 30*time.Second)
			unharmed(t, run.Stop())
		})
	}
}

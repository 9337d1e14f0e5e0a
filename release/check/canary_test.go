package check

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"superd/fpm/traffic"
	"superd/release"
)

// Both generations have users. What befalls both is not the candidate's doing, and
// what is told has the share that it really got.
func TestCanary(t *testing.T) {
	t.Parallel()
	well := steady(90, 0, 10*time.Millisecond)
	for name, c := range map[string]struct {
		old, fresh func(time.Duration) traffic.Counts
		took       time.Duration
		says       []string
		want       release.Sharing
	}{
		"well": {
			old: well, fresh: steady(10, 0, 10*time.Millisecond), took: time.Minute,
			want: release.Sharing{Measured: 0.1, Requests: 600, Others: 5400},
		},
		"it alone is bad": {
			old: well, fresh: steady(10, 0.5, time.Millisecond), took: 2 * time.Second,
			says: []string{"10 of 20 requests to r42", "failed in the last 3s", "its share: 10.0 % of 200 requests, 10 of them failed"},
			want: release.Sharing{Measured: 0.1, Requests: 20, Failed: 10, Others: 180},
		},
		"both are bad from now on": {
			old: steady(90, 0.5, time.Millisecond), fresh: steady(10, 0.5, time.Millisecond), took: time.Minute,
			want: release.Sharing{Measured: 0.1, Requests: 600, Failed: 300, Others: 5400},
		},
		"it alone is slow": {
			old: well, fresh: steady(10, 0, time.Second), took: 4 * time.Second,
			says: []string{"r42 (generation 7) is slow", "its share: 10.0 %"},
			want: release.Sharing{Measured: 0.1, Requests: 40, Others: 360},
		},
		"both are slow from now on": {
			old: steady(90, 0, time.Second), fresh: steady(10, 0, time.Second), took: time.Minute,
			want: release.Sharing{Measured: 0.1, Requests: 600, Others: 5400},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				site := Site{
					Against: func(release.Generation) release.Generation { return r41 },
					Traffic: func(g release.Generation) traffic.Figures {
						before := steady(90, 0, 10*time.Millisecond)(time.Minute)
						if g.Number == 6 {
							return traffic.Figures{Recent: before, Total: c.old(time.Since(start)).Plus(&before)}
						}
						return traffic.Figures{Total: c.fresh(time.Since(start))}
					},
				}
				var seen release.Sharing
				w := NewCanary(site, nil, WatchOptions{For: time.Minute, MaxErrorRate: 0.05, MinRequests: 20}, func(s release.Sharing) { seen = s })
				got, err := w.Canary(t.Context(), r42)
				if took := time.Since(start); took != c.took || got != c.want {
					t.Errorf("after %s: %+v, want after %s %+v", took, got, c.took, c.want)
				}
				if (err != nil) != (len(c.says) > 0) {
					t.Fatalf("error %v", err)
				}
				for _, text := range c.says {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %q", text, err)
					}
				}
				if seen.Requests == 0 || seen.Requests > got.Requests {
					t.Errorf("seen on the way: %+v", seen)
				}
			})
		})
	}
}

// Who answers an http check nobody knows; a check that is put to the candidate counts,
// and exits do. A dependency that is down is nobody's fault.
func TestCanaryChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, kind := range []string{KindHTTP, KindFastCGI, KindTCP} {
			p := &patient{answer: func(context.Context, Check, release.Generation, int) error { return errSick }}
			one := up(PhaseLive)
			one.Kind = kind
			w := NewCanary(p.site(), []Check{one}, WatchOptions{For: 30 * time.Second}, nil)
			w.ask = p.ask
			_, err := w.Canary(t.Context(), will)
			if (err != nil) != (kind != KindHTTP) || errors.Is(err, release.ErrInconclusive) != (kind == KindTCP) {
				t.Errorf("%s: %v", kind, err)
			}
		}
		w := NewCanary((&patient{}).site(), nil, WatchOptions{For: 30 * time.Second}, nil)
		w.Fail(will, "php-fpm: it ended", nil)
		if _, err := w.Canary(t.Context(), will); err == nil || !strings.Contains(err.Error(), "unexpected exits") {
			t.Error(err)
		}
	})
}

package check

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"superd/fpm/fastcgi"
	"superd/fpm/traffic"
	"superd/release"
)

// A crowd are the users of generation 7, once a switch from 6 has begun to be
// watched. Tests say what has been answered at a moment.
type crowd struct {
	old, fresh func(since time.Duration) traffic.Counts
	start      time.Time
}

func (c *crowd) traffic(g release.Generation) traffic.Figures {
	if g.Number == 6 {
		return traffic.Figures{Recent: c.old(0)}
	}
	return traffic.Figures{Total: c.fresh(time.Since(c.start))}
}

// steady are answers, so many a second, of which a part is bad.
func steady(perSecond, bad float64, took time.Duration) func(time.Duration) traffic.Counts {
	return func(since time.Duration) (c traffic.Counts) {
		n := int(since.Seconds() * perSecond)
		for i := range n {
			status := 200
			if int(float64(i+1)*bad) > int(float64(i)*bad) {
				status = 500
			}
			c.Add(status, took)
		}
		return c
	}
}

// past is all that was answered in a minute.
func past(of func(time.Duration) traffic.Counts) func(time.Duration) traffic.Counts {
	return func(time.Duration) traffic.Counts { return of(time.Minute) }
}

// then is one crowd up to a moment, and another one from then on.
func then(first func(time.Duration) traffic.Counts, at time.Duration, next func(time.Duration) traffic.Counts) func(time.Duration) traffic.Counts {
	return func(since time.Duration) traffic.Counts {
		if since <= at {
			return first(since)
		}
		more := next(since - at)
		return first(at).Plus(&more)
	}
}

func nobody(time.Duration) (c traffic.Counts) { return c }

// killing is a crowd whose workers die, one a second.
func killing(since time.Duration) traffic.Counts {
	c := steady(10, 0, time.Millisecond)(since)
	c.Killed = uint64(since.Seconds())
	return c
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	well := steady(100, 0, 10*time.Millisecond)
	for name, c := range map[string]struct {
		old, fresh func(time.Duration) traffic.Counts
		rate       float64 // 0: 0.05
		took       time.Duration
		says       []string // of the failure
		told       string   // when there is none
	}{
		"well": {old: past(well), fresh: well, took: time.Minute, told: "0 of 6000 requests failed, half took up to "},
		"bad from the start": {
			old: past(well), fresh: steady(100, 0.5, time.Millisecond), took: 500 * time.Millisecond,
			says: []string{"25 of 50 requests to r42 (generation 7) (50 %) failed", "max_error_rate is 5 %", "of 6000 to r41 (generation 6) before, 0 % did", "bad answers since it is watched: 25"},
		},
		"bad after 10 s": {
			old: past(well), fresh: then(well, 10*time.Second, steady(100, 1, time.Millisecond)), took: 10*time.Second + 500*time.Millisecond,
			says: []string{"50 of 300 requests", "in the last 3s", "bad answers since it is watched: 50"},
		},
		"bad after 50 s, and hardly anybody there": {
			old: past(well), fresh: then(steady(2, 0, time.Millisecond), 50*time.Second, steady(2, 1, time.Millisecond)), took: 52 * time.Second,
			says: []string{"4 of 60 requests", "in the last 30s"},
		},
		"bad, and next to nobody there": {
			old: past(well), fresh: steady(0.5, 1, time.Millisecond), took: 40 * time.Second,
			says: []string{"20 of 20 requests", "since it is watched"},
		},
		"just what is forgiven": {old: past(well), fresh: steady(100, 0.05, time.Millisecond), took: time.Minute, told: "300 of 6000 requests failed"},
		"few requests":          {old: past(well), fresh: then(steady(19, 1, time.Millisecond), time.Second, nobody), took: time.Minute, told: "19 requests were counted, and min_requests is 20"},
		"no figures":            {old: nobody, fresh: nobody, took: time.Minute, told: "0 requests were counted"},
		"the old one was as bad": {
			old: past(steady(100, 0.5, time.Millisecond)), fresh: steady(100, 0.52, time.Millisecond), took: time.Minute,
			told: "that is not the doing of r42",
		},
		"worse than the old one, which was bad": {
			old: past(steady(100, 0.1, time.Millisecond)), fresh: steady(100, 0.3, time.Millisecond), took: 500 * time.Millisecond,
			says: []string{"of 6000 to r41 (generation 6) before, 10 % did"},
		},
		"the old one had no users": {
			old: nobody, fresh: steady(100, 0.5, time.Millisecond), took: 500 * time.Millisecond,
			says: []string{"of what was before too little is known to compare"},
		},
		"workers die": {
			old: past(well), fresh: killing, took: 2 * time.Second,
			says: []string{"2 of 22 requests", "failed"},
		},
		"ten times slower": {
			old: past(well), fresh: steady(100, 0, 100*time.Millisecond), took: 4 * time.Second,
			says: []string{"r42 (generation 7) is slow", "half took up to ", "with r41 (generation 6) before it was "},
		},
		"ten times slower after 20 s": {
			old: past(well), fresh: then(well, 20*time.Second, steady(100, 0, 101*time.Millisecond)), took: 22 * time.Second,
			says: []string{"is slow", "in the last 3s"},
		},
		"five times slower":                {old: past(well), fresh: steady(100, 0, 50*time.Millisecond), took: time.Minute, told: "0 of 6000 requests failed"},
		"ten times slower, and still fast": {old: past(steady(100, 0, time.Millisecond)), fresh: steady(100, 0, 10*time.Millisecond), took: time.Minute, told: "0 of 6000"},
		"only a few are slow": {
			old: past(well), fresh: func(since time.Duration) traffic.Counts {
				few := steady(20, 0, time.Second)(since)
				return well(since).Plus(&few)
			}, took: time.Minute, told: "0 of 7200",
		},
		"the tail of before was as long": {
			old: func(time.Duration) traffic.Counts {
				tail := steady(10, 0, 90*time.Millisecond)(time.Minute)
				return well(time.Minute).Plus(&tail)
			}, fresh: steady(100, 0, 101*time.Millisecond), took: time.Minute, told: "0 of 6000",
		},
		"slow with cold caches only": {
			old: past(well), fresh: then(steady(100, 0, time.Second), 2*time.Second, well), took: time.Minute, told: "0 of 6000",
		},
		"slow, and nothing to compare with": {old: nobody, fresh: steady(100, 0, time.Minute), took: time.Minute, told: "0 of 6000"},
		"not asked for":                     {old: past(well), fresh: steady(100, 1, time.Minute), rate: -1, took: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				users := &crowd{old: c.old, fresh: c.fresh, start: time.Now()}
				var told []string
				site := Site{
					Against: func(release.Generation) release.Generation { return r41 }, Traffic: users.traffic,
					Tell: func(what string, _ []string) { told = append(told, what) },
					Tail: func(release.Generation) []string { return []string{"the master's last line"} },
				}
				rate := c.rate
				if rate == 0 {
					rate = 0.05
				}
				err := NewWatcher(site, nil, WatchOptions{For: time.Minute, MaxErrorRate: max(0, rate), MinRequests: 20}).Watch(t.Context(), r42)
				if took := time.Since(users.start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if (err != nil) != (len(c.says) > 0) || errors.Is(err, release.ErrInconclusive) {
					t.Fatalf("error %v", err)
				}
				for _, text := range c.says {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %q", text, err)
					}
				}
				if err != nil && len(linesOf(err)) != 1 {
					t.Errorf("lines %q", linesOf(err))
				}
				if all := strings.Join(told, "\n"); !strings.Contains(all, c.told) || (c.told == "") != (all == "") {
					t.Errorf("told %q, want %q", all, c.told)
				}
			})
		})
	}
}

var (
	r41 = release.Generation{Number: 6, Release: "r41", Dir: "/r41"}
	r42 = release.Generation{Number: 7, Release: "r42", Dir: "/r42"}
)

// Users of the new release are badly off, and the old one is not well by now either:
// a person decides.
func TestTrafficInconclusive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind         string
		sick         bool
		other        release.Generation
		inconclusive bool
	}{
		"both are sick":          {kind: KindFastCGI, sick: true, other: r41, inconclusive: true},
		"only this one":          {kind: KindFastCGI, other: r41},
		"a database is down":     {kind: KindTCP, sick: true, other: r41, inconclusive: true},
		"a command fails":        {kind: KindCommand, sick: true, other: r41, inconclusive: true},
		"there is no other":      {kind: KindFastCGI, sick: true},
		"a check of the outside": {kind: KindHTTP, sick: true, other: r41},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				users := &crowd{old: past(steady(100, 0, time.Millisecond)), fresh: steady(100, 1, time.Millisecond), start: time.Now()}
				site := Site{
					Against: func(release.Generation) release.Generation { return c.other }, Traffic: users.traffic,
					Socket: func(release.Generation) string { return "somewhere" },
				}
				check := Check{Name: "up", Kind: c.kind, Phase: PhaseLive, Interval: time.Hour}
				w := NewWatcher(site, []Check{check}, WatchOptions{For: time.Minute, MaxErrorRate: 0.05, MinRequests: 20})
				w.ask = func(context.Context, Check, release.Generation) error {
					if c.sick && time.Since(users.start) > 0 { // it was well when the watch began
						return errSick
					}
					return nil
				}
				err := w.Watch(t.Context(), r42)
				if err == nil || errors.Is(err, release.ErrInconclusive) != c.inconclusive || !strings.Contains(err.Error(), "max_error_rate") {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// served is a real PHP-FPM with an access log, as superd has it, and users.
type served struct {
	socket, script string
	log            *traffic.Log
	bad            atomic.Int64
}

func serve(t *testing.T, script string) *served {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	s := &served{script: filepath.Join(dir, "index.php"), log: traffic.Open(path)}
	write(t, s.script, script)
	s.socket = phpFPM(t, "access.log = "+path, `access.format = "`+traffic.Format+`"`)
	return s
}

func (s *served) traffic() traffic.Figures {
	_ = s.log.Read()
	return s.log.Figures()
}

// visit asks as users do, until ctx ends. Whoever has asked by then waits for the answer:
// the log may have it already, and it counts.
func (s *served) visit(ctx context.Context, users int, query func() string) {
	var all sync.WaitGroup
	defer all.Wait()
	for range users {
		all.Go(func() {
			for ctx.Err() == nil {
				params := fastcgi.Script(filepath.Dir(s.script), "index.php", "/?"+query(), "GET", "")
				delete(params, fastcgi.Own)
				r, err := fastcgi.Do(context.WithoutCancel(ctx), "unix", s.socket, fastcgi.Request{Params: params})
				if err != nil || r.Status >= 500 {
					s.bad.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
}

// known lets users ask until enough is known of it, and 300 ms are slow beside that.
func (s *served) known(t *testing.T, query string) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	var users sync.WaitGroup
	defer users.Wait()
	defer leave()
	users.Go(func() { s.visit(ctx, 3, func() string { return query }) })
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c := s.traffic().Recent
		half, most := c.Quantile(0.5), c.Quantile(0.95)
		if c.Answers >= 100 && slowerBy*half < 300*time.Millisecond && slowerBy/2*most < 300*time.Millisecond {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d answers, half within %s and 95 %% within %s", c.Answers, half, most)
		}
	}
}

const moody = `<?php
usleep((int) ($_GET['us'] ?? 0));
http_response_code((int) ($_GET['status'] ?? 200));
`

// A release that begins to fail or to be slow while it is watched is taken back
// within five seconds, and it is told how many users were hurt.
func TestLateFailureUnderRealTraffic(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fresh, late string
		after       time.Duration
		says        string
	}{
		"errors": {fresh: "us=2000", late: "us=2000&status=500", after: 3 * time.Second, says: "max_error_rate"},
		"slow":   {fresh: "us=15000", late: "us=300000", after: 5 * time.Second, says: "is slow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, fresh := serve(t, moody), serve(t, moody)
			old.known(t, c.fresh)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			var turned atomic.Int64
			start := time.Now()
			var users sync.WaitGroup
			var late time.Duration // of the machine itself, since it turned
			users.Go(func() {
				for last := start; ctx.Err() == nil; last = time.Now() {
					time.Sleep(20 * time.Millisecond)
					if gap := time.Since(last); turned.Load() != 0 && gap > 100*time.Millisecond {
						late += gap - 100*time.Millisecond
					}
				}
			})
			users.Go(func() {
				fresh.visit(ctx, 4, func() string {
					if time.Since(start) < c.after {
						return c.fresh
					}
					turned.CompareAndSwap(0, time.Now().UnixNano())
					return c.late
				})
			})
			site := Site{
				Against: func(release.Generation) release.Generation { return r41 },
				Traffic: func(g release.Generation) traffic.Figures {
					if g == r41 {
						return old.traffic()
					}
					return fresh.traffic()
				},
			}
			err := NewWatcher(site, nil, WatchOptions{For: time.Minute, MaxErrorRate: 0.05, MinRequests: 20}).Watch(t.Context(), r42)
			took := time.Since(time.Unix(0, turned.Load()))
			leave()
			users.Wait()
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v", err)
			}
			if turned.Load() == 0 || took-late > 5*time.Second {
				t.Errorf("it took %s, the machine was late by %s: %v", took, late, err)
			}
			var told int64
			_, after, _ := strings.Cut(err.Error(), "bad answers since it is watched: ")
			if _, serr := fmt.Sscan(after, &told); serr != nil || told > fresh.bad.Load() || (told == 0) != (c.says == "is slow") {
				t.Errorf("%d bad answers were told, and users had %d", told, fresh.bad.Load())
			}
			t.Logf("after %s: %v", took, err)
		})
	}
}

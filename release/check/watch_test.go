package check

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"superd/release"
)

func (p *patient) watcher(o WatchOptions, checks ...Check) *Watcher {
	w := NewWatcher(p.site(), checks, o)
	w.ask = p.ask
	return w
}

func TestWatch(t *testing.T) {
	t.Parallel()
	// sickFrom is an app that is well up to a moment, and sick from then on.
	sickFrom := func(p *patient, at time.Duration, also ...uint64) func(context.Context, Check, release.Generation, int) error {
		return func(_ context.Context, _ Check, g release.Generation, _ int) error {
			if p.since() >= at && (g.Number == 7 || slices.Contains(also, g.Number)) {
				return errSick
			}
			return nil
		}
	}
	type answer = func(ctx context.Context, c Check, g release.Generation, try int) error
	for name, c := range map[string]struct {
		answer func(p *patient) answer
		kind   string
		other  release.Generation

		took         time.Duration
		says         string
		inconclusive bool
		others       int
	}{
		"well": {answer: func(p *patient) answer { return sickFrom(p, time.Hour) }, took: 30 * time.Second},
		"sick from the start": {
			answer: func(p *patient) answer { return sickFrom(p, 0) },
			took:   2 * time.Second, says: `check "up" of r42 (generation 7) failed 3 times in a row: answered 500`,
		},
		"sick later": {answer: func(p *patient) answer { return sickFrom(p, 10*time.Second) }, took: 12 * time.Second, says: "answered 500"},
		"sick when the time is nearly over": {
			answer: func(p *patient) answer { return sickFrom(p, 29*time.Second) }, took: 31 * time.Second, says: "answered 500",
		},
		"one failure when the time is nearly over": {
			answer: func(*patient) answer {
				return func(_ context.Context, _ Check, _ release.Generation, try int) error {
					if try == 30 {
						return errSick
					}
					return nil
				}
			},
			took: 30 * time.Second,
		},
		"two in a row again and again": {
			answer: func(*patient) answer {
				return func(_ context.Context, _ Check, _ release.Generation, try int) error {
					if try%3 != 0 {
						return errSick
					}
					return nil
				}
			},
			took: 32 * time.Second, // at 30 s it is in the middle of failing
		},
		"hangs": {
			answer: func(*patient) answer {
				return func(ctx context.Context, _ Check, _ release.Generation, _ int) error { return hang(ctx) }
			},
			took: 17 * time.Second, says: "no answer within 5s",
		},
		"hangs from near the end": {
			answer: func(p *patient) answer {
				return func(ctx context.Context, _ Check, _ release.Generation, _ int) error {
					if p.since() >= 28*time.Second {
						return hang(ctx)
					}
					return nil
				}
			},
			took: 45 * time.Second, says: "no answer within 5s",
		},
		"parked is well": {
			answer: func(p *patient) answer { return sickFrom(p, 0) }, other: was,
			took: 2 * time.Second, says: "answered 500", others: 1,
		},
		"parked is sick too": {
			answer: func(p *patient) answer { return sickFrom(p, 0, 6) }, other: was,
			took: 2 * time.Second, says: "r41 (generation 6) fails it too", inconclusive: true, others: 1,
		},
		"command, parked is sick too": {
			answer: func(p *patient) answer { return sickFrom(p, 0, 6) }, other: was, kind: KindCommand,
			took: 2 * time.Second, says: "r41 (generation 6) fails it too", inconclusive: true, others: 1,
		},
		"http has nothing to compare with": {
			answer: func(p *patient) answer { return sickFrom(p, 0, 6) }, other: was, kind: KindHTTP,
			took: 2 * time.Second, says: "answered 500",
		},
		"tcp is nobody's fault": {
			answer: func(p *patient) answer { return sickFrom(p, 0) }, other: was, kind: KindTCP,
			took: 2 * time.Second, says: "the same whichever release serves", inconclusive: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				one := up(PhaseLive)
				if c.kind != "" {
					one.Kind = c.kind
				}
				p := &patient{other: c.other}
				p.answer = c.answer(p)
				err := p.watcher(WatchOptions{For: 30 * time.Second}, one, up(PhaseVerify)).Watch(t.Context(), will)
				if took := p.since(); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want %q", err, c.says)
				}
				if errors.Is(err, release.ErrInconclusive) != c.inconclusive {
					t.Errorf("error %v", err)
				}
				if p.tries["up@6"] != c.others {
					t.Errorf("tries %v", p.tries)
				}
			})
		})
	}
}

// TestWatchExits: more exits than are forgiven speak against a generation, from its
// first one on, and the reason is there at once.
func TestWatchExits(t *testing.T) {
	t.Parallel()
	next := release.Generation{Number: 8, Release: "r43", Dir: "/srv/shop/releases/r43"}
	type exit struct {
		at time.Duration // negative: before Watch
		g  release.Generation
	}
	for name, c := range map[string]struct {
		exits []exit
		none  bool // nothing is watched: For is 0
		took  time.Duration
		fails bool
	}{
		"none":                 {took: 30 * time.Second},
		"forgiven":             {exits: []exit{{time.Second, will}, {2 * time.Second, will}}, took: 30 * time.Second},
		"one too many":         {exits: []exit{{time.Second, will}, {2 * time.Second, will}, {2500 * time.Millisecond, will}}, took: 2500 * time.Millisecond, fails: true},
		"some before":          {exits: []exit{{-2, will}, {-1, will}, {7 * time.Second, will}}, took: 7 * time.Second, fails: true},
		"all before":           {exits: []exit{{-3, will}, {-2, will}, {-1, will}}, fails: true},
		"all before, no watch": {exits: []exit{{-3, will}, {-2, will}, {-1, will}}, none: true, fails: true},
		"no watch":             {exits: []exit{{-2, will}, {-1, will}}, none: true},
		"of the old one":       {exits: []exit{{-9, was}, {-9, was}, {-9, was}, {-5, will}, {-4, was}, {1, was}, {2, was}, {3, will}}, took: 30 * time.Second},
		"of a newer one":       {exits: []exit{{1, will}, {2, will}, {3, next}, {4, next}, {5, next}, {6, will}}, took: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &patient{}
				o := WatchOptions{For: 30 * time.Second, MaxFailures: 2}
				var checks []Check
				if c.none {
					o.For, checks = 0, []Check{up(PhaseLive)} // which would panic if it were made
				}
				w := p.watcher(o, checks...)
				fail := func(g release.Generation) { w.Fail(g, "shop/emails:3 exited with 1", []string{"oh", "no"}) }
				later := make(chan struct{})
				var ended sync.WaitGroup
				defer ended.Wait()
				defer close(later)
				for _, e := range c.exits {
					if e.at < 0 {
						fail(e.g)
						continue
					}
					ended.Go(func() {
						select {
						case <-time.After(e.at):
							fail(e.g)
						case <-later:
						}
					})
				}
				err := w.Watch(t.Context(), will)
				if took := p.since(); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if (err != nil) != c.fails {
					t.Fatalf("error %v", err)
				}
				if err == nil {
					return
				}
				for _, text := range []string{"3 unexpected exits of r42 (generation 7)", "2 are forgiven", "shop/emails:3 exited with 1"} {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %q", text, err)
					}
				}
				var e release.Explained
				if !errors.As(err, &e) || !slices.Equal(e.LastLines(), []string{"oh", "no"}) {
					t.Errorf("explained by %v", e)
				}
				if errors.Is(err, release.ErrInconclusive) {
					t.Error("inconclusive")
				}
				// Someone says that it shall go on: the same exits are not held against it again.
				if err := w.Watch(t.Context(), will); err != nil {
					t.Errorf("once more: %v", err)
				}
			})
		})
	}
}

// TestWatchExitBeatsHangingCheck: a check that hangs does not delay the reason.
func TestWatchExitBeatsHangingCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &patient{answer: func(ctx context.Context, _ Check, _ release.Generation, _ int) error { return hang(ctx) }}
		w := p.watcher(WatchOptions{For: 30 * time.Second}, up(PhaseLive))
		var told sync.WaitGroup
		told.Go(func() {
			<-time.After(time.Second)
			w.Fail(will, "shop/fpm child died of SIGSEGV", nil)
		})
		err := w.Watch(t.Context(), will)
		if err == nil || !strings.Contains(err.Error(), "SIGSEGV") || p.since() != time.Second {
			t.Errorf("after %s: %v", p.since(), err)
		}
		told.Wait()
	})
}

func TestWatchCancelled(t *testing.T) {
	t.Parallel()
	for name, checks := range map[string][]Check{"with checks": {up(PhaseLive), up(PhaseBoth)}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				p := &patient{answer: func(ctx context.Context, _ Check, _ release.Generation, _ int) error { return hang(ctx) }}
				w := p.watcher(WatchOptions{For: 30 * time.Second}, checks...)
				var ended sync.WaitGroup
				ended.Go(func() {
					err := w.Watch(ctx, will)
					if !errors.Is(err, errOther) || p.since() != 1500*time.Millisecond {
						t.Errorf("after %s: %v", p.since(), err)
					}
				})
				<-time.After(1500 * time.Millisecond)
				cancel(errOther)
				ended.Wait()
			})
		})
	}
}

// TestWatchShowsProgress: without a check too, or the step's own limit would end
// a watch that is meant to be long.
func TestWatchShowsProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &patient{}
		if err := p.watcher(WatchOptions{For: 2 * time.Hour}).Watch(t.Context(), will); err != nil {
			t.Error(err)
		}
		if p.beats < 700 {
			t.Errorf("%d signs of life in two hours", p.beats)
		}
	})
}

func TestWatchNothing(t *testing.T) {
	t.Parallel()
	w := (&patient{}).watcher(WatchOptions{For: time.Hour}, up(PhaseLive))
	if err := w.Watch(t.Context(), release.Generation{}); err != nil {
		t.Error(err)
	}
}

// Workers die because something is down that both generations need: that is no verdict,
// and what dies until it is over does not count. Once it is over it does again.
func TestExitsWhileBothAreUnwell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Bool // what both need
		p := &patient{other: was, answer: func(_ context.Context, _ Check, g release.Generation, _ int) error {
			if sick.Load() && g == was {
				return errors.New("the database is down")
			}
			return nil
		}}
		o := WatchOptions{For: 30 * time.Second, MaxFailures: 1}
		c := up(PhaseLive)
		c.UnhealthyThreshold = 1000 // exits are to be what tells
		w := p.watcher(o, c)
		die := func(n int) {
			for range n {
				w.Fail(will, "shop/emails:3 exited with 1", nil)
			}
		}
		sick.Store(true)
		die(2)
		for range 3 {
			if err := w.Watch(t.Context(), will); !errors.Is(err, release.ErrInconclusive) {
				t.Fatalf("with both unwell: %v", err)
			}
			die(5)
			if err := w.Weigh(t.Context(), will, errors.New("cannot rotate")); !errors.Is(err, release.ErrInconclusive) {
				t.Fatalf("weighed with both unwell: %v", err)
			}
			die(2)
			sick.Store(false)
			if err := w.Watch(t.Context(), will); err != nil {
				t.Fatalf("what died meanwhile counts: %v", err)
			}
			sick.Store(true)
			die(2)
		}
		sick.Store(false)
		if err := w.Watch(t.Context(), will); err == nil || errors.Is(err, release.ErrInconclusive) {
			t.Errorf("two too many when all is well: %v", err)
		}
		if err := w.Weigh(t.Context(), will, errors.New("cannot rotate")); err != nil {
			t.Errorf("weighed when all is well: %v", err)
		}
	})
}

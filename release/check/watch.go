package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"superd/release"
)

// WatchOptions say how the live release is watched.
type WatchOptions struct {
	For         time.Duration // 0: not at all
	MaxFailures int           // this many unexpected exits are forgiven
	// MaxErrorRate is the share of requests that may fail, from 0 to 1, on top of what
	// failed before; 0: live traffic is not judged.
	MaxErrorRate float64
	MinRequests  int // fewer say nothing
}

// A Watcher watches the live release: the release.Traffic of a switch. It makes the
// checks of phase live, counts the unexpected exits that it is told of, and judges the
// answers that users get.
type Watcher struct {
	*prober
	WatchOptions
	checks []Check
	failed chan struct{} // has room for one: failures are to be looked at
	beside bool          // what is watched is a candidate, and the other one serves: see NewCanary
	seen   func(release.Sharing)

	mu       sync.Mutex
	of       release.Generation // whose failures are counted: the newest one that had any
	failures int
	last     string
	lines    []string
	excused  bool // the last verdict was inconclusive: what ended until the next Watch does not count
}

// NewWatcher takes the checks of an app, of which it makes those of phase live.
func NewWatcher(s Site, checks []Check, o WatchOptions) *Watcher {
	return &Watcher{
		prober: newProber(s), WatchOptions: o,
		checks: of(checks, PhaseLive), failed: make(chan struct{}, 1),
	}
}

// Update makes other checks and options hold, for the next Watch. Do not call it while
// one runs.
func (w *Watcher) Update(s Site, checks []Check, o WatchOptions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prober, w.checks, w.WatchOptions = newProber(s), w.possible(checks), o
}

// Fail tells of a process of g that ended unexpectedly: what is "shop/emails:3
// exited with 1", say, and lines what it wrote last. It counts from the moment that
// the generation exists, whether Watch runs or not. It never blocks, and may be
// called at any time and for any generation; older ones than the newest are of no
// interest.
func (w *Watcher) Fail(g release.Generation, what string, lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g.Number < w.of.Number {
		return
	}
	if g.Number > w.of.Number {
		w.of, w.failures = g, 0
	}
	w.failures++
	w.last, w.lines = what, lines
	select {
	case w.failed <- struct{}{}:
	default: // told already
	}
}

// Watch returns nil when g has been well for as long as it is to be watched, and
// the reason as soon as it is not. A check that is in the middle of failing when
// that time is over gets the tries that it takes to tell. After an error the count
// of exits begins anew: if someone says that the switch shall go on all the same,
// the same exits do not speak against g twice. After one that is inconclusive that
// holds for all that end until the next Watch: their reason had not gone yet.
func (w *Watcher) Watch(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	w.mu.Lock()
	if w.excused {
		w.failures, w.excused = 0, false
	}
	w.mu.Unlock()
	return w.excuse(w.watch(ctx, w.newJury(g)))
}

func (w *Watcher) excuse(err error) error {
	if errors.Is(err, release.ErrInconclusive) {
		w.mu.Lock()
		w.excused = true
		w.mu.Unlock()
	}
	return err
}

// Weigh is that a failure of g is inconclusive, when a live check fails on the other
// generation too; else nil.
func (w *Watcher) Weigh(ctx context.Context, g release.Generation, failure error) error {
	return w.excuse(w.newJury(g).shared(ctx, failure))
}

func (w *Watcher) watch(ctx context.Context, j *jury) error {
	g := j.of
	if err := w.exceeded(ctx, j); err != nil || w.For <= 0 {
		return err
	}
	inner, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	over, stop := context.WithTimeout(inner, w.For)
	defer stop()
	ended := make(chan struct{}, len(w.checks))
	for _, c := range w.checks {
		all.Go(func() {
			if err := w.follow(inner, over, c, g); err != nil {
				cancel(err)
			}
			ended <- struct{}{}
		})
	}
	return w.wait(inner, over, j, ended)
}

// wait returns when the time is over and every check has ended, or with the first
// reason not to wait any longer.
func (w *Watcher) wait(ctx, over context.Context, j *jury, ended <-chan struct{}) error {
	alive := time.NewTicker(10 * time.Second) // there may be no check to show progress
	defer alive.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	done := over.Done()
	for running := len(w.checks); running > 0 || done != nil; {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-done:
			done = nil
		case <-ended:
			running--
		case <-w.failed:
			err = w.exceeded(ctx, j)
		case <-look.C:
			j.show()
			err = j.verdict(ctx)
		case <-alive.C:
			if w.Progress != nil {
				w.Progress()
			}
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := w.exceeded(ctx, j); err != nil {
		return err
	}
	return j.last(ctx)
}

// exceeded is the reason when more processes ended than is forgiven. Workers that die
// because their database is down do not speak against their release.
func (w *Watcher) exceeded(ctx context.Context, j *jury) error {
	lines, failure := w.tooMany(j.of)
	if failure == nil {
		return nil
	}
	if j.judges() {
		now := j.Traffic(j.of).Total
		failure = fmt.Errorf("%w; %s", failure, j.bad(now.Failed()))
	}
	if err := j.shared(ctx, failure); err != nil {
		return err
	}
	return &explained{failure, lines}
}

func (w *Watcher) tooMany(g release.Generation) (lines []string, failure error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of.Number != g.Number || w.failures <= w.MaxFailures {
		return nil, nil
	}
	err := fmt.Errorf("%d unexpected exits of %s, and %d are forgiven; the last one: %s", w.failures, g, w.MaxFailures, w.last)
	w.failures = 0
	return w.lines, err
}

// follow makes a check until over ends, and then until it has succeeded or failed
// often enough to speak against g.
func (w *Watcher) follow(ctx, over context.Context, c Check, g release.Generation) error {
	for failures := 0; ; {
		err := w.try(ctx, c, g)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			failures = 0
		default:
			failures++
		}
		if failures >= c.UnhealthyThreshold {
			return w.verdict(ctx, c, g, w.explain(c, g, fmt.Sprintf("of %s failed %d times in a row", g, failures), err))
		}
		enough := over.Done()
		if failures > 0 {
			enough = nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-enough:
			return nil
		case <-time.After(c.Interval):
		}
	}
}

func (w *Watcher) verdict(ctx context.Context, c Check, g release.Generation, failure error) error {
	switch c.Kind {
	case KindHTTP:
		return failure // it cannot be put to what is parked
	case KindTCP:
		return inconclusive(failure, c.Address+" is the same whichever release serves")
	}
	return w.judge(ctx, c, g, failure)
}

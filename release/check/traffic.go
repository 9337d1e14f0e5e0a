package check

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"superd/fpm/traffic"
	"superd/release"
)

// The verdict from live traffic: what no check asks for, users do.

const (
	lookEvery = 500 * time.Millisecond

	// A release is too slow when the median of its requests takes this many times as long
	// as that of the release before, and the 95th percentile, which a few stragglers of
	// before move, at least half as many times. The buckets of the counts are coarse: ten
	// times is found for certain, six times never is.
	slowerBy = 8
	slowFrom = 100 * time.Millisecond // what takes less is not slow, whatever it was before
	warming  = 4 * time.Second        // before that everybody is slow: caches are cold
)

// recently are the times that are looked at besides all that is watched: what was well
// for long is not to hide what began just now, on a busy site and on a quiet one.
var recently = []time.Duration{3 * time.Second, 30 * time.Second}

// A jury judges the answers of a live generation while it is watched.
type jury struct {
	*Watcher
	of, other release.Generation
	began     time.Time
	start     traffic.Counts // of the one, when it began
	before    traffic.Counts // the last minutes of the other
	past      []sample       // of the one, the last ones
	told      bool

	otherStart traffic.Counts // of the other, when it began
}

type sample struct {
	at time.Time
	traffic.Counts
}

// A window is what was answered in some time.
type window struct {
	traffic.Counts
	name string
}

// newJury begins to look at g. Where there are no figures, or none are asked for, it
// never says anything.
func (w *Watcher) newJury(g release.Generation) *jury {
	j := &jury{Watcher: w, of: g, other: w.against(g), began: time.Now()}
	if j.Traffic == nil {
		return j
	}
	j.start = w.Traffic(g).Total
	j.past = []sample{{j.began, j.start}}
	if !j.other.IsZero() {
		figures := w.Traffic(j.other)
		j.before, j.otherStart = figures.Recent, figures.Total
	}
	return j
}

func (j *jury) judges() bool { return j.MaxErrorRate > 0 && j.Traffic != nil }

// enough tells whether so many requests say something.
func (j *jury) enough(n uint64) bool { return n > 0 && n >= uint64(max(0, j.MinRequests)) }

// verdict is the reason to take the release back, if users have given one by now.
func (j *jury) verdict(ctx context.Context) error {
	if !j.judges() {
		return nil
	}
	now := sample{time.Now(), j.Traffic(j.of).Total}
	j.past = append(j.past, now)
	for _, win := range j.windows(now) {
		failure := j.failing(&win)
		if failure == nil {
			failure = j.slow(&win)
		}
		if failure != nil {
			return j.weigh(ctx, fmt.Errorf("%w; %s", failure, j.bad(now.Failed())))
		}
	}
	return nil
}

// bad is how many bad answers there were since it is watched, of so many in all.
func (j *jury) bad(failed uint64) string {
	return j.amount(failed - min(failed, j.start.Failed()))
}

// windows are what there is to judge, the shortest first.
func (j *jury) windows(now sample) []window {
	for len(j.past) > 1 && now.at.Sub(j.past[1].at) >= recently[len(recently)-1] {
		j.past = j.past[1:]
	}
	var all []window
	for _, length := range recently {
		from := j.past[0].Counts
		for _, s := range j.past {
			if now.at.Sub(s.at) < length {
				break
			}
			from = s.Counts
		}
		all = append(all, window{now.Minus(&from), "in the last " + length.String()})
	}
	return append(all, window{now.Minus(&j.start), j.since()})
}

// failing is the failure when too many requests fail that would not have failed
// before.
func (j *jury) failing(win *window) error {
	share := win.ErrorShare()
	if !j.enough(win.Requests()) || share <= j.MaxErrorRate {
		return nil
	}
	said := fmt.Sprintf("%d of %d requests to %s (%s) failed %s, and max_error_rate is %s",
		win.Failed(), win.Requests(), j.of, percent(share), win.name, percent(j.MaxErrorRate))
	other := j.compared(failsMore)
	if !j.enough(other.Requests()) {
		return fmt.Errorf("%s; of what was before too little is known to compare", said)
	}
	said += fmt.Sprintf("; of %d to %s before, %s did", other.Requests(), j.other, percent(other.ErrorShare()))
	if share-other.ErrorShare() > j.MaxErrorRate {
		return fmt.Errorf("%s", said)
	}
	if !j.told {
		j.told = true
		j.tell(said+": that is not the doing of "+j.of.Release, nil)
	}
	return nil
}

// slow is the failure when requests take many times as long as before.
func (j *jury) slow(win *window) error {
	other := j.compared(isSlower)
	if time.Since(j.began) < warming || !j.enough(win.Answers) || !j.enough(other.Answers) || win.Quantile(0.95) < slowFrom {
		return nil
	}
	if win.Quantile(0.5) < slowerBy*other.Quantile(0.5) || win.Quantile(0.95) < slowerBy/2*other.Quantile(0.95) {
		return nil
	}
	return fmt.Errorf("%s is slow: of %d requests %s half took up to %s and 95 %% up to %s; with %s before it was %s and %s",
		j.of, win.Answers, win.name, brief(win.Quantile(0.5)), brief(win.Quantile(0.95)),
		j.other, brief(other.Quantile(0.5)), brief(other.Quantile(0.95)))
}

// weigh is the failure itself, or inconclusive.
func (j *jury) weigh(ctx context.Context, failure error) error {
	if err := j.shared(ctx, failure); err != nil {
		return err
	}
	var lines []string
	if j.Tail != nil {
		lines = j.Tail(j.of)
	}
	return &explained{failure, lines[max(0, len(lines)-maxTail):]}
}

// shared is that the failure is inconclusive, when the other generation is not well by
// now either: the reason is something that both depend on.
func (j *jury) shared(ctx context.Context, failure error) error {
	for _, c := range j.checks {
		if c.Kind == KindHTTP || c.Kind != KindTCP && (j.other.IsZero() || c.Kind == KindFastCGI && j.Socket(j.other) == "") {
			continue
		}
		if err := j.try(ctx, c, j.other); err != nil && ctx.Err() == nil {
			return inconclusive(failure, fmt.Sprintf("%s is not well either: check %q: %v", j.other, c.Name, err))
		}
	}
	return nil
}

// last is the verdict when the time is over. If it is good, that is told with what it
// rests on.
func (j *jury) last(ctx context.Context) error {
	if !j.judges() {
		return nil
	}
	if err := j.verdict(ctx); err != nil {
		return err
	}
	all := j.past[len(j.past)-1].Minus(&j.start)
	if !j.enough(all.Requests()) {
		j.tell(fmt.Sprintf("live traffic says nothing of %s: %d requests were counted, and min_requests is %d", j.of, all.Requests(), j.MinRequests), nil)
		return nil
	}
	j.tell(fmt.Sprintf("live traffic of %s: %d of %d requests failed, half took up to %s and 95 %% up to %s",
		j.of, all.Failed(), all.Requests(), brief(all.Quantile(0.5)), brief(all.Quantile(0.95))), nil)
	return nil
}

// percent is a share with three digits.
func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 3, 64) + " %" }

func brief(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }

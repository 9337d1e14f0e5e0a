package check

import (
	"context"
	"fmt"
	"slices"

	"superd/fpm/traffic"
	"superd/release"
)

// A candidate that gets a part of the users is judged as a live release is, and
// beside what serves: what befalls both at the same time is not its doing.

// NewCanary is the Watcher of a candidate that gets a part of the users. Of the checks
// of phase live it leaves out those of kind http: either of the two may answer. seen
// hears how far it is, and must not block; it may be nil.
func NewCanary(s Site, checks []Check, o WatchOptions, seen func(release.Sharing)) *Watcher {
	w := NewWatcher(s, checks, o)
	w.beside, w.seen = true, seen
	w.checks = w.possible(checks)
	return w
}

// possible are the checks that tell something of what is watched.
func (w *Watcher) possible(checks []Check) []Check {
	return slices.DeleteFunc(of(checks, PhaseLive), func(c Check) bool { return w.beside && c.Kind == KindHTTP })
}

// Canary is Watch, with what has been answered meanwhile. That is told, too, while it
// goes on.
func (w *Watcher) Canary(ctx context.Context, g release.Generation) (release.Sharing, error) {
	j := w.newJury(g)
	err := w.watch(ctx, j)
	return j.sharing(), err
}

// sharing is what both have answered since the jury looks.
func (j *jury) sharing() release.Sharing {
	if j.Traffic == nil {
		return release.Sharing{}
	}
	mine := j.Traffic(j.of).Total.Minus(&j.start)
	others := j.meanwhile()
	s := release.Sharing{Requests: mine.Requests(), Failed: mine.Failed(), Others: others.Requests()}
	if all := s.Requests + s.Others; all > 0 {
		s.Measured = float64(s.Requests) / float64(all)
	}
	return s
}

// meanwhile is what the other generation has answered since the jury looks.
func (j *jury) meanwhile() traffic.Counts {
	if j.other.IsZero() || j.Traffic == nil {
		return traffic.Counts{}
	}
	return j.Traffic(j.other).Total.Minus(&j.otherStart)
}

// show tells how far it is.
func (j *jury) show() {
	if j.seen != nil {
		j.seen(j.sharing())
	}
}

// compared is what the other generation is held against: its last minutes before, or
// what it answers now, whichever is worse in that respect.
func (j *jury) compared(worse func(a, b *traffic.Counts) bool) traffic.Counts {
	if now := j.meanwhile(); j.beside && j.enough(now.Requests()) && (!j.enough(j.before.Requests()) || worse(&now, &j.before)) {
		return now
	}
	return j.before
}

func failsMore(a, b *traffic.Counts) bool { return a.ErrorShare() > b.ErrorShare() }

func isSlower(a, b *traffic.Counts) bool { return a.Quantile(0.5) > b.Quantile(0.5) }

// since is how messages name the time that the jury looks.
func (j *jury) since() string {
	if j.beside {
		return "since it gets a share"
	}
	return "since it is watched"
}

// amount is how many users have been hurt by now.
func (j *jury) amount(failed uint64) string {
	if j.beside {
		return "its share: " + j.sharing().String()
	}
	return fmt.Sprintf("bad answers since it is watched: %d", failed)
}

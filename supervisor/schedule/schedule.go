// Package schedule says what a look at the clock means for a program that runs by it.
//
// The clock is the one on the wall: people wrote the times, and people, daylight saving
// and time servers set it. So nothing here waits or counts seconds. Who keeps programs
// looks from time to time, gives the moment up to which all is settled, and is told what
// to do; that moment is all that has to outlive superd. A time that has passed is due
// once at most, however the clock was moved meanwhile.
package schedule

import "time"

// Times tells when a program is due: the first time after t, zero if there is none.
type Times interface {
	Next(t time.Time) time.Time
}

// Overlap is what becomes of a run that is due while the one before is still there.
type Overlap string

// The rules of overlap.
const (
	Skip  Overlap = "skip"  // it is left out
	Queue Overlap = "queue" // it begins when the other ends; one at most waits
	Kill  Overlap = "kill"  // the other is stopped for it
)

// Missed is what becomes of runs that were due while nobody was there to begin them.
type Missed string

// The rules of missed runs.
const (
	Never Missed = "skip" // they are left out
	Once  Missed = "once" // one run makes up for all of them
)

// A Plan is when one program runs.
type Plan struct {
	Times   Times
	Overlap Overlap
	Missed  Missed
}

const (
	// Late is how long after its time a run still counts as begun in time.
	Late = time.Minute
	// Slowest is the longest that nobody may look: the clock may be set, or the
	// machine sleep, while a timer runs. It is well below Late, so that a clock that
	// was set makes no run a missed one that was due just now.
	Slowest = 20 * time.Second

	manyMissed = 1000 // more are not counted
)

// A Look is what one look at the clock means.
type Look struct {
	Run     bool          // a run is due: see Plan.Meet
	Settled time.Time     // what to give to the next look; to be kept before the run begins
	Missed  int           // how many times have passed for which there is no run; 1000 are many
	Next    time.Time     // when the next run is due; zero: never
	Again   time.Duration // look again no later than after this
}

// Look tells what is due at now, when everything up to settled is settled. A zero
// settled is a program that is new: its first run is the next.
func (p Plan) Look(settled, now time.Time) Look {
	now = now.Round(0) // by the clock on the wall
	from := p.from(settled, now)
	l := Look{Settled: from, Next: p.Times.Next(from)}
	if !l.Next.IsZero() && !l.Next.After(now) {
		latest, passed := p.latest(l.Next, now)
		inTime := now.Sub(latest) <= Late
		l.Run, l.Settled, l.Missed = inTime || p.Missed == Once, latest, passed
		if l.Run {
			l.Missed--
		}
		if l.Run && !inTime {
			l.Settled = now // "every 6h" counts from the run
		}
		l.Next = p.Times.Next(l.Settled)
	}
	l.Again = Slowest
	if !l.Next.IsZero() {
		l.Again = min(l.Again, l.Next.Sub(now))
	}
	return l
}

// from is the time after which the next run is looked for. When the clock was set back
// behind what is settled, nothing is due a second time; but a program that runs every
// five minutes does not stand still for the hour until the clock has caught up.
func (p Plan) from(settled, now time.Time) time.Time {
	settled = settled.Round(0)
	switch {
	case settled.IsZero():
		return now
	case !settled.After(now):
		return settled
	}
	next := p.Times.Next(settled)
	if next.IsZero() || settled.Sub(now) <= next.Sub(settled) {
		return settled
	}
	return now
}

// latest is the last of the times from first on that is not after now, and how many
// there are. Of very many it is, unless one is due in time, a moment that is too late.
func (p Plan) latest(first, now time.Time) (latest time.Time, passed int) {
	tooLate := now.Add(-Late - 1)
	for latest, passed = first, 1; ; passed = min(passed+1, manyMissed) {
		if passed == manyMissed && latest.Before(tooLate) {
			latest = tooLate // a year of minutes is not walked through
		}
		next := p.Times.Next(latest)
		if next.IsZero() || next.After(now) {
			return latest, passed
		}
		latest = next
	}
}

// An Act is what is to be done for a run that is due.
type Act string

// The acts.
const (
	Begin Act = "begin"
	Leave Act = "leave" // there is no run this time; people are to be told
	Wait  Act = "wait"  // begin it when the one before has ended
	End   Act = "end"   // stop the one before, then begin it
)

// Meet tells what to do for a run that is due, when the one before is still there and
// another already waits for its end.
func (p Plan) Meet(running, waiting bool) Act {
	switch {
	case !running && !waiting:
		return Begin
	case waiting:
		return Leave
	case p.Overlap == Queue:
		return Wait
	case p.Overlap == Kill:
		return End
	}
	return Leave
}

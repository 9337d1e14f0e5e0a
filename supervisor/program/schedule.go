package program

import (
	"math"
	"time"
)

// Scheduled programs. The clock on the wall decides, as people read it; it may jump, and
// the machine may sleep, so it is looked at again and again. A run that was due while
// nobody was there to begin it, because superd was away or the clock was set forward, is
// made up for once or not at all, never several times.

// late is how long after its time a run still counts as begun in time.
const late = time.Minute

// runDue begins a run whose time has come, and tells how long it is to the next one. The
// mutex is held.
func (p *program) runDue(now time.Time) time.Duration {
	if p.isIdle() || p.set.closing || p.waits != "" {
		p.due, p.queued = time.Time{}, false
		return math.MaxInt64
	}
	u := p.units[0]
	if p.queued && u.held == 0 && u.process.IsDown() {
		p.queued = false
		p.begin(u, now)
	}
	if p.due.IsZero() {
		p.due = p.first(now)
	}
	if ahead := p.Schedule.Next(now); p.due.After(ahead) { // the clock was set back
		p.due = ahead
	}
	if p.due.After(now) {
		return p.due.Sub(now)
	}
	missed := now.Sub(p.due) > late
	p.due = p.Schedule.Next(now)
	if !missed || p.MakeUp {
		p.run(u, now)
	}
	return p.due.Sub(now)
}

// first is when the next run under this superd is due: counted from the last one, and at
// once if one was due since and is to be made up for.
func (p *program) first(now time.Time) time.Time {
	last := p.set.orders.Runs[p.Name]
	if last.IsZero() || last.After(now) {
		return p.Schedule.Next(now)
	}
	switch due := p.Schedule.Next(last); {
	case due.After(now):
		return due
	case p.MakeUp:
		return now
	}
	return p.Schedule.Next(now)
}

// run begins a run, or does what the configuration says when the one before is there.
func (p *program) run(u *unit, now time.Time) {
	s := p.set
	switch {
	case u.held == 0 && u.process.IsDown():
		p.begin(u, now)
	case p.Overlap == Queue:
		p.queued = true
	case p.Overlap == Kill && u.held == 0:
		s.takeDown([]*unit{u}, false, func() { p.queued = true })
	default:
		reason := "the run before has not ended"
		event := Event{Kind: Skipped, Program: p.Name, Process: u.name, PID: u.process.Status().PID, Reason: reason}
		s.later = append(s.later, event)
	}
}

// begin begins a run. When it began is on disk before, so that no other superd begins
// the same one again.
func (p *program) begin(u *unit, now time.Time) {
	s := p.set
	if s.orders.Runs == nil {
		s.orders.Runs = map[string]time.Time{}
	}
	s.orders.Runs[p.Name] = now.Round(0)
	s.forgets = s.orders.write(s.o.State)
	u.start()
}

// runNow begins a run because a person wants one, whatever the clock says. One that is
// there already is it.
func (u *unit) runNow() {
	if u.program.Schedule != nil && u.held == 0 && u.process.IsDown() {
		u.program.begin(u, time.Now())
	}
}

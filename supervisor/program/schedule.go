package program

import (
	"fmt"
	"math"
	"time"

	"superd/supervisor/schedule"
)

// Scheduled programs. What a look at the clock means package schedule says; up to when
// everything is settled is on disk before a run begins, so that no superd begins the same
// run again.

// runDue begins a run whose time has come, and tells when to look again. The mutex is
// held.
func (p *program) runDue(now time.Time) time.Duration {
	if p.isIdle() || p.set.closing {
		p.due, p.queued = time.Time{}, false
		return math.MaxInt64
	}
	if p.waits != "" {
		return p.leaveOut(now)
	}
	u := p.units[0]
	if p.queued && u.isFree() {
		p.begin(u, now)
	}
	settled := p.set.orders.Runs[p.Name]
	l := p.Plan.Look(settled, now)
	p.due = l.Next
	if settled.IsZero() || l.Run || l.Missed > 0 {
		p.settle(l.Settled)
	}
	if l.Missed > 0 {
		p.skip(u, fmt.Sprintf("so many runs were due while nobody was there to begin them: %d", l.Missed))
	}
	if l.Run {
		p.run(u, now)
	}
	return l.Again
}

// leaveOut is runDue while the program waits for another. A run can begin as long as it is
// not too late for it, and the next is not due; then it is left out, and told, unless one
// is to make up for all of them.
func (p *program) leaveOut(now time.Time) time.Duration {
	settled := p.set.orders.Runs[p.Name]
	l := p.Plan.Look(settled, now)
	p.due = l.Next
	left := l.Missed
	if l.Run && left > 0 {
		left++
	}
	if p.Plan.Missed == schedule.Once {
		left = 0
	}
	if settled.IsZero() || left > 0 {
		p.settle(l.Settled)
	}
	if p.queued {
		p.queued = false
		left++
	}
	if left > 0 {
		p.skip(p.units[0], fmt.Sprintf("so many runs were due while it waited for %s: %d", p.waits, left))
	}
	return l.Again
}

// isFree tells whether a run can begin.
func (u *unit) isFree() bool { return u.held == 0 && u.process.IsDown() }

// run begins a run, or does what the configuration says when the one before is there.
func (p *program) run(u *unit, now time.Time) {
	switch p.Plan.Meet(!u.isFree(), p.queued) {
	case schedule.Begin:
		p.begin(u, now)
	case schedule.Wait:
		p.queued = true
	case schedule.End:
		p.queued = true
		p.set.takeDown([]*unit{u}, false, nil)
	case schedule.Leave:
		p.skip(u, "the run before has not ended")
	}
}

// begin begins a run.
func (p *program) begin(u *unit, now time.Time) {
	p.queued = false
	p.settle(now)
	u.start()
}

// settle keeps up to when everything that was due is settled.
func (p *program) settle(until time.Time) {
	s := p.set
	if s.orders.Runs == nil {
		s.orders.Runs = map[string]time.Time{}
	}
	if until.After(s.orders.Runs[p.Name]) {
		s.orders.Runs[p.Name] = until.Round(0)
	}
	s.write()
}

// skip tells of runs that are left out, when the mutex is free.
func (p *program) skip(u *unit, why string) {
	p.set.later = append(p.set.later, Event{Kind: Skipped, Program: p.Name, Process: u.name, PID: u.process.Status().PID, Reason: why})
}

// runNow begins a run because a person wants one, whatever the clock says. One that is
// there already is it.
func (u *unit) runNow() {
	if u.program.Plan != nil && u.isFree() {
		u.program.begin(u, time.Now())
	}
}

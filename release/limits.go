package release

import (
	"cmp"
	"time"
)

// Limits say how long a step may go without a sign of progress. Zero means the
// default that stands beside each.
type Limits struct {
	Prepare time.Duration // 10m: the before hook may migrate a database; it has a timeout of its own
	Start   time.Duration // 2m: a master that preloads a large application
	Verify  time.Duration // 5m: checks and canaries have deadlines of their own
	Canary  time.Duration // 1h: as Watch
	Link    time.Duration // 10s: a rename and the sync of one directory, on a disk that is busy
	Promote time.Duration // 2m: the flip takes a millisecond, but a master that died is started again
	Rotate  time.Duration // 5m: from one batch of workers to the next; a progress deadline
	Watch   time.Duration // 1h: must be longer than it is watched; checks pause in it while a dependency is down
	Undo    time.Duration // 5m: as Rotate, for each undo; never less than Link and Promote together
	Retire  time.Duration // 1m: to begin, not to drain
	Finish  time.Duration // 15m: the after hook and the deletion of old releases
}

// orDefaults makes sure that nothing is without a limit.
func (l Limits) orDefaults() Limits {
	l.Prepare = cmp.Or(l.Prepare, 10*time.Minute)
	l.Start = cmp.Or(l.Start, 2*time.Minute)
	l.Verify = cmp.Or(l.Verify, 5*time.Minute)
	l.Canary = cmp.Or(l.Canary, time.Hour)
	l.Link = cmp.Or(l.Link, 10*time.Second)
	l.Promote = cmp.Or(l.Promote, 2*time.Minute)
	l.Rotate = cmp.Or(l.Rotate, 5*time.Minute)
	l.Watch = cmp.Or(l.Watch, time.Hour)
	l.Undo = max(cmp.Or(l.Undo, 5*time.Minute), l.Link+l.Promote)
	l.Retire = cmp.Or(l.Retire, time.Minute)
	l.Finish = cmp.Or(l.Finish, 15*time.Minute)
	return l
}

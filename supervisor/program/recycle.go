package program

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"superd/supervisor"
)

// Recycling: a process that has grown too large or too old is restarted, one after the
// other, so that of several of a program one at most is away for it.

// recycleEvery is how often processes that have a limit are looked at.
const recycleEvery = 30 * time.Second

func (s *Set) recycle(ctx context.Context) {
	every := s.o.RecycleEvery
	if every == 0 {
		every = recycleEvery
	}
	clock := time.NewTicker(every)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		for u, reason := range s.due() {
			s.tell(Event{Kind: Recycled, Program: u.of, Process: u.name, Number: u.number, PID: u.process.Status().PID, Reason: reason})
			if _, err := s.Restart(ctx, u.name); err != nil && ctx.Err() == nil {
				s.o.Log.Warn("recycle a program", "process", u.name, "reason", reason, "error", err)
			}
		}
	}
}

// due are the processes that are to be restarted, and why. Only those are measured that
// have a limit.
func (s *Set) due() map[*unit]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[*unit]string{}
	sized := map[*unit]*supervisor.Child{}
	var children []*supervisor.Child
	for _, p := range s.programs {
		for _, u := range p.units {
			c := u.process.Child()
			if c == nil || !u.isWanted() || u.held > 0 || u.process.Status().State != supervisor.Running {
				continue
			}
			if age := time.Since(c.Born()); p.MaxAge > 0 && age > spread(p.MaxAge, c) {
				all[u] = fmt.Sprintf("is %s old, max_age is %s", age.Round(time.Second), p.MaxAge)
			} else if p.MaxMemory > 0 {
				sized[u], children = c, append(children, c)
			}
		}
	}
	if len(children) == 0 {
		return all
	}
	sums, err := supervisor.Footprints(children)
	if err != nil {
		s.o.Log.Warn("programs are not measured", "error", err)
	}
	for u, c := range sized {
		if limit := u.program.MaxMemory; sums[c] > limit {
			all[u] = fmt.Sprintf("takes %d KiB of memory, max_memory is %d KiB", sums[c]>>10, limit>>10)
		}
	}
	return all
}

// spread is d with up to 10 % more or less, the same for one life whichever superd
// asks: processes that were started together do not all go together.
func spread(d time.Duration, c *supervisor.Child) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(lifeOf(c)))
	return d + time.Duration(float64(d)*(float64(h.Sum32()%2001)/1000-1)/10)
}

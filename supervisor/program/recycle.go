package program

import (
	"context"

	"superd/supervisor"
)

// Recycling: a process that has grown too large or too old is restarted, one after the
// other, so that of several of a program one at most is away for it.

func (s *Set) recycle(ctx context.Context) {
	supervisor.Recycle(ctx, s.o.RecycleEvery, s.due, func(u *unit, reason string) {
		s.tell(Event{Kind: Recycled, Program: u.of, Process: u.name, Number: u.number, PID: u.process.Status().PID, Reason: reason})
		if _, err := s.Restart(ctx, u.name); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("recycle a program", "process", u.name, "reason", reason, "error", err)
		}
	})
}

// due are the processes that are to be restarted, and why.
func (s *Set) due() map[*unit]string {
	all := map[*unit]supervisor.Limited{}
	s.mu.Lock()
	for _, p := range s.programs {
		for _, u := range p.units {
			c := u.process.Child()
			if c != nil && u.isWanted() && u.held == 0 && u.process.Status().State == supervisor.Running {
				all[u] = supervisor.Limited{Child: c, Limits: p.Limits}
			}
		}
	}
	s.mu.Unlock()
	due, err := supervisor.Due(all)
	if err != nil {
		s.o.Log.Warn("programs are not measured", "error", err)
	}
	return due
}

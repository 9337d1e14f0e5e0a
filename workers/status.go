package workers

import (
	"slices"
	"time"

	"superd/release"
	"superd/supervisor"
)

// A PoolStatus is a pool at one moment.
type PoolStatus struct {
	Name       string             // "emails"
	Generation release.Generation // what it runs on, as of the last whole rotation
	Wanted     int                // without those that are stopped
	Stopped    int                // slots that a person wants empty
	Running    int                // proven, of that generation, and not told to go
	Draining   int                // told to go
	Workers    []WorkerStatus     // by slot; of one slot the oldest first
}

// A WorkerStatus is a worker at one moment. A slot that is stopped has one too,
// with no PID, once nothing drains in it.
type WorkerStatus struct {
	Name       string // "shop/emails:3"
	Slot       int
	State      supervisor.State
	PID        int // 0: nothing runs
	Generation release.Generation
	Since      time.Time
	Restarts   int
	Last       string // how the life before ended
	Reason     string // between two lives: why the one that is due could not be made
	Text       string // what it says of itself
	Reloading  bool   // it says that it reads its configuration anew
}

// Waiting is the state of a worker that may not begin before another is gone.
const Waiting supervisor.State = "waiting"

// Status is every pool as it is now.
func (f *Fleet) Status() []PoolStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []PoolStatus
	for _, p := range f.pools {
		if !p.foreign || len(p.workers) > 0 {
			all = append(all, p.status())
		}
	}
	return all
}

func (p *pool) status() PoolStatus {
	s := PoolStatus{Name: p.Name, Generation: p.on}
	for slot := range p.processes {
		if p.wants(slot) {
			s.Wanted++
		}
		if p.stopped[slot] {
			s.Stopped++
		}
		if p.stopped[slot] && !slices.ContainsFunc(p.workers, func(w *worker) bool { return w.slot == slot }) {
			s.Workers = append(s.Workers, WorkerStatus{Name: p.slotName(slot), Slot: slot, State: supervisor.Stopped})
		}
	}
	for _, w := range p.workers {
		switch {
		case w.leaving:
			s.Draining++
		case w.proved && w.at.Number == p.on.Number:
			s.Running++
		}
		s.Workers = append(s.Workers, w.status())
	}
	slices.SortStableFunc(s.Workers, func(a, b WorkerStatus) int { return a.Slot - b.Slot })
	return s
}

func (w *worker) status() WorkerStatus {
	now := w.process.Status()
	s := WorkerStatus{
		Name: w.name(), Slot: w.slot, State: now.State, PID: now.PID, Generation: w.at,
		Since: now.Since, Restarts: now.Restarts, Reason: now.Unborn, Text: now.Text, Reloading: now.Reloading,
	}
	if now.Last != nil {
		s.Last = now.Last.String()
	}
	if now.State == supervisor.Stopped && !w.leaving {
		s.State = Waiting
	}
	return s
}

// InUse is the directories of the releases that workers run from, those that drain
// included.
func (f *Fleet) InUse() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var dirs []string
	for _, p := range f.pools {
		for _, w := range p.workers {
			dirs = append(dirs, w.at.Dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

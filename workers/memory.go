package workers

import (
	"context"
	"slices"
)

// A memory is what the next superd must know of a pool and cannot see: the orders
// that people gave, and which workers have proved themselves. It is left with the
// keeper and lives exactly as long as the workers that it is about, without a disk.
//
// The orders count only while the configuration says what it said then.
type memory struct {
	Configured int      `json:"configured"`
	Processes  int      `json:"processes"`
	Stopped    []int    `json:"stopped,omitempty"`
	Proved     []string `json:"proved,omitempty"` // see worker.life
}

func (f *Fleet) memoryName() string { return f.o.App + "/workers" }

// keep remembers what workers have proved. Whose proof is forgotten, for superd was
// killed at once, is replaced.
func (f *Fleet) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			f.remember()
			return
		case <-f.proofs:
			f.remember()
		}
	}
}

// remember leaves everything with the keeper, in place of what was there.
func (f *Fleet) remember() {
	f.remembering.Lock()
	defer f.remembering.Unlock()
	all := map[string]memory{}
	f.mu.Lock()
	for _, p := range f.pools {
		all[p.Name] = p.memory()
	}
	f.mu.Unlock()
	if err := f.o.Children.Remember(f.memoryName(), all); err != nil {
		f.o.Log.Warn("what workers are to do is not remembered", "app", f.o.App, "error", err)
	}
}

func (p *pool) memory() memory {
	m := memory{Configured: p.Processes, Processes: p.processes}
	for slot := range p.stopped {
		m.Stopped = append(m.Stopped, slot)
	}
	for _, w := range p.workers {
		if w.proved || w.known && w.lives == 0 {
			m.Proved = append(m.Proved, w.life)
		}
	}
	return m
}

// recall takes up what an earlier superd has left.
func (f *Fleet) recall() {
	all := map[string]memory{}
	if err := f.o.Children.Recall(f.memoryName(), &all); err != nil {
		f.o.Log.Warn("what workers are to do is forgotten", "app", f.o.App, "error", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, m := range all {
		if p := f.pool(name); p != nil {
			p.recall(m)
		}
	}
}

func (p *pool) recall(m memory) {
	for _, w := range p.workers {
		w.known = slices.Contains(m.Proved, w.life)
	}
	if p.foreign || m.Configured != p.Processes {
		return
	}
	p.processes = m.Processes
	for _, slot := range m.Stopped {
		p.stopped[slot] = true
	}
}

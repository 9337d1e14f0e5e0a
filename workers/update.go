package workers

import (
	"slices"
	"strings"

	"superd/release"
)

// Update makes other pools hold, and no worker that runs is touched for it: it goes on
// as it was started, and is kept up, replaced and ended by what its pool says now. Of a
// pool that has fewer processes than before, or is gone, the workers that are too many
// drain. What is missing is started on live, the generation that the app runs on; zero:
// nothing is. The number of processes that people have scaled a pool to holds until the
// configured one changes. Do not call it while a Canary, a Rotate or a Remove runs.
func (f *Fleet) Update(pools []Pool, maxFailures int, live release.Generation) {
	f.mu.Lock()
	f.o.MaxFailures = maxFailures
	kept := map[string]bool{}
	for _, configured := range pools {
		kept[configured.Name] = true
		p := f.pool(configured.Name)
		if p == nil {
			p = &pool{Pool: configured, fleet: f, processes: configured.Processes, stopped: map[int]bool{}}
			f.pools = append(f.pools, p)
		}
		p.update(configured, live)
	}
	slices.SortStableFunc(f.pools, func(a, b *pool) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range f.pools {
		if !kept[p.Name] {
			p.foreign = true
		}
		for _, w := range p.workers {
			if !p.wants(w.slot) {
				w.retire()
			}
		}
		p.fill()
	}
	f.announce()
	f.mu.Unlock()
	select {
	case <-f.begun:
		f.remember()
	default: // what an earlier superd remembers is still to be read
	}
}

// update makes the pool what is configured now.
func (p *pool) update(configured Pool, live release.Generation) {
	if p.foreign { // it was gone, and is back
		p.foreign, p.processes, p.stopped = false, configured.Processes, map[int]bool{}
	}
	if idle, was := p.isStopped(), p.processes; p.Processes != configured.Processes {
		p.processes = configured.Processes
		for slot := was; idle && slot < p.processes; slot++ {
			p.stopped[slot] = true // as with Scale: people wanted nothing of it
		}
	}
	p.Pool = configured
	if p.on.IsZero() {
		p.on = live
	}
	for _, w := range p.workers {
		w.process.SetPolicy(w.policy())
	}
}

// Resized are the workers that Update would start, or let drain, if the configuration said
// another number of processes of a pool. It changes nothing.
func (f *Fleet) Resized(name string, processes int) (starts, ends []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool(name)
	if p == nil || p.foreign || p.Processes == processes {
		return nil, nil
	}
	for slot := p.processes; slot < processes && !p.isStopped() && !p.on.IsZero(); slot++ {
		starts = append(starts, p.slotName(slot))
	}
	for slot := processes; slot < p.processes; slot++ {
		if p.wants(slot) {
			ends = append(ends, p.slotName(slot))
		}
	}
	return starts, ends
}

// now is what is configured of the pool, for those that do not hold the mutex.
func (p *pool) now() Pool {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	return p.Pool
}

package fpm

import "time"

// Update makes another access, backlog and drain timeout hold: for listeners and
// generations that come up after it, and the drain timeout for whoever begins to drain.
// What the pool of a generation is, Options.Pool is asked each time anyway.
func (w *Web) Update(access Access, backlog int, drain time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.o.Access, w.o.Backlog, w.o.Drain = access, backlog, drain
}

func (w *Web) access() Access {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o.Access
}

func (w *Web) backlog() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o.Backlog
}

func (w *Web) drain() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o.Drain
}

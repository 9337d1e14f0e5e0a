package fpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"superd/fpm/traffic"
	"superd/release"
)

// What the generations have answered, from the access log that each of them writes.
// Why it is a file: docs/decisions/0009-access-log.md.

const accessName = "access"

// accessFile is a name of its own after each reload: the lines of before are of
// another generation.
func (p *place) accessFile() string {
	if p.Turn > 0 {
		return fmt.Sprintf("%s-%d.log", accessName, p.Turn)
	}
	return accessName + ".log"
}

// meters are the access logs of an app.
type meters struct {
	mu  sync.Mutex
	all []*meter
}

type meter struct {
	path string
	of   release.Generation
	log  *traffic.Log
	gone time.Time // zero: it is there
	told bool      // that it can't be read
}

// remembered is how long the figures of a generation outlive it: with handoff by
// reload it is gone when its successor is to be compared with it.
const remembered = 10 * time.Minute

func (w *Web) meter(at *place) *meter {
	path := filepath.Join(at.Home, at.accessFile())
	w.meters.mu.Lock()
	defer w.meters.mu.Unlock()
	for _, m := range w.meters.all {
		if m.path == path && m.of == at.Generation {
			return m
		}
	}
	m := &meter{path: path, of: at.Generation, log: traffic.Open(path)}
	w.meters.all = append(w.meters.all, m)
	return m
}

func (s *server) meter() *meter {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	return s.owner.meter(&at)
}

// count reads what the generations have written since the last time.
func (w *Web) count() {
	for _, s := range w.all() {
		s.meter()
	}
	w.meters.mu.Lock()
	defer w.meters.mu.Unlock()
	for _, m := range w.meters.all {
		w.read(m)
	}
	w.meters.all = slices.DeleteFunc(w.meters.all, func(m *meter) bool {
		return !m.gone.IsZero() && time.Since(m.gone) > remembered
	})
}

func (w *Web) read(m *meter) {
	err := m.log.Read()
	switch {
	case err == nil:
		m.gone, m.told = time.Time{}, false
	case errors.Is(err, fs.ErrNotExist):
		if m.gone.IsZero() {
			m.gone = time.Now()
		}
	case !m.told:
		m.told = true
		w.tell(Note, m.of, fmt.Errorf("its figures: %w", err), nil)
	}
}

// saveCounts leaves to the next superd what has been counted.
func (w *Web) saveCounts() {
	w.count()
	w.meters.mu.Lock()
	defer w.meters.mu.Unlock()
	for _, m := range w.meters.all {
		if err := m.log.Close(); err != nil {
			w.tell(Note, m.of, fmt.Errorf("its figures: %w", err), nil)
		}
	}
}

// Traffic is what g has answered up to this moment, and how. It is zero when nothing
// is known.
func (w *Web) Traffic(g release.Generation) traffic.Figures {
	select {
	case <-w.begun:
		w.count()
	default:
	}
	w.meters.mu.Lock()
	defer w.meters.mu.Unlock()
	var all traffic.Figures
	for _, m := range w.meters.all {
		if m.of == g {
			one := m.log.Figures()
			all = all.Plus(&one)
		}
	}
	return all
}

// countEvery is how often the logs are read when nobody asks.
const countEvery = time.Second

// keepCounting reads until ctx ends, and leaves what it knows to the next superd.
func (w *Web) keepCounting(ctx context.Context) {
	defer w.saveCounts()
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		w.count()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

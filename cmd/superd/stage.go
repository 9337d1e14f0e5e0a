package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A stage is a part of the daemon whose own parts come and go while it runs. Unlike
// those of a supervisor.Group they do not rely on each other, and one may end by
// itself.
type stage struct {
	wake chan struct{} // there are parts that nobody runs yet
	gone chan struct{} // closed when Run lets go

	mu      sync.Mutex
	waiting []*stagePart
}

type stagePart struct {
	name string
	run  func(context.Context) error
	of   *stage
	stop chan struct{} // closed when it is to end
	done chan struct{} // closed when it has
	once sync.Once
}

func newStage() *stage { return &stage{wake: make(chan struct{}, 1), gone: make(chan struct{})} }

// Add has Run run a part, at once or when Run begins. run returns when its ctx ends,
// or earlier.
func (s *stage) Add(name string, run func(context.Context) error) *stagePart {
	p := &stagePart{name: name, run: run, of: s, stop: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, p)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return p
}

// Stop ends the part and returns when it has ended.
func (p *stagePart) Stop() {
	p.once.Do(func() { close(p.stop) })
	select {
	case <-p.done:
	case <-p.of.gone:
	}
}

// Run runs the parts until ctx ends or one of them fails, and then stops them all.
func (s *stage) Run(ctx context.Context) error {
	defer close(s.gone)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for ctx.Err() == nil {
		for _, p := range s.taken() {
			running.Go(func() {
				if err := p.live(ctx); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
					mu.Unlock()
					cancel()
				}
			})
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
	running.Wait()
	return errors.Join(errs...)
}

func (s *stage) taken() []*stagePart {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.waiting
	s.waiting = nil
	return all
}

// live is the whole life of a part.
func (p *stagePart) live(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-p.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	err := p.run(ctx)
	cancel()
	watching.Wait()
	close(p.done)
	return err
}

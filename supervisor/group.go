package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A Group is the long-lived parts of a program. They start in the order they were
// added and stop in reverse, each fully gone before the next is asked: a part may
// rely on those above it until its own end.
type Group struct{ parts []part }

type part struct {
	name string
	run  func(context.Context) error
}

// Add appends a part. run returns when its ctx ends, or earlier with an error.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.parts = append(g.parts, part{name, run})
}

// Run starts every part and waits until ctx ends or one of them returns; then it
// stops all. It returns the first error and those of the stopping, joined.
func (g *Group) Run(ctx context.Context) error {
	type running struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	var wg sync.WaitGroup
	ended := make(chan error, len(g.parts))
	all := make([]running, 0, len(g.parts))
	for _, p := range g.parts {
		pctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // stopped in turn, below
		r := running{cancel, make(chan struct{})}
		all = append(all, r)
		wg.Go(func() {
			defer close(r.done)
			err := p.run(pctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", p.name, err)
			}
			ended <- err
		})
	}
	var errs []error
	select {
	case <-ctx.Done():
	case err := <-ended:
		errs = append(errs, err)
	}
	for _, r := range slices.Backward(all) {
		r.cancel()
		<-r.done
	}
	wg.Wait()
	close(ended)
	for err := range ended {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

package supervisor

import (
	"context"
	"sync"
	"time"
)

// A pace is a ceiling on how often something happens: burst times at once, then
// one each time every has passed. It is what keeps a machine usable on which a
// thousand programs crash as soon as they start.
type pace struct {
	every time.Duration
	burst int

	mu   sync.Mutex
	next time.Time // the turn after the last one given away
}

// wait returns when it is the caller's turn, in the order of the calls.
func (p *pace) wait(ctx context.Context) error {
	turn := time.Until(p.turn())
	if turn <= 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(turn):
		return nil
	}
}

func (p *pace) turn() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if saved := time.Now().Add(-time.Duration(p.burst) * p.every); p.next.Before(saved) {
		p.next = saved
	}
	p.next = p.next.Add(p.every)
	return p.next
}

package release

import (
	"context"
	"errors"
	"time"
)

// Terms are what of the Options of a Switcher, and of its Tree, can change while it
// runs. A switch that has begun ends by those it began with.
type Terms struct {
	Limits       Limits // zero ones get their defaults
	AutoRollback bool
	CanaryShare  float64

	Required      []string
	KeepReleases  int
	Before, After Hook
	UID, GID      uint32
	Groups        []uint32
}

// Quiet keeps switches from beginning until resume is called: those that are asked for
// meanwhile wait. While a switch is going on it refuses with ErrBusy; it waits for superd
// to settle, as every request does.
func (s *Switcher) Quiet(ctx context.Context) (resume func(), err error) {
	patience := time.After(settlePatience)
	for {
		s.mu.Lock()
		changed, err := s.changed, s.unquiet()
		if err == nil {
			s.quiet = true
		}
		s.mu.Unlock()
		if err == nil {
			return func() { s.update(func() { s.quiet = false }) }, nil
		}
		if !errors.Is(err, errMoment) {
			return nil, err
		}
		select {
		case <-changed:
		case <-patience:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// errMoment is in the refusal of what need not be waited for long.
var errMoment = errors.New("in a moment")

// unquiet is why Quiet cannot be had now. The mutex is held.
func (s *Switcher) unquiet() error {
	switch {
	case s.stopped:
		return &Refusal{Kind: ErrStopping, Why: "superd is stopping"}
	case s.current != nil && !s.current.over:
		return s.current.busy()
	case s.current != nil || s.quiet:
		return &Refusal{Kind: ErrBusy, Why: "a switch or a change of the app is just ending", Cause: errMoment}
	case s.settling:
		return &Refusal{Kind: ErrBusy, Why: "superd has just started and is still bringing up " + s.state.Live.String(), Cause: errMoment}
	}
	return nil
}

// Set makes other terms hold. The caller has Quiet.
func (s *Switcher) Set(t Terms) {
	s.o.Tree.set(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Limits, s.o.AutoRollback, s.o.CanaryShare = t.Limits.orDefaults(), t.AutoRollback, t.CanaryShare
}

func (t *Tree) set(terms Terms) {
	t.changing.Lock()
	defer t.changing.Unlock()
	t.Required, t.KeepReleases, t.Before, t.After = terms.Required, terms.KeepReleases, terms.Before, terms.After
	t.UID, t.GID, t.Groups = terms.UID, terms.GID, terms.Groups
}

// terms are those that hold now, as far as they are of the Tree.
func (t *Tree) terms() Terms {
	t.changing.RLock()
	defer t.changing.RUnlock()
	return Terms{
		Required: t.Required, KeepReleases: t.KeepReleases, Before: t.Before, After: t.After,
		UID: t.UID, GID: t.GID, Groups: t.Groups,
	}
}

// Set makes other options hold from the next look at the link on.
func (w *LinkWatch) Set(o LinkOptions) {
	w.mu.Lock()
	w.next = &o
	w.mu.Unlock()
	w.s.update(func() {}) // wakes it
}

// renew takes up what Set has said.
func (w *LinkWatch) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		w.o, w.next = *w.next, nil
	}
}

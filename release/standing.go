package release

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// A Snapshot is how an app stands. It is the caller's.
type Snapshot struct {
	Live     Generation
	Previous Generation // the last good one before it
	Hold     *Hold
	Bad      map[string]Mark // by release

	Current *Record   // the switch that is going on; nil: none
	Since   time.Time // of its phase
	Paused  string    // why it waits for a person; empty: it does not

	Settling bool   // superd has just started, and what was left is not settled yet
	Degraded string // why the app is not wholly on Live, or was left so; empty: it is well
	Link     string // what is wrong with the link; empty: nothing
}

// Snapshot tells how the app stands.
func (s *Switcher) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	shot := Snapshot{
		Live: s.state.Live, Previous: s.state.Previous, Bad: maps.Clone(s.state.Bad),
		Settling: s.settling, Degraded: s.state.Degraded, Link: s.linkWord,
	}
	if s.state.Hold != nil {
		hold := *s.state.Hold
		shot.Hold = &hold
	}
	if s.trouble != "" {
		shot.Degraded = s.trouble
	}
	if s.current != nil {
		record := s.current.record
		shot.Current, shot.Since, shot.Paused = &record, s.current.since, s.current.paused
	}
	return shot
}

// Wait returns how the switch with that id ended, once it has. When superd stops
// first the error is ErrStopping.
func (s *Switcher) Wait(ctx context.Context, id string) (Record, error) {
	for {
		s.mu.Lock()
		changed, stopped := s.changed, s.stopped
		mine := s.current != nil && s.current.record.ID == id
		going := s.settling || mine
		s.mu.Unlock()
		r, ended := s.o.History.find(id)
		switch {
		case ended && !mine:
			return r, nil
		case stopped:
			return Record{}, &Refusal{Kind: ErrStopping, Why: "superd is stopping", Hint: "ask again: the next one settles the switch"}
		case !going:
			return Record{}, &Refusal{Kind: ErrNothing, Why: fmt.Sprintf("there is no switch %q", id)}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}

// History is the finished switches, oldest first. The slice is the caller's.
func (s *Switcher) History() []Record { return s.o.History.Records() }

// Abort takes the running switch back. It says ErrTooLate when that is committed.
func (s *Switcher) Abort(by By) error {
	r, err := s.abort(by)
	if err == nil {
		s.tell(Event{Kind: "switch.aborting", Switch: r.ID, Phase: r.Phase, From: r.From, To: r.To, By: by})
	}
	return err
}

func (s *Switcher) abort(by By) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.current
	switch {
	case r == nil || r.over:
		return Record{}, &Refusal{Kind: ErrNothing, Why: "no switch is going on"}
	case r.final && r.record.Phase == RollingBack || r.aborted != nil:
		return Record{}, &Refusal{Kind: ErrNothing, Why: fmt.Sprintf("switch %s is going back already", r.record.ID)}
	case r.final:
		return Record{}, &Refusal{
			Kind: ErrTooLate, Why: fmt.Sprintf("switch %s to %s is past the point of no return", r.record.ID, r.record.To.Release),
			Hint: "superctl rollback takes it back with a switch of its own",
		}
	}
	r.aborted = fmt.Errorf("%w by %s", ErrAborted, by)
	if r.cancel != nil {
		r.cancel(r.aborted)
	}
	s.wake()
	return r.record, nil
}

// Hold keeps the app as it is until Resume: only a rollback is accepted. A switch
// that is going on is not stopped.
func (s *Switcher) Hold(by By, reason string) error {
	hold := &Hold{Reason: clip(reason, maxReason), By: by, Human: true, Since: time.Now()}
	s.tell(Event{Kind: "app.held", Reason: hold.Reason, By: by})
	return s.change(func(state *State) { state.Hold = hold })
}

// Resume lets a paused switch try again, and ends a hold. A person who resumes a
// degraded app takes its state for good.
func (s *Switcher) Resume(by By) error {
	s.mu.Lock()
	var paused *Record
	if r := s.current; r != nil && r.paused != "" {
		r.paused = ""
		r.goOn <- struct{}{}
		record := r.record
		paused = &record
	}
	held := s.state.Hold != nil || s.state.Degraded != ""
	s.mu.Unlock()
	if paused != nil {
		s.tell(Event{Kind: "switch.resumed", Switch: paused.ID, Phase: paused.Phase, From: paused.From, To: paused.To, By: by})
	}
	if held {
		s.tell(Event{Kind: "app.resumed", By: by})
		return s.change(func(state *State) { state.Hold, state.Degraded = nil, "" })
	}
	if paused == nil {
		return &Refusal{Kind: ErrNothing, Why: "nothing is held or paused"}
	}
	return nil
}

// Progress is a sign of life of the step that runs: its limit starts anew.
func (s *Switcher) Progress() {
	select {
	case s.progress <- struct{}{}:
	default: // one is waiting already
	}
}

// Listed is a release on disk, as Releases lists it.
type Listed struct {
	Name     string    `json:"name"`
	Dir      string    `json:"dir"`
	Live     bool      `json:"live,omitempty"`
	Previous bool      `json:"previous,omitempty"`
	Parked   bool      `json:"parked,omitempty"` // kept warm by the switch that is going on
	InUse    bool      `json:"in_use,omitempty"` // processes run from it
	Bad      *Mark     `json:"bad,omitempty"`
	Modified time.Time `json:"modified"`
}

// Releases are the releases on disk, the last changed first.
func (s *Switcher) Releases() ([]Listed, error) {
	dirs, err := s.o.Tree.list()
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	shot, used := s.Snapshot(), s.inUse()
	list := make([]Listed, 0, len(dirs))
	for _, d := range dirs {
		r := Listed{Name: d.Name(), Dir: s.o.Tree.dir(d.Name()), Modified: d.ModTime()}
		r.Live, r.Previous = r.Dir == shot.Live.Dir, r.Dir == shot.Previous.Dir
		r.InUse = used[r.Dir]
		if mark, ok := shot.Bad[r.Name]; ok {
			r.Bad = &mark
		}
		if c := shot.Current; c != nil && (c.Phase == Rotating || c.Phase == Watching) {
			r.Live, r.Parked = r.Dir == c.To.Dir, r.Dir == c.From.Dir && r.Dir != c.To.Dir
		}
		list = append(list, r)
	}
	return list, nil
}

package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// State is what is remembered of an app between switches. The journal is the truth
// about the last one: what State has not settled yet it learns from there.
type State struct {
	Next     uint64          `json:"next"`     // generation number to give out
	Live     Generation      `json:"live"`     // what serves
	Previous Generation      `json:"previous"` // the last good one before it
	Bad      map[string]Mark `json:"bad,omitempty"`
	Hold     *Hold           `json:"hold,omitempty"`
	Degraded string          `json:"degraded,omitempty"` // why, since a switch could not be taken back
	Settled  string          `json:"settled,omitempty"`  // id of the last switch that is in here
}

// A Mark says why a release is not to be switched to.
type Mark struct {
	Reason string    `json:"reason"`
	When   time.Time `json:"when"`
}

// A Hold keeps an app as it is until Resume. One of superd's own stops only what
// the link asks for; a person's stops every switch but a rollback.
type Hold struct {
	Reason string    `json:"reason"`
	By     By        `json:"by"`
	Human  bool      `json:"human"`
	Since  time.Time `json:"since"`
}

// stops tells whether a request has to wait for Resume. A link that somebody moves asks
// as superd itself.
func (h *Hold) stops(q Request) bool {
	asked := q.By != By{} || !q.watched
	return h != nil && (!asked || h.Human && q.Kind != KindRollback)
}

// maxMarks bounds the bad marks; the oldest is forgotten.
const maxMarks = 50

// settle takes in how a switch ended. Doing it twice changes nothing.
func (s *State) settle(r Record) {
	if r.Verdict == Live {
		s.Degraded = ""
		delete(s.Bad, r.To.Release)
		if r.From.Release != r.To.Release && !r.From.IsZero() {
			s.Previous = r.From
		}
		if s.Hold != nil && !s.Hold.Human {
			s.Hold = nil
		}
	}
	if r.Blame {
		s.mark(r.To.Release, Mark{Reason: r.Cause, When: r.Ended})
	}
	if r.Verdict == Degraded {
		s.Degraded = fmt.Sprintf("switch %s failed (%s) and could not be taken back", r.ID, clip(r.Cause, maxLine))
		if s.Hold == nil {
			s.Hold = &Hold{Reason: s.Degraded, Since: r.Ended}
		}
	}
	s.Live, s.Settled = r.Live, r.ID
	s.Next = max(s.Next, r.To.Number+1)
}

func (s *State) mark(release string, m Mark) {
	if s.Bad == nil {
		s.Bad = map[string]Mark{}
	}
	m.Reason = clip(m.Reason, maxLine)
	s.Bad[release] = m
	if len(s.Bad) > maxMarks {
		s.forget()
	}
}

// forget drops the oldest mark.
func (s *State) forget() {
	oldest := ""
	for name, other := range s.Bad {
		if oldest == "" || other.When.Before(s.Bad[oldest].When) {
			oldest = name
		}
	}
	delete(s.Bad, oldest)
}

// StateFile keeps State on disk in a way that a full disk cannot stop: see slots.
type StateFile struct {
	slots *slots
	first State
}

// OpenState opens the state of an app at path, or makes it. With ErrDamaged it is
// usable and empty.
func OpenState(path string) (*StateFile, error) {
	first := State{Next: 1}
	slots, err := openSlots(path, &first)
	if slots == nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err != nil {
		return &StateFile{slots, State{Next: 1}}, fmt.Errorf("open state: %w", err)
	}
	return &StateFile{slots, first}, nil
}

// save returns when s is safe on disk; on an error what was there before is. If need
// be it leaves out marks: names and reasons may be of bytes that take room in JSON.
func (f *StateFile) save(s State) error {
	document, err := json.Marshal(s)
	for err == nil && len(document) > maxDocument && len(s.Bad) > 0 {
		s.Bad = maps.Clone(s.Bad)
		s.forget()
		document, err = json.Marshal(s)
	}
	if err != nil {
		return err
	}
	if err := f.slots.store(document); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// Close closes the file.
func (f *StateFile) Close() error { return f.slots.close() }

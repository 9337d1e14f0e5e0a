package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A LinkWatch follows the link current. Deploy tools move it by themselves; once it
// has been quiet for a while, superd runs a switch to where it leads. A link that
// leads nowhere, or to a release that is marked bad, goes back to the live one. What
// is not a link is never touched.
//
// It decides from two things alone: what the link looks like and how the Switcher
// stands. What makes it look is only a hint, and one that is lost costs a pollPause.
type LinkWatch struct {
	o LinkOptions
	s *Switcher

	seen  sight
	since time.Time   // of what is seen
	place string      // the directory that the link led to last
	count uint64      // Tree.moves, when it was seen
	moves []time.Time // to another place, by others
	begun bool        // a switch to what is seen, which need not be repeated
	said  string

	content content

	mu   sync.Mutex
	next *LinkOptions // nil: those that hold are the last ones
}

// LinkOptions say what a LinkWatch may do.
type LinkOptions struct {
	Follow bool          // false: moves are told and not acted on
	Settle time.Duration // how long the link must be quiet
	Grace  time.Duration // how long it may lead nowhere before it goes back
}

// pollPause is how often the link is looked at when nothing hints at it: where links
// lead to links, the one that moved may be anywhere.
const pollPause = 2 * time.Second

// A link that others move more often than that is not followed any longer.
const (
	maxMoves   = 3
	moveWindow = 5 * time.Minute
)

// NewLinkWatch watches the link of the app that s moves.
func NewLinkWatch(s *Switcher, o LinkOptions) *LinkWatch { return &LinkWatch{o: o, s: s} }

// Run watches until ctx ends.
func (w *LinkWatch) Run(ctx context.Context) error {
	hints := hints{link: w.s.o.Tree.current()}
	defer hints.close()
	deaf := ""
	for {
		if why := hints.listen(); why != deaf {
			if deaf = why; deaf != "" {
				w.s.tell(Event{Kind: "app.note", Reason: fmt.Sprintf("the link is looked at every %s only: %s", pollPause, deaf)})
			}
		}
		changed := w.s.changes()
		wait := w.look(ctx, time.Now())
		if !hints.wait(ctx, changed, min(wait, pollPause)) {
			return nil
		}
	}
}

// look looks at the link once, does what is to be done about it, and tells when to
// look again at the latest. How the app stands is asked first: a link that is seen
// after that can only be newer.
func (w *LinkWatch) look(ctx context.Context, now time.Time) time.Duration {
	w.renew()
	shot := w.s.Snapshot()
	if shot.Current == nil && !shot.Settling {
		w.changed(shot.Live)
	}
	w.take(w.s.o.Tree.look(), now)
	if shot.Hold != nil || shot.Current != nil && shot.Current.Watched && shot.Current.By != (By{}) {
		w.moves = nil // Resume begins to count anew; and who adopts a move stands for it
	}
	d := w.decide(shot, now)
	var err error
	switch d.do {
	case deedNone:
	case deedHold:
		err = w.s.holdLink(d.word)
	case deedYield:
		w.s.yield(shot.Current.ID, d.cause)
	case deedReturn:
		err = w.s.returnLink(ctx, w.seen.dir, shot.Live, d.word)
	case deedBegin:
		if _, err = w.s.Begin(ctx, Request{Release: w.seen.dir, watched: true}); err == nil {
			w.begun = true
		}
		if errors.Is(err, ErrBusy) || errors.Is(err, ErrHeld) || errors.Is(err, ErrStopping) || ctx.Err() != nil {
			err = nil // the next look sees what that is
		}
	}
	if err != nil {
		d.word = err.Error()
	}
	w.say(d, shot.Live)
	if d.wait == 0 {
		return pollPause
	}
	return d.wait
}

// take takes in what is seen, and whether others have moved the link to another place.
func (w *LinkWatch) take(v view, now time.Time) {
	first := w.since.IsZero()
	ours := v.moves != w.count && v.dir == v.put
	w.count = v.moves
	if first || v.sight != w.seen {
		w.seen, w.since, w.begun = v.sight, now, false
	}
	if v.sound() && v.dir != w.place {
		if !first && !ours {
			w.moves = append(w.moves, now)
		}
		w.place = v.dir
	}
	w.moves = slices.DeleteFunc(w.moves, func(at time.Time) bool { return now.Sub(at) > moveWindow })
}

// deed is one thing to do about the link.
type deed struct {
	do    deedKind
	word  string // what status says of the link
	cause error  // of deedYield
	wait  time.Duration
}

type deedKind int

const (
	deedNone deedKind = iota
	deedBegin
	deedYield  // our switch gives way
	deedReturn // the link goes back to the live release
	deedHold
)

// decide is the whole policy. It only looks, and does not act.
func (w *LinkWatch) decide(shot Snapshot, now time.Time) deed {
	quiet := now.Sub(w.since)
	link, live := w.s.o.Tree.current(), shot.Live.Release
	mark, bad := shot.Bad[w.seen.release()]
	switch {
	case shot.Settling || shot.Live.IsZero():
		return deed{} // the Switcher is looking at the link by itself
	case w.o.Follow && shot.Hold == nil && len(w.moves) > maxMoves:
		return deed{do: deedHold, word: fmt.Sprintf("the link %s was moved %d times in %s, last to %s", link, len(w.moves), moveWindow, w.place)}
	case shot.Current != nil:
		return w.amid(*shot.Current, quiet)
	case w.seen.dir == shot.Live.Dir:
		return deed{}
	case quiet < w.o.Settle:
		return deed{wait: w.o.Settle - quiet}
	case w.seen.blocked != "":
		return deed{word: fmt.Sprintf("%s; superd leaves it alone, and stays on %s", w.seen.blocked, live)}
	case !w.o.Follow:
		return deed{word: fmt.Sprintf("%s and is not followed: follow_link is off, and %s stays live", w.about(), live)}
	case shot.Hold != nil:
		return deed{word: fmt.Sprintf("%s and is not followed: the app is held; %s stays live until superctl resume", w.about(), live)}
	case w.seen.lost != "":
		return w.lost(live, quiet)
	case bad:
		return deed{do: deedReturn, word: fmt.Sprintf("%s, which is marked bad (%s)", w.about(), mark.Reason)}
	case w.begun:
		return deed{word: fmt.Sprintf("%s, and the switch to it ended without that: superctl history tells why; move the link again, or superctl switch", w.about())}
	}
	return deed{do: deedBegin}
}

// amid is what to do while a switch is going on.
func (w *LinkWatch) amid(c Record, quiet time.Duration) deed {
	cause := c.displaced(w.seen.dir)
	switch {
	case cause == nil || !w.o.Follow || !w.seen.sound():
		return deed{}
	case quiet < w.o.Settle:
		return deed{wait: w.o.Settle - quiet}
	}
	return deed{do: deedYield, cause: cause}
}

// lost is what to do about a link that leads to no release.
func (w *LinkWatch) lost(live string, quiet time.Duration) deed {
	if quiet < w.o.Grace {
		return deed{
			wait: w.o.Grace - quiet,
			word: fmt.Sprintf("%s; %s stays live, and the link goes back to it after %s", w.seen.lost, live, w.o.Grace),
		}
	}
	return deed{do: deedReturn, word: w.seen.lost}
}

func (w *LinkWatch) about() string {
	if w.seen.sound() {
		return fmt.Sprintf("the link %s leads to %s", w.s.o.Tree.current(), filepath.Base(w.seen.dir))
	}
	return w.seen.lost
}

// say keeps what is wrong with the link for status, and tells it once.
func (w *LinkWatch) say(d deed, live Generation) {
	word := d.word
	if d.do == deedHold || d.do == deedReturn && w.s.o.Tree.leadsTo(live) {
		word = "" // it was told when it was done
	}
	if word == w.said {
		return
	}
	w.said = word
	w.s.update(func() { w.s.linkWord = word })
	if word != "" {
		w.s.tell(Event{Kind: "app.note", Reason: word})
	}
}

// holdLink keeps the app on what is live, whatever the link does, until Resume.
func (s *Switcher) holdLink(why string) error {
	hold := &Hold{Reason: clip(why, maxReason), Since: time.Now()}
	s.tell(Event{Kind: "app.held", Reason: hold.Reason})
	return s.change(func(state *State) {
		if state.Hold == nil {
			state.Hold = hold
		}
	})
}

// returnLink moves the link back to live, if it still leads to was: "" if it is missing.
func (s *Switcher) returnLink(ctx context.Context, was string, live Generation, why string) error {
	if _, err := s.o.Tree.Resolve(live.Dir); err != nil {
		return fmt.Errorf("%s; it cannot go back: %w", why, err)
	}
	m := s.machine(Record{})
	err := m.within(ctx, m.Limits.Link, func(ctx context.Context) error {
		return s.o.Parts.Files.Point(ctx, Generation{Number: live.Number, Dir: was}, live)
	})
	switch {
	case err == nil:
		s.tell(Event{Kind: "app.note", To: live, Reason: fmt.Sprintf("%s; the link was put back to %s", why, live.Release)})
	case errors.Is(err, ErrLinkMoved) || errors.Is(err, ErrStopping):
		return nil // it is somewhere else by now: that is seen next
	default:
		return fmt.Errorf("%s; putting the link back failed: %w", why, err)
	}
	return nil
}

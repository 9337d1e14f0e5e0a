package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// Adopt begins the switch to where the link leads, or joins it: for a script that has
// moved the link by itself and wants to know what becomes of it. It does not wait
// until the link is quiet, and works also where links are not followed. The record
// tells the release also with ErrAlreadyLive.
//
// Who names a release wants that one: what superd has taken back meanwhile, the link
// included, is then not mistaken for a success.
func (s *Switcher) Adopt(ctx context.Context, q Request) (Record, error) {
	q.watched = true
	want, err := s.wanted(q.Release)
	if err != nil {
		return Record{}, err
	}
	for {
		seen := s.o.Tree.look().sight
		if err := seen.refused(); err != nil {
			return Record{}, err
		}
		r, changed := s.join(seen)
		switch {
		case r.ID != "" && (want == "" || want == r.To.Dir):
			return r, nil
		case want != "" && want != seen.dir:
			return Record{}, s.leadsElsewhere(want, seen)
		case changed == nil:
			q.Release = seen.dir
			r, err := s.Begin(ctx, q)
			if errors.Is(err, ErrBusy) && s.mayJoin() {
				continue
			}
			return s.adopted(ctx, q, seen, r, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}

// wanted is the directory of the release that is named, "" if none is.
func (s *Switcher) wanted(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	g, err := s.target(Request{Release: name}, State{})
	return g.Dir, err
}

// refused tells why what is seen cannot be adopted.
func (s sight) refused() error {
	switch {
	case s.blocked != "":
		return &Refusal{Kind: ErrRejected, Why: s.blocked, Hint: "superd leaves it alone: mend it by hand"}
	case s.lost != "":
		return &Refusal{Kind: ErrRejected, Why: s.lost, Hint: "superctl releases lists them"}
	}
	return nil
}

// leadsElsewhere refuses to adopt another release than the one that is wanted, and
// tells what has become of that.
func (s *Switcher) leadsElsewhere(want string, seen sight) error {
	why := fmt.Sprintf("the link leads to %s, not to %s", seen.release(), filepath.Base(want))
	if all := s.History(); len(all) > 0 {
		if last := all[len(all)-1]; last.Watched && last.To.Dir == want && last.Cause != "" {
			why += fmt.Sprintf("; the switch to that ended %s: %s", last.Verdict, last.Cause)
		}
	}
	return &Refusal{Kind: ErrLinkMoved, Why: why, Hint: "superctl history tells more"}
}

// adopted is how an Adopt that could not join ended. A link to a release that must
// not be live does not stay there.
func (s *Switcher) adopted(ctx context.Context, q Request, seen sight, r Record, err error) (Record, error) {
	if err == nil {
		return r, nil
	}
	shot := s.Snapshot()
	mark, bad := shot.Bad[seen.release()]
	if errors.Is(err, ErrRejected) && bad && !q.AllowBad && shot.Current == nil && shot.Hold == nil && !shot.Live.IsZero() {
		word := fmt.Sprintf("the link leads to %s, which is marked bad (%s)", seen.release(), mark.Reason)
		return Record{}, errors.Join(err, s.returnLink(ctx, seen.dir, shot.Live, word))
	}
	return Record{To: Generation{Release: seen.release(), Dir: seen.dir}}, err
}

// join finds the running switch to where the link leads. If another one has lost the
// link it gives way; changed is closed when there may be news of its end.
func (s *Switcher) join(seen sight) (r Record, changed <-chan struct{}) {
	s.mu.Lock()
	c := s.current
	if c == nil || s.stopped {
		s.mu.Unlock()
		return Record{}, nil
	}
	record, over, goes := c.record, c.over, s.changed
	s.mu.Unlock()
	cause, back := record.displaced(seen.dir), record.Phase == RollingBack
	switch {
	case over, back && record.Moved:
		return Record{}, goes
	case seen.dir == record.To.Dir, back && record.Watched && seen.dir == record.From.Dir: // it has put the link back
		return record, nil
	case cause == nil:
		return Record{}, nil // the link is where it was before: there is nothing to adopt yet
	}
	s.yield(record.ID, cause)
	return Record{}, goes
}

// mayJoin tells whether there is a switch that the next join has not seen.
func (s *Switcher) mayJoin() bool {
	c := s.Snapshot().Current
	if c == nil {
		return false
	}
	seen := s.o.Tree.look().sight
	return seen.sound() && (seen.dir == c.To.Dir || c.displaced(seen.dir) != nil)
}

// displaced tells why a switch must not go on with the link where it is: nil if it
// may. After users were moved, a link that leads to the old release again was moved
// back by someone who wants that one.
func (r Record) displaced(where string) error {
	moved := r.Phase == Rotating || r.Phase == Watching
	switch {
	case where == r.To.Dir:
		return nil
	case where == r.From.Dir && moved:
		return fmt.Errorf("%w: the link was moved back to %s", ErrAborted, r.From.Release)
	case where == r.From.Dir && !r.Watched:
		return nil
	}
	return fmt.Errorf("%w, to %s", ErrLinkMoved, where)
}

// yield takes a switch back because the link was moved; it does nothing when that
// switch has ended, goes back already, or is past the point of no return.
func (s *Switcher) yield(id string, cause error) {
	s.mu.Lock()
	r := s.current
	if r == nil || r.record.ID != id || r.over || r.final || r.aborted != nil {
		s.mu.Unlock()
		return
	}
	r.aborted = cause
	if r.cancel != nil {
		r.cancel(cause)
	}
	record := r.record
	s.wake()
	s.mu.Unlock()
	s.tell(Event{
		Kind: "switch.aborting", Switch: record.ID, Phase: record.Phase, From: record.From, To: record.To, Reason: cause.Error(),
	})
}

package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A Switch is one attempt to replace generation From by generation To. Run it
// once, or Resume what the journal has of it. When either returns, To serves alone
// or From does, or the error says Degraded and something serves.
type Switch struct {
	Record
	Parts
	Journal Journal
	Limits  Limits

	Tell      func(Event)       // hears every phase, pause and note; required
	Progress  <-chan struct{}   // a sign of life of the running step: its limit starts anew
	GoOn      <-chan struct{}   // a human says that a paused switch may try again
	Stop      <-chan struct{}   // is closed when superd stops: lays the switch down for Resume
	Helpless  func(error) bool  // tells whether a verb failed because superd is at its end; nil: never
	Failpoint func(name string) // nil in production: see Failpoints
}

// Parts are what a switch moves.
type Parts struct {
	Files   Files
	Web     Web
	Workers Workers
	Checks  Checks
	Traffic Traffic
}

// A Journal remembers how far a switch came.
type Journal interface {
	// Enter returns when r is safe on disk.
	Enter(r Record) error
	// Last is the last record that was entered, zero if there was none.
	Last() Record
}

type verb func(ctx context.Context) error

type step struct {
	phase Phase
	limit time.Duration
	do    verb
	undo  verb
}

// steps is the whole story of a switch, in order. When a step fails, that step and
// every one above it are undone, latest first – only users come before all: see
// undos. An undo must work whether its do never ran, ran halfway, or ran twice.
func (s *Switch) steps() []step {
	from, to, l := s.From, s.To, s.Limits
	steps := []step{
		{Preparing, l.Prepare, s.prepare, s.giveBack},
		{Starting, l.Start, on(s.Web.Start, to), on(s.Web.Retire, to)},
		{Verifying, l.Verify, s.verify, on(s.Workers.Remove, to)},
		{Canary, l.Canary, s.canary, on(s.Web.Promote, from)},
		{Promoting, l.Promote, s.promote(from, to), s.promote(to, from)},
		{Rotating, l.Rotate, s.rotate, on(s.Workers.Rotate, from)},
		{Watching, l.Watch, s.watch, nothing},
	}
	if s.Sharing == nil {
		steps = slices.DeleteFunc(steps, func(st step) bool { return st.phase == Canary })
	}
	return steps
}

// Run performs the switch. Cancelling ctx asks for the old generation back, for the
// reason that is its cause; it does not abandon the rollback that follows. Closing
// Stop lays the switch down where it is, and the error is ErrStopping.
func (s *Switch) Run(ctx context.Context) error {
	return s.forward(about(ctx, &s.Record), Preparing)
}

// Resume settles a switch that was cut short by the end of superd or of the
// machine. Before the link may have moved it goes back. Later the link decides:
// at From back, at To on once more, elsewhere it is someone else's. It always goes
// on from Promoting, for after a reboot nothing runs, and otherwise that is a no-op.
func (s *Switch) Resume(ctx context.Context) error {
	ctx = about(ctx, &s.Record)
	switch s.Phase {
	case Preparing, Starting, Verifying, Canary:
		return s.rollBack(ctx, s.Phase, ErrInterrupted)
	case Promoting, Rotating, Watching:
		if err := s.mayGoOn(ctx); err != nil {
			return s.rollBack(ctx, s.Phase, err)
		}
		if s.Waits == "" {
			s.Resumed++
		}
		return s.forward(ctx, Promoting)
	case RollingBack:
		return s.undo(ctx, errors.New(s.Cause))
	case Committing:
		return s.finish(ctx)
	case Ended:
		return nil
	}
	return fmt.Errorf("resume switch %s: the journal ends in phase %q, which this superd does not know", s.ID, s.Phase)
}

// mayGoOn says why a switch that users may have seen must not go on, if so.
func (s *Switch) mayGoOn(ctx context.Context) error {
	where, err := s.Files.Where(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrLinkMoved, err)
	case where == s.To.Dir && s.Resumed > 0 && !s.NoRollback && s.Waits == "": // while it waits for a person superd may die as often as it likes
		return fmt.Errorf("%w for the second time", ErrInterrupted)
	case where == s.To.Dir:
		return nil
	case where == s.From.Dir:
		return fmt.Errorf("%w, and the link is at %s", ErrInterrupted, s.From)
	}
	return fmt.Errorf("%w, to %s", ErrLinkMoved, where)
}

func (s *Switch) forward(ctx context.Context, first Phase) error {
	steps := s.steps()
	for _, st := range steps[indexOf(steps, first):] {
		if err := s.do(ctx, st); err != nil {
			return s.rollBack(ctx, cmp.Or(s.Phase, Preparing), err) // st may not have been entered
		}
	}
	if err := s.enter(ctx, Committing); err != nil {
		return s.rollBack(ctx, Watching, err)
	}
	return s.finish(ctx)
}

// do enters the phase before acting, so that a crash at any instant leaves a record
// of the furthest thing that may have happened.
func (s *Switch) do(ctx context.Context, st step) error {
	for {
		if err := s.enter(ctx, st.phase); err != nil {
			return err
		}
		if s.Waits == "" || st.phase != Watching { // else an earlier superd has paused it
			err := s.within(ctx, st.limit, st.do)
			if err == nil {
				s.passed(st.phase)
				return nil
			}
			if !s.pauses(ctx, st.phase, err) {
				return err
			}
			s.Waits, s.Lines = clip(err.Error(), maxReason), lastLines(err)
			s.note("pause", s.Journal.Enter(s.Record))
		}
		s.Tell(Event{Kind: "switch.paused", Phase: st.phase, Reason: s.Waits, Lines: s.Lines})
		if again, err := s.pause(ctx, st); err != nil || !again {
			return err
		}
	}
}

// passed says that the phase went well; with it ends the pause that an earlier superd
// had it in.
func (s *Switch) passed(ph Phase) {
	if ph == s.Reached {
		s.Waits, s.Lines = "", nil
	}
	s.hit(ph, "after")
}

// lookAgain is how often a switch that is paused because of something else looks
// whether that has recovered.
const lookAgain = 5 * time.Second

// pause waits for a person, who has the step done again, or until what was inconclusive
// is not any longer: then the whole step is done.
func (s *Switch) pause(ctx context.Context, st step) (again bool, err error) {
	for {
		var look <-chan time.Time
		if !s.NoRollback {
			look = time.After(lookAgain)
		}
		select {
		case <-s.GoOn:
			s.Waits, s.Lines = "", nil
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-s.Stop:
			return false, ErrStopping
		case <-look:
		}
		err := s.within(ctx, st.limit, st.do)
		switch {
		case err == nil:
			s.Waits, s.Lines = "", nil
			s.Tell(Event{Kind: "switch.resumed", Phase: st.phase, Reason: "what was inconclusive has recovered"})
			s.hit(st.phase, "after")
			return false, nil
		case !s.pauses(ctx, st.phase, err):
			return false, err
		}
	}
}

// pauses tells whether a failure waits for a human: users are on the new release,
// and it is not to blame, or must not be taken back (its migrations, say).
func (s *Switch) pauses(ctx context.Context, at Phase, err error) bool {
	users := at == Rotating || at == Watching
	return users && ctx.Err() == nil && !errors.Is(err, ErrLinkMoved) && !errors.Is(err, ErrAborted) && !errors.Is(err, ErrStopping) &&
		(s.NoRollback || errors.Is(err, ErrInconclusive))
}

// rollBack writes down that the switch goes back and why, then goes back. A journal
// that cannot be written does not stop it: what the disk says instead leads the
// next superd to the same end.
func (s *Switch) rollBack(ctx context.Context, reached Phase, cause error) error {
	if errors.Is(cause, ErrStopping) {
		return cause
	}
	ctx = context.WithoutCancel(ctx)
	s.reach(reached)
	s.Cause, s.Lines = clip(cause.Error(), maxReason), lastLines(cause)
	s.Moved, s.Waits = errors.Is(cause, ErrLinkMoved), ""
	s.Blame = s.blames(cause)
	s.note("roll back", s.enter(ctx, RollingBack))
	return s.undo(ctx, cause)
}

// undo takes back every step that was reached. It keeps going past one that cannot
// be undone: what guards the serving generation is not the order here but that
// Retire and Remove refuse what is in use. It is tried once; only when superd stops
// in the middle of it the next one goes on.
func (s *Switch) undo(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx)
	failure := &Failure{Phase: s.Reached, Cause: cause}
	s.Live = s.From
	for _, st := range s.undos() {
		s.hit("rollback", string(st.phase), "before")
		err := s.within(ctx, st.limit, st.undo)
		if errors.Is(err, ErrStopping) {
			return err
		}
		if err != nil {
			failure.Undo = errors.Join(failure.Undo, fmt.Errorf("undo %s: %w", st.phase, err))
		}
		s.hit("rollback", string(st.phase), "after")
	}
	switch {
	case failure.Undo != nil:
		failure.Verdict = Degraded
	case s.Moved:
		failure.Verdict = Conflict
	case s.Reached == Preparing:
		failure.Verdict = Rejected
	default:
		failure.Verdict = RolledBack
	}
	s.end(ctx, failure.Verdict)
	return failure
}

// undos are the steps to take back, in their order: users first, for they are sent
// back in one rename while workers take their time; then latest first.
func (s *Switch) undos() []step {
	steps := s.steps()
	steps = steps[:indexOf(steps, s.Reached)+1]
	if s.Reached != Canary { // or what undoes Promoting has done it
		steps = slices.DeleteFunc(steps, func(st step) bool { return st.phase == Canary })
	}
	slices.Reverse(steps)
	slices.SortStableFunc(steps, func(a, b step) int {
		switch {
		case a.phase == Promoting && b.phase != Promoting:
			return -1
		case b.phase == Promoting && a.phase != Promoting:
			return 1
		}
		return 0
	})
	for i := range steps {
		steps[i].limit = s.Limits.Undo
	}
	return steps
}

// finish is what is left once Committing is on disk. All of it is safe to repeat,
// none of it is a reason to go back. The error is nil or ErrStopping.
func (s *Switch) finish(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	retire := s.within(ctx, s.Limits.Retire, on(s.Web.Retire, s.From))
	if errors.Is(retire, ErrStopping) {
		return ErrStopping
	}
	s.note("retire "+s.From.String(), retire)
	s.hit(Committing, "retired")
	finish := s.within(ctx, s.Limits.Finish, func(ctx context.Context) error {
		return s.Files.Finish(ctx, s.From, s.To)
	})
	if errors.Is(finish, ErrStopping) {
		return ErrStopping
	}
	s.note("finish", finish)
	s.hit(Committing, "after")
	s.Live = s.To
	s.end(ctx, Live)
	return nil
}

func (s *Switch) end(ctx context.Context, v Verdict) {
	s.Verdict, s.Ended = v, time.Now()
	s.note("end", s.enter(ctx, Ended))
}

// enter puts a phase on disk before anything of it is done.
func (s *Switch) enter(ctx context.Context, p Phase) error {
	s.hit(p, "entering")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.Tell(Event{Kind: "switch.phase", Phase: p, Reason: s.Cause})
	if ctx.Err() != nil { // whoever was told may have been the one to cancel: see Switcher.follow
		return context.Cause(ctx)
	}
	s.Phase = p
	s.reach(p)
	if err := s.Journal.Enter(s.Record); err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	s.hit(p, "before")
	return nil
}

// reach keeps the furthest step: one that is done again after a crash does not
// make those behind it undone.
func (s *Switch) reach(p Phase) {
	steps := s.steps()
	if indexOf(steps, p) > indexOf(steps, s.Reached) {
		s.Reached = p
	}
}

func (s *Switch) prepare(ctx context.Context) error {
	return s.Files.Prepare(ctx, s.From, s.To)
}

// giveBack points the link at the old generation again if the switch began because
// the link had been moved.
func (s *Switch) giveBack(ctx context.Context) error {
	if !s.Watched {
		return nil
	}
	return s.theirs(s.Files.Point(ctx, s.To, s.From))
}

// rotate moves the workers. Ones that cannot start because their database is down do
// not speak against their release.
func (s *Switch) rotate(ctx context.Context) error {
	err := s.blameless(s.Workers.Rotate(ctx, s.To))
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrStopping) {
		return err
	}
	return cmp.Or(s.Traffic.Weigh(ctx, s.To, err), err)
}

func (s *Switch) verify(ctx context.Context) error {
	if err := s.Checks.Verify(ctx, s.To); err != nil {
		return err
	}
	s.hit(Verifying, "checked")
	return s.Workers.Canary(ctx, s.To)
}

// canary lets a part of the users meet the candidate and looks how they fare. Where
// nothing serves there is nobody to be careful of, and the candidate is waited for.
func (s *Switch) canary(ctx context.Context) error {
	err := s.Web.Share(ctx, s.To, s.Sharing.Share)
	if errors.Is(err, ErrNoOther) {
		s.note("canary", fmt.Errorf("all users go to %s at once: %w", s.To, err))
		return nil
	}
	if err != nil {
		return err
	}
	s.hit(Canary, "shared")
	seen, err := s.Traffic.Canary(ctx, s.To)
	seen.Share = s.Sharing.Share
	s.Sharing = &seen
	return err
}

// promote moves the link from was to g, then users. Forward, users stay where they
// are unless the link moved. On the way back they are moved whatever the link does,
// and a link that someone else has moved since stays theirs.
func (s *Switch) promote(was, g Generation) verb {
	back := g == s.From
	if s.Watched && !back {
		was = g // it is there, or it is someone else's
	}
	return func(ctx context.Context) error {
		err := s.within(ctx, s.Limits.Link, func(ctx context.Context) error { return s.Files.Point(ctx, was, g) })
		if !back {
			if err != nil {
				return err
			}
			s.hit(Promoting, "linked")
			return s.Web.Promote(ctx, g)
		}
		err = s.theirs(err)
		s.hit("rollback", string(Promoting), "linked")
		web := s.Web.Promote(ctx, g)
		if web != nil {
			s.Live = s.To // it could not be taken from users
		}
		return errors.Join(err, web)
	}
}

// theirs takes a link that was moved by someone else for settled: theirs wins.
func (s *Switch) theirs(err error) error {
	if errors.Is(err, ErrLinkMoved) {
		s.Moved = true
		return nil
	}
	return err
}

func (s *Switch) watch(ctx context.Context) error {
	if err := s.Traffic.Watch(ctx, s.To); err != nil {
		return err
	}
	where, err := s.Files.Where(ctx)
	if err != nil {
		return errors.Join(ErrLinkMoved, err)
	}
	return s.displaced(where)
}

// blames tells whether a failure speaks against the release itself.
func (s *Switch) blames(cause error) bool {
	if s.Reached == Preparing || s.To.Release == s.From.Release {
		return false
	}
	for _, innocent := range []error{
		ErrAborted, ErrInterrupted, ErrLinkMoved, ErrInconclusive, errJournal,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
	} {
		if errors.Is(cause, innocent) {
			return false
		}
	}
	return true
}

// within runs do until limit has passed without a sign of progress, or superd stops.
func (s *Switch) within(ctx context.Context, limit time.Duration, do verb) error {
	select {
	case <-s.Stop:
		return ErrStopping
	default:
	}
	var watchdog sync.WaitGroup
	defer watchdog.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Stop:
				cancel(ErrStopping)
				return
			case <-s.Progress:
			case <-time.After(limit):
				cancel(fmt.Errorf("took longer than %s", limit))
				return
			}
		}
	})
	err := s.blameless(do(ctx))
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, cause):
		return err
	case err.Error() == ctx.Err().Error(): // says nothing but that it was cancelled
		return cause
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// blameless is err, as ErrStopping if superd is at its end: it may hear of that by a
// verb that fails before Stop is closed.
func (s *Switch) blameless(err error) error {
	if err != nil && s.Helpless != nil && s.Helpless(err) && !errors.Is(err, ErrStopping) {
		return fmt.Errorf("%w: %w", ErrStopping, err)
	}
	return err
}

func (s *Switch) note(what string, err error) {
	if err != nil {
		s.Tell(Event{Kind: "switch.note", Phase: s.Phase, Reason: what + ": " + err.Error(), Lines: lastLines(err)})
	}
}

func on(do func(context.Context, Generation) error, g Generation) verb {
	return func(ctx context.Context) error { return do(ctx, g) }
}

func nothing(context.Context) error { return nil }

func indexOf(steps []step, p Phase) int {
	return slices.IndexFunc(steps, func(st step) bool { return st.phase == p })
}

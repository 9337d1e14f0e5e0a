package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// A Request is what Begin is asked for.
type Request struct {
	Release  string        // a name, a path to it, "latest" or "previous"; empty in a rollback: previous
	Kind     Kind          // empty: KindSwitch
	Restart  bool          // also if it is live already: roll all processes on the same release
	AllowBad bool          // also if it is marked bad
	LockWait time.Duration // how long to wait for another switch to end
	By       By

	watched bool // the link leads to Release already
}

// A turn is a request that waits for the running switch to end. Only the newest
// waits: the others are for a release that nobody wants any more.
type turn struct {
	by      By
	release string
	newer   *turn // has taken its place
}

// settlePatience is how long any request waits for superd to settle.
const settlePatience = 10 * time.Second

// noRollback in a release says that what it does to the data cannot be undone.
const noRollback = "NO_ROLLBACK"

// Begin answers as soon as the switch is accepted; Wait tells how it ended. After
// an error, which is a *Refusal or the cause of ctx, nothing was begun.
func (s *Switcher) Begin(ctx context.Context, q Request) (Record, error) {
	if q.Kind == "" {
		q.Kind = KindSwitch
	}
	mine := &turn{by: q.By, release: q.Release}
	defer s.leave(mine)
	settle, lock := time.After(max(q.LockWait, settlePatience)), time.After(q.LockWait)
	for {
		if ctx.Err() != nil {
			return Record{}, context.Cause(ctx)
		}
		r, ahead, err := s.try(q, mine)
		if err == nil {
			begun := r.record
			s.tell(Event{Kind: "switch.begun", Switch: begun.ID, From: begun.From, To: begun.To, By: q.By, Reason: begun.why()})
			s.begun <- r
			return begun, nil
		}
		if ahead.changed == nil {
			return Record{}, err
		}
		patience := lock
		if ahead.soon {
			patience = settle
		}
		select {
		case <-ahead.changed:
		case <-patience:
			return Record{}, err
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}

// ahead is what a request that comes too early may wait for; zero: nothing.
type ahead struct {
	changed <-chan struct{}
	soon    bool // it is for superd to do, and not long: waited for in any case
}

// try accepts the request, or tells what is in its way. The disk is asked without
// the mutex; if a switch began or ended meanwhile it is asked again.
func (s *Switcher) try(q Request, mine *turn) (*running, ahead, error) {
	for {
		s.mu.Lock()
		before, forward := s.state, !s.o.AutoRollback
		a, err := s.inTheWay(q, mine)
		s.mu.Unlock()
		if err != nil {
			return nil, a, err
		}
		to, err := s.target(q, before)
		if err != nil {
			return nil, ahead{}, err
		}
		if q.watched && to.Dir == before.Previous.Dir { // so is a rollback of a deploy tool
			q.Kind = KindRollback
		}
		keep := forward || exists(filepath.Join(to.Dir, noRollback))
		r, err := s.accept(q, to, keep, before)
		if !errors.Is(err, errOutdated) {
			return r, ahead{}, err
		}
	}
}

// inTheWay tells why a request cannot begin now. The mutex is held.
func (s *Switcher) inTheWay(q Request, mine *turn) (ahead, error) {
	switch {
	case s.stopped:
		return ahead{}, &Refusal{Kind: ErrStopping, Why: "superd is stopping"}
	case mine.newer != nil:
		return ahead{}, &Refusal{Kind: ErrBusy, Why: fmt.Sprintf(
			"gave way to a newer request of %s, for %s", mine.newer.by, mine.newer.release)}
	case s.current == nil && s.settling:
		return ahead{s.changed, true}, &Refusal{
			Kind: ErrBusy, Why: "superd has just started and is still bringing up " + s.state.Live.String(),
			Hint: "wait for it: superctl status, or --lock-wait",
		}
	case s.current == nil && s.quiet:
		return ahead{s.changed, true}, &Refusal{
			Kind: ErrBusy, Why: "the configuration of the app is being changed",
			Hint: "ask again in a moment, or --lock-wait",
		}
	case s.current == nil:
		return ahead{}, nil
	case s.current.over:
		return ahead{s.changed, true}, s.current.busy()
	case q.LockWait <= 0 && !s.settling:
		return ahead{}, s.current.busy()
	case q.LockWait > 0 && s.queued != mine:
		if s.queued != nil {
			s.queued.newer = mine
		}
		s.queued = mine
		s.wake()
	}
	return ahead{s.changed, s.settling}, s.current.busy()
}

// leave is the end of a turn, however it ended.
func (s *Switcher) leave(mine *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queued == mine {
		s.queued = nil
	}
}

// busy says who is in the way. The mutex is held.
func (r *running) busy() error {
	why := fmt.Sprintf("switch %s to %s, begun by %s %s ago, is %s",
		r.record.ID, r.record.To.Release, r.record.By, time.Since(r.record.Started).Round(time.Second), r.record.Phase)
	if r.paused != "" {
		why += " and paused: " + r.paused
	}
	return &Refusal{Kind: ErrBusy, Why: why, Hint: "wait for it (--lock-wait 15m), or take it back: superctl abort"}
}

// errOutdated: a switch began or ended while the disk was asked.
var errOutdated = errors.New("outdated")

// accept makes the request the running switch. What it was resolved by must still
// hold: previous changes only when live does.
func (s *Switcher) accept(q Request, to Generation, keep bool, before State) (*running, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil || s.stopped || s.state.Live != before.Live {
		return nil, errOutdated
	}
	if err := s.state.admit(q, to); err != nil {
		return nil, err
	}
	now := time.Now()
	to.Number = s.state.Next
	r := &running{since: now, goOn: make(chan struct{}, 1), record: Record{
		ID:   fmt.Sprintf("%s-%s-%d", now.UTC().Format("20060102-150405"), s.o.App, to.Number), // of one superd: two apps may begin in one second
		Kind: q.Kind, From: s.state.Live, To: to, By: q.By, Started: now, BootID: s.o.BootID,
		Watched: q.watched, AllowBad: q.AllowBad, Restart: to.Dir == s.state.Live.Dir, NoRollback: keep, Phase: Preparing,
	}}
	if s.o.CanaryShare > 0 && q.Kind != KindRollback && !s.state.Live.IsZero() && s.state.Degraded == "" {
		r.record.Sharing = &Sharing{Share: s.o.CanaryShare}
	}
	s.current = r
	if s.giveWay != nil {
		s.giveWay(errGaveWay)
	}
	s.wake()
	return r, nil
}

// target is the release that is asked for.
func (s *Switcher) target(q Request, state State) (Generation, error) {
	name := q.Release
	if name == "" && q.Kind == KindRollback {
		name = "previous"
	}
	if name == "previous" {
		if state.Previous.IsZero() {
			return Generation{}, &Refusal{
				Kind: ErrNothing, Why: "there is no release to go back to",
				Hint: "name one: superctl releases lists them",
			}
		}
		name = state.Previous.Release
	}
	to, err := s.o.Tree.Resolve(name)
	if err != nil {
		return Generation{}, &Refusal{Kind: ErrRejected, Why: err.Error(), Hint: "superctl releases lists them", Cause: err}
	}
	return to, nil
}

// admit tells what speaks against a switch to a release, as far as is remembered.
func (s *State) admit(q Request, to Generation) error {
	mark, bad := s.Bad[to.Release]
	switch {
	case to.Dir == s.Live.Dir && q.Kind == KindRollback:
		return &Refusal{
			Kind: ErrRejected, Why: to.Release + " is live: a rollback goes to another release",
			Hint: "superctl switch --restart rolls its processes",
		}
	case to.Dir == s.Live.Dir && !q.Restart && s.Degraded == "":
		return &Refusal{
			Kind: ErrAlreadyLive, Why: s.Live.String() + " is already live",
			Hint: "--restart rolls all processes on the same release",
		}
	case s.Hold.stops(q):
		return &Refusal{
			Kind: ErrHeld, Why: fmt.Sprintf("held by %s since %s: %s", s.Hold.By, s.Hold.Since.Format(time.DateTime), s.Hold.Reason),
			Hint: "superctl resume; a rollback is possible all the same",
		}
	case bad && !q.AllowBad:
		return &Refusal{
			Kind: ErrRejected, Why: fmt.Sprintf("%s failed at %s: %s", to.Release, mark.When.Format(time.DateTime), mark.Reason),
			Hint: "once it is mended: --allow-bad",
		}
	}
	return nil
}

// DryRun tells why a request would be refused or rejected now, and touches nothing.
// The release it returns is the one that would be switched to; it has no number yet.
// It waits for nobody's turn: a switch that is going on is ErrBusy, also with LockWait.
func (s *Switcher) DryRun(ctx context.Context, q Request) (Generation, error) {
	q.LockWait = 0 // inTheWay would queue the request
	s.mu.Lock()
	state := s.state
	state.Bad = maps.Clone(state.Bad)
	_, busy := s.inTheWay(q, &turn{})
	s.mu.Unlock()
	if busy != nil {
		return Generation{}, busy
	}
	to, err := s.target(q, state)
	if err != nil {
		return Generation{}, err
	}
	if err := state.admit(q, to); err != nil {
		return to, err
	}
	err = s.o.Parts.Files.Check(ctx, state.Live, to)
	switch {
	case err == nil:
		return to, nil
	case ctx.Err() != nil:
		return to, context.Cause(ctx)
	case errors.Is(err, ErrLinkMoved):
		return to, &Refusal{Kind: ErrLinkMoved, Why: err.Error(), Cause: err}
	}
	return to, &Refusal{Kind: ErrRejected, Why: err.Error(), Cause: err}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

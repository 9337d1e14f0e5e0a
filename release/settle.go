package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// settle finishes what an earlier superd left in the journal.
func (s *Switcher) settle(ctx context.Context) {
	last := s.o.Journal.Last()
	s.update(func() { s.state.Next = max(s.state.Next, last.To.Number+1) })
	switch {
	case last.ID == "":
	case last.Phase == Ended && s.state.Settled != last.ID:
		s.conclude(last)
	case last.Phase == Ended && !s.o.History.has(last.ID):
		s.note("app.note", last, s.o.History.append(last))
	case last.Phase != Ended && s.state.Settled != last.ID:
		s.resume(ctx, last)
	}
}

// resume goes on with a switch that was cut short, after making sure that the site
// answers: the journal says by which generation, where Resume does not begin with it.
func (s *Switcher) resume(ctx context.Context, last Record) {
	r := &running{record: last, since: time.Now(), goOn: make(chan struct{}, 1)}
	r.final = last.Phase == Committing || last.Phase == RollingBack
	s.update(func() { s.current = r })
	why := "superd is back in the middle of it"
	if last.BootID != s.o.BootID {
		why = "the machine was started again in the middle of it"
	}
	s.note("switch.note", last, fmt.Errorf("%s, in phase %s", why, last.Phase))
	if g := last.standing(); !g.IsZero() {
		s.note("switch.note", last, s.bring(ctx, g))
	}
	s.perform(ctx, r, (*Switch).Resume)
}

// standing is the generation that a switch in its phase leaves to users, zero where
// Resume begins with moving them.
func (r Record) standing() Generation {
	switch r.Phase {
	case Preparing, Starting, Verifying:
		return r.From
	case Committing:
		return r.To
	case RollingBack:
		if r.Reached == Preparing || r.Reached == Starting || r.Reached == Verifying {
			return r.From
		}
	case Promoting, Rotating, Watching, Ended:
	}
	return Generation{}
}

// bring makes web and workers run on g. One does not wait for the other to be well.
func (s *Switcher) bring(ctx context.Context, g Generation) error {
	m := s.machine(ctx, Record{})
	var web error
	if !s.inUse()[g.Dir] {
		web = m.within(ctx, m.Limits.Start, on(m.Web.Start, g))
	}
	if web == nil {
		web = m.within(ctx, m.Limits.Promote, on(m.Web.Promote, g))
	}
	if web != nil {
		web = fmt.Errorf("bring up the web of %s: %w", g, web)
	}
	workers := m.within(ctx, m.Limits.Rotate, on(m.Workers.Rotate, g))
	if workers != nil {
		workers = fmt.Errorf("bring up the workers of %s: %w", g, workers)
	}
	return errors.Join(web, workers)
}

// inUse is the directories that processes run from.
func (s *Switcher) inUse() map[string]bool {
	if s.o.Tree.InUse == nil {
		return nil
	}
	return s.o.Tree.InUse()
}

// upkeep makes live what is to be live, at the start of superd, and tries for as
// long as it does not succeed: between switches, ever slower. Once it has, a pool or
// a master that dies is the business of workers and fpm. After a switch that ended
// degraded it keeps still: what answers is not to be moved again without a person.
type upkeep struct {
	s     *Switcher
	done  bool
	pause time.Duration // until it is tried again
	next  <-chan time.Time
}

// The pauses between attempts: the first, the longest, and while a link is missing.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
	linkPause  = 2 * time.Second
)

// tend makes an attempt if one is due.
func (u *upkeep) tend(ctx context.Context) {
	if u.done || u.next != nil || ctx.Err() != nil {
		return
	}
	g, err := u.s.choose(ctx)
	if err == nil {
		err = u.s.bring(ctx, g)
		u.pause = min(max(2*u.pause, firstPause), maxPause)
	} else {
		u.pause = linkPause
	}
	if errors.Is(err, ErrStopping) {
		return
	}
	u.s.troubled(g, err)
	if err != nil {
		u.next = time.After(u.pause)
		return
	}
	u.done = true
	u.s.clear(ctx)
}

// after takes in how a switch between two attempts ended.
func (u *upkeep) after(v Verdict) {
	switch v {
	case Live, Degraded:
		u.done = true
	case Rejected, RolledBack, Conflict:
	}
}

// troubled tells what is wrong, when that has changed.
func (s *Switcher) troubled(g Generation, err error) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	s.mu.Lock()
	before := s.trouble
	s.trouble = trouble
	s.wake()
	s.mu.Unlock()
	switch trouble {
	case before:
	case "":
		s.tell(Event{Kind: "app.note", To: g, Reason: "runs on " + g.String()})
	default:
		s.tell(Event{Kind: "app.note", To: g, Reason: trouble, Lines: lastLines(err)})
	}
}

// clear retires what was live before, in case the last superd did not come to it.
func (s *Switcher) clear(ctx context.Context) {
	m := s.machine(ctx, Record{})
	if was := s.Snapshot().Previous; !was.IsZero() {
		s.note("app.note", Record{}, m.within(ctx, m.Limits.Retire, on(m.Web.Retire, was)))
	}
}

// choose tells what is to be live. That is what was, while it runs. When nothing of
// it runs, after a full stop, the link wins: whoever moved it meant something by it.
func (s *Switcher) choose(ctx context.Context) (Generation, error) {
	live := s.Snapshot().Live
	link, err := s.linked(ctx)
	runs := !live.IsZero() && s.inUse()[live.Dir]
	_, gone := s.o.Tree.Resolve(live.Release)
	switch {
	case live.IsZero() && err != nil:
		return Generation{}, fmt.Errorf("nothing is live yet: %w", err)
	case live.IsZero():
		return s.adopt(link, "the link "+s.o.Tree.current()+" leads to it")
	case err == nil && link.Dir != live.Dir && !runs:
		return s.adopt(link, "the link "+s.o.Tree.current()+" leads to it since superd was stopped; was "+live.String())
	case gone != nil:
		return s.lastGood(live, gone)
	case err != nil:
		s.tell(Event{Kind: "app.note", From: live, Reason: fmt.Sprintf("stays on %s: %v", live, err)})
	case link.Dir != live.Dir:
		s.tell(Event{Kind: "app.note", From: live, To: link, Reason: fmt.Sprintf("stays on %s, although the link leads to %s", live, link.Release)})
	}
	return live, nil
}

// linked is the release that the link current leads to, if it may be live.
func (s *Switcher) linked(ctx context.Context) (Generation, error) {
	where, err := s.o.Parts.Files.Where(ctx)
	if err != nil {
		return Generation{}, err
	}
	if where == "" {
		return Generation{}, fmt.Errorf("the link %s is missing", s.o.Tree.current())
	}
	g, err := s.o.Tree.Resolve(filepath.Base(where))
	if err == nil && g.Dir != where {
		err = fmt.Errorf("%s is not a release in %s", where, s.o.Tree.releases())
	}
	if err != nil {
		return Generation{}, fmt.Errorf("the link %s leads astray: %w", s.o.Tree.current(), err)
	}
	if mark, bad := s.Snapshot().Bad[g.Release]; bad {
		return Generation{}, fmt.Errorf("the link %s leads to %s, which is marked bad: %s", s.o.Tree.current(), g.Release, mark.Reason)
	}
	return g, nil
}

// lastGood is what to run when the live release was deleted.
func (s *Switcher) lastGood(live Generation, gone error) (Generation, error) {
	for _, g := range s.good() {
		if at, err := s.o.Tree.Resolve(g.Release); err == nil && g.Release != live.Release {
			return s.adopt(at, fmt.Sprintf("%s is gone", live))
		}
	}
	return live, fmt.Errorf("what is live is gone, and there is no good release to take instead: %w", gone)
}

// adopt makes g what is to be live, as a new generation, before anything of it runs.
func (s *Switcher) adopt(g Generation, why string) (Generation, error) {
	was := s.Snapshot().Live
	err := s.change(func(state *State) {
		g.Number = state.Next
		state.Next++
		if !was.IsZero() && was.Release != g.Release {
			state.Previous = was
		}
		state.Live = g
	})
	s.tell(Event{Kind: "app.note", From: was, To: g, Reason: fmt.Sprintf("%s is to be live: %s", g, why)})
	return g, err
}

// good is the releases that were live and are not marked bad, last first.
func (s *Switcher) good() []Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	var good []Generation
	seen := map[string]bool{"": true}
	for _, g := range append([]Generation{s.state.Live, s.state.Previous}, s.o.History.good()...) {
		if _, bad := s.state.Bad[g.Release]; !bad && !seen[g.Release] {
			good = append(good, g)
		}
		seen[g.Release] = true
	}
	return good
}

package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// settle finishes what an earlier superd left in the journal.
func (s *Switcher) settle(ctx context.Context) {
	last := s.o.Journal.Last()
	switch known := s.settledAlready(last.ID); {
	case last.ID == "":
	case last.Phase != Ended && !known:
		s.resume(ctx, last)
	case last.Phase == Ended && !known:
		s.conclude(last)
	case last.Phase == Ended && !s.o.History.has(last.ID):
		s.note("app.note", last, s.o.History.append(last))
	}
}

func (s *Switcher) settledAlready(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Settled == id
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
	case Preparing, Starting, Verifying, Canary:
		return r.From
	case Committing:
		return r.To
	case RollingBack:
		if r.Reached == Preparing || r.Reached == Starting || r.Reached == Verifying || r.Reached == Canary {
			return r.From
		}
	case Promoting, Rotating, Watching, Ended:
	}
	return Generation{}
}

// bring makes web and workers run on g. One does not wait for the other to be well.
func (s *Switcher) bring(ctx context.Context, g Generation) error {
	m := s.machine(Record{})
	web := m.within(ctx, m.Limits.Start, on(m.Web.Start, g))
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
	cold  bool // nothing ran when superd started
	done  bool
	pause time.Duration    // before the next attempt
	next  <-chan time.Time // of the next attempt
	said  string
}

// The pauses between attempts: the first, the longest, and while nothing can be
// tried because a link or a release is missing.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
	linkPause  = 2 * time.Second
)

// tend makes an attempt if one is due.
func (u *upkeep) tend(ctx context.Context) {
	if u.done || u.next != nil || u.s.stopping() {
		return
	}
	g, word, err := u.s.choose(ctx, u.cold)
	if word != "" && word != u.said {
		u.said = word
		u.s.tell(Event{Kind: "app.note", To: g, Reason: word})
	}
	if err != nil {
		u.pause = linkPause
	} else {
		u.cold = false
		u.pause = min(max(2*u.pause, firstPause), maxPause)
		err = u.attempt(ctx, g)
	}
	if !errors.Is(err, ErrStopping) && !errors.Is(err, errGaveWay) {
		u.s.troubled(g, err)
	}
	if err != nil {
		u.next = time.After(u.pause)
		return
	}
	u.done = true
	u.s.clear(ctx)
}

// errGaveWay: somebody wants to switch to another release, and need not wait until it
// is certain that this one cannot be brought up.
var errGaveWay = errors.New("gave way to a switch")

func (u *upkeep) attempt(ctx context.Context, g Generation) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	u.s.update(func() { u.s.giveWay = cancel })
	defer u.s.update(func() { u.s.giveWay = nil })
	return u.s.bring(ctx, g)
}

// after takes in how a switch ended.
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

// clear retires what was live before, in case an earlier superd did not come to it.
func (s *Switcher) clear(ctx context.Context) {
	m := s.machine(Record{})
	if was := s.Snapshot().Previous; !was.IsZero() {
		s.note("app.note", Record{}, m.within(ctx, m.Limits.Retire, on(m.Web.Retire, was)))
	}
}

// cold tells whether nothing runs of what was live, nor of what was on its way there.
func (s *Switcher) cold() bool {
	used := s.inUse()
	return !used[s.Snapshot().Live.Dir] && !used[s.o.Journal.Last().To.Dir]
}

// choose tells what is to be live, and what is to be said about it. That is what was,
// while it runs. When nothing of it runs, after a full stop, the link wins: whoever
// moved it meant something by it.
func (s *Switcher) choose(ctx context.Context, cold bool) (g Generation, word string, err error) {
	live := s.Snapshot().Live
	link, err := s.linked(ctx)
	cold = cold || !s.inUse()[live.Dir]
	switch {
	case live.IsZero() && err != nil:
		return Generation{}, "", fmt.Errorf("nothing is live yet: %w", err)
	case live.IsZero():
		return s.adopt(link), fmt.Sprintf("%s is live from now on: the link leads to it", link.Release), nil
	case err == nil && link.Dir != live.Dir && cold:
		return s.adopt(link), fmt.Sprintf("%s is live from now on, and not %s: nothing ran when superd started, and the link leads to it",
			link.Release, live.Release), nil
	}
	if _, gone := s.o.Tree.Resolve(live.Release); errors.Is(gone, fs.ErrNotExist) {
		return s.lastGood(ctx, live, gone)
	}
	switch {
	case err != nil:
		word = fmt.Sprintf("stays on %s: %v", live, err)
	case link.Dir != live.Dir:
		word = fmt.Sprintf("stays on %s, which runs, although the link leads to %s", live, link.Release)
	}
	return live, word, nil
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

// lastGood is what to run when the live release was deleted. The link that still
// leads there is moved first: should superd end here, it is what the next one goes by.
func (s *Switcher) lastGood(ctx context.Context, live Generation, gone error) (Generation, string, error) {
	for _, g := range s.good() {
		at, err := s.o.Tree.Resolve(g.Release)
		if err != nil || at.Dir == live.Dir {
			continue
		}
		at.Number = g.Number
		m := s.machine(Record{})
		s.note("app.note", Record{From: live, To: at}, m.within(ctx, m.Limits.Link,
			func(ctx context.Context) error { return s.o.Parts.Files.Point(ctx, live, at) }))
		return s.adopt(at), fmt.Sprintf("%s is live from now on: %s is gone", at.Release, live.Release), nil
	}
	return live, "", fmt.Errorf("%s is to be live and is gone, and there is no good release to take instead: %w", live, gone)
}

// adopt makes g what is to be live, as a new generation, before anything of it runs.
func (s *Switcher) adopt(g Generation) Generation {
	err := s.change(func(state *State) {
		g.Number = state.Next
		state.Next++
		if !state.Live.IsZero() && state.Live.Release != g.Release {
			state.Previous = state.Live
		}
		state.Live = g
	})
	s.note("app.note", Record{To: g}, err)
	return g
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

package fpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"superd/release"
)

// How a candidate gets a part of the new connections, while what serves gets the
// others.
//
// At an address of TCP the kernel throws the dice, for each connection: see port.split.
//
// A path leads to one socket. So it leads to the two by turns: once in a cycle, at a
// place in it that nobody can foresee, to the candidate, for as long as it is owed by
// the time that has really passed. Who comes does not know of the turns, so the part
// of the time is the part of the connections. The way back is a link that is there
// before the path is turned; should superd die meanwhile, the next one takes that way
// before it does anything else. Figures and what else was weighed:
// docs/decisions/0019-canary-share.md.

const (
	cycle  = 100 * time.Millisecond
	least  = 2 * time.Millisecond // a turn that is shorter waits for the next cycle: timers are no better
	heldUp = 3 * cycle            // a cycle this long is superd's, or the machine's, that stood still
)

// A sharing is going on until it is ended by unshare.
type sharing struct {
	main, candidate *server
	part            float64
	path            string // the public one; "": the kernel divides
	before          [2]uint64

	stop chan struct{} // closed: it is to end
	over chan struct{} // closed when it has, or superd ends: the path leads to main
}

// Share makes that part of the new connections reach g, and the others what serves,
// until either is promoted, or superd ends.
func (w *Web) Share(ctx context.Context, g release.Generation, part float64) error {
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("share with %s: %w", g, err)
	}
	defer done()
	if err := w.share(ctx, g, part); err != nil {
		return fmt.Errorf("share with %s: %w", g, err)
	}
	return nil
}

func (w *Web) share(ctx context.Context, g release.Generation, part float64) error {
	main := w.serving()
	switch {
	case w.o.Handoff == Reload:
		return errors.New("there is one master at a time")
	case !(part > 0 && part < 1):
		return fmt.Errorf("a part of %v is not between 0 and 1", part)
	case main == nil:
		return release.ErrNoOther
	}
	if _, err := w.unshare(); err != nil {
		return err
	}
	s, err := w.up(ctx, g)
	switch {
	case err != nil:
		return err
	case s == main:
		return errors.New("it is what serves")
	case main.at.Address != w.address:
		return fmt.Errorf("%s still serves at another address", main.generation())
	}
	if err := s.prefork(ctx); err != nil {
		return err
	}
	if err := s.opens(); err != nil {
		return err
	}
	sh := &sharing{main: main, candidate: s, part: part, stop: make(chan struct{}), over: make(chan struct{})}
	sh.before = sh.requests()
	if w.address != "" {
		err = w.port(w.address).split(main.at.Seat, s.at.Seat, part)
	} else if err = s.web.admit(w.access()); err == nil {
		sh.path = w.link()
		err = w.do(func(ctx context.Context) { sh.alternate(ctx) })
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shared = sh
	return nil
}

// unshare sends all to what serves, and tells whether they were shared. The turn is
// held.
func (w *Web) unshare() (bool, error) {
	w.mu.Lock()
	sh := w.shared
	w.mu.Unlock()
	if sh == nil {
		return false, nil
	}
	if sh.path == "" {
		if err := w.port(w.address).point(sh.main.at.Seat); err != nil {
			return true, err
		}
	} else {
		close(sh.stop)
		<-sh.over
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shared = nil
	return true, nil
}

// sharedWith tells whether s is a candidate that gets a part.
func (w *Web) sharedWith(s *server) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shared != nil && w.shared.candidate == s
}

func (w *Web) sharing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shared != nil
}

// alternate turns the path until the sharing, or superd, ends.
func (sh *sharing) alternate(ctx context.Context) {
	defer close(sh.over)
	t := turns{part: sh.part}
	for {
		from := time.Now()
		begin, length := t.next(rand.Float64()) //nolint:gosec // it keeps no secret
		ahead := sh.ahead()
		if ahead {
			length = 0
		}
		if !sh.pause(ctx, begin) {
			return
		}
		var had time.Duration
		if length > 0 {
			had = sh.turn(ctx, length)
		}
		if !sh.pause(ctx, time.Until(from.Add(cycle))) {
			return
		}
		if !ahead { // what it has had too much of is not owed to it
			t.passed(time.Since(from), had)
		}
	}
}

// pause returns false when there are to be no more turns.
func (sh *sharing) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-sh.stop:
	case <-ctx.Done():
	}
	return false
}

// turn leads the path to the candidate for a while, and tells for how long it was. If
// it cannot be turned there, the candidate has had nothing, and is owed it.
func (sh *sharing) turn(ctx context.Context, length time.Duration) time.Duration {
	back := wayBack(sh.path)
	err := os.Remove(back)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Symlink(target(sh.path, sh.main.at.socket()), back)
	}
	if err == nil {
		err = sh.candidate.web.Publish(sh.path)
	}
	if err != nil {
		_ = os.Remove(back) // it leads to where the path does
		return 0
	}
	from := time.Now()
	sh.pause(ctx, length)
	if err := os.Rename(back, sh.path); err != nil {
		sh.insist(ctx, err)
	}
	return time.Since(from)
}

// insist leads the path to what serves although somebody has taken the way back.
func (sh *sharing) insist(ctx context.Context, why error) {
	for told := false; ; {
		err := sh.main.own().Publish(sh.path)
		if err == nil {
			return
		}
		if !told {
			told = true
			sh.main.tell(Note, fmt.Errorf("%s leads to the candidate and cannot be led back: %w", sh.path, errors.Join(why, err)))
		}
		if !sh.pause(ctx, look) {
			return // who ends the sharing leads it elsewhere, or the next superd does
		}
	}
}

// wayBack is the link that stands for where the path is to lead again. It is there
// while the path may lead to a candidate, and no longer.
func wayBack(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".back")
}

// leadBack takes the way back that a superd has left that died in a candidate's turn.
func leadBack(path string) error {
	err := os.Rename(wayBack(path), path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lead %s back from a candidate: %w", path, err)
	}
	return nil
}

// requests are those of the candidate and of what serves, so far.
func (sh *sharing) requests() [2]uint64 {
	mine, others := sh.main.owner.Traffic(sh.candidate.generation()), sh.main.owner.Traffic(sh.main.generation())
	return [2]uint64{mine.Total.Requests(), others.Total.Requests()}
}

// ahead tells whether the candidate has answered clearly more than its part. That is
// so when users come again as soon as they are answered, and it is the faster one: it
// fails at once, say. The other way round it gets no more for being slow: it might
// hang.
func (sh *sharing) ahead() bool {
	now := sh.requests()
	mine, all := 0.0, 0.0
	for i, n := range now {
		n -= min(n, sh.before[i])
		all += float64(n)
		if i == 0 {
			mine = float64(n)
		}
	}
	return mine > sh.part*all+3*math.Sqrt(sh.part*(1-sh.part)*all)+5 // by chance once in a thousand looks
}

// turns is what a candidate is owed of the time.
type turns struct {
	part     float64
	all, had time.Duration // that has passed, and that the candidate has had of it
}

// next is the candidate's turn in the coming cycle: when it begins, with a chance from
// 0 to 1, and how long it is. What is owed is not given at once.
func (t *turns) next(chance float64) (begin, length time.Duration) {
	owed := time.Duration(t.part*float64(t.all+cycle)) - t.had
	most := max(least, time.Duration(t.part*(2-t.part)*float64(cycle)))
	length = min(owed, most)
	if length < least {
		length = 0
	}
	return time.Duration(chance * float64(cycle-length)), length
}

// passed counts a cycle, unless it was held up: nobody knows whether users came meanwhile.
// What the candidate had too much of then is for ahead to see.
func (t *turns) passed(all, had time.Duration) {
	if all < heldUp {
		t.all, t.had = t.all+all, t.had+had
	}
}

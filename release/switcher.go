package release

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// A Switcher moves one app between its releases, one switch at a time. Run settles
// what an earlier superd left, brings up what is to be live, and then performs what
// Begin accepts. All other methods may be called from anywhere, also before Run.
type Switcher struct {
	o        Options
	progress chan struct{}
	stop     <-chan struct{} // of Run, and for it alone: is closed when superd stops
	begun    chan *running   // has room for one, and there is never more

	saving sync.Mutex // before mu

	mu       sync.Mutex
	state    State                   // as it is on disk, or would be if that could be written
	current  *running                // nil: no switch is going on
	queued   *turn                   // the newest one who waits for the end of it
	settling bool                    // what an earlier superd left is not settled yet
	quiet    bool                    // Quiet: nothing is begun
	stopped  bool                    // Run has ended
	trouble  string                  // why what is to be live is not wholly so
	linkWord string                  // what is wrong with the link
	giveWay  context.CancelCauseFunc // nil: nothing is being brought up
	changed  chan struct{}           // is closed, and made anew, when any of these changes
}

// Options are what a Switcher needs.
type Options struct {
	App          string
	Tree         *Tree // its InUse tells what runs; its Good is set here if it is nil
	Parts        Parts // Files may be nil: the Tree
	Journal      *FileJournal
	State        *StateFile
	History      *History
	Limits       Limits // zero ones get their defaults
	AutoRollback bool   // false: once users are on a release only a person takes it back
	// CanaryShare is the part of new connections that a candidate gets before it gets
	// all; 0: none. A rollback does without, and so does the way out of a degraded state.
	CanaryShare float64

	// Helpless tells whether something failed because superd itself is at its end, not
	// the release: a switch is then laid down. nil: nothing does.
	Helpless func(error) bool

	Tell      func(Event)       // hears everything; may be called from several goroutines
	Failpoint func(name string) // nil in production: see Failpoints
	BootID    string            // of this life of the machine
	Log       *slog.Logger      // gets one line for each event
}

// running is a switch that was accepted and has not ended. Its fields are guarded
// by the Switcher's mutex.
type running struct {
	record  Record // a copy, as of the last event
	since   time.Time
	paused  string                  // why; "" while it goes on
	aborted error                   // who took it back; nil: nobody
	final   bool                    // it is past the point of no return
	over    bool                    // it has ended, and is being written down
	cancel  context.CancelCauseFunc // nil until Run has come to it
	goOn    chan struct{}           // has room for one
}

// NewSwitcher prepares the Switcher of one app; nothing happens before Run.
func NewSwitcher(o Options) *Switcher {
	if o.Parts.Files == nil {
		o.Parts.Files = o.Tree
	}
	o.Limits = o.Limits.orDefaults()
	s := &Switcher{
		o: o, progress: make(chan struct{}, 1), begun: make(chan *running, 1),
		state: o.State.first, settling: true, changed: make(chan struct{}),
	}
	for _, r := range append(o.History.Records(), o.Journal.Last()) { // should the state be lost
		s.state.Next = max(s.state.Next, r.To.Number+1)
	}
	if o.Tree.Good == nil {
		o.Tree.Good = s.good
	}
	return s
}

// Run settles, then performs switches until ctx ends. The one that is going on then
// is laid down, with nothing undone, and the next superd settles it.
func (s *Switcher) Run(ctx context.Context) error {
	defer s.close()
	s.stop = ctx.Done()
	ctx = context.WithoutCancel(ctx) // to cancel a switch is to take it back, and to stop is not
	up := upkeep{s: s, cold: s.cold()}
	s.settle(ctx)
	for {
		up.tend(ctx)
		s.update(func() { s.settling = false })
		select {
		case <-s.stop:
			return nil
		case r := <-s.begun:
			up.after(s.perform(ctx, r, (*Switch).Run))
		case <-up.next:
			up.next = nil
		}
	}
}

func (s *Switcher) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *Switcher) close() {
	s.update(func() { s.stopped, s.current = true, nil })
}

// perform runs a switch to its end and takes in how it ended. The verdict is empty
// when it was laid down.
func (s *Switcher) perform(ctx context.Context, r *running, how func(*Switch, context.Context) error) Verdict {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.update(func() {
		r.cancel = cancel
		if r.aborted != nil { // before it came to its turn
			cancel(r.aborted)
		}
	})
	sw := s.machine(r.record)
	sw.GoOn = r.goOn
	sw.Tell = func(e Event) { s.follow(r, sw, e) }
	err := how(sw, ctx)
	switch {
	case errors.Is(err, ErrStopping):
		s.tell(Event{Kind: "switch.note", Switch: sw.ID, Phase: sw.Phase, From: sw.From, To: sw.To, Reason: ErrStopping.Error()})
		return ""
	case sw.Verdict == "":
		// The journal is of a newer superd, and how far that came is not known.
		sw.Cause, sw.Phase, sw.Verdict, sw.Live, sw.Ended = err.Error(), Ended, Degraded, s.Snapshot().Live, time.Now()
	}
	s.update(func() { r.over = true })
	s.conclude(sw.Record)
	return sw.Verdict
}

// machine is a Switch with all that it needs but an audience.
func (s *Switcher) machine(r Record) *Switch {
	s.mu.Lock()
	limits := s.o.Limits
	s.mu.Unlock()
	return &Switch{
		Record: r, Parts: s.o.Parts, Journal: s.o.Journal, Limits: limits,
		Progress: s.progress, Stop: s.stop, Helpless: s.o.Helpless, Failpoint: s.o.Failpoint, Tell: s.tell,
	}
}

// follow keeps what others see of a running switch. That committing is marked here,
// before the machine looks for the last time whether it was aborted, makes Abort
// exact: it takes the switch back, or says that it is too late.
func (s *Switcher) follow(r *running, sw *Switch, e Event) {
	s.update(func() {
		r.record = sw.Record
		switch e.Kind {
		case "switch.phase":
			r.record.Phase, r.since, r.paused = e.Phase, time.Now(), ""
			r.final = e.Phase == Committing || e.Phase == RollingBack || e.Phase == Ended
		case "switch.paused":
			r.paused = e.Reason
		}
	})
	e.Switch, e.From, e.To = sw.ID, sw.From, sw.To
	s.tell(e)
}

// conclude takes in how a switch ended. The state comes before the history: what
// the state does not have is settled at the next start, from the journal.
func (s *Switcher) conclude(r Record) {
	s.note("switch.note", r, s.change(func(state *State) { state.settle(r) }))
	if s.o.Failpoint != nil {
		s.o.Failpoint(settled)
	}
	if !s.o.History.has(r.ID) { // the state may have been lost since
		s.note("switch.note", r, s.o.History.append(r))
	}
	s.tell(Event{
		Kind: "switch.ended", Switch: r.ID, Phase: r.Reached, From: r.From, To: r.To,
		Verdict: r.Verdict, Reason: r.Cause, Lines: r.Lines, Took: r.Ended.Sub(r.Started), By: r.By,
	})
	s.update(func() {
		s.current = nil
		if r.Verdict == Live || r.Verdict == Degraded { // nothing is tried again: see upkeep.after
			s.trouble = ""
		}
	})
}

// change changes the state and saves it. When it cannot be saved it is changed in
// memory all the same: what really is wins over what could be written.
func (s *Switcher) change(how func(*State)) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	how(&s.state)
	state := s.state
	state.Bad = maps.Clone(state.Bad)
	s.wake()
	s.mu.Unlock()
	return s.o.State.save(state) // whoever asks how things stand does not wait for a disk
}

// update changes what others see.
func (s *Switcher) update(how func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how()
	s.wake()
}

// wake lets everyone who waits look again. The mutex is held.
func (s *Switcher) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Switcher) note(kind string, r Record, err error) {
	if err != nil {
		s.tell(Event{Kind: kind, Switch: r.ID, From: r.From, To: r.To, Reason: err.Error()})
	}
}

// tell is where every event goes through. The mutex is not held.
func (s *Switcher) tell(e Event) {
	e.At = time.Now()
	if s.o.Tell != nil {
		s.o.Tell(e)
	}
	if s.o.Log == nil {
		return
	}
	say := s.o.Log.Info
	if e.Kind == "switch.note" || e.Kind == "app.note" || e.Kind == "switch.paused" || e.Verdict != "" && e.Verdict != Live {
		say = s.o.Log.Warn
	}
	say("release", e.attributes()...)
}

// changes is closed at the next change that others can see.
func (s *Switcher) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

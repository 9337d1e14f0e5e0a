package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"superd/supervisor"
)

// Options are what New needs. Tell and Up may be nil.
type Options struct {
	Programs []Program
	Children *supervisor.Children
	State    string // file of what people have ordered, kept over a restart of the machine
	Log      *slog.Logger
	Tell     func(Event) // hears what happens; must not block

	// Up tells whether something that is no program is ready, by the name that After has
	// for it: "app.shop". It must not block, and is asked while a program waits for it.
	Up func(name string) bool

	RecycleEvery time.Duration // how often programs with a limit are looked at; 0: every 30 s
}

// A Set is all programs of a superd. Its methods may be called from any goroutine;
// those that change something wait for Run. It is to stop before the Children do.
type Set struct {
	o       Options
	begun   chan struct{} // closed when Run is there
	ending  chan struct{} // closed when Run lets go
	settled chan struct{} // closed when every program has come up, or has had its say
	wake    chan struct{} // something is to be looked at

	mu       sync.Mutex
	programs map[string]*program
	sorted   []*program      // the same, by name
	needed   map[string]bool // that others come after
	orders   orders          // of people, as on disk
	forgets  error           // why they are not on disk
	changed  chan struct{}   // closed, and made anew, when anything changes
	tasks    []func(context.Context)
	closing  bool      // StopAll: nothing is started any more
	later    []Event   // to be told when the mutex is free
	dirty    bool      // what is left with the keeper is to be left anew
	proofs   time.Time // by when, for lives that have proved themselves; zero: none has since
}

// ErrUnknown is what is answered for a name that no program or process has.
var ErrUnknown = errors.New("no such program or process")

// ErrStopping is what is answered when superd itself ends.
var ErrStopping = errors.New("superd is stopping")

// What an order comes to when it is not carried out: an error of these says why in its own
// words.
var (
	ErrImpossible = errors.New("the program is not made for that") // and nothing was changed
	ErrOverruled  = errors.New("somebody wants something else")    // at the same time
	ErrNotUp      = errors.New("it is wanted, and does not get up")
)

// told is an error in words of its own that is one of the above.
type told struct {
	words string
	is    error
}

func (t told) Error() string { return t.words }
func (t told) Unwrap() error { return t.is }

// New makes the set of programs. Adopt what an earlier superd has left, then Run it.
func New(o Options) *Set {
	s := &Set{
		o: o, begun: make(chan struct{}), ending: make(chan struct{}), settled: make(chan struct{}),
		wake: make(chan struct{}, 1), changed: make(chan struct{}), programs: map[string]*program{},
	}
	var err error
	if s.orders, err = readOrders(o.State); err != nil {
		o.Log.Error("what people have ordered of programs is forgotten: what they have stopped starts", "error", err)
	}
	s.borrow()
	for _, p := range o.Programs {
		s.add(p)
	}
	return s
}

// add makes a program known. A person's order stands, else it is as configured.
func (s *Set) add(p Program) *program {
	one := &program{Program: p, set: s, processes: p.Processes, stopped: map[int]bool{}}
	one.down = !p.Autostart
	one.obey(s.orders)
	s.programs[p.Name] = one
	s.arrange()
	one.fill()
	return one
}

// Adopt takes a child of an earlier superd that is of a program, also of one that is
// no longer configured: it is ended as it then was to be. Call it before Run.
func (s *Set) Adopt(c *supervisor.Child) bool {
	n, ok := readNote(c.Note())
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.programs[n.Program]
	if p == nil {
		p = s.add(n.foreign())
		p.removed = true
	}
	p.adopt(n.Process, c)
	return true
}

// Run owns every goroutine of the set until ctx ends. The processes live on.
func (s *Set) Run(ctx context.Context) error {
	var lives sync.WaitGroup
	defer lives.Wait()
	defer close(s.ending)
	s.recall()
	lives.Go(func() { s.recycle(ctx) })
	close(s.begun)
	for {
		s.mu.Lock()
		now := time.Now()
		again := s.conduct(now)
		news, tasks, events := s.unbegun(), s.tasks, s.later
		s.tasks, s.later = nil, nil
		keep := s.dirty || !s.proofs.IsZero() && !now.Before(s.proofs)
		if !keep && !s.proofs.IsZero() {
			again = min(again, s.proofs.Sub(now))
		}
		if keep {
			s.dirty, s.proofs = false, time.Time{}
		}
		s.mu.Unlock()
		for _, e := range events {
			s.tell(e)
		}
		for _, u := range news {
			lives.Go(func() { u.run(ctx) })
		}
		for _, task := range tasks {
			lives.Go(func() { task(ctx) })
		}
		if keep {
			s.remember()
		}
		select {
		case <-ctx.Done():
			s.remember()
			return nil
		case <-s.wake:
		case <-time.After(again):
		}
	}
}

// Settled is closed when every program that is to be up is, or has had its say: it has
// failed, or waits for something that will not be ready by itself.
func (s *Set) Settled() <-chan struct{} { return s.settled }

// slowest is how long it may be from one look at everything to the next, when nothing
// happens.
const slowest = time.Minute

// proofsWait is how long it may be until the keeper knows that a life has proved itself.
// All programs are written down at once, which is dear when it is for each of a thousand;
// a superd that dies within that time asks for the proof again, and nothing else is lost.
const proofsWait = time.Second

// appEvery is how often something that is no program is asked whether it is ready.
const appEvery = 200 * time.Millisecond

// conduct starts what may start now, and tells how long it may be until it has to look
// again when nothing happens. The mutex is held.
func (s *Set) conduct(now time.Time) time.Duration {
	again := slowest
	for _, p := range slices.Clone(s.sorted) {
		if p.isGone() {
			s.forget(p)
			continue
		}
		was := p.waits
		if p.waits, p.polls = s.waitsFor(p); p.waits != was {
			s.stir() // who waits for p is to hear what for
		}
		if p.polls {
			again = min(again, appEvery)
		}
		if p.Plan != nil {
			again = min(again, p.runDue(now))
		}
		for _, u := range p.units {
			if u.mayStart() {
				u.start()
			}
		}
	}
	s.settle()
	return again
}

// settle closes settled when nobody is on the way up any more.
func (s *Set) settle() {
	select {
	case <-s.settled:
		return
	default:
	}
	for _, p := range s.programs {
		for _, u := range p.units {
			if u.isComing() {
				return
			}
		}
	}
	close(s.settled)
}

// waitsFor is what p has to wait for, in words; empty: nothing. polls tells that it is
// something of which nobody says when it is ready. The mutex is held.
func (s *Set) waitsFor(p *program) (what string, polls bool) {
	programs, others := p.before()
	for _, name := range programs {
		q := s.programs[name]
		if q == nil {
			continue
		}
		if why := q.isNotUp(slices.Contains(p.Requires, "program."+name)); why != "" {
			return why, false
		}
	}
	for _, name := range others {
		if s.o.Up != nil && !s.o.Up(name) {
			return strings.Replace(name, "app.", "app ", 1) + ", which is not ready", true
		}
	}
	return "", false
}

// arrange is to be called when there are other programs than before. The mutex is held.
func (s *Set) arrange() {
	s.sorted = slices.SortedFunc(maps.Values(s.programs), func(a, b *program) int { return strings.Compare(a.Name, b.Name) })
	s.needed = map[string]bool{}
	for _, p := range s.sorted {
		programs, _ := p.before()
		for _, name := range programs {
			s.needed[name] = true
		}
	}
}

// heard lets everyone who waits look again, and Run only if the rest of the programs may
// have to do with it: a thousand that crash on and on are not looked at each time. The
// mutex is held.
func (s *Set) heard(p *program) {
	isSettled := false
	select {
	case <-s.settled:
		isSettled = true
	default:
	}
	if !isSettled || s.needed[p.Name] || p.removed || p.queued || s.dirty {
		s.announce()
		return
	}
	s.stir()
}

// announce lets everyone who waits look again, and Run. The mutex is held.
func (s *Set) announce() {
	s.stir()
	s.rouse()
}

// stir lets everyone who waits look again. The mutex is held.
func (s *Set) stir() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// rouse lets Run look again.
func (s *Set) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// unbegun are the processes that have no goroutine yet; they are taken to have one from
// now on. The mutex is held.
func (s *Set) unbegun() []*unit {
	var all []*unit
	for _, p := range s.programs {
		for _, u := range p.units {
			if !u.begun {
				u.begun = true
				all = append(all, u)
			}
		}
	}
	return all
}

// task has Run run something that outlives the one who asked for it. The mutex is held.
func (s *Set) task(do func(context.Context)) {
	s.tasks = append(s.tasks, do)
	s.announce()
}

// forget drops a program that is no longer configured and of which nothing lives.
func (s *Set) forget(p *program) {
	for _, u := range p.units {
		u.process.Retire()
	}
	delete(s.programs, p.Name)
	s.arrange()
	s.announce()
}

// ready waits until Run has begun.
func (s *Set) ready(ctx context.Context) error {
	select {
	case <-s.begun:
		return nil
	case <-s.ending:
		return ErrStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await returns when reached says so, or its error. It is asked with the mutex held, at
// once and after every change.
func (s *Set) await(ctx context.Context, reached func() (bool, error)) error {
	for {
		s.mu.Lock()
		ok, err := reached()
		changed := s.changed
		s.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.ending:
			return ErrStopping
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Set) tell(e Event) {
	if s.o.Tell != nil && e.Kind != "" {
		s.o.Tell(e)
	}
}

// Problems is what of the programs is not as desired, for people, by name.
func (s *Set) Problems() []string {
	var all []string
	for _, st := range s.Status() {
		if st.Problem != "" {
			all = append(all, st.Problem)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgets != nil {
		all = append(all, fmt.Sprintf("what was ordered of programs will be forgotten when the machine starts again: %v", s.forgets))
	}
	return all
}

func (st Status) problem() string {
	if !st.isProblem() {
		return ""
	}
	text := st.Name + " is " + string(st.State)
	if why := cmp.Or(st.Reason, st.Last); why != "" {
		text += ": " + why
	}
	return text
}

// isProblem tells a process that is not as it is wanted from one that is. One that is on
// its way up is not, unless it is a run of a schedule.
func (st Status) isProblem() bool {
	fine := []supervisor.State{supervisor.Running, Scheduled}
	if !st.Next.IsZero() {
		fine = append(fine, supervisor.Starting, supervisor.Stopping)
	}
	return st.Wanted && !slices.Contains(fine, st.State) && (st.State != Exited || st.Reason != "")
}

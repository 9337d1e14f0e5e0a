// Package fpm runs the PHP-FPM of one app, several generations of it side by side,
// one of them serving.
//
// The invariant: the public path leads to a listener that somebody of ours accepts
// on or will, and a connection that waits in the queue of any of our listeners is
// answered or handed to the one that serves, whichever master, or superd, dies.
package fpm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"superd/release"
	"superd/supervisor"
)

// A Handoff is how users get from one generation to the next.
type Handoff string

// The ways of handing off.
const (
	Parallel Handoff = "parallel" // two masters side by side, the public path leads to one
	Reload   Handoff = "reload"   // one master, SIGUSR2: see reload.go for what it costs
)

// Options are what New needs. Everything but Lines is required.
type Options struct {
	App      string
	Front    string // "" or a suffix: one of several Webs of the app; see Fronts
	RunDir   string // of this app alone; it is made. Who connects to Listen must be able to pass it
	Listen   string // the public path, which must not be a directory; or a TCP address such as 127.0.0.1:9000
	Access   Access // who may connect to Listen when it is a path
	Backlog  int
	Handoff  Handoff
	Drain    time.Duration // how long a generation that is retired may take to finish its requests
	Output   string        // file of what PHP-FPM writes, as supervisor.Spec has it
	Pool     func(release.Generation) (Pool, error)
	Children *supervisor.Children
	Log      *slog.Logger
	Tell     func(Event) // hears what happens; must not block
	// Lines are what the masters write from now on, as they write it; nil: the death
	// of a worker by a signal is not told.
	Lines func(ctx context.Context) (<-chan string, error)
}

// An Event is something of the web side that people or a switch should know.
type Event struct {
	Kind       string // one of the Kinds
	Generation release.Generation
	Reason     string
	Lines      []string // the last ones its master wrote
}

// The kinds of events. Add new ones, never rename one.
const (
	Died       = "fpm.died"        // a master ended that nobody had told to
	WorkerDied = "fpm.worker_died" // a worker was ended by a signal
	Killed     = "fpm.killed"      // a drain took too long: requests were cut
	Retired    = "fpm.retired"     // a generation has finished and is gone
	Note       = "fpm.note"        // something did not work as it should, and life goes on
)

// Web is the PHP-FPM of an app. It implements release.Web. Start, Promote, Retire,
// Restart and Stop wait for each other and for Run to have begun.
type Web struct {
	o      Options
	turn   chan struct{} // one of those at a time
	begun  chan struct{} // closed when Run has found out what is there
	ending chan struct{} // closed when Run lets go: nothing new is begun
	jobs   chan func(context.Context)

	address string // Listen when it is one of TCP

	written chan struct{} // closed when the first master has come up
	write   sync.Once

	meters meters

	mu      sync.Mutex
	servers []*server // the oldest first
	live    *server   // what the public path leads to
	shared  *sharing  // nil: to that alone
	parked  bool      // see Park
	ports   map[string]*port
}

// New makes the web side of an app. Adopt what an earlier superd has left, then Run it.
func New(o Options) *Web {
	address := ""
	if at, ok := tcp(o.Listen); ok {
		address = at.String()
	}
	return &Web{
		o: o, address: address, ports: make(map[string]*port), turn: make(chan struct{}, 1),
		begun: make(chan struct{}), ending: make(chan struct{}), jobs: make(chan func(context.Context)),
		written: make(chan struct{}),
	}
}

var _ release.Web = (*Web)(nil)

func (w *Web) name() string { return w.o.App + "/fpm" }

// id is what tells the masters and sockets of this Web from those of others.
func (w *Web) id() string { return w.o.App + w.o.Front }

// Run owns every goroutine of the web side until ctx ends. The masters live on.
func (w *Web) Run(ctx context.Context) error {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer close(w.ending)
	if err := w.takeStock(ctx); err != nil {
		return err
	}
	if w.o.Lines != nil {
		jobs.Go(func() { w.listen(ctx) })
	}
	jobs.Go(func() { w.keepCounting(ctx) })
	for _, s := range w.all() {
		if s != w.serving() {
			jobs.Go(func() { s.endKept(ctx) }) // superd may have died right after the promotion
		}
		jobs.Go(func() { s.run(ctx) })
		if s.isLeaving() {
			jobs.Go(func() { s.leave(ctx) })
		}
	}
	close(w.begun)
	lost := time.NewTicker(time.Second)
	defer lost.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case job := <-w.jobs:
			jobs.Go(func() { job(ctx) })
		case <-lost.C:
			w.republish()
			w.rescue(ctx, &jobs)
		}
	}
}

// rescue hands those on who came to a seat of nobody: see port.late.
func (w *Web) rescue(ctx context.Context, jobs *sync.WaitGroup) {
	live := w.serving()
	if live == nil || live.at.Address == "" {
		return
	}
	p := w.port(live.at.Address)
	seat, l, ok := p.late()
	if !ok {
		return
	}
	jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.drain()) // superd's end waits for the answers
		defer cancel()
		err := w.hand(ctx, l, live)
		if err = errors.Join(err, p.free(seat)); err != nil {
			w.tell(Note, live.generation(), err, nil)
		}
	})
}

// port is the one at address, which must be one of TCP.
func (w *Web) port(address string) *port {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.ports[address]
	if !ok {
		at, _ := tcp(address) // New or an earlier one has seen that it is
		p = newPort(w.id(), at, w.o.Backlog, w.o.Children)
		w.ports[address] = p
	}
	return p
}

var errEnding = errors.New("superd is ending")

// do has Run run job beside whatever else it runs. Run must have begun.
func (w *Web) do(job func(context.Context)) error {
	select {
	case w.jobs <- job:
		return nil
	case <-w.ending:
		return errEnding
	}
}

// take waits for the turn; give it back with the function that is returned.
func (w *Web) take(ctx context.Context) (func(), error) {
	select {
	case <-w.begun:
	case <-w.ending:
		return nil, errEnding
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case w.turn <- struct{}{}:
		return func() { <-w.turn }, nil
	case <-w.ending:
		return nil, errEnding
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Start brings g up on a private listener and returns when it answers.
func (w *Web) Start(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("start %s: %w", g, err)
	}
	defer done()
	if w.o.Handoff == Reload {
		err = w.test(ctx, g)
	} else {
		_, err = w.up(ctx, g)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", g, err)
	}
	return nil
}

// Promote makes every new connection reach g, which is brought up if it is not. One that
// has had no users yet begins with about as many workers as the one that serves has.
func (w *Web) Promote(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("promote %s: %w", g, err)
	}
	defer done()
	if w.o.Handoff == Reload {
		err = w.reload(ctx, g)
	} else {
		var s *server
		if s, err = w.up(ctx, g); err == nil {
			err = s.prefork(ctx)
		}
		if err == nil {
			err = w.publish(s)
		}
		if err == nil {
			err = w.supersede(s)
		}
	}
	if err != nil {
		return fmt.Errorf("promote %s: %w", g, err)
	}
	return nil
}

// supersede lets go of a server of the same generation that users reached at another
// address, before the configuration had this one.
func (w *Web) supersede(s *server) error {
	var errs []error
	for _, other := range w.all() {
		if other.generation() == s.generation() && other.at.Address != s.at.Address && !other.isLeaving() {
			errs = append(errs, other.retire())
		}
	}
	return errors.Join(errs...)
}

// Retire lets g finish what it has and then end, in the background. It refuses the
// generation that is serving. That g is to go is written down, so that the next
// superd goes on with it.
func (w *Web) Retire(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("retire %s: %w", g, err)
	}
	defer done()
	if w.o.Handoff == Reload {
		return nil // it went when the next one came
	}
	for _, s := range w.all() {
		if s.generation().Number != g.Number || s.isLeaving() {
			continue
		}
		if w.serves(s) {
			return fmt.Errorf("retire %s: it is serving", g)
		}
		if err := s.retire(); err != nil {
			return fmt.Errorf("retire %s: %w", g, err)
		}
	}
	return nil
}

// Restart replaces the master that serves by a new one of the same generation, and
// loses no request: it is a switch from a generation to itself.
func (w *Web) Restart(ctx context.Context) error {
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("restart %s: %w", w.name(), err)
	}
	defer done()
	old := w.serving()
	if old == nil {
		return fmt.Errorf("restart %s: nothing is serving", w.name())
	}
	if w.sharing() {
		return fmt.Errorf("restart %s: a switch shares the users between two generations: wait for its end", w.name())
	}
	if w.o.Handoff == Reload {
		if err := w.renew(ctx, old, old.generation()); err != nil {
			return fmt.Errorf("restart %s: %w", w.name(), err)
		}
		return nil
	}
	fresh, err := w.begin(ctx, w.place(old.generation()))
	if err == nil {
		if err = fresh.prefork(ctx); err != nil {
			err = errors.Join(err, fresh.dismiss())
		}
	}
	if err == nil {
		err = w.publish(fresh)
	}
	if err == nil {
		err = old.retire()
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", w.name(), err)
	}
	return nil
}

// Stop ends everything: no new connection gets in, those that are in are answered
// within the drain timeout, and it returns when nothing is left or ctx ends.
func (w *Web) Stop(ctx context.Context) error {
	done, err := w.take(ctx)
	if err != nil {
		return fmt.Errorf("stop %s: %w", w.name(), err)
	}
	defer done()
	return w.stop(ctx, w.all())
}

// stop is Stop, with the turn held.
func (w *Web) stop(ctx context.Context, all []*server) error {
	if err := w.unpublish(); err != nil {
		w.tell(Note, release.Generation{}, err, nil)
	}
	for _, s := range all {
		if !s.isLeaving() {
			if err := s.depart(newDeparture(time.Now().Add(w.drain()))); err != nil {
				return fmt.Errorf("stop %s: %w", w.name(), err)
			}
		}
	}
	for _, s := range all {
		if err := w.awaitEnd(ctx, s.left); err != nil {
			return fmt.Errorf("stop %s: %w", w.name(), err)
		}
	}
	return nil
}

// Signal sends sig to the master that serves.
func (w *Web) Signal(sig syscall.Signal) error {
	s := w.serving()
	if s == nil {
		return fmt.Errorf("signal %s: %w", w.name(), supervisor.ErrNotRunning)
	}
	return s.proc.Signal(sig)
}

// Test asks PHP-FPM whether it could run g, and leaves nothing behind.
func (w *Web) Test(ctx context.Context, g release.Generation) error {
	if err := w.test(ctx, g); err != nil {
		return fmt.Errorf("test %s: %w", g, err)
	}
	return nil
}

// up is the server of g, which accepts. One that is on its way out is kept if it has
// not been told to go yet.
func (w *Web) up(ctx context.Context, g release.Generation) (*server, error) {
	s := w.find(g)
	if s != nil && s.isLeaving() && !s.stay(ctx) {
		s = nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if s != nil && s.at.Address != w.address {
		s = nil // users no longer come to where it listens
	}
	if s == nil {
		return w.begin(ctx, w.place(g))
	}
	if s.generation() != g {
		return nil, fmt.Errorf("generation %d runs %s already", g.Number, s.generation().Dir)
	}
	present := s.present()
	s.proc.Start() // cuts the pause short that it may be in
	return s, explain(s.await(ctx, present), s.tail())
}

// begin makes a new server and brings it up, or leaves nothing of it.
func (w *Web) begin(ctx context.Context, at place) (*server, error) {
	if err := w.fits(); err != nil {
		return nil, err
	}
	s := newServer(w, at)
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(err, s.demolish())
	}
	w.add(s)
	if err := w.do(s.run); err != nil {
		w.remove(s)
		return nil, errors.Join(err, s.demolish())
	}
	err := s.await(ctx, 0)
	if err == nil {
		err = s.ping(ctx)
	}
	if err != nil {
		err = explain(err, s.tail())
		return nil, errors.Join(err, s.dismiss())
	}
	return s, nil
}

// place is where the next server of g goes.
func (w *Web) place(g release.Generation) place {
	base := strconv.FormatUint(g.Number, 10)
	for life := 1; w.taken(base); life++ {
		base = fmt.Sprintf("%d-%d", g.Number, life)
	}
	return place{Generation: g, App: w.id(), Base: base, Home: filepath.Join(w.o.RunDir, base), Address: w.address}
}

func (w *Web) taken(base string) bool {
	return slices.ContainsFunc(w.all(), func(s *server) bool { return s.at.Base == base })
}

// Socket is a private path to g's workers, "" when g does not run. Where users come
// by TCP it leads to a few that only superd reaches.
func (w *Web) Socket(g release.Generation) string {
	if s := w.find(g); s != nil && s.generation() == g && s.proc.Child() != nil {
		return s.at.socket()
	}
	return ""
}

// InUse are the directories of the releases that PHP-FPM runs from.
func (w *Web) InUse() []string {
	var dirs []string
	for _, s := range w.all() {
		if dir := s.generation().Dir; !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// find is the newest server of g, one that stays rather than one that leaves.
func (w *Web) find(g release.Generation) *server {
	var found *server
	for _, s := range w.all() {
		if s.generation().Number == g.Number && (found == nil || found.isLeaving() || !s.isLeaving()) {
			found = s
		}
	}
	return found
}

func (w *Web) all() []*server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.servers)
}

func (w *Web) serving() *server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live
}

func (w *Web) add(s *server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = append(w.servers, s)
}

func (w *Web) remove(s *server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers = slices.DeleteFunc(w.servers, func(other *server) bool { return other == s })
	if w.live == s {
		w.live = nil
	}
}

func (w *Web) tell(kind string, g release.Generation, err error, lines []string) {
	e := Event{Kind: kind, Generation: g, Lines: lines}
	if err != nil {
		e.Reason = err.Error()
	}
	w.o.Tell(e)
}

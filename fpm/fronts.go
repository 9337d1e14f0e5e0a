package fpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"superd/fpm/traffic"
	"superd/release"
	"superd/supervisor"
)

// Fronts are the PHP-FPM of an app at each of its addresses: the one where users are to
// come, and those where they came before the configuration had it, for as long as
// anybody still does. Each is a Web with masters of its own, so that none of them
// depends on another or on superd; a switch moves all of them. The list is in a file of
// the run directory, from before a front has its first master.
//
// It is where users come first that decides: what the methods return of one generation
// is from there.
type Fronts struct {
	o    Options
	turn chan struct{} // one verb at a time: a new front is to run what the others do
	more chan *front   // for Run to run
	file string        // of the list
	idle time.Duration // unused; tests are not that patient

	mu  sync.Mutex
	all []*front // the first is where users are to come
}

// A front is a Web, and whether users still come to it.
type front struct {
	*Web
	listed
	used    time.Time // when somebody was there last, or nobody had looked yet
	answers uint64    // by then
}

// listed is a front in the file.
type listed struct {
	Name   string `json:"name"` // Options.Front
	Listen string `json:"listen"`
}

// A Former is an address where users came before, and which is still open.
type Former struct {
	Listen string
	Used   time.Time // when somebody came last, at the latest
}

const (
	frontsFile = "fronts.json"
	// unused is how long nobody may come to a former address until it is closed: longer
	// than it takes to reload every web server of a careful roll-out.
	unused    = 15 * time.Minute
	lookUsers = 5 * time.Second
)

// NewFronts makes the web side of an app as an earlier superd has left it, with o.Listen
// as the address where users are to come. Adopt what runs, then Run it.
func NewFronts(o Options) *Fronts {
	f := &Fronts{
		o: o, turn: make(chan struct{}, 1), more: make(chan *front), file: filepath.Join(o.RunDir, frontsFile), idle: unused,
	}
	var known []listed
	if b, err := os.ReadFile(f.file); err == nil && json.Unmarshal(b, &known) != nil {
		known = nil // it is replaced as a whole, so nothing of ours wrote that
	}
	if len(known) == 0 || o.Handoff == Reload { // one master cannot be in two places
		known = []listed{{Listen: o.Listen}}
	}
	for _, k := range known {
		f.all = append(f.all, f.open(k))
	}
	if !f.lead(o.Listen) {
		f.all = slices.Insert(f.all, 0, f.open(listed{f.free(), o.Listen}))
	}
	return f
}

var _ release.Web = (*Fronts)(nil)

// open makes a front. The first that an app ever has is in its run directory, the
// others below it.
func (f *Fronts) open(k listed) *front {
	f.mu.Lock()
	o := f.o
	f.mu.Unlock()
	o.Front, o.Listen = k.Name, k.Listen
	if k.Name != "" {
		o.RunDir = filepath.Join(o.RunDir, "front"+k.Name)
	}
	return &front{Web: New(o), listed: k, used: time.Now()}
}

// free is a name that no front has.
func (f *Fronts) free() string {
	for n := 2; ; n++ {
		name := fmt.Sprintf("~%d", n)
		if !slices.ContainsFunc(f.all, func(one *front) bool { return one.Name == name }) {
			return name
		}
	}
}

// lead makes the front at an address the one where users are to come, if there is one.
func (f *Fronts) lead(listen string) bool {
	i := slices.IndexFunc(f.all, func(one *front) bool { return one.Listen == listen })
	if i < 0 {
		return false
	}
	one := f.all[i]
	one.used = time.Now()
	f.all = slices.Insert(slices.Delete(f.all, i, i+1), 0, one)
	return true
}

// save writes the list down.
func (f *Fronts) save(all []*front) error {
	list := make([]listed, len(all))
	for i, one := range all {
		list[i] = one.listed
	}
	b, err := json.Marshal(list)
	if err == nil {
		err = openDirectory(f.o.RunDir)
	}
	if err == nil {
		err = replace(f.file, string(b), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write down the addresses: %w", err)
	}
	return nil
}

func (f *Fronts) fronts() []*front {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

func (f *Fronts) set(all []*front) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = all
}

func (f *Fronts) primary() *front { return f.fronts()[0] }

// Adopt takes a master that an earlier superd has started; false: it is not ours.
func (f *Fronts) Adopt(c *supervisor.Child) bool {
	return slices.ContainsFunc(f.fronts(), func(one *front) bool { return one.Adopt(c) })
}

// Run runs every front until ctx ends, and closes those that nobody comes to any more.
// The masters live on.
func (f *Fronts) Run(ctx context.Context) error {
	if err := f.save(f.fronts()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	run := func(one *front) {
		parts.Go(func() {
			if err := one.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	for _, one := range f.fronts() {
		run(one)
	}
	parts.Go(func() { f.tend(ctx) })
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case one := <-f.more:
			run(one)
		}
	}
}

// tend looks for users until ctx ends.
func (f *Fronts) tend(ctx context.Context) {
	tick := time.NewTicker(min(lookUsers, f.idle))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.closeUnused(ctx)
		}
	}
}

// take waits for the turn; give it back with the function that is returned.
func (f *Fronts) take(ctx context.Context) (func(), error) {
	select {
	case f.turn <- struct{}{}:
		return func() { <-f.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// each does it at every address, and goes on after an error.
func (f *Fronts) each(ctx context.Context, do func(*front) error) error {
	done, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	var errs []error
	for i, one := range f.fronts() {
		err := do(one)
		if err != nil && i > 0 {
			err = fmt.Errorf("at %s, where users came before: %w", one.Listen, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Start is Web.Start at every address.
func (f *Fronts) Start(ctx context.Context, g release.Generation) error {
	return f.each(ctx, func(one *front) error { return one.Start(ctx, g) })
}

// Promote is Web.Promote at every address, first where users are to come.
func (f *Fronts) Promote(ctx context.Context, g release.Generation) error {
	return f.each(ctx, func(one *front) error { return one.Promote(ctx, g) })
}

// Retire is Web.Retire at every address.
func (f *Fronts) Retire(ctx context.Context, g release.Generation) error {
	return f.each(ctx, func(one *front) error { return one.Retire(ctx, g) })
}

// Restart is Web.Restart at every address where something serves.
func (f *Fronts) Restart(ctx context.Context) error {
	return f.each(ctx, func(one *front) error {
		if one != f.primary() && one.serving() == nil {
			return nil
		}
		return one.Restart(ctx)
	})
}

// Share is Web.Share at every address where something serves.
func (f *Fronts) Share(ctx context.Context, g release.Generation, part float64) error {
	return f.each(ctx, func(one *front) error {
		err := one.Share(ctx, g, part)
		if one != f.primary() && errors.Is(err, release.ErrNoOther) {
			return nil
		}
		return err
	})
}

// Stop is Web.Stop at every address, at the same time.
func (f *Fronts) Stop(ctx context.Context) error {
	return f.together(ctx, func(one *front) error { return one.Stop(ctx) })
}

// together does it at every address at the same time.
func (f *Fronts) together(ctx context.Context, do func(*front) error) error {
	done, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	all := f.fronts()
	errs := make([]error, len(all))
	var stopping sync.WaitGroup
	for i, one := range all {
		stopping.Go(func() { errs[i] = do(one) })
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// Signal sends sig to the masters that serve.
func (f *Fronts) Signal(sig syscall.Signal) error {
	var errs []error
	for i, one := range f.fronts() {
		if i == 0 || one.serving() != nil {
			errs = append(errs, one.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

// Test is Web.Test.
func (f *Fronts) Test(ctx context.Context, g release.Generation) error {
	return f.primary().Test(ctx, g)
}

// Tail is Web.Tail where users are to come.
func (f *Fronts) Tail(g release.Generation) []string { return f.primary().Tail(g) }

// Socket is Web.Socket.
func (f *Fronts) Socket(g release.Generation) string { return f.primary().Socket(g) }

// InUse are the directories of the releases that PHP-FPM runs from.
func (f *Fronts) InUse() []string {
	var dirs []string
	for _, one := range f.fronts() {
		dirs = append(dirs, one.InUse()...)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Status is Web.Status where users are to come.
func (f *Fronts) Status(ctx context.Context) []Status { return f.primary().Status(ctx) }

// Listen is where users are to come.
func (f *Fronts) Listen() string { return f.primary().Listen }

// Update is Web.Update at every address.
func (f *Fronts) Update(access Access, backlog int, drain time.Duration) {
	f.mu.Lock()
	f.o.Access, f.o.Backlog, f.o.Drain = access, backlog, drain
	f.mu.Unlock()
	for _, one := range f.fronts() {
		one.Update(access, backlog, drain)
	}
}

// Traffic is what g has answered at all addresses.
func (f *Fronts) Traffic(g release.Generation) traffic.Figures {
	var all traffic.Figures
	for _, one := range f.fronts() {
		figures := one.Traffic(g)
		all = all.Plus(&figures)
	}
	return all
}

// Formers are the addresses where users came before and which are still open.
func (f *Fronts) Formers() []Former {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Former
	for _, one := range f.all[1:] {
		all = append(all, Former{one.Listen, one.used})
	}
	return all
}

// Relisten opens another address and has what serves serve there too. Where users
// came so far stays open, over switches and other superds, until nobody has come for
// a quarter of an hour. After an error nothing has changed.
func (f *Fronts) Relisten(ctx context.Context, listen string) error {
	if err := f.relisten(ctx, listen); err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	return nil
}

func (f *Fronts) relisten(ctx context.Context, listen string) error {
	done, err := f.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	before := f.fronts()
	if before[0].Listen == listen {
		return nil
	}
	if f.o.Handoff == Reload {
		return errors.New(`with handoff = "reload" there is one master, which cannot be in two places: restart superd`)
	}
	f.mu.Lock()
	back := f.lead(listen)
	f.mu.Unlock()
	if back {
		return f.save(f.fronts())
	}
	next := f.open(listed{f.free(), listen})
	if err := f.save(slices.Insert(slices.Clone(before), 0, next)); err != nil {
		return err
	}
	if err := f.join(ctx, next, before[0]); err != nil {
		return errors.Join(err, f.save(before))
	}
	f.set(slices.Insert(before, 0, next))
	return nil
}

// join has a front serve what another one does, or leaves nothing of it.
func (f *Fronts) join(ctx context.Context, next, as *front) error {
	select {
	case f.more <- next:
	case <-as.ending:
		return errEnding
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	live, ok := as.Serving()
	if !ok {
		return nil // who brings something up there does so here as well
	}
	err := next.Start(ctx, live)
	if err == nil {
		err = next.Promote(ctx, live)
	}
	if err != nil {
		err = errors.Join(err, next.Stop(context.WithoutCancel(ctx)))
	}
	return err
}

// closeUnused closes the former addresses that nobody has come to for long. It takes
// no turn before there is something to close: a switch may take its time.
func (f *Fronts) closeUnused(ctx context.Context) {
	for _, one := range f.fronts()[1:] {
		if !f.isUnused(one) {
			continue
		}
		done, err := f.take(ctx)
		if err != nil {
			return
		}
		if all := f.fronts(); all[0] != one && slices.Contains(all, one) && f.isUnused(one) {
			f.close(ctx, one)
		}
		done()
	}
}

// isUnused looks whether somebody has come.
func (f *Fronts) isUnused(one *front) bool {
	answers := one.answered()
	f.mu.Lock()
	defer f.mu.Unlock()
	if answers != one.answers {
		one.answers, one.used = answers, time.Now()
	}
	return time.Since(one.used) >= f.idle
}

// close ends a front. Who comes in this moment is answered, and who comes later is
// refused. It is taken from the list last: a superd that comes in between begins anew.
func (f *Fronts) close(ctx context.Context, one *front) {
	err := one.Stop(ctx)
	if errors.Is(err, errEnding) || ctx.Err() != nil {
		return
	}
	all := slices.DeleteFunc(f.fronts(), func(other *front) bool { return other == one })
	f.set(all)
	err = errors.Join(err, f.save(all))
	if one.Name != "" {
		err = errors.Join(err, os.RemoveAll(one.o.RunDir))
	}
	said := fmt.Errorf("%s is closed: nobody has come there for %s", one.Listen, f.idle)
	f.o.Tell(Event{Kind: Note, Reason: errors.Join(said, err).Error()})
}

// answered is how many users of all generations were.
func (w *Web) answered() (n uint64) {
	w.count()
	w.meters.mu.Lock()
	defer w.meters.mu.Unlock()
	for _, m := range w.meters.all {
		figures := m.log.Figures()
		n += figures.Total.Requests()
	}
	return n
}

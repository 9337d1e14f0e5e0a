package program

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"superd/supervisor"
)

// Orders of people, for several names at once, because the order among programs is part
// of it. A name is that of a program, "web", or of one process, "web:3". Each verb
// answers with what came of each name; ErrUnknown for one that means nothing.

// Results is what came of an order, by name; nil: it is as asked.
type Results map[string]error

// named are the processes that a name means; false: it means none. The mutex is held.
func (s *Set) named(name string) ([]*unit, bool) {
	program, n := split(name)
	p := s.programs[program]
	switch {
	case p == nil || p.removed || n >= p.processes:
		return nil, false
	case n < 0:
		return p.units[:p.processes], true
	}
	return p.units[n : n+1], true
}

// split is the program of a name, and the number of the process, -1 when all are meant.
func split(name string) (program string, number int) {
	program, own, one := strings.Cut(name, ":")
	if !one {
		return program, -1
	}
	n, err := strconv.Atoi(own)
	if err != nil || n < 0 {
		return "", 0 // which no program is called
	}
	return program, n
}

// means are the processes of all names, and an error for each name that means none. The
// mutex is held.
func (s *Set) means(names []string) ([]*unit, Results) {
	results := Results{}
	var all []*unit
	for _, name := range names {
		units, ok := s.named(name)
		if !ok {
			results[name] = fmt.Errorf("%s: %w", name, ErrUnknown)
			continue
		}
		results[name] = nil
		for _, u := range units {
			if !slices.Contains(all, u) {
				all = append(all, u)
			}
		}
	}
	return all, results
}

// blame gives each name the first error of one of its processes. The mutex is held.
func (s *Set) blame(results Results, errs map[*unit]error) Results {
	for name, err := range results {
		units, _ := s.named(name)
		for _, u := range units {
			if err == nil && errs[u] != nil {
				results[name] = errs[u]
				break
			}
		}
	}
	return results
}

// want writes down that what these names mean is to be up, or not. The mutex is held.
// That it cannot be written does not keep anybody from it; see Problems.
func (s *Set) want(names []string, up bool) {
	for _, name := range names {
		program, n := split(name)
		p := s.programs[program]
		p.want(n, up)
		p.order(&s.orders)
	}
	s.dirty = true
	s.write()
}

// write puts what is to be kept on disk. That it cannot be is told to people, see
// Problems, and keeps nobody from anything: then the keeper has it, until the machine
// starts again.
func (s *Set) write() {
	s.orders.Turn++
	if s.forgets = s.orders.write(s.o.State); s.forgets != nil {
		s.o.Log.Error("what was ordered of programs is not on disk", "error", s.forgets)
		if err := s.o.Children.Remember(ordersName, s.orders); err != nil {
			s.o.Log.Error("what was ordered of programs is not kept", "error", err)
		}
	}
}

// want is that process n is to be up, or not; -1: all of them.
func (p *program) want(n int, up bool) {
	switch {
	case n < 0:
		p.down = !up
		clear(p.stopped)
		return
	case up && p.down: // of all that are down just this one
		p.down = false
		for other := range p.processes {
			p.stopped[other] = true
		}
	}
	if up {
		delete(p.stopped, n)
	} else {
		p.stopped[n] = true
	}
}

// known are the names that mean something.
func known(results Results) []string {
	var names []string
	for name, err := range results {
		if err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Start wants them up, with what they require, and returns when they are. One that
// fails, or waits for something that will not be ready by itself, is an error: superd
// goes on with it all the same.
func (s *Set) Start(ctx context.Context, names ...string) (Results, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil, ErrStopping
	}
	units, results := s.means(names)
	s.want(known(results), true)
	s.pull(units)
	for _, u := range units {
		u.renew()
		u.runNow()
	}
	s.announce()
	s.mu.Unlock()
	errs := s.watch(ctx, units)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blame(results, errs), nil
}

// renew forgets that it was given up or has ended. One that runs is left alone, one in
// the pause between two lives has it cut short.
func (u *unit) renew() {
	if u.over != "" {
		u.over, u.released = "", false
	}
	u.reason, u.fails, u.failures = "", 0, nil
	if u.released {
		u.process.Start()
	}
	u.program.set.dirty = true
}

// pull wants up what the processes require, and what that requires. The mutex is held.
func (s *Set) pull(units []*unit) {
	seen := map[string]bool{}
	var need func(p *program)
	need = func(p *program) {
		for _, name := range p.Requires {
			q := s.programs[strings.TrimPrefix(name, "program.")]
			if q == nil || seen[q.Name] {
				continue
			}
			seen[q.Name] = true
			if q.isIdle() {
				s.want([]string{q.Name}, true)
			}
			need(q)
		}
	}
	for _, u := range units {
		need(u.program)
	}
}

// watch waits until each is up, or has had its say.
func (s *Set) watch(ctx context.Context, units []*unit) map[*unit]error {
	errs := map[*unit]error{}
	for _, u := range units {
		errs[u] = s.await(ctx, u.isUp)
	}
	return errs
}

// isUp tells whether it is up, or why it is not and will not be soon.
func (u *unit) isUp() (bool, error) {
	p := u.program
	state := u.state()
	switch {
	case !u.isWanted():
		return false, told{u.name + " was stopped meanwhile", ErrOverruled}
	case p.set.closing:
		return false, ErrStopping
	case state == supervisor.Running, state == Scheduled, p.Plan != nil && state == supervisor.Starting:
		return true, nil
	case state == Exited && u.reason == "":
		return true, nil
	case u.fails > 0:
		return false, told{u.reason, ErrNotUp}
	case state == Waiting && !p.set.isMoving():
		if what, _ := p.set.waitsFor(p); what != "" {
			return false, told{"it is wanted, and waits for " + what, ErrNotUp}
		}
	}
	return false, nil
}

// isMoving tells whether anybody is on the way up or down, so that what waits may not
// have to wait for long.
func (s *Set) isMoving() bool {
	for _, p := range s.programs {
		for _, u := range p.units {
			state := u.process.Status().State
			if u.held > 0 || u.isComing() || u.mayStart() || u.isWanted() && (state == supervisor.Stopping || state == supervisor.Starting) {
				return true
			}
		}
	}
	return false
}

// Stop wants them down, and returns when they are: those that come after others first,
// each waited for. What requires them is stopped too, and starts with them again. Now
// cuts the wait for their ends short.
func (s *Set) Stop(ctx context.Context, now bool, names ...string) (Results, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	units, results := s.means(names)
	s.want(known(results), false)
	done := s.takeDown(s.with(units), now, nil)
	s.mu.Unlock()
	return s.answer(ctx, results, done)
}

// Renew is Restart for those that are to be up. What a person has stopped stays so; a run
// of a schedule, and what has ended for good, is left alone.
func (s *Set) Renew(ctx context.Context, names ...string) (Results, error) {
	up := s.Renewable(names...)
	if len(up) == 0 {
		return Results{}, nil
	}
	return s.Restart(ctx, up...)
}

// Renewable are the processes of names that Renew would replace.
func (s *Set) Renewable(names ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var up []string
	for _, name := range names {
		units, _ := s.named(name)
		for _, u := range units {
			if u.isWanted() && u.program.Plan == nil && u.over != Exited {
				up = append(up, u.name)
			}
		}
	}
	return up
}

// Restart ends them, in that order, and starts them again, those first that others come
// after. Of two at once each process gets one new life.
func (s *Set) Restart(ctx context.Context, names ...string) (Results, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil, ErrStopping
	}
	units, results := s.means(names)
	s.want(known(results), true)
	s.pull(units)
	all := s.with(units)
	done := s.takeDown(all, false, func(u *unit) {
		u.renew()
		if slices.Contains(units, u) {
			u.runNow()
		}
	})
	s.mu.Unlock()
	results, err := s.answer(ctx, results, done)
	if err != nil {
		return nil, err
	}
	errs := s.watch(ctx, units)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blame(results, errs), nil
}

// answer waits for a takeDown.
func (s *Set) answer(ctx context.Context, results Results, done <-chan map[*unit]error) (Results, error) {
	select {
	case errs := <-done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.blame(results, errs), nil
	case <-s.ending:
		return nil, ErrStopping
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// with adds the processes of programs that require one of which nothing is to stay up.
// The mutex is held.
func (s *Set) with(units []*unit) []*unit {
	all := slices.Clone(units)
	for i := 0; i < len(all); i++ {
		of := all[i].program
		if !covers(all, of) {
			continue
		}
		for _, p := range s.sorted {
			if !slices.Contains(p.Requires, "program."+of.Name) {
				continue
			}
			for _, u := range p.units {
				if !slices.Contains(all, u) {
					all = append(all, u)
				}
			}
		}
	}
	return all
}

// covers tells whether all that is there of p is among units.
func covers(units []*unit, p *program) bool {
	for _, u := range p.units {
		if u.number < p.processes && !slices.Contains(units, u) {
			return false
		}
	}
	return true
}

// takeDown ends processes, each when those among them are down that come after it. None
// is started before it is down itself, and what it comes after too; then, if it is there,
// is called at that moment with the mutex held. One that takes long does not hold up its
// siblings. The mutex is held. What is asked for is done, whoever goes on waiting for it.
func (s *Set) takeDown(units []*unit, now bool, then func(*unit)) <-chan map[*unit]error {
	done := make(chan map[*unit]error, 1)
	for _, u := range units {
		u.held++
		u.released = false
		if now {
			u.process.Down()
			u.process.Kill()
		}
	}
	s.task(func(ctx context.Context) {
		done <- s.descend(ctx, units, func(u *unit) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if u.held--; then != nil && ctx.Err() == nil && !s.closing {
				then(u)
			}
			s.announce()
		})
	})
	return done
}

// descend stops units in order and waits for all of them. free, if it is there, is called
// for each when it might be started again.
func (s *Set) descend(ctx context.Context, units []*unit, free func(*unit)) map[*unit]error {
	errs := make([]error, len(units))
	groups := map[*program]*sync.WaitGroup{} // of each program, those that are not down yet
	for _, u := range units {
		if groups[u.program] == nil {
			groups[u.program] = new(sync.WaitGroup)
		}
		groups[u.program].Add(1)
	}
	behind, ahead := s.neighbours(groups)
	var stopping sync.WaitGroup
	for i, u := range units {
		stopping.Go(func() {
			for _, group := range behind[u.program] {
				group.Wait()
			}
			errs[i] = u.process.Stop(ctx)
			groups[u.program].Done()
			for _, group := range ahead[u.program] {
				group.Wait()
			}
			if free != nil {
				free(u)
			}
		})
	}
	stopping.Wait()
	all := map[*unit]error{}
	for i, u := range units {
		all[u] = errs[i]
	}
	return all
}

// neighbours are, for each program, the groups of those that come after it, and of those
// that it comes after.
func (s *Set) neighbours(groups map[*program]*sync.WaitGroup) (behind, ahead map[*program][]*sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	behind, ahead = map[*program][]*sync.WaitGroup{}, map[*program][]*sync.WaitGroup{}
	for p := range groups {
		for q := range groups {
			if p.comesAfter(q.Name) {
				behind[q] = append(behind[q], groups[p])
				ahead[p] = append(ahead[p], groups[q])
			}
		}
	}
	return behind, ahead
}

// Signal sends a signal to their main processes. Of a whole program those count that are
// to be up.
func (s *Set) Signal(sig syscall.Signal, names ...string) (Results, error) {
	return s.toEach(names, func(u *unit) error { return u.process.Signal(sig) })
}

// Reload has each that runs read its own configuration. One that has no way to is an
// error, and goes on as it is. Of a whole program those count that are to be up.
func (s *Set) Reload(ctx context.Context, names ...string) (Results, error) {
	return s.toEach(names, func(u *unit) error {
		s.mu.Lock()
		how := u.program.Reload
		s.mu.Unlock()
		switch c := u.process.Child(); {
		case how == nil:
			return told{fmt.Sprintf("%s has no reload in its configuration, such as reload = { signal = \"HUP\" }; superctl restart %s", u.of, u.of), ErrImpossible}
		case c == nil:
			return fmt.Errorf("reload %s: %w", u.name, supervisor.ErrNotRunning)
		default:
			return how(ctx, u.number, c)
		}
	})
}

// toEach does something to each process that the names mean, one after the other.
func (s *Set) toEach(names []string, do func(*unit) error) (Results, error) {
	s.mu.Lock()
	units, results := s.means(names)
	units = slices.DeleteFunc(units, func(u *unit) bool { return !u.isWanted() && !slices.Contains(names, u.name) && !u.program.isIdle() })
	s.mu.Unlock()
	errs := map[*unit]error{}
	for _, u := range units {
		errs[u] = do(u)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blame(results, errs), nil
}

// Scale wants so many processes of a program: those that are more than before are
// started, those that are too many are ended, the highest numbers first. It returns when
// both has happened. The number counts until the configuration says another one.
func (s *Set) Scale(ctx context.Context, name string, processes int) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	p := s.programs[name]
	switch {
	case p == nil || p.removed:
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", name, ErrUnknown)
	case p.Plan != nil && processes != 1:
		s.mu.Unlock()
		return told{name + " has a schedule: each run is one process", ErrImpossible}
	}
	done := p.scale(processes)
	more := slices.DeleteFunc(slices.Clone(p.units[:processes]), func(u *unit) bool { return !u.isWanted() })
	s.mu.Unlock()
	if _, err := s.answer(ctx, Results{name: nil}, done); err != nil {
		return err
	}
	return errors.Join(slices.Collect(maps.Values(s.watch(ctx, more)))...)
}

// scale makes it so many processes. The mutex is held.
func (p *program) scale(processes int) <-chan map[*unit]error {
	s := p.set
	p.processes = processes
	was := len(p.stopped)
	maps.DeleteFunc(p.stopped, func(n int, _ bool) bool { return n >= processes })
	if len(p.stopped) < was {
		p.order(&s.orders)
		s.write()
	}
	p.fill()
	s.dirty = true
	return s.takeDown(slices.Clone(p.units[processes:]), false, nil)
}

// Resized are the processes that Apply would start, or end, if the configuration said
// another number of them. It changes nothing.
func (s *Set) Resized(name string, processes int) (starts, ends []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.programs[name]
	if p == nil || p.removed || p.down || p.Processes == processes {
		return nil, nil
	}
	for n := p.processes; n < processes; n++ {
		starts = append(starts, fmt.Sprintf("%s:%d", name, n))
	}
	for n := processes; n < p.processes; n++ {
		if p.isWanted(n) {
			ends = append(ends, fmt.Sprintf("%s:%d", name, n))
		}
	}
	return starts, ends
}

// StopAll ends every program, and returns when nothing of them lives or ctx ends. Those
// that come after something that is no program go first, then apps is called, then the
// rest. Nothing is started any more.
func (s *Set) StopAll(ctx context.Context, apps func()) error {
	s.mu.Lock()
	s.closing = true
	s.announce()
	first := map[string]bool{}
	var rest, early []*unit
	for more := true; more; { // who comes after one that goes first goes before it
		more = false
		for _, p := range s.programs {
			if !first[p.Name] && p.goesEarly(first) {
				first[p.Name], more = true, true
			}
		}
	}
	for _, p := range s.programs {
		if first[p.Name] {
			early = append(early, p.units...)
		} else {
			rest = append(rest, p.units...)
		}
	}
	s.mu.Unlock()
	errs := s.descend(ctx, early, nil)
	apps()
	maps.Copy(errs, s.descend(ctx, rest, nil))
	return errors.Join(slices.Collect(maps.Values(errs))...)
}

// goesEarly tells whether p is to end before the apps do: it comes after one of them,
// or after a program that does.
func (p *program) goesEarly(early map[string]bool) bool {
	programs, others := p.before()
	return len(others) > 0 || slices.ContainsFunc(programs, func(q string) bool { return early[q] })
}

// Apply makes other programs the configured ones. Those that stay are told what is new,
// and none of them is restarted for it: see Restart. Those that are new are started, and
// those that are gone are ended, in order, in the background.
func (s *Set) Apply(programs []Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	named := map[string]bool{}
	for _, is := range programs {
		named[is.Name] = true
		if p := s.programs[is.Name]; p != nil {
			p.apply(is)
		} else {
			s.add(is)
		}
	}
	s.arrange()
	var leaving []*unit
	for _, p := range s.sorted {
		if !named[p.Name] && !p.removed {
			p.removed = true
			p.order(&s.orders)
			leaving = append(leaving, p.units...)
		}
	}
	if len(leaving) > 0 {
		s.write()
	}
	s.takeDown(leaving, false, nil)
}

// apply makes another configuration of the same program hold.
func (p *program) apply(is Program) {
	was := p.Program
	p.Program = is
	if p.removed { // it comes back before it has gone
		p.removed, p.down = false, !is.Autostart
		clear(p.stopped)
	}
	for _, u := range p.units {
		u.process.SetPolicy(u.policy())
	}
	if is.Processes != was.Processes {
		p.scale(is.Processes)
	}
	p.set.announce()
}

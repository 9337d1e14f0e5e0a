package program_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/program"
	"superd/supervisor/schedule"
)

// Orders of people that something comes in between of: a death, an end, another order, a
// change of the configuration.

// What does not start by itself and was being stopped when superd died is not taken for
// something that a person has started.
func TestDeathInTheMiddleOfAStopOfWhatDoesNotStartByItself(t *testing.T) {
	r := newRig(t)
	web, db := r.script("web", linger, "db"), r.script("db", well)
	web.Autostart, db.Autostart = false, false
	all := []program.Program{web, db}
	s := r.superd(all...)
	s.must(s.Start(t.Context(), "web", "db"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = s.Stop(ctx, false, "web", "db") })
	r.soon("web is told", func() string { return missing(r, "told web:0") })
	s.crash()
	asking.Wait()
	s = r.superd(all...)
	r.touch("go-web")
	s.is("db:0", supervisor.Stopped)
	s.is("web:0", supervisor.Stopped)
	if st := s.Status(); st[0].Wanted || st[1].Wanted || r.times("start web:0") != 1 || r.times("start db:0") != 1 {
		t.Errorf("%+v", st)
	}
}

// A process beyond the configured number is stopped by a person like any other.
func TestStoppedBeyondTheConfiguredNumber(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", well))
	if err := s.Scale(t.Context(), "web", 3); err != nil {
		t.Fatal(err)
	}
	s.must(s.Stop(t.Context(), false, "web:1"))
	s.crash()
	s = r.superd(r.script("web", well))
	<-s.Settled()
	if st := s.status("web:1"); st.State != supervisor.Stopped || s.status("web:2").State != supervisor.Running {
		t.Errorf("the next superd has %+v", s.Status())
	}
	for _, n := range []int{1, 3} { // which begins anew what it adds
		if err := s.Scale(t.Context(), "web", n); err != nil {
			t.Fatal(err)
		}
	}
	s.is("web:1", supervisor.Running)
	s.crash()
	s = r.superd(r.script("web", well))
	<-s.Settled()
	if st := s.status("web:1"); st.State != supervisor.Running {
		t.Errorf("scaled up, and superd died: %+v", st)
	}
}

// When superd ends everything nobody starts anything any more.
func TestNoStartAtTheEnd(t *testing.T) {
	r := newRig(t)
	job := r.scheduled("job", well, every(1<<60), schedule.Skip, schedule.Never)
	s := r.superd(r.script("web", linger), r.script("old", linger), job)
	s.is("web:0", supervisor.Running)
	s.is("old:0", supervisor.Running)
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = s.Restart(t.Context(), "old") })
	r.soon("old is told", func() string { return missing(r, "told old:0") })
	asking.Go(func() {
		if err := s.StopAll(t.Context(), func() {}); err != nil {
			t.Error(err)
		}
	})
	r.soon("web is told", func() string { return missing(r, "told web:0") })
	for _, order := range []func(context.Context, ...string) (program.Results, error){s.Start, s.Restart} {
		for _, name := range []string{"web", "job"} {
			if results, err := order(t.Context(), name); !errors.Is(err, program.ErrStopping) {
				t.Errorf("%s: %v, %v", name, results, err)
			}
		}
	}
	r.touch("go-web")
	r.touch("go-old")
	asking.Wait()
	if n := r.times("start web:0") + r.times("start old:0") + r.times("start job:0"); n != 2 {
		t.Errorf("ledger %q", r.ledger())
	}
}

// A program that is taken out of the configuration takes the orders about it along.
func TestRemovedWithItsOrders(t *testing.T) {
	r := newRig(t)
	web := r.script("web", well)
	web.Processes = 2
	s := r.superd(web, r.scheduled("night", done, every(1<<60), schedule.Skip, schedule.Never))
	<-s.Settled()
	s.must(s.Stop(t.Context(), false, "web:1"))
	s.must(s.Start(t.Context(), "night"))
	s.Apply(nil)
	if text, err := os.ReadFile(r.file("programs.json")); err != nil || strings.Contains(string(text), "web") || strings.Contains(string(text), "night") {
		t.Errorf("on disk is %s, %v", text, err)
	}
	r.soon("it is gone", func() string { return s.status("web:0").Name })
	s.Apply([]program.Program{web})
	s.is("web:1", supervisor.Running)
	if i := slices.IndexFunc(s.Status(), func(st program.Status) bool { return st.Program == "web" && !st.Wanted }); i >= 0 {
		t.Errorf("%+v", s.Status())
	}
}

// A name means what is there now: not what was, and no process of a number that none has.
func TestNames(t *testing.T) {
	r := newRig(t)
	var reloads atomic.Int64
	web := r.script("web", well)
	web.Processes = 2
	web.Reload = func(context.Context, int, *supervisor.Child) error {
		reloads.Add(1)
		return nil
	}
	s := r.superd(web)
	<-s.Settled()
	if err := s.Scale(t.Context(), "web", 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web:1", "web:-1", "web:x", "web:", ":0", ""} {
		if results, err := s.Start(t.Context(), name); err != nil || !errors.Is(results[name], program.ErrUnknown) {
			t.Errorf("%q: %v, %v", name, results, err)
		}
	}
	s.must(s.Start(t.Context(), "web"))
	s.must(s.Reload(t.Context(), "web", "web:0"))
	if n := reloads.Load(); n != 1 {
		t.Errorf("named twice, it was reloaded %d times", n)
	}
}

// One of several is started and stopped alone.
func TestOneOfSeveral(t *testing.T) {
	r := newRig(t)
	web := r.script("web", well)
	web.Processes, web.Autostart = 3, false
	s := r.superd(web)
	is := func(want ...supervisor.State) {
		t.Helper()
		for i, st := range s.Status() {
			if st.State != want[i] {
				t.Errorf("%s is %s, want %s", st.Name, st.State, want[i])
			}
		}
	}
	s.must(s.Start(t.Context(), "web:1"))
	is(supervisor.Stopped, supervisor.Running, supervisor.Stopped)
	s.must(s.Start(t.Context(), "web:0"))
	is(supervisor.Running, supervisor.Running, supervisor.Stopped)
	s.must(s.Stop(t.Context(), false, "web:0"))
	s.must(s.Start(t.Context(), "web:0"))
	is(supervisor.Running, supervisor.Running, supervisor.Stopped)
	s.must(s.Stop(t.Context(), false, "web"))
	s.must(s.Start(t.Context(), "web"))
	is(supervisor.Running, supervisor.Running, supervisor.Running)
}

// A signal to a program is for those of it that are to be up; who names one that does not
// run is told so.
func TestSignalToThoseThatRun(t *testing.T) {
	r := newRig(t)
	web, idle := r.script("web", well), r.script("idle", well)
	web.Processes, idle.Autostart = 2, false
	web.Reload = func(context.Context, int, *supervisor.Child) error { return nil }
	idle.Reload = web.Reload
	s := r.superd(web, idle)
	<-s.Settled()
	s.must(s.Stop(t.Context(), false, "web:1"))
	s.must(s.Signal(syscall.SIGCONT, "web"))
	s.must(s.Reload(t.Context(), "web"))
	for _, name := range []string{"web:1", "idle"} {
		if results, err := s.Signal(syscall.SIGCONT, name); err != nil || !errors.Is(results[name], supervisor.ErrNotRunning) {
			t.Errorf("signal to %s: %v, %v", name, results, err)
		}
		if results, err := s.Reload(t.Context(), name); err != nil || !errors.Is(results[name], supervisor.ErrNotRunning) {
			t.Errorf("reload of %s: %v, %v", name, results, err)
		}
	}
}

// A start cuts the pause between two lives short, and what has failed before it does not
// count any more.
func TestStartBeginsTheCountAnew(t *testing.T) {
	r := newRig(t)
	bad := r.script("bad", fails)
	bad.MaxRestarts, bad.Backoff.First, bad.Backoff.Max = 1, time.Hour, 2*time.Hour
	s := r.superd(bad)
	s.is("bad:0", supervisor.Backing)
	s.hears(program.Failed, 1) // counted, so that it does not count for the next
	for n := 2; n < 4; n++ {
		if results, err := s.Start(t.Context(), "bad"); err != nil || results["bad"] == nil {
			t.Errorf("%v, %v", results, err)
		}
		if starts := r.times("start bad:0"); starts != n || s.status("bad:0").State == program.Fatal {
			t.Errorf("%d starts, want %d: %+v", starts, n, s.status("bad:0"))
		}
	}
}

// What was given up is tried again when a person says so, as if it had never failed; but
// not before what it comes after is ready.
func TestStartOfWhatWasGivenUp(t *testing.T) {
	r := newRig(t)
	var up atomic.Bool
	up.Store(true)
	bad := r.script("bad", fails, "app.shop")
	bad.MaxRestarts = 1
	s := r.superdWith(func(string) bool { return up.Load() }, bad)
	s.is("bad:0", program.Fatal)
	up.Store(false)
	results, err := s.Start(t.Context(), "bad")
	if err != nil || results["bad"] == nil || !strings.Contains(results["bad"].Error(), "waits for app shop") || r.times("start bad:0") != 2 {
		t.Errorf("%v, %v; %q", results, err, r.ledger())
	}
	up.Store(true)
	r.soon("it fails again", func() string {
		if n := r.times("start bad:0"); n < 4 {
			return fmt.Sprint(n)
		}
		return ""
	})
	s.is("bad:0", program.Fatal)
	if n := r.times("start bad:0"); n != 4 {
		t.Errorf("%d starts", n)
	}
}

// A job that fails and is not to be tried again is no success to who starts it.
func TestStartOfAJobThatFails(t *testing.T) {
	r := newRig(t)
	job := r.script("job", fails)
	job.Restart, job.Autostart = supervisor.Never, false
	s := r.superd(job)
	if results, err := s.Start(t.Context(), "job"); err != nil || !errors.Is(results["job"], program.ErrNotUp) || !strings.Contains(results["job"].Error(), "exit 3") {
		t.Errorf("%v, %v", results, err)
	}
	if st := s.is("job:0", program.Exited); !strings.HasPrefix(st.Reason, "exit 3") {
		t.Errorf("%+v", st)
	}
}

// What a program is not made for is told apart from what does not work now.
func TestImpossibleOrders(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", well), r.scheduled("night", done, every(1<<60), schedule.Skip, schedule.Never))
	if results, err := s.Reload(t.Context(), "web"); err != nil || !errors.Is(results["web"], program.ErrImpossible) || !strings.HasPrefix(results["web"].Error(), "web has no reload") {
		t.Errorf("%v, %v", results, err)
	}
	if err := s.Scale(t.Context(), "night", 2); !errors.Is(err, program.ErrImpossible) || !strings.HasPrefix(err.Error(), "night has a schedule") {
		t.Errorf("%v", err)
	}
}

// Who waits for a start that comes to nothing is told why.
func TestStartThatIsOverruled(t *testing.T) {
	r := newRig(t)
	web := r.script("web", slow)
	web.Autostart = false
	s := r.superd(web)
	for _, tt := range []struct {
		how  func() error
		want string
	}{
		{func() error { _, err := s.Stop(t.Context(), false, "web"); return err }, "was stopped meanwhile"},
		{func() error { return s.StopAll(t.Context(), func() {}) }, program.ErrStopping.Error()},
	} {
		said := make(chan error, 1)
		var asking sync.WaitGroup
		asking.Go(func() {
			results, err := s.Start(t.Context(), "web")
			said <- errors.Join(err, results["web"])
		})
		s.is("web:0", supervisor.Starting)
		if err := tt.how(); err != nil {
			t.Error(err)
		}
		if err := <-said; err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("it says %v, want %s", err, tt.want)
		}
		asking.Wait()
	}
}

// A chain of what requires what goes up and down as a whole, and only as far as it has to.
func TestChainOfRequired(t *testing.T) {
	r := newRig(t)
	chain := func(name string, requires ...string) program.Program {
		p := r.script(name, well, requires...)
		p.Requires, p.Autostart = p.After, false
		return p
	}
	db, job := chain("db"), r.scheduled("job", done, every(1<<60), schedule.Skip, schedule.Never)
	db.Processes = 3
	job.After, job.Requires = []string{"program.db"}, []string{"program.db"}
	s := r.superd(chain("front", "web"), chain("web", "db"), db, job)
	s.must(s.Start(t.Context(), "db"))
	s.must(s.Stop(t.Context(), false, "db:2"))
	s.must(s.Start(t.Context(), "front"))
	r.ordered("up db:0", "start web:0", "up web:0", "start front:0")
	if st := s.status("db:2"); st.State != supervisor.Stopped {
		t.Errorf("what a person has stopped of what is required was started: %+v", st)
	}
	if err := s.Scale(t.Context(), "db", 2); err != nil {
		t.Fatal(err)
	}
	s.must(s.Stop(t.Context(), false, "db:1"))
	if r.times("told web:0") != 0 {
		t.Error("what requires it was stopped although one of two goes on")
	}
	s.must(s.Restart(t.Context(), "db"))
	s.is("front:0", supervisor.Running)
	r.ordered("told front:0", "told web:0", "told db:0", "up db:0", "start web:0", "up web:0", "start front:0")
	s.must(s.Stop(t.Context(), false, "db"))
	s.is("front:0", program.Waiting)
	s.is("web:0", program.Waiting)
	if n := r.times("start job:0"); n != 0 {
		t.Errorf("a schedule has run %d times because what it requires was restarted", n)
	}
	s.must(s.Restart(t.Context(), "web")) // which brings back what it requires
	s.is("db:0", supervisor.Running)
	s.must(s.Restart(t.Context(), "job"))
	r.soon("it has run", func() string { return missing(r, "start job:0") })
}

// A new configuration restarts what is to be up, and nothing else.
func TestRenew(t *testing.T) {
	r := newRig(t)
	down, job, bad := r.script("down", well), r.script("job", done), r.script("bad", fails)
	down.Processes, job.Restart, bad.MaxRestarts = 2, supervisor.Never, 1
	night := r.scheduled("night", well, every(1<<60), schedule.Skip, schedule.Never)
	s := r.superd(r.script("web", well), down, job, bad, night)
	<-s.Settled()
	s.is("job:0", program.Exited)
	s.is("bad:0", program.Fatal)
	s.must(s.Stop(t.Context(), false, "down:0"))
	s.must(s.Start(t.Context(), "night"))
	results, err := s.Renew(t.Context(), "web", "down", "job", "bad", "night", "nobody")
	if err != nil || len(results) != 3 || results["web:0"] != nil || results["down:1"] != nil || results["bad:0"] == nil {
		t.Errorf("%v, %v", results, err)
	}
	s.is("bad:0", program.Fatal)
	for what, want := range map[string]int{"web:0": 2, "down:0": 1, "down:1": 2, "job:0": 1, "night:0": 1, "bad:0": 4} {
		if n := r.times("start " + what); n != want {
			t.Errorf("%s was started %d times, want %d", what, n, want)
		}
	}
	if results, err := s.Renew(t.Context(), "down:0"); err != nil || len(results) != 0 {
		t.Errorf("%v, %v", results, err)
	}
}

// --now needs no stop before it.
func TestStopNow(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("deaf", deaf))
	s.is("deaf:0", supervisor.Running)
	s.must(s.Stop(t.Context(), true, "deaf"))
	r.soon("the kill is told", func() string {
		if n := len(s.heard(program.Killed)); n != 1 {
			return fmt.Sprint(n)
		}
		return ""
	})
}

// A scale stands over a reload that does not speak of it; a program that comes back before
// it has gone is as it is configured, whatever was ordered of it before.
func TestApplyAndOrders(t *testing.T) {
	r := newRig(t)
	web, old := r.script("web", well), r.script("old", linger)
	old.Processes = 2
	s := r.superd(web, old, r.scheduled("job", done, every(1<<60), schedule.Skip, schedule.Never))
	<-s.Settled()
	if err := s.Scale(t.Context(), "web", 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Scale(t.Context(), "job", 2); err == nil {
		t.Error("a schedule was scaled")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = s.Stop(ctx, false, "old") })
	r.soon("old is told", func() string { return missing(r, "told old:1") })
	s.Apply([]program.Program{web})
	if err := s.Scale(t.Context(), "old", 1); !errors.Is(err, program.ErrUnknown) {
		t.Errorf("scale of one that is removed: %v", err)
	}
	s.Apply([]program.Program{web, old})
	r.touch("go-old")
	asking.Wait()
	s.is("old:0", supervisor.Running)
	s.is("old:1", supervisor.Running)
	if n := len(s.Status()); n != 5 {
		t.Errorf("%+v", s.Status())
	}
}

// What another number of processes would start and end, before it does.
func TestResized(t *testing.T) {
	r := newRig(t)
	web, idle := r.script("web", well), r.script("idle", well)
	web.Processes, idle.Autostart = 2, false
	s := r.superd(web, idle)
	<-s.Settled()
	if err := s.Scale(t.Context(), "web", 4); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(t.Context(), false, "web:2"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"web", 2, "[] []"}, // as it is configured: the scale stands
		{"web", 1, "[] [web:1 web:3]"},
		{"web", 6, "[web:4 web:5] []"},
		{"idle", 3, "[] []"},
		{"nobody", 3, "[] []"},
	} {
		if starts, ends := s.Resized(c.name, c.n); fmt.Sprint(starts, ends) != c.want {
			t.Errorf("%s of %d: starts and ends %v %v, want %s", c.name, c.n, starts, ends, c.want)
		}
	}
	web.Processes = 1
	s.Apply([]program.Program{web, idle})
	r.soon("web:0 alone is left", func() string {
		if n := len(s.Status()); n != 2 {
			return fmt.Sprintf("%+v", s.Status())
		}
		return ""
	})
	s.is("web:0", supervisor.Running)
}

// Of a program that is gone nothing is left but its name in the past.
func TestGoneIsForgotten(t *testing.T) {
	r := newRig(t)
	many := r.script("many", well)
	many.Processes, many.Autostart = 50, false
	s := r.superd()
	<-s.Settled()
	living := func(want int) func() string {
		return func() string {
			stacks := make([]byte, 4<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if n := strings.Count(string(stacks), "program.(*unit).run("); n != want {
				return fmt.Sprint(n)
			}
			return ""
		}
	}
	s.Apply([]program.Program{many})
	r.soon("each has its goroutine", living(50))
	s.Apply(nil)
	r.soon("none is left", living(0))
}

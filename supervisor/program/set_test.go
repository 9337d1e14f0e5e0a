package program_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/program"
)

func TestStartsWhenWhatItComesAfterIsReady(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", well, "db"), r.script("db", slow), r.script("cache", well))
	s.is("cache:0", supervisor.Running) // waits for nobody
	if st := s.is("web:0", program.Waiting); st.Reason != "for db:0, which is starting" {
		t.Errorf("it waits %q", st.Reason)
	}
	select {
	case <-s.Settled():
		t.Error("settled while one is on its way up")
	default:
	}
	r.touch("go-db")
	s.is("web:0", supervisor.Running)
	r.ordered("start db:0", "up db:0", "start web:0")
	<-s.Settled()
	if problems := s.Problems(); len(problems) != 0 {
		t.Errorf("problems %q", problems)
	}
}

// What has proved itself is known to the keeper soon, though not at once: a superd that is
// killed leaves it to the next one.
func TestProofsAreLeftWithTheKeeper(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", well))
	for range 2 {
		up := s.is("web:0", supervisor.Running)
		life := fmt.Sprintf(`"up":["%d@`, up.PID)
		r.soon("the keeper knows that it is up", func() string {
			if kept := r.kept(); !strings.Contains(kept, life) {
				return fmt.Sprintf("%s in %s", life, kept)
			}
			return ""
		})
		s.must(s.Restart(t.Context(), "web"))
	}
}

func TestStopsInReverse(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("front", linger, "web"), r.script("web", linger, "app.shop"), r.script("db", linger), r.script("cache", well, "db"))
	for _, name := range []string{"front:0", "web:0", "db:0", "cache:0"} {
		s.is(name, supervisor.Running)
	}
	var stopping sync.WaitGroup
	stopping.Go(func() {
		err := s.StopAll(t.Context(), func() {
			if err := os.WriteFile(r.file("apps"), []byte(strings.Join(r.ledger(), "\n")), 0o600); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	r.soon("front is told", func() string { return missing(r, "told front:0") })
	time.Sleep(100 * time.Millisecond)
	if r.times("told web:0") != 0 {
		t.Error("web was told before front was gone")
	}
	r.touch("go-front")
	r.soon("web is told", func() string { return missing(r, "told web:0") })
	if _, err := os.Stat(r.file("apps")); err == nil {
		t.Error("the apps were ended before what comes after them")
	}
	r.touch("go-web")
	r.touch("go-db")
	stopping.Wait()
	before, err := os.ReadFile(r.file("apps"))
	if err != nil || strings.Contains(string(before), "told db") {
		t.Errorf("when the apps were ended: %s, %v", before, err)
	}
	r.ordered("told front:0", "gone front:0", "told web:0", "gone web:0", "told cache:0", "told db:0", "gone db:0")
}

func missing(r *rig, what string) string {
	if r.times(what) > 0 {
		return ""
	}
	return fmt.Sprintf("%q", r.ledger())
}

func TestRequired(t *testing.T) {
	r := newRig(t)
	web := r.script("web", well, "db")
	web.Requires = []string{"program.db"}
	web.Autostart = false
	db := r.script("db", well)
	db.Autostart = false
	s := r.superd(web, db)
	s.must(s.Start(t.Context(), "web")) // starts db too
	r.ordered("start db:0", "up db:0", "start web:0", "up web:0")
	s.must(s.Stop(t.Context(), false, "db"))
	r.ordered("up web:0", "told web:0", "told db:0")
	if st := s.is("web:0", program.Waiting); st.Reason != "for db, which is stopped" {
		t.Errorf("it waits %q", st.Reason)
	}
	s.must(s.Start(t.Context(), "db"))
	s.is("web:0", supervisor.Running)
	before := s.status("web:0").PID
	s.must(s.Restart(t.Context(), "db"))
	s.is("web:0", supervisor.Running)
	if s.status("web:0").PID == before {
		t.Error("what requires it was not restarted with it")
	}
	r.ordered("up web:0", "told web:0", "told db:0", "start db:0", "start web:0", "told web:0", "told db:0", "start db:0", "up db:0", "start web:0")
}

func TestAfterOneThatFails(t *testing.T) {
	r := newRig(t)
	db := r.script("db", fails)
	db.MaxRestarts = 2
	web, job := r.script("web", well, "db"), r.script("job", well, "db")
	job.Requires = []string{"program.db"}
	s := r.superd(web, db, job)
	s.is("web:0", supervisor.Running) // db has had its say
	s.is("db:0", program.Fatal)
	if st := s.is("job:0", program.Waiting); st.Reason != "for db:0, which is fatal" {
		t.Errorf("it waits %q", st.Reason)
	}
	<-s.Settled()
	if n := r.times("start db:0"); n != 3 {
		t.Errorf("it was started %d times, want 3: the first time and two restarts", n)
	}
	results, err := s.Start(t.Context(), "job")
	if err != nil || results["job"] == nil || !strings.Contains(results["job"].Error(), "waits for db:0, which is fatal") {
		t.Errorf("start says %v, %v", results, err)
	}
	if text := strings.Join(s.Problems(), "; "); !strings.Contains(text, "db:0 is fatal: gave up after 3 failures within 1m0s: exit 3") || !strings.Contains(text, "job:0 is waiting: for db:0") {
		t.Errorf("problems %q", text)
	}
	s.hears(program.Failed, 3)
	s.hears(program.GaveUp, 1)
}

// What crashes on and on is tried on and on, ever more slowly, unless its configuration
// has a limit; and it accepts a stop at any time.
func TestCrashLoopIsCooling(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("bad", fails))
	s.is("bad:0", supervisor.Cooling)
	r.soon("it goes on", func() string {
		if r.times("start bad:0") > 6 {
			return ""
		}
		return "not yet"
	})
	<-s.Settled()
	results, err := s.Start(t.Context(), "bad")
	if err != nil || results["bad"] == nil || !strings.Contains(results["bad"].Error(), "exit 3") {
		t.Errorf("start says %v, %v", results, err)
	}
	s.must(s.Stop(t.Context(), false, "bad:0"))
	n := r.times("start bad:0")
	time.Sleep(300 * time.Millisecond)
	if r.times("start bad:0") != n || s.status("bad:0").State != supervisor.Stopped {
		t.Error("it goes on although it was stopped")
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, tt := range []struct {
		restart supervisor.Restart
		script  string
		again   bool
		problem bool
	}{
		{supervisor.Always, done, true, true}, // before it was ready
		{supervisor.Unexpected, done, false, false},
		{supervisor.Unexpected, fails, true, true},
		{supervisor.Never, done, false, false},
		{supervisor.Never, fails, false, true},
	} {
		t.Run(fmt.Sprint(tt.restart, " ", tt.script[len(tt.script)-6:]), func(t *testing.T) {
			r := newRig(t)
			p := r.script("job", tt.script)
			p.Restart = tt.restart
			s := r.superd(p)
			if tt.again {
				r.soon("started again", func() string {
					if r.times("start job:0") > 2 {
						return ""
					}
					return "no"
				})
				s.is("job:0", supervisor.Cooling)
			} else {
				s.is("job:0", program.Exited)
				if n := r.times("start job:0"); n != 1 {
					t.Errorf("started %d times", n)
				}
			}
			if got := len(s.Problems()) > 0; got != tt.problem {
				t.Errorf("problems %q", s.Problems())
			}
		})
	}
}

// A job that is done is not done again because superd died, but is on the next boot.
func TestOneShotOverTheDeathOfSuperd(t *testing.T) {
	r := newRig(t)
	job, bad, next := r.script("job", done), r.script("bad", fails), r.script("next", well, "job")
	job.Restart, bad.MaxRestarts = supervisor.Never, 1
	s := r.superd(job, bad, next)
	s.is("next:0", supervisor.Running)
	r.ordered("start job:0", "start next:0")
	s.is("bad:0", program.Fatal)
	s.crash()
	s = r.superd(job, bad, next)
	s.is("job:0", program.Exited)
	if st := s.is("bad:0", program.Fatal); !strings.Contains(st.Reason, "gave up") {
		t.Errorf("the reason is forgotten: %q", st.Reason)
	}
	<-s.Settled()
	if n := r.times("start job:0"); n != 1 {
		t.Errorf("the job was run %d times", n)
	}
	if n := r.times("start bad:0"); n != 2 {
		t.Errorf("what was given up was started %d times", n)
	}
	r.reboot(s)
	s = r.superd(job, bad, next)
	s.is("next:0", supervisor.Running)
	if n := r.times("start job:0"); n != 2 {
		t.Errorf("after the boot the job was run %d times in all, want 2", n)
	}
}

// What comes after a job that is up when it has ended waits for its end.
func TestAfterTheEnd(t *testing.T) {
	r := newRig(t)
	job := r.script("job", note+`while ! [ -e "$GO" ]; do sleep 0.02; done; note gone`)
	job.Restart = supervisor.Unexpected
	job.Proof = func(int) func(context.Context, *supervisor.Child) error { return supervisor.Ended }
	s := r.superd(job, r.script("web", well, "job"))
	r.soon("it runs", func() string { return missing(r, "start job:0") })
	if st := s.is("web:0", program.Waiting); st.Reason != "for job:0, which is starting" {
		t.Errorf("it waits %q", st.Reason)
	}
	r.touch("go-job")
	s.is("web:0", supervisor.Running)
	r.ordered("start job:0", "gone job:0", "start web:0")
	s.must(s.Start(t.Context(), "job")) // again, and it is done at once
	s.is("job:0", program.Exited)
}

func TestStoppedByHandStaysStopped(t *testing.T) {
	r := newRig(t)
	web := r.script("web", well)
	web.Processes = 3
	idle := r.script("idle", well)
	idle.Autostart = false
	all := []program.Program{web, r.script("db", well), idle}
	s := r.superd(all...)
	s.must(s.Start(t.Context(), "web", "db", "idle"))
	s.must(s.Stop(t.Context(), false, "db", "web:1"))
	s.crash()
	s = r.superd(all...)
	if s.adopted != 3 {
		t.Errorf("%d adopted, want 3", s.adopted)
	}
	check := func(when string, states map[string]supervisor.State) {
		t.Helper()
		<-s.Settled()
		for name, state := range states {
			if got := s.status(name).State; got != state {
				t.Errorf("%s: %s is %s, want %s", when, name, got, state)
			}
		}
	}
	want := map[string]supervisor.State{
		"web:0": supervisor.Running, "web:1": supervisor.Stopped, "web:2": supervisor.Running, "db:0": supervisor.Stopped, "idle:0": supervisor.Running,
	}
	check("next superd", want)
	r.reboot(s)
	s = r.superd(all...)
	want["idle:0"] = supervisor.Stopped // does not start by itself
	check("next boot", want)
	s.must(s.Start(t.Context(), "db", "web"))
	r.reboot(s)
	s = r.superd(all...)
	want["db:0"], want["web:1"] = supervisor.Running, supervisor.Running
	check("started by hand, and booted", want)
}

// The order stands on a machine whose disk is full, and people are told what that means.
func TestStopOnAFullDisk(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", well))
	s.is("web:0", supervisor.Running)
	if err := os.Mkdir(r.file("programs.json.new"), 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	s.must(s.Stop(t.Context(), false, "web"))
	s.is("web:0", supervisor.Stopped)
	for range 2 { // superd dies, and the next one too
		if text := strings.Join(s.Problems(), "; "); !strings.Contains(text, "will be forgotten") {
			t.Errorf("problems %q", text)
		}
		s.crash()
		s = r.superd(r.script("web", well))
		<-s.Settled()
		s.is("web:0", supervisor.Stopped)
	}
	if err := os.Remove(r.file("programs.json.new")); err != nil {
		t.Fatal(err)
	}
	s.must(s.Stop(t.Context(), false, "web"))
	if problems := s.Problems(); len(problems) != 0 {
		t.Errorf("problems %q", problems)
	}
	s.must(s.Start(t.Context(), "web"))
	s.crash()
	s = r.superd(r.script("web", well)) // for which what the keeper has is not the last word
	s.is("web:0", supervisor.Running)
	r.reboot(s)
	r.superd(r.script("web", well)).is("web:0", supervisor.Running)
}

func TestTwoRestartsGiveOneCopy(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", linger))
	s.is("web:0", supervisor.Running)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			results, err := s.Restart(t.Context(), "web")
			if err != nil || results["web"] != nil {
				t.Errorf("%v, %v", results, err)
			}
		})
	}
	r.soon("it is told", func() string { return missing(r, "told web:0") })
	time.Sleep(100 * time.Millisecond)
	r.touch("go-web")
	both.Wait()
	if starts, tolds := r.times("start web:0"), r.times("told web:0"); starts != 2 || tolds != 1 {
		t.Errorf("%d starts and %d ends, want 2 and 1", starts, tolds)
	}
}

// One of eight that takes long to go keeps none of the others down.
func TestRestartWaitsForEachAlone(t *testing.T) {
	r := newRig(t)
	web := r.script("web", `[ "$WHO" = web:3 ] || GO=/; `+linger)
	web.Processes = 8
	s := r.superd(web)
	<-s.Settled()
	before := s.Status()
	var asking sync.WaitGroup
	asking.Go(func() { s.must(s.Restart(t.Context(), "web")) })
	r.soon("seven are back", func() string {
		back := 0
		for i, st := range s.Status() {
			if st.State == supervisor.Running && st.PID != before[i].PID {
				back++
			}
		}
		if back == 7 {
			return ""
		}
		return fmt.Sprint(back)
	})
	if st := s.status("web:3"); st.State != supervisor.Stopping || st.PID != before[3].PID {
		t.Errorf("%+v", st)
	}
	r.touch("go-web")
	asking.Wait()
	if n := r.times("start web:3"); n != 2 {
		t.Errorf("web:3 has begun %d times", n)
	}
}

// A restart is done, whoever goes on waiting for it.
func TestRestartThatNobodyWaitsFor(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", linger))
	s.is("web:0", supervisor.Running)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		if _, err := s.Restart(ctx, "web"); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	r.soon("it is told", func() string { return missing(r, "told web:0") })
	cancel()
	asking.Wait()
	r.touch("go-web")
	r.soon("it is started again", func() string {
		if r.times("up web:0") == 2 {
			return ""
		}
		return "not yet"
	})
}

func TestStopAtAnyTime(t *testing.T) {
	r := newRig(t)
	bad := r.script("bad", fails)
	bad.Backoff.First, bad.Backoff.Max = time.Hour, time.Hour
	s := r.superd(r.script("web", slow), r.script("front", well, "web"), bad, r.script("deaf", deaf))
	s.is("web:0", supervisor.Starting)
	s.is("front:0", program.Waiting)
	s.is("bad:0", supervisor.Backing)
	s.is("deaf:0", supervisor.Running)
	s.must(s.Stop(t.Context(), false, "front")) // while it waits
	s.must(s.Stop(t.Context(), false, "web"))   // while it starts
	s.must(s.Stop(t.Context(), false, "bad"))   // in the pause
	var stopping sync.WaitGroup
	stopping.Go(func() { s.must(s.Stop(t.Context(), false, "deaf")) })
	r.soon("it is told", func() string { return missing(r, "told deaf:0") })
	s.must(s.Stop(t.Context(), true, "deaf")) // cuts the wait short
	stopping.Wait()
	for _, st := range s.Status() {
		if st.State != supervisor.Stopped || st.PID != 0 {
			t.Errorf("%+v", st)
		}
	}
	if r.times("start front:0") != 0 {
		t.Error("what waited was started")
	}
	s.hears(program.Killed, 1)
	if r.times("told deaf:0") != 1 {
		t.Errorf("told %d times", r.times("told deaf:0"))
	}
}

func TestScaleTouchesNoOther(t *testing.T) {
	r := newRig(t)
	web := r.script("web", well)
	web.Processes = 8
	s := r.superd(web)
	<-s.Settled()
	before := s.Status()
	for _, n := range []int{10, 6} {
		if err := s.Scale(t.Context(), "web", n); err != nil {
			t.Fatal(err)
		}
		if now := s.Status(); len(now) != n || now[n-1].State != supervisor.Running {
			t.Errorf("scaled to %d: %+v", n, now)
		}
	}
	for i, st := range s.Status() {
		if st.PID != before[i].PID {
			t.Errorf("%s was replaced", st.Name)
		}
	}
	if n := r.times("start web:9"); n != 1 || r.times("told web:9") != 1 {
		t.Errorf("web:9 started %d times", n)
	}
	s.crash()
	s = r.superd(web)
	<-s.Settled()
	if n := len(s.Status()); n != 6 {
		t.Errorf("the next superd has %d", n)
	}
	web.Processes = 4
	s.Apply([]program.Program{web})
	r.soon("4 are left", func() string {
		if n := len(s.Status()); n != 4 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if err := s.Scale(t.Context(), "nobody", 1); !errors.Is(err, program.ErrUnknown) {
		t.Errorf("error %v", err)
	}
}

func TestAdoption(t *testing.T) {
	r := newRig(t)
	front, gone := r.script("front", well, "web"), r.script("gone", deaf)
	gone.StopSignal, gone.StopTimeout = syscall.SIGUSR1, patience // which ends it
	web := r.script("web", well)
	s := r.superd(front, web, gone, r.script("bad", fails))
	s.is("front:0", supervisor.Running)
	s.is("gone:0", supervisor.Running)
	before := s.Status()
	s.crash()
	s = r.superd(front, web, r.script("bad", fails)) // gone is no longer configured
	<-s.Settled()
	s.is("front:0", supervisor.Running)
	for _, st := range before {
		if now := s.status(st.Name); st.Program != "gone" && st.Program != "bad" && now.PID != st.PID {
			t.Errorf("%s was replaced", st.Name)
		}
	}
	r.soon("what is not configured has ended", func() string { return s.status("gone:0").Name })
	if r.times("told gone:0") != 0 {
		t.Error("it got the usual signal and not its own")
	}
	if e := s.heard(program.Ready); len(e) != 0 {
		t.Errorf("what was up before is told to be up: %+v", e)
	}
}

// superd dies in the middle of a stop: the next one goes on with it, in order.
func TestDeathInTheMiddleOfAStop(t *testing.T) {
	r := newRig(t)
	all := []program.Program{r.script("web", linger, "db"), r.script("db", well)}
	s := r.superd(all...)
	s.is("web:0", supervisor.Running)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = s.Stop(ctx, false, "web", "db") })
	r.soon("web is told", func() string { return missing(r, "told web:0") })
	s.crash()
	asking.Wait()
	s = r.superd(all...)
	s.is("web:0", supervisor.Stopping)
	if r.times("told db:0") != 0 {
		t.Error("db was told before web was gone")
	}
	r.touch("go-web")
	s.is("db:0", supervisor.Stopped)
	r.ordered("told web:0", "gone web:0", "told db:0")
	if r.times("told web:0") != 1 {
		t.Error("it was told twice")
	}
}

func TestAfterAnApp(t *testing.T) {
	r := newRig(t)
	var up atomic.Bool
	s := r.superdWith(func(name string) bool { return name != "app.shop" || up.Load() }, r.script("web", well, "app.shop"))
	if st := s.is("web:0", program.Waiting); st.Reason != "for app shop, which is not ready" {
		t.Errorf("it waits %q", st.Reason)
	}
	<-s.Settled() // nobody knows when an app has its first release
	up.Store(true)
	s.is("web:0", supervisor.Running)
}

func TestApply(t *testing.T) {
	r := newRig(t)
	web, old := r.script("web", well), r.script("old", linger)
	s := r.superd(web, old)
	s.is("web:0", supervisor.Running)
	s.is("old:0", supervisor.Running)
	before := s.status("web:0").PID
	web.StopSignal, web.MaxRestarts = syscall.SIGUSR2, 7
	s.Apply([]program.Program{web, r.script("new", well, "web")})
	s.is("new:0", supervisor.Running)
	if s.status("web:0").PID != before {
		t.Error("what only changes how it is looked after was restarted")
	}
	s.is("old:0", supervisor.Stopping)
	results, err := s.Start(t.Context(), "old")
	if err != nil || !errors.Is(results["old"], program.ErrUnknown) {
		t.Errorf("start of one that is removed: %v, %v", results, err)
	}
	s.Apply([]program.Program{web, r.script("new", well, "web"), old}) // before it has gone
	r.touch("go-old")
	s.is("old:0", supervisor.Running)
	s.Apply([]program.Program{web, r.script("new", well, "web")})
	r.soon("old is gone", func() string { return s.status("old:0").Name })
	s.must(s.Stop(t.Context(), false, "web"))
	if r.times("told web:0") != 0 {
		t.Error("it was stopped as it was configured before")
	}
}

func TestReloadAndSignal(t *testing.T) {
	r := newRig(t)
	var reloaded atomic.Int64
	web := r.script("web", note+`trap 'note usr1' USR1; note up; echo up; `+stay)
	web.Reload = func(_ context.Context, n int, c *supervisor.Child) error {
		reloaded.Store(int64(c.PID()))
		return nil
	}
	s := r.superd(web, r.script("db", well))
	s.is("web:0", supervisor.Running)
	s.is("db:0", supervisor.Running)
	s.must(s.Reload(t.Context(), "web"))
	if int(reloaded.Load()) != s.status("web:0").PID {
		t.Error("it was not reloaded")
	}
	results, err := s.Reload(t.Context(), "db", "web", "nobody")
	if err != nil || results["web"] != nil || !errors.Is(results["nobody"], program.ErrUnknown) || !strings.Contains(results["db"].Error(), "superctl restart db") {
		t.Errorf("%v, %v", results, err)
	}
	s.must(s.Signal(syscall.SIGUSR1, "web"))
	r.soon("it hears", func() string { return missing(r, "usr1 web:0") })
}

func TestRecycling(t *testing.T) {
	r := newRig(t)
	old := r.script("old", well)
	old.MaxAge = 500 * time.Millisecond
	large := r.script("large", note+`note up; echo up; x=$(head -c 30000000 /dev/zero | tr '\0' x); `+stay)
	large.MaxMemory = 20 << 20
	s := r.superd(old, large, r.script("well", well))
	for _, name := range []string{"old:0", "large:0"} {
		r.soon(name+" is recycled", func() string {
			if r.times("up "+name) > 1 {
				return ""
			}
			return "no"
		})
	}
	reasons := ""
	for _, e := range s.heard(program.Recycled) {
		reasons += e.Process + " " + e.Reason + "\n"
	}
	if !strings.Contains(reasons, "old:0 is ") || !strings.Contains(reasons, "large:0 takes ") || strings.Contains(reasons, "well:0") {
		t.Errorf("reasons %q", reasons)
	}
	if n := len(s.heard(program.Failed)); n != 0 {
		t.Errorf("%d failures", n)
	}
}

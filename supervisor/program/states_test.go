package program_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/program"
	"superd/supervisor/schedule"
)

// What has had its say, or was never to start, is not waited for.
func TestIsNotWaitedFor(t *testing.T) {
	r := newRig(t)
	none, part, job := r.script("none", well), r.script("part", well), r.script("job", fails)
	none.Processes, part.Processes, job.Restart = 0, 2, supervisor.Never
	r.write("programs.json", `{"stopped":["part:1"]}`)
	web := r.script("web", well, "none", "part", "night", "job")
	web.Requires = []string{"program.none", "program.part", "program.night"}
	s := r.superd(none, part, job, r.scheduled("night", done, every(1<<60), schedule.Skip, schedule.Never), web)
	s.is("web:0", supervisor.Running)
	s.is("part:1", supervisor.Stopped)
	needy := r.script("needy", well, "job")
	needy.Requires = needy.After
	s.Apply([]program.Program{none, part, job, web, needy})
	if st := s.is("needy:0", program.Waiting); st.Reason != "for job:0, which is exited" {
		t.Errorf("%+v", st)
	}
}

// Failures that are longer ago than restart_window are forgotten.
func TestRestartWindow(t *testing.T) {
	r := newRig(t)
	bad := r.script("bad", fails)
	bad.MaxRestarts, bad.RestartWindow = 1, time.Millisecond
	s := r.superd(bad)
	r.soon("it goes on", func() string {
		if n := r.times("start bad:0"); n < 5 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if len(s.heard(program.GaveUp)) != 0 {
		t.Errorf("%+v", s.status("bad:0"))
	}
}

// Why something is not up is told in words, however little came of it.
func TestReasons(t *testing.T) {
	r := newRig(t)
	never, nothing, mute := r.script("never", well), r.script("nothing", well), r.script("mute", note+stay)
	for _, p := range []*program.Program{&never, &nothing, &mute} {
		p.MaxRestarts, p.Backoff.First, p.Backoff.Max = 1, time.Millisecond, 2*time.Millisecond
	}
	never.Spec = func(int) (supervisor.Spec, error) { return supervisor.Spec{}, errors.New("no such user") }
	nothing.Spec = func(int) (supervisor.Spec, error) {
		return supervisor.Spec{Argv: []string{r.file("nothing")}, Dir: r.dir}, nil
	}
	mute.Proof = func(int) func(context.Context, *supervisor.Child) error {
		return supervisor.Wrote(regexp.MustCompile("^up$"), time.Millisecond)
	}
	s := r.superd(never, nothing, mute, r.script("well", well))
	for name, want := range map[string]string{"never": "no such user", "nothing": "no such file", "mute": "has not written a line"} {
		st := s.is(name+":0", program.Fatal)
		if !strings.Contains(st.Reason, want) || strings.Contains(st.Reason, "before it was ready") {
			t.Errorf("%s: %q", name, st.Reason)
		}
	}
	s.hears(program.Failed, 6)
	s.hears(program.GaveUp, 3)
	s.is("well:0", supervisor.Running)
	s.must(s.Signal(syscall.SIGKILL, "well"))
	r.soon("it is up again", func() string {
		if st := s.status("well:0"); st.State != supervisor.Running || !strings.HasPrefix(st.Last, "signal SIGKILL") {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// Between two lives it is told why the next is not there, and of that of before only
// until it has proved itself.
func TestReasonsBetweenLives(t *testing.T) {
	r := newRig(t)
	never, bad := r.script("never", well), r.script("bad", `[ -e "$GO" ] || exit 3; `+well)
	spec := never.Spec
	never.Spec = func(n int) (supervisor.Spec, error) {
		if _, err := os.Stat(r.file("go-never")); err != nil {
			return supervisor.Spec{}, errors.New("env X: NOPE is not in the environment")
		}
		return spec(n)
	}
	s := r.superd(never, bad)
	for name, want := range map[string]string{"never:0": "could not be started: env X: NOPE", "bad:0": "exit 3 after"} {
		r.soon(name+" says why", func() string {
			st := s.status(name)
			pauses := st.State == supervisor.Backing || st.State == supervisor.Cooling
			if pauses && st.Restarts > 1 && strings.HasPrefix(st.Reason, want) && strings.Contains(strings.Join(s.Problems(), "\n"), name+" is "+string(st.State)+": "+want) {
				return ""
			}
			return fmt.Sprintf("%+v, problems %q", st, s.Problems())
		})
	}
	r.touch("go-never")
	r.touch("go-bad")
	for _, name := range []string{"never:0", "bad:0"} {
		if st := s.is(name, supervisor.Running); st.Reason != "" {
			t.Errorf("%+v", st)
		}
	}
}

// What is on its way out is shown until it is gone, and what came after it does not trip
// over its absence.
func TestOnTheWayOut(t *testing.T) {
	r := newRig(t)
	web := r.script("web", linger, "db")
	web.Processes = 2
	s := r.superd(web, r.script("db", well))
	s.is("web:1", supervisor.Running)
	var asking sync.WaitGroup
	asking.Go(func() { _ = s.Scale(t.Context(), "web", 1) }) // the others are stopped meanwhile
	if st := s.is("web:1", supervisor.Stopping); st.Wanted {
		t.Errorf("%+v", st)
	}
	s.must(s.Stop(t.Context(), false, "db"))
	s.Apply(nil) // db is gone long before web
	s.is("web:0", supervisor.Stopping)
	time.Sleep(100 * time.Millisecond)
	r.touch("go-web")
	asking.Wait()
	r.soon("all is gone", func() string { return s.status("web:0").Name + s.status("web:1").Name })
}

// Orders to a superd that has laid everything down are refused, and so are those that wait.
func TestOrdersAtTheEnd(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", slow))
	said := make(chan error, 1)
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := s.Start(t.Context(), "web")
		said <- err
	})
	s.is("web:0", supervisor.Starting)
	s.crash()
	asking.Wait()
	if err := <-said; err != nil && !errors.Is(err, program.ErrStopping) {
		t.Errorf("error %v", err)
	}
}

// Of several that are too old one at a time is away.
func TestRecyclingOneAtATime(t *testing.T) {
	r := newRig(t)
	web := r.script("web", linger)
	web.Processes, web.MaxAge = 3, 100*time.Millisecond
	s := r.superd(web)
	<-s.Settled()
	r.soon("one is told", func() string {
		if r.times("told web:0")+r.times("told web:1")+r.times("told web:2") > 0 {
			return ""
		}
		return "none"
	})
	time.Sleep(300 * time.Millisecond)
	if n := r.times("told web:0") + r.times("told web:1") + r.times("told web:2"); n != 1 {
		t.Errorf("%d of 3 are on their way out", n)
	}
}

package program_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/program"
	"superd/supervisor/schedule"
)

// every is due so many times a second, at the same instants whoever asks.
type every time.Duration

func (e every) Next(t time.Time) time.Time {
	return t.Truncate(time.Duration(e)).Add(time.Duration(e))
}

func (r *rig) scheduled(name, script string, times schedule.Times, overlap schedule.Overlap, missed schedule.Missed) program.Program {
	p := r.script(name, script)
	p.Restart, p.Plan = supervisor.Never, &schedule.Plan{Times: times, Overlap: overlap, Missed: missed}
	return p
}

func TestScheduledRuns(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.scheduled("job", done, every(200*time.Millisecond), schedule.Skip, schedule.Never),
		r.scheduled("yearly", done, every(365*24*time.Hour), schedule.Skip, schedule.Never))
	r.soon("three runs", func() string {
		if n := r.times("start job:0"); n < 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if st := s.is("yearly:0", program.Scheduled); !st.Next.After(time.Now()) || st.PID != 0 || r.times("start yearly:0") != 0 {
		t.Errorf("%+v", st)
	}
	<-s.Settled()
	if problems := s.Problems(); len(problems) != 0 {
		t.Errorf("problems %q", problems)
	}
	s.must(s.Start(t.Context(), "yearly")) // now
	r.soon("it has run", func() string { return missing(r, "start yearly:0") })
	s.is("yearly:0", program.Scheduled)
	s.must(s.Stop(t.Context(), false, "job"))
	if st := s.status("job:0"); st.State != supervisor.Stopped || !st.Next.IsZero() {
		t.Errorf("stopped, it is %+v", st)
	}
	n := r.times("start job:0")
	time.Sleep(500 * time.Millisecond)
	if r.times("start job:0") != n {
		t.Error("it runs although it was stopped")
	}
	r.reboot(s)
	r.superd(r.scheduled("job", done, every(200*time.Millisecond), schedule.Skip, schedule.Never))
	time.Sleep(500 * time.Millisecond)
	if r.times("start job:0") != n {
		t.Error("it runs after a boot although it was stopped")
	}
}

func TestOverlap(t *testing.T) {
	often := every(100 * time.Millisecond)
	t.Run("skip", func(t *testing.T) {
		r := newRig(t)
		s := r.superd(r.scheduled("job", well, often, schedule.Skip, schedule.Never))
		r.soon("a run begins", func() string { return missing(r, "start job:0") })
		r.soon("a run is skipped, and told", func() string {
			if n := len(s.heard(program.Skipped)); n < 3 {
				return fmt.Sprint(n)
			}
			return ""
		})
		if n := r.times("start job:0"); n != 1 {
			t.Errorf("%d runs at once", n)
		}
	})
	t.Run("queue", func(t *testing.T) {
		r := newRig(t)
		s := r.superd(r.scheduled("job", note+`while ! [ -e "$GO" ]; do sleep 0.02; done; note gone`, often, schedule.Queue, schedule.Never))
		r.soon("a run begins", func() string { return missing(r, "start job:0") })
		r.soon("others wait", func() string { // one waits, those that come then are left out
			if n := len(s.heard(program.Skipped)); n < 2 {
				return fmt.Sprint(n)
			}
			return ""
		})
		if n := r.times("start job:0"); n != 1 {
			t.Errorf("%d runs at once", n)
		}
		r.touch("go-job")
		r.soon("the next", func() string {
			if n := r.times("start job:0"); n < 2 {
				return fmt.Sprint(n)
			}
			return ""
		})
		r.ordered("start job:0", "gone job:0", "start job:0")
	})
	t.Run("kill", func(t *testing.T) {
		r := newRig(t)
		r.superd(r.scheduled("job", well, often, schedule.Kill, schedule.Never))
		r.soon("the next", func() string {
			if n := r.times("start job:0"); n < 2 {
				return fmt.Sprint(n)
			}
			return ""
		})
		r.ordered("start job:0", "told job:0", "start job:0")
	})
}

// once is due at one time only.
type once time.Time

func (o once) Next(t time.Time) time.Time {
	if at := time.Time(o); t.Before(at) {
		return at
	}
	return time.Time{}
}

// What was due while superd was away is made up for, if it is to be, and a run that had
// begun is not begun again.
func TestMissedRuns(t *testing.T) {
	r := newRig(t)
	at := time.Now().Add(-10 * time.Minute)
	early := func(name string, missed schedule.Missed) program.Program {
		return r.scheduled(name, done, once(at), schedule.Skip, missed)
	}
	settled := fmt.Sprintf(`{"runs":{"once":%q,"skip":%q,"ran":%q}}`, at.Add(-time.Hour).Format(time.RFC3339), at.Add(-time.Hour).Format(time.RFC3339), at.Format(time.RFC3339Nano))
	r.write("programs.json", settled)
	all := []program.Program{early("once", schedule.Once), early("skip", schedule.Never), early("ran", schedule.Once)}
	s := r.superd(all...)
	r.soon("it is made up for", func() string { return missing(r, "start once:0") })
	s.is("once:0", program.Scheduled)
	r.soon("what is left out is told", func() string {
		if left := s.heard(program.Skipped); len(left) != 1 || left[0].Program != "skip" {
			return fmt.Sprintf("%+v", left)
		}
		return ""
	})
	s.crash()
	s = r.superd(all...)
	s.is("once:0", program.Scheduled)
	<-s.Settled()
	if r.times("start once:0") != 1 || r.times("start skip:0") != 0 || r.times("start ran:0") != 0 {
		t.Errorf("ledger %q", r.ledger())
	}
	if left := s.heard(program.Skipped); len(left) != 0 {
		t.Errorf("what was left out is told again: %+v", left)
	}
}

// A run that is there when superd dies goes on, and is none that is to be kept up.
func TestRunOverTheDeathOfSuperd(t *testing.T) {
	r := newRig(t)
	job := r.scheduled("job", note+`note up; echo up; while ! [ -e "$GO" ]; do sleep 0.02; done; note gone`, every(24*time.Hour), schedule.Skip, schedule.Never)
	s := r.superd(job)
	s.must(s.Start(t.Context(), "job"))
	before := s.is("job:0", supervisor.Running).PID
	s.crash()
	s = r.superd(job)
	if now := s.is("job:0", supervisor.Running).PID; now != before {
		t.Errorf("PID %d, was %d", now, before)
	}
	r.touch("go-job")
	s.is("job:0", program.Scheduled)
	if n := r.times("start job:0"); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// after is due so long after what is settled, as "every 6h" is.
type after time.Duration

func (a after) Next(t time.Time) time.Time { return t.Add(time.Duration(a)) }

// A run that a person wants is a run: the schedule counts from it, its start is done when
// it has begun, and while it is on its way nothing is amiss.
func TestRunByHand(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.scheduled("job", slow, after(time.Hour), schedule.Skip, schedule.Never))
	<-s.Settled() // it has been looked at
	first := s.is("job:0", program.Scheduled).Next
	time.Sleep(20 * time.Millisecond)
	s.must(s.Start(t.Context(), "job"))
	if st := s.is("job:0", supervisor.Starting); r.times("up job:0") != 0 || len(s.Problems()) != 0 {
		t.Errorf("%+v; %q", st, s.Problems())
	}
	r.soon("the next is counted from now", func() string {
		if st := s.status("job:0"); !st.Next.After(first) {
			return st.Next.String()
		}
		return ""
	})
}

// A schedule waits for what it comes after, and a run that waits for the one before is not
// made up for when a person has stopped the program meanwhile.
func TestScheduleThatWaits(t *testing.T) {
	r := newRig(t)
	job := r.scheduled("job", linger, every(50*time.Millisecond), schedule.Queue, schedule.Never)
	job.After = []string{"program.db"}
	s := r.superd(job, r.script("db", slow))
	r.soon("db runs", func() string { return missing(r, "start db:0") })
	time.Sleep(200 * time.Millisecond)
	if r.times("start job:0") != 0 {
		t.Error("it runs before what it comes after is ready")
	}
	r.touch("go-db")
	r.soon("a run is there", func() string { return missing(r, "up job:0") })
	r.soon("another waits", func() string { // only then the next is left out for the one that is there
		left := s.heard(program.Skipped)
		if !slices.ContainsFunc(left, func(e program.Event) bool { return e.Reason == "the run before has not ended" }) {
			return fmt.Sprintf("%+v", left)
		}
		return ""
	})
	r.touch("go-job")
	s.must(s.Stop(t.Context(), false, "job"))
	time.Sleep(200 * time.Millisecond)
	if r.times("start job:0") != 1 || s.status("job:0").State != supervisor.Stopped {
		t.Errorf("it runs though it was stopped: %q", r.ledger())
	}
}

// A schedule that waits for what a person has stopped says so, and so is told what it leaves
// out, unless one run makes up for it.
func TestScheduleWithoutWhatItRequires(t *testing.T) {
	r := newRig(t)
	job := r.scheduled("job", done, every(100*time.Millisecond), schedule.Skip, schedule.Never)
	once := r.scheduled("once", done, every(100*time.Millisecond), schedule.Skip, schedule.Once)
	job.After, job.Requires = []string{"program.db"}, []string{"program.db"}
	once.After, once.Requires = job.After, job.Requires
	s := r.superd(r.script("db", well), job, once)
	r.soon("both run", func() string { return missing(r, "start job:0") + missing(r, "start once:0") })
	s.must(s.Stop(t.Context(), false, "db"))
	st := s.is("job:0", program.Waiting)
	if st.Reason != "for db, which is stopped" || st.Next.IsZero() || !slices.Contains(s.Problems(), "job:0 is waiting: for db, which is stopped") {
		t.Errorf("%+v, problems %q", st, s.Problems())
	}
	told := func(name string) (n int) {
		for _, e := range s.heard(program.Skipped) {
			if e.Process == name && strings.Contains(e.Reason, "while it waited for db, which is stopped: ") {
				n++
			}
		}
		return n
	}
	r.soon("runs are left out, and told", func() string {
		if n := told("job:0"); n < 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	ran := r.times("start once:0")
	s.must(s.Start(t.Context(), "db"))
	r.soon("one makes up", func() string {
		if r.times("start once:0") == ran {
			return "not yet"
		}
		return ""
	})
	if s.is("job:0", program.Scheduled); told("once:0") != 0 {
		t.Error("what was made up for was left out")
	}
}

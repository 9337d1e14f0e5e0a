package supervisor

import (
	"cmp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dog is a watchdog that a child can meet on a busy machine, and that tests can wait for.
const dog = 3000 * time.Millisecond

func guarded(f *fleet, script string, p Policy) *subject {
	p.Proof = Notified(long)
	s := newSubject(f, "play "+script, p)
	s.dog = dog
	return s
}

func (s *subject) says(t *testing.T, line string) {
	t.Helper()
	eventually(t, "it says "+line, func() bool {
		c := s.Child()
		return c != nil && strings.Contains(strings.Join(c.Tail(100), "\n"), line)
	})
}

// A child that stays alive and says nothing is aborted and replaced; how it was before
// counts, and the reason is told.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := guarded(f, "print:dog=$WATCHDOG_USEC/$WATCHDOG_PID pid READY=1 feed:100:25 hang", policy()).run()
	s.says(t, "pid ")
	c := s.Child()
	if said := strings.Join(c.Tail(2), " "); said != strings.Replace("dog=3000000/X pid X", "X", strconv.Itoa(c.PID()), 2) {
		t.Errorf("its environment says %q", said)
	}
	s.be("well")
	e := s.end(t, 0)
	if e.Planned || !e.Proved || e.Exit.Fault != "watchdog" || e.Exit.Code() != 86 || !strings.HasPrefix(e.Exit.String(), "watchdog: exit 86 after") {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
	if e.Err == nil || !strings.Contains(e.Err.Error(), "watchdog: w has not said WATCHDOG=1 for 3s") {
		t.Errorf("the reason: %v", e.Err)
	}
	if e.Exit.Ran < 2500*time.Millisecond+dog {
		t.Errorf("it was aborted after %s: what it had said did not count", e.Exit.Ran)
	}
	if c.Faulted() != "watchdog" {
		t.Errorf("the child was ended because of %q", c.Faulted())
	}
	eventually(t, "another life", func() bool { return s.Status().Restarts == 1 && s.Child() != nil })
	if last := s.Status().Last; last == nil || last.Fault != "watchdog" {
		t.Errorf("the last end: %v", last)
	}
}

// One that does not even hear SIGABRT is killed, with all it has started.
func TestWatchdogKills(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	p := policy()
	p.StopTimeout = 300 * time.Millisecond
	s := guarded(f, "apart:pid,hang READY=1 deaf", p).run()
	s.says(t, "pid ")
	pids := familyOf(t, s.Child())
	if e := s.end(t, 0); !e.Exit.Killed || e.Exit.Fault != "watchdog" || e.Planned || !strings.HasPrefix(e.Exit.String(), "watchdog: killed by superd after") {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
	end(t, pids...)
}

func TestWatchdogStories(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	stories := map[string]struct {
		script string
		fault  bool
		least  time.Duration // of the life
		reason string
		given  time.Duration // what it has at first, if not dog
	}{
		"asked for":                {"READY=1 WATCHDOG=trigger hang", true, 0, "has asked for it", 2 * long},
		"asked for before ready":   {"WATCHDOG=trigger hang", true, 0, "has asked for it", 2 * long},
		"only once it is ready":    {"wait:3500 READY=1 wait:200 exit:3", false, 3700 * time.Millisecond, "", 0},
		"made longer":              {"READY=1 WATCHDOG_USEC=3600000000 wait:4000 exit:3", false, 4000 * time.Millisecond, "", 0},
		"set late":                 {"READY=1 WATCHDOG_USEC=0 wait:4000 WATCHDOG_USEC=3000000 wait:500 exit:3", false, 4500 * time.Millisecond, "", 0},
		"switched off":             {"READY=1 WATCHDOG_USEC=0 wait:4000 exit:3", false, 4000 * time.Millisecond, "", 0},
		"made shorter":             {"READY=1 wait:500 WATCHDOG_USEC=200000 hang", true, 700 * time.Millisecond, "for 200ms", 2 * long},
		"by mistake":               {"WATCHDOG_USEC=1 READY=1 hang", true, 100 * time.Millisecond, "for 100ms", 0},
		"not while it is on leave": {"READY=1 STOPPING=1 wait:4000 exit:3", false, 4000 * time.Millisecond, "", 0},
	}
	all := map[string]*subject{}
	for name, tt := range stories { // all at once: they take their time
		s := guarded(f, tt.script, policy())
		s.dog = cmp.Or(tt.given, dog)
		s.name = strings.ReplaceAll(name, " ", "-")
		all[name] = s.run()
	}
	for name, tt := range stories {
		e := all[name].end(t, 0)
		if got := e.Exit.Fault == "watchdog"; got != tt.fault || e.Exit.Ran < tt.least {
			t.Errorf("%s: the end is %s, want a watchdog: %v", name, e.Exit, tt.fault)
		}
		if tt.fault && (e.Err == nil || !strings.Contains(e.Err.Error(), tt.reason)) {
			t.Errorf("%s: the reason is %v", name, e.Err)
		}
	}
}

// One that was stopped misses its time too, and is not left stopped.
func TestWatchdogOfTheStopped(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := guarded(f, "READY=1 feed:100", policy()).run()
	s.until(Running)
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); e.Exit.Fault != "watchdog" || e.Exit.Killed {
		t.Errorf("the end: %s", e.Exit)
	}
}

// A superd that was held up does not take it out on those who could not be heard.
func TestWatchdogOfAHeldUpSuperd(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := guarded(f, "READY=1 feed:100", policy())
	s.dog = 4 * time.Second // it is doubted for a second then, before it is ended
	s.run().until(Running)
	f.mu.Lock() // no message reaches its child
	time.Sleep(s.dog + 100*time.Millisecond)
	f.mu.Unlock()
	time.Sleep(s.dog)
	if n := len(s.ends()); n != 0 {
		t.Errorf("it was ended: %s", s.end(t, 0).Exit)
	}
}

// Another superd begins the time anew, knows what the child has set itself, and catches
// one that hangs from then on.
func TestWatchdogIsAdopted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	f := h.open(t)
	first := guarded(f, "READY=1 feed:100:50 hang", policy()).run()
	first.until(Running)
	patient := guarded(f, "READY=1 WATCHDOG_USEC=3600000000 hang", policy())
	patient.name = "patient"
	patient.run().until(Running)
	eventually(t, "what it has set is kept", func() bool {
		c := patient.Child()
		return f.ledger.words(c.proc.PID, c.proc.Start).Timed
	})
	first.stop()
	patient.stop()
	f.leave()
	time.Sleep(2 * dog)
	f = h.open(t)
	heirs := map[string]*subject{}
	for _, c := range f.Adopted() {
		s := guarded(f, "", policy())
		s.Adopt(c)
		heirs[c.Name()] = s.run()
		wait(t, "it is ready, for it has said so to the other superd", c.Ready())
	}
	s := heirs["w"]
	s.until(Running)
	if e := s.end(t, 0); e.Exit.Fault != "watchdog" || e.Exit.Ran < 5*time.Second {
		t.Errorf("the end: %s", e.Exit)
	}
	if st := heirs["patient"].Status(); st.State != Running {
		t.Errorf("the patient one is %s", st.State)
	}
}

// superd dies while it ends one that hangs: the next one goes on, and knows why.
func TestWatchdogAndTheDeathOfSuperd(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	f := h.open(t)
	s := guarded(f, "READY=1 deaf", policy()).run()
	s.until(Stopping)
	s.stop()
	f.leave()
	f = h.open(t)
	c := f.Adopted()[0]
	next := guarded(f, "", policy())
	next.Adopt(c)
	p := policy()
	p.StopTimeout = 10 * time.Millisecond
	next.SetPolicy(p)
	next.run()
	if e := next.end(t, 0); e.Planned || e.Exit.Fault != "watchdog" || !e.Exit.Killed {
		t.Errorf("the end: %+v, %s", e, e.Exit)
	}
}

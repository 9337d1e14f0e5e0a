package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"superd/supervisor/notify"
)

func speaking(f *fleet, name, script string, p Policy) *subject {
	p.Proof = Notified(long)
	s := newSubject(f, "play "+script, p)
	s.name = name
	return s.run()
}

// What it says of itself shows; each new word takes the place of the last.
func TestWords(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	s := speaking(f, "w", "READY=1 STATUS=starting_SPACE_up RELOADING=1 term READY=1 STATUS=done term STATUS= hang", policy())
	s.until(Running)
	eventually(t, "it reloads", func() bool { return s.Status().Reloading })
	if st := s.Status(); st.Text != "starting up" || st.State != Running {
		t.Errorf("status %+v", st)
	}
	for _, want := range []string{"done", ""} {
		if err := s.Signal(15); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it says "+want, func() bool { return s.Status().Text == want && !s.Status().Reloading })
	}
}

// One that says that it stops is shown as stopping, is not told to, and ends as its exit
// code says.
func TestItStopsByItself(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	p := policy()
	p.Restart, p.Planned = Unexpected, []int{0}
	s := speaking(f, "w", "READY=1 term STOPPING=1 term exit:0", p)
	s.until(Running)
	s.goes()
	s.until(Stopping)
	s.goes()
	s.until(Stopped)
	s.isStory(Stopped, Starting, Running, Stopping, Stopped)
	if e := s.end(t, 0); !e.Planned || e.Err != nil || !e.Child.Told().IsZero() {
		t.Errorf("the end: %+v", e)
	}
	s = speaking(f, "v", "READY=1 STOPPING=1 exit:1", policy())
	eventually(t, "three lives", func() bool { return len(s.ends()) > 2 })
	if ends := s.ends(); ends[1].Planned || ends[2].Child.Born().Sub(ends[1].Exit.At) < 40*time.Millisecond {
		t.Errorf("one that fails like that comes back without a pause: %+v", ends)
	}
}

// What it says after it has said that it goes does not take that back.
func TestStoppingStands(t *testing.T) {
	c := &Child{words: newWords(0)}
	c.heard(notify.Message{Stopping: true})
	c.heard(notify.Message{Stated: true, Status: "the last job"})
	if !c.goes() {
		t.Error("it stays")
	}
}

// One that says so and stays is killed when its time is over, which is a failure; told
// to go meanwhile, it is gone and no failure.
func TestItNeverStops(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	f := h.open(t)
	p := policy()
	p.StopTimeout = 300 * time.Millisecond
	s := speaking(f, "w", "READY=1 STOPPING=1 hang", p)
	if e := s.end(t, 0); !e.Exit.Killed || e.Planned || e.Err == nil || !strings.Contains(e.Err.Error(), "has said STOPPING=1 and not ended within 300ms") {
		t.Errorf("the end: %+v", e)
	}
	s.Retire()
	v := speaking(f, "v", "READY=1 STOPPING=1 hang", policy())
	v.until(Stopping)
	eventually(t, "that is kept", func() bool {
		c := v.Child()
		return f.ledger.words(c.proc.PID, c.proc.Start).Goes
	})
	wait(t, "the other is gone", s.Gone())
	v.stop()
	f.leave()
	f = h.open(t) // another superd still knows
	next := newSubject(f, "well", p)
	next.Adopt(f.Adopted()[0])
	next.run().until(Stopping)
	next.Retire()
	wait(t, "it is gone", next.Gone())
	if e := next.end(t, 0); !e.Planned || e.Err != nil || e.To != Stopped {
		t.Errorf("the end: %+v", e)
	}
}

// At its start it may ask for more time than the policy has.
func TestMoreTimeToStart(t *testing.T) {
	t.Parallel()
	f := newHouse(t).open(t)
	p := policy()
	p.Proof = Notified(3 * time.Second) // on a busy machine it takes a while to say the first word
	s := newSubject(f, "play EXTEND_TIMEOUT_USEC=50000000 wait:5000 READY=1 term", p).run()
	v := newSubject(f, "play EXTEND_TIMEOUT_USEC=4500000 term", p)
	v.name = "v"
	v.run()
	s.until(Running)
	e := v.end(t, 0)
	if text := fmt.Sprint(e.Err); !strings.Contains(text, "has not said READY=1 within") || strings.Contains(text, "within 3s") {
		t.Errorf("the end: %+v", e)
	}
	if len(s.ends()) > 0 {
		t.Errorf("it needed %d lives", len(s.ends())+1)
	}
}

// However often it asks, there is an end.
func TestMoreTimeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Child{made: time.Now(), words: newWords(0)}
		born := time.Now()
		ask := func() time.Time {
			c.heard(notify.Message{Extend: 7 * 24 * time.Hour})
			return <-c.more
		}
		if got := ask(); !got.Equal(born.Add(longestWait)) {
			t.Errorf("it starts until %s", got)
		}
		time.Sleep(longestWait - time.Hour)
		c.heard(notify.Message{Extend: time.Minute})
		if got := <-c.more; !got.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("it starts until %s", got)
		}
		c.told = time.Now()
		if got := ask(); !got.Equal(c.told.Add(longestWait)) {
			t.Errorf("it stops until %s", got)
		}
		c.heard(notify.Message{Extend: time.Hour})
		c.heard(notify.Message{Extend: time.Minute}) // nobody waits: the last word counts
		if got := <-c.more; !got.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("it stops until %s", got)
		}
	})
}

// Who is of the child's tree speaks for it, wherever it has gone; who is not does not.
func TestWhoSpeaks(t *testing.T) {
	f := newHouse(t).open(t)
	quiet := f.start("quiet", "play pid hang", "")
	for name, script := range map[string]string{
		"session": "apart:STATUS=of_SPACE_a_SPACE_session,hang hang",
		"bare":    "bare:STATUS=of_SPACE_a_SPACE_session,hang hang",
		"orphan":  "apart:apart:STATUS=of_SPACE_a_SPACE_session_COMMA_hang,wait:1,exit:0 hang",
	} {
		c := f.start(name, "play "+script, "")
		eventually(t, name+" is heard", func() bool { return c.StatusText() == "of a session" })
	}
	// This test is the keeper's neighbour, and of no child.
	t.Setenv("NOTIFY_SOCKET", f.NotifySocket())
	tellSuperd("STATUS=a stranger")
	last := f.start("last", "play STATUS=last hang", "")
	eventually(t, "the last one is heard", func() bool { return last.StatusText() == "last" })
	for _, c := range f.Living() {
		if c.StatusText() == "a stranger" {
			t.Errorf("a stranger has spoken for %s", c.Name())
		}
	}
	if quiet.StatusText() != "" {
		t.Errorf("the quiet one says %q", quiet.StatusText())
	}
}

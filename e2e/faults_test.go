//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// superctl is killed by SIGKILL at every phase of a switch and of a rollback: the switch
// goes on to its end, and nobody notices.
func TestSuperctlKilledAtEveryPhase(t *testing.T) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis}
	s.begin("SUPERD_FAILPOINT=" + file)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: quickPages})
	for i, point := range []string{
		"preparing.before", "starting.before", "verifying.before", "promoting.before", "rotating.before",
		"watching.before", "committing.before", "ended.before",
	} {
		for _, args := range [][]string{{"switch", "r2"}, {"rollback"}} {
			s.holdAt(file, point)
			c := s.Superctl(context.Background(), args...)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			s.held(func() {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = c.Wait() // it was killed
			})
			want := map[string]string{"switch": "r2", "rollback": "r1"}[args[0]]
			s.wholly(want, 20*time.Second)
			if last := s.lastSwitch(); last.Verdict != "live" || last.To.Release != want {
				t.Errorf("%d: superctl %s killed at %s: %+v", i, args[0], point, last)
			}
		}
	}
	unharmed(t, run.Stop())
}

// begin starts superd, with env, and nginx before it.
func (s *site) begin(env ...string) {
	s.t.Helper()
	var err error
	if s.superd, err = s.StartSuperd(env...); err != nil {
		s.t.Fatal(err)
	}
	if s.nginx, err = s.StartNginx(s.FPMSocket(), "$realpath_root"); err != nil {
		s.t.Fatal(err)
	}
}

// holdAt has superd stop itself at a failpoint.
func (s *site) holdAt(file, point string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(point+" stop"), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// held waits until superd has stopped itself, does something meanwhile, and lets it go on.
func (s *site) held(meanwhile func()) {
	s.t.Helper()
	var pid int
	eventually(s.t, 30*time.Second, "superd stops itself", func() bool {
		for _, p := range lab.Of(s.Processes(), "superd") {
			pid = p.PID
		}
		return stopped(pid)
	})
	meanwhile()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
}

// superd and then its keeper have no descriptor left in the middle of a switch. It goes
// through, or does not and says why; superd that cannot even hear its keeper any more is
// followed by another one. No user notices, the release is not to blame, and once there are
// descriptors again it goes live.
func TestDescriptorsRunOut(t *testing.T) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis}
	s.begin("SUPERD_FAILPOINT=" + file)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: quickPages})
	live := "r1"
	for who, points := range map[string][]string{
		"superd": {"preparing.before", "starting.before", "verifying.before", "rotating.before"},
		"keeper": {"verifying.before", "rotating.before"},
	} {
		for _, point := range points {
			to := map[string]string{"r1": "r2", "r2": "r1"}[live]
			s.holdAt(file, point)
			done := make(chan lab.Outcome, 1)
			go func() { done <- s.Ctl("switch", to) }()
			pid := s.superd.PID()
			var was unix.Rlimit
			s.held(func() {
				if who == "superd" {
					pid = lab.Of(s.Processes(), "superd")[0].PID
				}
				was = limitDescriptors(t, pid, uint64(descriptorsOf(t, pid)))
			})
			o := s.giveBack(done, pid, was)
			live = s.settles("r1", "r2")
			s.wholly(live, 20*time.Second)
			t.Logf("%s without descriptors from %s: live is %s, %s", who, point, live, o)
			said := o.Err + o.Out
			if o.Code != 0 && !strings.Contains(said, "too many open files") && !strings.Contains(said, "superd ended in the middle") {
				t.Errorf("nobody says why: %s", o)
			}
			live = map[string]string{"r1": "r2", "r2": "r1"}[live]
			s.ctl(0, "switch", live) // nobody is to blame
		}
	}
	unharmed(t, run.Stop())
}

// giveBack waits for the end of a call, or until its switch goes back, or for as long as a
// person may need to raise the limit again, and raises it.
func (s *site) giveBack(done chan lab.Outcome, pid int, was unix.Rlimit) (o lab.Outcome) {
	s.t.Helper()
	ended := false
	for deadline := time.Now().Add(2 * time.Second); !ended && !s.goesBack() && time.Now().Before(deadline); {
		select {
		case o = <-done:
			ended = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		s.t.Fatal(err)
	}
	if !ended {
		o = <-done
	}
	return o
}

// goesBack tells whether the last switch does, whose workers are then given up after three
// failures. superd can't be asked without descriptors, its file of events is open.
func (s *site) goesBack() bool {
	s.t.Helper()
	text, err := os.ReadFile(s.Path("state", "events.ndjson"))
	if err != nil {
		s.t.Fatal(err)
	}
	last := max(0, bytes.LastIndex(text, []byte(`"switch.begun"`)))
	return bytes.Contains(text[last:], []byte(`"phase":"rolling-back"`))
}

// limitDescriptors lets a process open none but those it has; it tells what it was allowed.
func limitDescriptors(t *testing.T, pid int, n uint64) (was unix.Rlimit) {
	t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return was
}

// superd panics in the middle of a switch: that is a death like any other, and its last
// words are in the log.
func TestSuperdPanics(t *testing.T) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis}
	s.begin("SUPERD_FAILPOINT=" + file)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: quickPages})
	for point, want := range map[string]string{"verifying.before": "r1", "promoting.linked": "r2"} {
		if err := os.WriteFile(file, []byte(point+" panic"), 0o644); err != nil {
			t.Fatal(err)
		}
		was := s.status().PID
		s.Ctl("switch", "r2")
		s.wholly(want, 20*time.Second)
		if now := s.status().PID; now == was {
			t.Error("superd lives on")
		}
		s.childrenAreOfThisLife()
		if s.status().Apps[0].Live.Release == "r2" {
			s.ctl(0, "switch", "r1")
		}
	}
	unharmed(t, run.Stop())
	if said := s.superd.Tail(1 << 20); !strings.Contains(said, "panic: failpoint") || !strings.Contains(said, "goroutine ") {
		t.Errorf("nobody says where superd has ended:\n%s", said)
	}
}

// A thousand programs end as soon as they begin, at the same time: the shop is served and
// switched meanwhile, superd answers, and nobody is started more often than the pauses
// between lives allow.
func TestThousandCrashLoops(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms", More: `
[program.looping]
command   = ["/bin/false"]
processes = 1000
autostart = false
`}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 20, Mix: quickPages})
	began := time.Now()
	s.Ctl("start", "looping") // it tells that it does not stay
	for time.Since(began) < 10*time.Second {
		s.ctl(0, "switch", "r2")
		s.ctl(0, "rollback")
	}
	deaths := 0
	for _, e := range s.events() {
		if strings.HasPrefix(e.Process, "looping") {
			deaths++
		}
	}
	took := time.Since(began)
	t.Logf("%d deaths in %s", deaths, took.Round(time.Millisecond))
	if most := 1000 * (3 + math.Log2(took.Seconds()/0.45)); deaths < 1000 || float64(deaths) > most {
		t.Errorf("%d deaths in %s: each pause is twice the one before, from half a second", deaths, took)
	}
	unharmed(t, run.Stop())
}

// A successor is killed when it was ready and has not taken over: superd goes on as it was.
// It can start no other, and says what to do; whoever does that has an upgrade.
func TestSuccessorDiesBetween(t *testing.T) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 4, Workers: 2, Watch: "300ms", Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis}
	s.begin("SUPERD_FAILPOINT=" + file)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: quickPages})
	was := s.status().PID
	for tries := 1; ; tries++ {
		if err := os.WriteFile(file, []byte("heir.ready"), 0o644); err != nil {
			t.Fatal(err)
		}
		o := s.ctl(5, "upgrade")
		if strings.Contains(o.Err, "it was ready, and did not take over") {
			break
		}
		// tableflip may hear of the end first: then nothing is in the way of the next.
		if !strings.Contains(o.Err, "exited: signal: killed") || tries == 50 {
			t.Fatalf("superctl says: %s", o)
		}
	}
	if now := s.status().PID; now != was {
		t.Errorf("superd was %d and is %d", was, now)
	}
	s.ctl(0, "switch", "r2") // it works as before
	s.ctl(0, "rollback")
	kill := fmt.Sprintf("kill -9 %d", was)
	if o := s.ctl(6, "upgrade"); !strings.Contains(o.Err, kill) {
		t.Errorf("superctl does not say %q: %s", kill, o)
	}
	const stay = 3 // a master and two workers: what was parked has ended
	eventually(t, 20*time.Second, "the rollback has left nothing behind", func() bool { return len(s.children()) == stay })
	children := s.children()
	if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "another superd answers", func() bool {
		status, err := s.Status()
		return err == nil && status.PID != was && status.Healthy
	})
	s.ctl(0, "upgrade")
	if now := s.children(); !slices.Equal(children, now) {
		t.Errorf("the children were %v and are %v", children, now)
	}
	unharmed(t, run.Stop())
}

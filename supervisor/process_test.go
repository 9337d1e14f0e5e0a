package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
)

// A subject is a process under test and what was heard of it.
type subject struct {
	*Process
	t    testing.TB
	ran  chan error
	stop context.CancelFunc

	mu     sync.Mutex
	mood   string
	asked  int // how often the specification was asked for
	block  chan struct{}
	dog    time.Duration // its watchdog
	heard  []ProcessEvent
	failed error
}

// present is the first line of the moods that stay, said when they hear signals.
var present = regexp.MustCompile(`^(well|deaf|dawdle|line|soon)\b`)

// policy restarts quickly, so that tests need not wait, unless a test slows it.
func policy() Policy {
	return Policy{
		Restart: Always, Backoff: Backoff{First: 50 * time.Millisecond, Max: 100 * time.Millisecond, Factor: 2, ResetAfter: time.Hour},
		Proof: Wrote(present, long), StopSignal: syscall.SIGTERM, StopTimeout: long,
	}
}

// notifiedOnceThere is Notified, counted from when the child is there: a busy machine takes
// its time to start one.
func notifiedOnceThere(d time.Duration) func(context.Context, *Child) error {
	return func(ctx context.Context, c *Child) error {
		if err := Wrote(present, long)(ctx, c); err != nil {
			return err
		}
		return Notified(d)(ctx, c)
	}
}

func newSubject(f *fleet, mood string, p Policy) *subject {
	s := &subject{t: f.t, mood: mood, ran: make(chan error, 1)}
	s.Process = NewProcess(f.Children, "w", p, func(ctx context.Context) (Spec, error) {
		s.mu.Lock()
		s.asked++
		n, mood, block, failed, dog := s.asked, s.mood, s.block, s.failed, s.dog
		s.mu.Unlock()
		if block != nil {
			select {
			case <-block:
			case <-ctx.Done():
			}
		}
		is := spec(s.Name(), mood, fmt.Sprint("LIFE=", n), "NOTIFY_SOCKET="+f.NotifySocket())
		is.Watchdog = dog
		return is, failed
	}, func(e ProcessEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard = append(s.heard, e)
		if e.Err != nil && strings.Contains(e.Err.Error(), "impossible") {
			f.t.Error(e.Err)
		}
	})
	return s
}

func (s *subject) run() *subject {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ran <- s.Run(ctx)
	}()
	s.stop = func() { cancel(); <-done }
	s.t.Cleanup(s.stop)
	return s
}

// lives is how often the specification was asked for.
func (s *subject) lives() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// be changes what the next life is like.
func (s *subject) be(mood string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = mood
}

func (s *subject) until(state State) {
	s.t.Helper()
	eventually(s.t, "the state is "+string(state), func() bool { return s.Status().State == state })
}

// untilItPauses waits for the time between two lives.
func (s *subject) untilItPauses() {
	s.t.Helper()
	eventually(s.t, "it pauses", func() bool { state := s.Status().State; return state == Backing || state == Cooling })
}

// story is the states it went through.
func (s *subject) story() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	story := []State{Stopped}
	for _, e := range s.heard {
		story = append(story, e.To)
	}
	return slices.Compact(story)
}

func (s *subject) ends() []ProcessEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ends []ProcessEvent
	for _, e := range s.heard {
		if e.Exit != nil {
			ends = append(ends, e)
		}
	}
	return ends
}

// end is the end of one life, by number. It is heard a little later than it shows.
func (s *subject) end(t *testing.T, n int) ProcessEvent {
	t.Helper()
	eventually(t, "the end is heard", func() bool { return len(s.ends()) > n })
	return s.ends()[n]
}

// patient hears that it is to go, and goes when it is told again: two signals at once
// would be one, so the second is for after hears.
const patient = "play print:well term print:told term exit:0"

// hears waits until a patient one has heard that it is to go.
func (s *subject) hears() {
	s.t.Helper()
	eventually(s.t, "it hears that it is to go", func() bool {
		c := s.Child()
		return c != nil && slices.Contains(c.Tail(9), "told")
	})
}

// goes tells it that by itself; a stop tells only once.
func (s *subject) goes() {
	s.t.Helper()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) isStory(want ...State) {
	s.t.Helper()
	for end := time.Now().Add(long); !slices.Equal(s.story(), want); {
		if time.Now().After(end) {
			s.t.Fatalf("it went %q, want %q", s.story(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLife(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, "well", policy()).run()
	wait(t, "it is up", s.Up())
	s.until(Running)
	first := s.Status()
	if first.PID == 0 || first.Restarts != 0 || first.Last != nil {
		t.Errorf("status %+v", first)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Stopped || st.PID != 0 || st.Restarts != 0 || st.Last.Code() != 0 || !st.Since.After(first.Since) {
		t.Errorf("status %+v", st)
	}
	if err := s.Signal(syscall.SIGHUP); err == nil {
		t.Error("a stopped process can be signalled")
	}
	s.Start()
	s.Start()
	wait(t, "it is up again", s.Up())
	s.until(Running)
	s.Start() // is up: nothing happens
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	eventually(t, "another life", func() bool { return s.Status().Restarts == 1 && s.Status().State == Running })
	s.Retire()
	wait(t, "it is gone", s.Gone())
	if err := <-s.ran; err != nil {
		t.Error(err)
	}
	s.Start() // it is gone for good
	s.isStory(Stopped, Starting, Running, Stopping, Stopped, Starting, Running, Backing, Starting, Running, Draining, Stopped)
	ends := s.ends()
	if len(ends) != 3 || !ends[0].Planned || ends[1].Planned || !ends[1].Proved || !ends[2].Planned {
		t.Errorf("ends %+v", ends)
	}
	if s.lives() != 3 {
		t.Errorf("the specification was asked for %d times", s.lives())
	}
	if len(f.Living()) != 0 {
		t.Errorf("%d children are left", len(f.Living()))
	}
}

// A healthy child that dies is replaced at once.
func TestReplacedAtOnce(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Backoff = DefaultBackoff()
	p.Backoff.First, p.Backoff.Max = 2*long, 2*long // one pause, and the next does not come in time
	p.Backoff.ResetAfter = time.Nanosecond          // each life is a healthy one
	s := newSubject(f, "well", p).run()
	var took []time.Duration
	for range 5 {
		s.until(Running)
		c := s.Child()
		if err := c.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a new child", func() bool { return s.Child() != nil && s.Child() != c })
		took = append(took, s.Child().Born().Sub(c.Exit().At))
	}
	slices.Sort(took)
	t.Logf("from the death to the birth of the next: %s", took)
}

func TestCrashLoop(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, "exit 1", policy()).run()
	eventually(t, "five lives", func() bool { return len(s.ends()) >= 5 })
	s.be("well")
	s.until(Running)
	ends := s.ends()
	for i, e := range ends {
		next := Cooling // the second pause is the longest that there is
		if i == 0 {
			next = Backing
		}
		if e.Planned || e.Proved || e.Exit.Code() != 1 || e.To != next {
			t.Errorf("end %d: %+v", i, e)
		}
		if i > 0 {
			if pause := e.Child.Born().Sub(ends[i-1].Exit.At); pause < 40*time.Millisecond {
				t.Errorf("only %s between two lives", pause)
			}
		}
	}
	if got := s.Child().Tail(1); len(got) == 1 && !strings.HasSuffix(got[0], fmt.Sprint(" ", len(ends)+1)) {
		t.Errorf("life %d says %q: the specification was not asked for anew", len(ends)+1, got)
	}
}

func TestRestartPolicies(t *testing.T) {
	f := newHouse(t).open(t)
	for _, tt := range []struct {
		restart Restart
		mood    string
		again   bool
	}{
		{Always, "exit 0 200", true},
		{Unexpected, "exit 12 200", false},
		{Unexpected, "exit 1 200", true},
		{Never, "exit 1 200", false},
	} {
		t.Run(fmt.Sprint(tt.restart, tt.mood), func(t *testing.T) {
			p := policy()
			p.Restart, p.Planned = tt.restart, []int{0, 12}
			s := newSubject(f, tt.mood, p).run()
			if tt.again {
				eventually(t, "a second life", func() bool { return s.Status().Restarts > 0 })
			} else {
				eventually(t, "an end", func() bool { return len(s.ends()) == 1 })
				s.until(Stopped)
			}
			if e := s.end(t, 0); e.Planned != (tt.mood != "exit 1 200") || !e.Proved {
				t.Errorf("the end: %+v", e)
			}
			s.Retire()
			wait(t, "gone", s.Gone())
		})
	}
}

// A child that does not prove itself is stopped, and that is a failure though
// superd has ended it.
func TestNeverReady(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Proof = notifiedOnceThere(200 * time.Millisecond)
	s := newSubject(f, "well", p).run()
	eventually(t, "two lives", func() bool { return len(s.ends()) >= 2 })
	for _, e := range s.ends() {
		if e.Planned || e.Proved || e.Err == nil || !strings.Contains(e.Err.Error(), "has not said READY=1") {
			t.Errorf("the end: %+v", e)
		}
	}
	s.be("play READY=1 print:well term")
	s.until(Running)
	s.Retire()
	wait(t, "gone", s.Gone())
}

func TestProofOfALine(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Proof = Wrote(regexp.MustCompile(`^listening on \d+$`), long)
	s := newSubject(f, "says listening on 80", p).run()
	s.until(Running)
	s.Retire()
	wait(t, "gone", s.Gone())
	p.Proof = Wrote(regexp.MustCompile(`^listening on \d+$`), long)
	s = newSubject(f, "exit 1", p).run()
	eventually(t, "it fails", func() bool { return len(s.ends()) > 0 })
	if s.end(t, 0).Proved {
		t.Error("it has proved itself without the line")
	}
}

func TestProgramThatIsNot(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, "well", policy())
	s.failed = errors.New("release is gone")
	s.run()
	eventually(t, "two tries", func() bool { return s.lives() >= 2 })
	s.untilItPauses()
	if st := s.Status(); st.Unborn != "could not be started: release is gone" || st.Restarts == 0 {
		t.Errorf("status %+v", st)
	}
	s.mu.Lock()
	if e := s.heard[0]; e.To != Backing || e.Child != nil || !errors.Is(e.Err, s.failed) {
		t.Errorf("event %+v", e)
	}
	s.failed = nil
	s.mu.Unlock()
	s.until(Running)
	if st := s.Status(); st.Unborn != "" {
		t.Errorf("status %+v", st)
	}
}

// One that ran before is down because it cannot be made, and not because of how its life
// before ended.
func TestProgramThatIsNoMore(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Backoff.First, p.Backoff.Max = time.Hour, time.Hour
	s := newSubject(f, "well", p).run()
	s.until(Running)
	s.mu.Lock()
	s.failed = errors.New("release is gone")
	s.mu.Unlock()
	s.Restart()
	s.untilItPauses()
	eventually(t, "it says why", func() bool { return s.Status().Unborn != "" })
	if st := s.Status(); st.Unborn != "could not be started: release is gone" || st.Restarts != 2 || st.Last == nil {
		t.Errorf("status %+v", st)
	}
}

func TestStopInTheBackoff(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Backoff.First, p.Backoff.Max = time.Hour, time.Hour
	s := newSubject(f, "exit 1", p).run()
	s.until(Backing)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Start()
	eventually(t, "a second life", func() bool { return len(s.ends()) == 2 })
	s.until(Cooling) // the longest pause there is
	s.be("well")
	s.Start() // cuts the pause short
	s.until(Running)
	s.be("exit 1")
	if got := s.lives(); got != 3 {
		t.Errorf("%d lives, want 3: a start is no restart", got)
	}
	if err := s.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the third", func() bool { return len(s.ends()) >= 3 })
	s.untilItPauses()
	s.Retire()
	wait(t, "gone", s.Gone())
}

func TestStopWhileItIsMade(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, "well", policy())
	s.block = make(chan struct{})
	s.run()
	eventually(t, "it is being made", func() bool { return s.lives() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	select {
	case err := <-stopped:
		t.Fatalf("stop came back while a child is made: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(s.block)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	s.isStory(Stopped, Starting, Stopping, Stopped)
	if len(f.Living()) != 0 {
		t.Error("it lives")
	}
}

func TestStopWhileItStarts(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Proof = Alive(time.Hour)
	s := newSubject(f, "well", p).run()
	s.until(Starting)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); !e.Planned {
		t.Errorf("the end %+v", e)
	}
}

func TestStopOverruled(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, patient, policy()).run()
	s.until(Running)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(t.Context()) }()
	s.hears()
	s.Start()
	s.goes()
	if err := <-stopped; err == nil {
		t.Error("stop came back as done, and it was started meanwhile")
	}
	eventually(t, "another life", func() bool { return len(s.ends()) == 1 && s.Status().State == Running })
}

func TestTwoRestartsGiveOneProcess(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, patient, policy()).run()
	s.until(Running)
	var both sync.WaitGroup
	for range 2 {
		both.Go(s.Restart)
	}
	both.Wait()
	s.hears()
	s.Restart() // the life that ends is not the one to come
	s.goes()
	eventually(t, "a new life", func() bool { return len(s.ends()) == 1 && s.Status().State == Running })
	time.Sleep(300 * time.Millisecond) // long enough for a second restart to show
	if got := s.Status(); got.Restarts != 1 || got.State != Running || s.lives() != 2 {
		t.Errorf("%+v after %d lives", got, s.lives())
	}
}

// A restart that comes when the specification was asked for already wants one more
// life: it may be about what has changed since.
func TestRestartWhileItIsMade(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, "well", policy())
	block := make(chan struct{})
	s.block = block
	s.run()
	eventually(t, "it is being made", func() bool { return s.lives() == 1 })
	s.Restart()
	close(block)
	eventually(t, "a second life", func() bool { return len(s.ends()) == 1 && s.Status().State == Running })
	if s.lives() != 2 {
		t.Errorf("%d lives", s.lives())
	}
}

func TestKillIsForOneStop(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.StopTimeout = Forever
	s := newSubject(f, "deaf", p).run()
	s.until(Running)
	s.Kill() // nothing stops: nothing is cut short
	s.Restart()
	s.until(Stopping)
	s.be("dawdle 300")
	s.Kill()
	s.Kill()
	eventually(t, "the next life", func() bool { return len(s.ends()) == 1 && s.Status().State == Running })
	if e := s.end(t, 0); !e.Exit.Killed || !e.Planned || e.Exit.Ran <= 0 {
		t.Errorf("the end: %s, %+v", e.Exit, e)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 1); e.Exit.Killed || e.Exit.Code() != 0 {
		t.Errorf("the stop of the next life was cut short too: %s", e.Exit)
	}
}

func TestRetireWhileItStops(t *testing.T) {
	f := newHouse(t).open(t)
	s := newSubject(f, patient, policy()).run()
	s.until(Running)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stop that is not waited for: %v", err)
	}
	s.hears()
	s.Retire()
	s.until(Draining)
	s.goes()
	wait(t, "gone", s.Gone())
	s.isStory(Stopped, Starting, Running, Stopping, Draining, Stopped)
}

func TestTimeoutOfAStop(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.StopTimeout = 300 * time.Millisecond
	s := newSubject(f, "deaf", p).run()
	s.until(Running)
	s.Retire()
	wait(t, "gone", s.Gone())
	if e := s.end(t, 0); !e.Exit.Killed || !strings.HasPrefix(e.Exit.String(), "killed by superd after") {
		t.Errorf("the end: %s", e.Exit)
	}
}

// The children of a superd that dies live on, and the next one goes on with them:
// with one that runs, with one that was told to go, and with one that has ended.
func TestAdoption(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	s := newSubject(f, "well", policy()).run()
	s.until(Running)
	pid := s.Child().PID()
	s.stop()
	if err := <-s.ran; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
	f.leave()

	f = h.open(t)
	s = newSubject(f, patient, policy())
	s.Adopt(f.Adopted()[0])
	s.run()
	s.until(Running)
	if s.Child().PID() != pid || s.lives() != 0 || s.Status().Since.After(s.Child().Born()) {
		t.Errorf("adopted %+v, was %d", s.Status(), pid)
	}
	s.Restart()
	eventually(t, "a life of its own", func() bool { return len(s.ends()) == 1 && s.Status().State == Running })
	slow := s.Child()
	s.Restart()
	s.hears()
	eventually(t, "it is told", func() bool { return !slow.Told().IsZero() })
	s.stop()
	f.leave()

	f = h.open(t)
	sign := filepath.Join(h.dir, "sign")
	s = newSubject(f, "waitfor "+sign, policy())
	s.Adopt(f.Adopted()[0])
	s.run()
	s.until(Stopping)
	s.goes()
	eventually(t, "the stop is gone on with", func() bool { return len(s.ends()) == 1 })
	if e := s.end(t, 0); !e.Planned || e.Exit.Code() != 0 || e.Child.PID() != slow.PID() {
		t.Errorf("the end: %s, %+v", e.Exit, e)
	}
	eventually(t, "it has started the next", func() bool { return s.Child() != nil })
	dying := s.Child()
	s.stop()
	f.leave()
	if err := os.WriteFile(sign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it dies while nobody looks", func() bool { return !lives(dying.PID()) })

	f = h.open(t)
	s = newSubject(f, "well", policy())
	s.Adopt(f.Adopted()[0])
	s.run()
	eventually(t, "its end is heard", func() bool { return len(s.ends()) == 1 })
	if e := s.end(t, 0); e.Planned || e.Exit.Code() != 7 {
		t.Errorf("the end: %s, %+v", e.Exit, e)
	}
	s.until(Running)
}

// What people are told of the lives before does not end with superd.
func TestAdoptionKeepsThePast(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	s := newSubject(f, "exit 3 300", policy()).run()
	eventually(t, "two lives are over", func() bool { return len(s.ends()) >= 2 })
	s.be("well")
	eventually(t, "one stays", func() bool { // before that, one more may have been made that does not
		c := s.Child()
		return c != nil && strings.HasPrefix(strings.Join(c.Tail(1), ""), "well") && s.Status().State == Running
	})
	before := s.Status()
	s.stop()
	f.leave()

	f = h.open(t)
	s = newSubject(f, "well", policy())
	s.Adopt(f.Adopted()[0])
	s.run()
	s.until(Running)
	after := s.Status()
	if after.Restarts != before.Restarts || after.Last == nil || after.Last.String() != before.Last.String() || !after.Last.At.Equal(before.Last.At) {
		t.Errorf("%d restarts and %v, want %d and %v", after.Restarts, after.Last, before.Restarts, before.Last)
	}
	s.Restart()
	eventually(t, "it goes on counting", func() bool { return s.Status().Restarts == before.Restarts+1 })
}

// A child is started also when there is no room for its past.
func TestNoteWithoutRoomForThePast(t *testing.T) {
	long := &history{Restarts: 7, Last: &Exit{Failure: strings.Repeat("x", client.MaxNote)}}
	b, err := note{Name: "w", Mark: "m", Past: long}.pack()
	if n := unpackNote(b, "w"); err != nil || len(b) > client.MaxNote || n.Mark != "m" || n.Past != nil {
		t.Errorf("%d bytes, %v: %+v", len(b), err, n)
	}
	long.Last.Failure = "not found"
	b, err = note{Name: "w", Mark: "m", Past: long}.pack()
	if n := unpackNote(b, "w"); err != nil || n.Past == nil || n.Past.Restarts != 7 || n.Past.Last.Failure != "not found" {
		t.Errorf("%s, %v", b, err)
	}
}

// The time of a stop that an earlier superd has begun goes on.
func TestAdoptedStopIsEnded(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	p := policy()
	s := newSubject(f, "deaf", p).run()
	s.until(Running)
	s.Retire()
	eventually(t, "it has heard", func() bool { return slices.Contains(s.Child().Tail(1), "term 1") })
	s.until(Draining)
	s.stop()
	f.leave()

	f = h.open(t)
	p.StopTimeout = 300 * time.Millisecond
	s = newSubject(f, "well", p)
	s.Adopt(f.Adopted()[0])
	s.run()
	eventually(t, "it is killed", func() bool { return len(s.ends()) == 1 })
	if e := s.end(t, 0); !e.Exit.Killed || !e.Planned || strings.Contains(h.log(t, "w"), "term 2") {
		t.Errorf("the end: %s, %+v", e.Exit, e)
	}
	s.until(Running)
}

func TestFenced(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	s := newSubject(f, "lines", policy()).run()
	s.until(Running)
	pid := s.Child().PID()
	// The first superd is not dead when the second comes: it lays everything down.
	f.leave = func() {}
	fenced := f.Fenced()
	gone := make(chan error, 1)
	go func() {
		<-fenced
		gone <- f.Close()
	}()
	g := h.open(t)
	s.stop()
	if len(g.Adopted()) != 1 || g.Adopted()[0].PID() != pid {
		t.Fatalf("adopted %v", g.Adopted())
	}
	if _, err := f.Start(t.Context(), spec("v", "well")); err == nil {
		t.Error("the first superd still starts children")
	}
	if _, _, err := g.Adopted()[0].Stop(t.Context(), syscall.SIGTERM, long, nil); err != nil {
		t.Error(err)
	}
	for i, l := range strings.Split(h.log(t, "w"), "\n") {
		if want := fmt.Sprintf("line %06d", i); l != want && !strings.HasSuffix(l, "no end") {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if err := <-gone; err != nil {
		t.Error(err)
	}
	if err := <-f.ran; !errors.Is(err, ErrStale) {
		t.Errorf("run: %v", err)
	}
}

// What a child says while there is no superd is heard by the next one.
func TestReadyWhileThereIsNoSuperd(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	spoken := filepath.Join(h.dir, "spoken")
	c, err := f.Start(t.Context(), spec("w", "late "+spoken, "NOTIFY_SOCKET="+f.NotifySocket()))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has begun", func() bool { return slices.Contains(c.Tail(10), "begun") })
	f.leave()
	if err := syscall.Kill(c.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has spoken", func() bool { _, err := os.Stat(spoken); return err == nil })
	g := h.open(t)
	wait(t, "it is ready", g.Adopted()[0].Ready())
	if _, _, err := g.Adopted()[0].Stop(t.Context(), syscall.SIGTERM, long, nil); err != nil {
		t.Error(err)
	}
}

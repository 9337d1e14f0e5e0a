package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
)

func TestExits(t *testing.T) {
	f := newHouse(t).open(t)
	for mood, want := range map[string]string{
		"exit 0": "exit 0", "exit 1": "exit 1", "exit 12": "exit 12", "exit 255": "exit 255",
	} {
		c := f.start("w", mood, "")
		wait(t, "the end", c.Exited())
		if got := c.Exit().String(); !strings.HasPrefix(got, want+" after") {
			t.Errorf("%s: %s", mood, got)
		}
		if got := c.Tail(1); !slices.Equal(got, []string{"I leave with " + strings.Fields(mood)[1]}) {
			t.Errorf("%s: the last line is %q", mood, got)
		}
		if err := c.Acknowledge(); err != nil {
			t.Error(err)
		}
	}
	c := f.start("w", "deaf", "deaf")
	if err := c.Acknowledge(); err == nil {
		t.Error("a living child can be acknowledged")
	}
	if _, err := f.Start(t.Context(), spec("w", "deaf")); !errors.Is(err, ErrSlotTaken) {
		t.Errorf("a second child in its slot: %v", err)
	}
	if err := c.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end", c.Exited())
	if e := c.Exit(); e.Killed || e.Code() != -1 || !strings.HasPrefix(e.String(), "signal SIGKILL after") {
		t.Errorf("killed by somebody: %s, %+v", e, e)
	}
	if err := errors.Join(c.Signal(syscall.SIGTERM), c.Acknowledge(), c.Signal(syscall.SIGTERM)); err != nil {
		t.Errorf("signal to the dead: %v", err)
	}

	s := spec("w", "")
	s.Argv = []string{"/no/such/program"}
	c, err := f.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the end", c.Exited())
	if e := c.Exit(); e.Code() != -1 || !strings.Contains(e.String(), "exec") || !strings.Contains(e.String(), "no such file") {
		t.Errorf("no program: %s", e)
	}
}

func TestEnvironment(t *testing.T) {
	s := spec("shop/emails:3", "well")
	if got := s.environ("m", ""); !slices.Contains(got, "SUPERD_SLOT=shop/emails:3@1") || got[len(got)-1] != "SUPERD_CHILD=m" {
		t.Errorf("environment %q", got)
	}
	s.Env = append(s.Env, "SUPERD_SLOT=mine")
	if got := s.environ("m", ""); slices.Contains(got, "SUPERD_SLOT=shop/emails:3@1") {
		t.Errorf("environment %q", got)
	}
}

// A child may die at its gate, before Start knows of it.
func TestExitBeforeStartReturns(t *testing.T) {
	f := newHouse(t).open(t)
	s := spec("w", "well")
	k, err := f.keeper.Spawn(t.Context(), client.Spec{Slot: s.Slot, Argv: s.Argv, Env: s.Env, Dir: s.Dir, UID: s.User.UID, GID: s.User.GID})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(k.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exit is there", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.early) == 1
	})
	c := newChild(f.Children, k, note{Name: "w"})
	f.add(c)
	wait(t, "the end", c.Exited())
	if err := c.Acknowledge(); err != nil || len(f.early) != 0 {
		t.Errorf("%v, %d kept", err, len(f.early))
	}
}

func TestStopTellsTheMainProcessOnce(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "count", "count")
	stopped := make(chan error, 3)
	for range 3 {
		go func() {
			_, killed, err := c.Stop(t.Context(), syscall.SIGTERM, long, nil)
			if killed {
				err = errors.New("was killed")
			}
			stopped <- err
		}()
	}
	for range 3 {
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
	if got := c.Exit().Code(); got != 1 {
		t.Errorf("it was told %d times", got)
	}
}

// A child that somebody has stopped hears that it is to go, and finishes as any other.
func TestStopOfTheStopped(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "count", "count")
	if err := c.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, killed, err := c.Stop(t.Context(), syscall.SIGTERM, long, nil)
	if err != nil || killed || c.Exit().Code() != 1 {
		t.Errorf("%s, killed %v: %v", c.Exit(), killed, err)
	}
}

// What is behind a shell hears of the stop when the shell has gone, and finishes.
func TestStopLetsTheRestFinish(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	sign := filepath.Join(h.dir, "done")
	c := f.start("w", "shell dawdle 300 "+sign, "dawdle")
	_, killed, err := c.Stop(t.Context(), syscall.SIGTERM, long, nil)
	if _, err := os.Stat(sign); err != nil {
		t.Errorf("what was behind the shell did not finish: %v", err)
	}
	if err != nil || killed {
		t.Errorf("%v, %v", killed, err)
	}
	left, err := c.reach()
	if err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left.pids(), err)
	}
	if err := c.Acknowledge(); err != nil {
		t.Fatal(err)
	}
	c = f.start("v", "shell deaf", "deaf")
	exit, _, err := c.Stop(t.Context(), syscall.SIGTERM, 5*time.Second, nil)
	if err != nil || exit.Code() != 0 {
		t.Errorf("%s, %v", exit, err)
	}
	if left, err := c.reach(); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left.pids(), err)
	}
}

func TestKillTakesTheTree(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "family", "family complete")
	other := f.start("other", "family", "family complete")
	pids := familyOf(t, c)
	if len(pids) != 3 {
		t.Fatalf("family %v", pids)
	}
	exit, killed, err := c.Stop(t.Context(), syscall.SIGTERM, 300*time.Millisecond, nil)
	if err != nil || !killed || !exit.Killed || !strings.HasPrefix(exit.String(), "killed by superd after") {
		t.Errorf("%s, %v, %v", exit, killed, err)
	}
	end(t, append(pids, c.PID())...)
	for _, pid := range append(familyOf(t, other), other.PID()) {
		if !lives(pid) {
			t.Errorf("process %d of another child was killed", pid)
		}
	}
	if err := other.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end", other.Exited())
	if n, err := other.SignalRest(syscall.SIGKILL); err != nil || n != 3 {
		t.Errorf("%d orphans, %v", n, err)
	}
	if err := other.KillTree(t.Context()); err != nil {
		t.Error(err)
	}
	end(t, familyOf(t, other)...)
}

// end fails if a process does not end. One that is ending has no environment any more and
// is not dead yet: KillTree does not see it, and it runs nothing.
func end(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !lives(pid) })
	}
}

// A child that is alone goes alone, told or killed; what it has started is not touched.
func TestAlone(t *testing.T) {
	f := newHouse(t).open(t)
	p := policy()
	p.Alone, p.StopTimeout, p.Proof = true, 300*time.Millisecond, Wrote(regexp.MustCompile("family complete"), long)
	s := newSubject(f, "family", p).run()
	s.until(Running)
	c := s.Child()
	pids := familyOf(t, c)
	t.Cleanup(func() { _ = c.KillTree(context.Background()) })
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.end(t, 0); !e.Exit.Killed {
		t.Errorf("it went by itself: %s", e.Exit)
	}
	for _, pid := range pids {
		if !lives(pid) {
			t.Errorf("process %d was killed with it", pid)
		}
	}
}

func familyOf(t *testing.T, c *Child) []int {
	t.Helper()
	var pids []int
	for _, l := range c.Tail(1000) {
		var pid int
		if _, err := fmt.Sscanf(l, "pid %d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestNowCutsAStopShort(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "deaf", "deaf")
	now := make(chan struct{})
	close(now)
	exit, killed, err := c.Stop(t.Context(), syscall.SIGTERM, Forever, now)
	if err != nil || !killed || !exit.Killed {
		t.Errorf("%s, %v, %v", exit, killed, err)
	}
}

func TestAChildMayAskForMoreTime(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "extend", "extend")
	exit, killed, err := c.Stop(t.Context(), syscall.SIGTERM, 3*time.Second, nil)
	if err != nil || killed || exit.Code() != 0 {
		t.Errorf("%s, %v, %v", exit, killed, err)
	}
}

// The stop signal is sent once in a child's life, whoever commands, and its time
// counts from then.
func TestStopGoesOnAfterSuperd(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	c := f.start("w", "deaf", "deaf")
	ctx, cancel := context.WithCancel(t.Context())
	stopping := make(chan error)
	go func() {
		_, _, err := c.Stop(ctx, syscall.SIGTERM, Forever, nil)
		stopping <- err
	}()
	eventually(t, "it has heard", func() bool { return slices.Contains(c.Tail(9), "term 1") })
	cancel()
	if err := <-stopping; !errors.Is(err, context.Canceled) {
		t.Errorf("stop without end: %v", err)
	}
	told := c.Told()
	f.leave()

	f = h.open(t)
	if len(f.Adopted()) != 1 {
		t.Fatalf("%d adopted", len(f.Adopted()))
	}
	next := f.Adopted()[0]
	if next.PID() != c.PID() || next.Name() != "w" || next.Told().Sub(told).Abs() > time.Millisecond {
		t.Errorf("adopted %s, %d, told %s; was %d, told %s", next.Name(), next.PID(), next.Told(), c.PID(), told)
	}
	if !slices.Equal(next.Tail(2), []string{"deaf", "term 1"}) {
		t.Errorf("its lines are %q", next.Tail(2))
	}
	began := time.Now()
	exit, killed, err := next.Stop(t.Context(), syscall.SIGTERM, time.Since(told)+2*time.Second, nil)
	if err != nil || !killed || !exit.Killed {
		t.Errorf("%s, %v, %v", exit, killed, err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("it had %s more, two seconds were due", took)
	}
	if strings.Count(h.log(t, "w"), "term") != 1 {
		t.Errorf("it was told twice:\n%s", h.log(t, "w"))
	}
	if err := next.Acknowledge(); err != nil {
		t.Error(err)
	}
	f.leave()
	if f = h.open(t); len(f.Adopted()) != 0 {
		t.Errorf("%d children after the last was acknowledged", len(f.Adopted()))
	}
}

func TestExitWhileNobodyCommands(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	sign := filepath.Join(h.dir, "sign")
	c := f.start("w", "waitfor "+sign, "waiting")
	f.leave()
	if err := os.WriteFile(sign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ends", func() bool { return !lives(c.PID()) })
	f = h.open(t)
	if len(f.Adopted()) != 1 {
		t.Fatalf("%d adopted", len(f.Adopted()))
	}
	next := f.Adopted()[0]
	wait(t, "the exit is delivered", next.Exited())
	if next.Exit().Code() != 7 || !next.Told().IsZero() {
		t.Errorf("%s, told %s", next.Exit(), next.Told())
	}
	if got := h.log(t, "w"); got != "waiting\nlast words" {
		t.Errorf("output %q", got)
	}
}

func TestReady(t *testing.T) {
	f := newHouse(t).open(t)
	for _, mood := range []string{"ready", "ready by-a-child"} {
		c := f.start("w", mood, "")
		wait(t, "READY=1", c.Ready())
		if got := c.StatusText(); got != "all is well" {
			t.Errorf("status %q", got)
		}
		if _, _, err := c.Stop(t.Context(), syscall.SIGTERM, long, nil); err != nil {
			t.Error(err)
		}
		if err := c.Acknowledge(); err != nil {
			t.Error(err)
		}
	}
	c := f.start("w", "well", "")
	stranger, err := net.Dial("unixgram", f.NotifySocket())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for _, text := range []string{"READY=1", "READY=1\nMAINPID=" + fmt.Sprint(c.PID())} {
		if _, err := stranger.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	proof := Notified(500 * time.Millisecond)
	if err := proof(t.Context(), c); err == nil || !strings.Contains(err.Error(), "has not said READY=1") {
		t.Errorf("a stranger has spoken for the child: %v", err)
	}
}

func TestStartsHaveACeiling(t *testing.T) {
	f := newHouse(t).open(t)
	f.starts.every, f.starts.burst = 200*time.Millisecond, 1
	began := time.Now()
	for n := range 4 {
		f.start(fmt.Sprint("w", n), "well", "")
	}
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("four starts took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Start(ctx, spec("x", "well")); !errors.Is(err, context.Canceled) {
		t.Errorf("start with a context that has ended: %v", err)
	}
}

// superd lets go of the output, and only then the child says its last and ends.
func TestLastWordsAreLeftToTheNext(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	c := f.start("w", "dawdle 0", "dawdle")
	f.halt()
	<-c.moved
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "superd has heard of the end", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return c.ending
	})
	f.leave()
	if c.hasExited() {
		t.Error("the end was told before the last words were read")
	}
	next := h.open(t).Adopted()[0]
	<-next.Exited()
	if last := next.Tail(1); !slices.Equal(last, []string{"done"}) {
		t.Errorf("the last words are %q", last)
	}
}

// superd dies between the ledger, which says that the child is told, and the signal.
// The next one tells it: nobody waits for a child that knows nothing.
func TestToldOnPaperOnly(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	c := f.start("w", "deaf", "deaf")
	f.ledger.tell(c.PID(), c.proc.Start, time.Now())
	f.leave()
	f = h.open(t)
	next := f.Adopted()[0]
	if !next.Told().IsZero() {
		t.Fatalf("told %s, and it was not", next.Told())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopping := make(chan error)
	go func() {
		_, _, err := next.Stop(ctx, syscall.SIGTERM, Forever, nil)
		stopping <- err
	}()
	eventually(t, "it has heard", func() bool { return slices.Contains(next.Tail(9), "term 1") })
	cancel()
	<-stopping
	if err := next.KillTree(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, "it is gone", next.Exited())
	if err := next.Acknowledge(); err != nil {
		t.Error(err)
	}
}

// superd dies between the signal and its taking note: the next one knows.
func TestToldAndNotNoted(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	c := f.start("w", "deaf", "deaf")
	if err := f.keeper.Tell(nil, c.Slot(), c.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has heard", func() bool { return slices.Contains(c.Tail(9), "term 1") })
	f.leave()
	f = h.open(t)
	next := f.Adopted()[0]
	if next.Told().IsZero() {
		t.Error("it was told, and the next superd does not know")
	}
	if _, killed, err := next.Stop(t.Context(), syscall.SIGTERM, 100*time.Millisecond, nil); err != nil || !killed {
		t.Errorf("killed %v, %v", killed, err)
	}
	if strings.Count(h.log(t, "w"), "term") != 1 {
		t.Errorf("it was told more than once:\n%s", h.log(t, "w"))
	}
	if err := next.Acknowledge(); err != nil {
		t.Error(err)
	}
}

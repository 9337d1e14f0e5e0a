package fpm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/output"
)

func TestSwitchesLoseNothingUnderLoad(t *testing.T) {
	t.Parallel()
	everyWay(t, switchesLoseNothingUnderLoad)
}

func switchesLoseNothingUnderLoad(t *testing.T, s *shop) {
	l := s.superd()
	l.serve(s.generation(1))
	load := s.load()
	load.open(60)
	for n := uint64(2); n <= 7; n++ {
		time.Sleep(300 * time.Millisecond)
		l.serve(s.generation(n))
		if a, err := s.get(""); err != nil || a.Self != s.generation(n).Release {
			t.Errorf("a request after the flip to %s is answered by %q, %v", s.generation(n), a.Self, err)
		}
	}
	load.done()
	if load.slept.Load() == 0 {
		t.Error("no request slept: nothing is proved about sleeps")
	}
	for n := uint64(1); n <= 6; n++ {
		l.gone(s.generation(n))
	}
	if killed := s.told(Killed); len(killed) > 0 {
		t.Errorf("requests were cut: %v", killed)
	}
	eventually(t, "six are told to have left", func() bool { return len(s.told(Retired)) == 6 }) // a moment after they are gone
}

// Workers that come and go by themselves are flipped and drained as well.
func TestSwitchesLoseNothingWithAnyManager(t *testing.T) {
	t.Parallel()
	for _, pm := range []string{"dynamic", "ondemand"} {
		s := newShop(t)
		s.change = func(_ *Options, p *Pool) {
			p.PM, p.StartServers, p.MinSpareServers, p.MaxSpareServers, p.MaxRequests = pm, 2, 1, 3, 20
		}
		l := s.superd()
		l.serve(s.generation(1))
		load := s.load()
		load.open(60)
		for n := uint64(2); n <= 5; n++ {
			time.Sleep(200 * time.Millisecond)
			l.serve(s.generation(n))
		}
		load.done()
		l.gone(s.generation(4))
	}
}

func TestSwitchesLoseNothingAtSaturation(t *testing.T) {
	t.Parallel()
	everyWay(t, switchesLoseNothingAtSaturation)
}

func switchesLoseNothingAtSaturation(t *testing.T, s *shop) {
	l := s.superd()
	l.serve(s.generation(1))
	load := s.load()
	load.closed(200, "ms=20")
	queued := 0
	for n := uint64(2); n <= 5; n++ {
		eventually(t, "a queue", func() bool {
			st, _ := l.status(s.generation(n - 1))
			queued = max(queued, st.Queue)
			return st.Queue > 50
		})
		l.serve(s.generation(n))
	}
	for n := uint64(1); n <= 4; n++ {
		l.gone(s.generation(n))
	}
	load.done()
	t.Logf("up to %d connections waited in a queue", queued)
}

func TestDeadMasterIsReplacedAndItsQueueIsKept(t *testing.T) {
	t.Parallel()
	everyWay(t, deadMasterIsReplacedAndItsQueueIsKept)
}

func deadMasterIsReplacedAndItsQueueIsKept(t *testing.T, s *shop) {
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	load := s.load()
	load.closed(40, "")
	var dead []int
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		before, _ := l.status(g)
		dead = append(dead, before.PID)
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another master", func() bool {
			st, _ := l.status(g)
			return st.State == Serving && st.PID != before.PID && st.PID != 0 && st.Idle+st.Active == 8
		})
	}
	load.done() // those that the dead ones' workers had in hand are answered too
	died := s.told(Died)
	if len(died) != 3 || died[0].Generation != g || !strings.Contains(died[0].Reason, "SIGKILL") || len(died[0].Lines) == 0 {
		t.Errorf("told: %+v", died)
	}
	for _, pid := range dead {
		eventually(t, "the orphans are gone", func() bool { return familyOf(t, pid) == 0 })
	}
}

// familyOf counts the living processes of a master's session, itself included.
func familyOf(t *testing.T, master int) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 3 && f[0] != "Z" && f[3] == strconv.Itoa(master) {
			n++
		}
	}
	return n
}

func TestCrashLoopingMasterIsToldAndComesBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	extra := filepath.Join(s.dir, "extra.conf")
	if err := os.WriteFile(extra, []byte("; nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.change = func(_ *Options, p *Pool) { p.Include = []string{extra} }
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	// What was fine when it was tested is broken when the next master reads it.
	if err := os.WriteFile(extra, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, _ := l.status(g)
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loop is told", func() bool { return len(s.told(Died)) >= 3 })
	if last := s.told(Died)[2]; !strings.Contains(strings.Join(last.Lines, "\n"), "nonsense") {
		t.Errorf("the event does not say why: %+v", last)
	}
	if err := l.Promote(t.Context(), g); err == nil || !strings.Contains(err.Error(), "exit 78") {
		t.Errorf("promote of a master that cannot start: %v", err)
	}
	if err := os.WriteFile(extra, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.find(g).fail(errors.New("an older one, which nobody has heard yet"))
	l.must("promote", l.Promote(t.Context(), g)) // cuts the pause short
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
}

// A generation that cannot come up again is left with users in its queue: they are
// answered by the one that serves.
func TestQueueOfADeadGenerationIsHandedOn(t *testing.T) {
	t.Parallel()
	everyWay(t, queueOfADeadGenerationIsHandedOn)
}

func queueOfADeadGenerationIsHandedOn(t *testing.T, s *shop) {
	extra := filepath.Join(s.dir, "extra.conf")
	write := func(text string) {
		if err := os.WriteFile(extra, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s.change = func(_ *Options, p *Pool) { p.Include = []string{extra} }
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.serve(g1)
	l.must("start", l.Start(t.Context(), g2))
	st, _ := l.status(g1)
	write("nonsense = 1\n")
	end(t, st.PID)
	answers := make(chan error, 20)
	for range cap(answers) {
		go func() {
			a, err := s.get("")
			if err == nil && a.Self != "r2" {
				err = fmt.Errorf("answered by %s", a.Self)
			}
			answers <- err
		}()
	}
	eventually(t, "a queue", func() bool { st, _ := l.status(g1); return st.Queue == cap(answers) })
	l.must("promote", l.Promote(t.Context(), g2))
	l.must("retire", l.Retire(t.Context(), g1))
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	l.gone(g1)
}

// The next superd has another configuration, and it is bad: a master that dies is
// replaced with the one it had.
func TestMasterIsReplacedWithWhatItHad(t *testing.T) {
	t.Parallel()
	everyWay(t, masterIsReplacedWithWhatItHad)
}

func masterIsReplacedWithWhatItHad(t *testing.T, s *shop) {
	first := s.superd()
	g := s.generation(1)
	first.serve(g)
	first.end()
	s.change = func(_ *Options, p *Pool) { p.PM = "nonsense" }
	second := s.superd()
	st, _ := second.status(g)
	end(t, st.PID)
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
	notes := s.told(Note)
	if len(notes) == 0 || !strings.Contains(notes[0].Reason, "php-fpm -t") {
		t.Errorf("told: %+v", notes)
	}
}

func TestDeadWorkerIsTold(t *testing.T) {
	t.Parallel()
	everyWay(t, deadWorkerIsTold)
}

func deadWorkerIsTold(t *testing.T, s *shop) {
	l := s.superd()
	l.serve(s.generation(2))
	eventually(t, "superd reads what is written", l.follows.Load)
	if _, err := s.get("crash"); err == nil {
		t.Error("the worker did not crash")
	}
	eventually(t, "it is told", func() bool { return len(s.told(WorkerDied)) == 1 })
	if e := s.told(WorkerDied)[0]; e.Generation != s.generation(2) || !strings.Contains(e.Reason, "exited on signal 11") {
		t.Errorf("told: %+v", e)
	}
}

func TestNextSuperdGoesOn(t *testing.T) {
	t.Parallel()
	everyWay(t, nextSuperdGoesOn)
}

func nextSuperdGoesOn(t *testing.T, s *shop) {
	first := s.superd()
	g1, g2, g3 := s.generation(1), s.generation(2), s.generation(3)
	first.serve(g1)
	first.must("start", first.Start(t.Context(), g2))
	load := s.load()
	load.open(40)
	one, _ := first.status(g1)
	two, _ := first.status(g2)
	first.end()

	second := s.superd()
	if now, ok := second.Serving(); !ok || now != g1 {
		t.Errorf("serving %v, want %v", now, g1)
	}
	check := func(g release.Generation, was Status, state State) {
		t.Helper()
		var st Status
		eventually(t, fmt.Sprintf("%s is %s", g, state), func() bool {
			st, _ = second.status(g)
			return st.State == state && st.Active+st.Idle == 8
		})
		if st.PID != was.PID || st.Restarts != 0 {
			t.Errorf("%+v, was %+v", st, was)
		}
	}
	check(g1, one, Serving)
	check(g2, two, Parked)
	second.must("promote", second.Promote(t.Context(), g2))
	check(g2, two, Serving)
	check(g1, one, Parked)
	second.must("promote back", second.Promote(t.Context(), g1))
	second.must("promote", second.Promote(t.Context(), g2))
	second.must("retire", second.Retire(t.Context(), g1))
	second.gone(g1)
	second.serve(g3)
	second.gone(g2)
	load.done()
	if dirs := second.InUse(); !slices.Equal(dirs, []string{g3.Dir}) {
		t.Errorf("in use: %v", dirs)
	}
}

// A queue outlives a master that dies together with superd.
func TestMasterAndSuperdDieTogether(t *testing.T) {
	t.Parallel()
	everyWay(t, masterAndSuperdDieTogether)
}

func masterAndSuperdDieTogether(t *testing.T, s *shop) {
	first := s.superd()
	g := s.generation(1)
	first.serve(g)
	st, _ := first.status(g)
	first.end()
	end(t, st.PID)
	done := make(chan error, 5)
	for range cap(done) {
		go func() { _, err := s.get(""); done <- err }()
	}
	time.Sleep(300 * time.Millisecond) // they wait in the queue
	second := s.superd()               // and nobody asks it for anything
	answered := func() {
		t.Helper()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	answered()

	// Once more, when superd could take note of the death but no more: no child is left.
	eventually(t, "it is up", func() bool { st, _ := second.status(g); return st.State == Serving && st.PID != 0 })
	st, _ = second.status(g)
	second.end()
	end(t, st.PID)
	s.bury()
	for range cap(done) {
		go func() { _, err := s.get(""); done <- err }()
	}
	time.Sleep(300 * time.Millisecond)
	s.superd()
	answered()
}

// bury takes note of the ends of children, and does nothing else.
func (s *shop) bury() {
	s.t.Helper()
	s.between(func(children *supervisor.Children) {
		for _, c := range children.Adopted() {
			<-c.Exited()
			if err := c.Acknowledge(); err != nil {
				s.t.Error(err)
			}
		}
	})
}

// held is what the keeper has of PHP-FPM between two superds.
func (s *shop) held() (names []string) {
	s.t.Helper()
	s.between(func(children *supervisor.Children) { names = children.HeldNames() })
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "fpm/") })
}

// between does something with the children while there is no superd.
func (s *shop) between(do func(*supervisor.Children)) {
	s.t.Helper()
	log := slog.New(slog.DiscardHandler)
	out := output.Open(output.Options{Dir: filepath.Join(s.dir, "log"), Log: log})
	children, err := supervisor.Open(context.Background(), supervisor.Options{Keeper: s.keeper.Socket(), State: filepath.Join(s.dir, "state"), Output: out, Log: log})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- children.Run(ctx) }()
	do(children)
	cancel()
	if err := errors.Join(<-done, children.Close(), out.Close()); err != nil {
		s.t.Error(err)
	}
}

// connectAs connects as another user.
func connectAs(t *testing.T, path, name string) error {
	t.Helper()
	who, err := supervisor.LookupUser(name, "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("php8.2", "-n", "-r", `exit(@stream_socket_client("unix://" . $argv[1]) ? 0 : 1);`, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who.UID, Gid: who.GID}}
	return cmd.Run()
}

// end kills a master with its workers, as an out-of-memory killer may.
func end(t *testing.T, master int) {
	t.Helper()
	if err := errors.Join(syscall.Kill(master, syscall.SIGSTOP), syscall.Kill(-master, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "they are dead", func() bool { return familyOf(t, master) == 0 }) // one that dies in accept takes a connection along
}

func TestRetire(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const drain = 5 * time.Second
	s.change = func(o *Options, _ *Pool) { o.Drain = drain }
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.must("retire nothing", l.Retire(t.Context(), release.Generation{}))
	l.must("retire what never ran", l.Retire(t.Context(), g2))
	l.serve(g1)
	if err := l.Retire(t.Context(), g1); err == nil || !strings.Contains(err.Error(), "it is serving") {
		t.Errorf("retire of what serves: %v", err)
	}
	l.must("start", l.Start(t.Context(), g2))
	l.must("start again", l.Start(t.Context(), g2))
	l.must("retire the candidate", l.Retire(t.Context(), g2))
	l.must("retire it again", l.Retire(t.Context(), g2))
	l.gone(g2)

	// A request that never ends is cut at the deadline, and that is told.
	l.must("start", l.Start(t.Context(), g2))
	hung := make(chan error, 1)
	go func() { _, err := s.get("spin"); hung <- err }()
	eventually(t, "the worker hangs", func() bool { st, _ := l.status(g1); return st.Active == 1 })
	l.must("promote", l.Promote(t.Context(), g2))
	began := time.Now()
	l.must("retire", l.Retire(t.Context(), g1))
	st, ok := l.status(g1)
	if !ok || st.State != Draining {
		t.Errorf("%+v", st)
	}
	if err := <-hung; err == nil {
		t.Error("the hung request was answered")
	}
	// Told at the deadline only, PHP-FPM would take as long again before it cuts.
	if took := time.Since(began); took < drain-100*time.Millisecond || took > 2*drain-500*time.Millisecond {
		t.Errorf("cut after %s, and its time was %s", took, drain)
	}
	l.gone(g1)
	if killed := s.told(Killed); len(killed) != 1 || killed[0].Generation != g1 {
		t.Errorf("told: %+v", killed)
	}
	if n := familyOf(t, st.PID); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

func TestRetireGoesOnInTheNextSuperd(t *testing.T) {
	t.Parallel()
	everyWay(t, retireGoesOnInTheNextSuperd)
}

func retireGoesOnInTheNextSuperd(t *testing.T, s *shop) {
	first := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	first.serve(g1)
	slow := s.gate()
	slow.enter(300)
	first.serve(g2)
	first.end()
	second := s.superd()
	if st, ok := second.status(g1); !ok || st.State != Draining {
		t.Errorf("%+v", st)
	}
	slow.open()
	second.gone(g1)
	if now, _ := second.Serving(); now != g2 {
		t.Errorf("serving %s", now)
	}
}

// Users may be sent back to a generation that was told to leave a moment ago.
func TestPromoteKeepsWhatIsLeaving(t *testing.T) {
	t.Parallel()
	everyWay(t, promoteKeepsWhatIsLeaving)
}

func promoteKeepsWhatIsLeaving(t *testing.T, s *shop) {
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.serve(g1)
	go func() { _, _ = s.get("ms=600000") }() // holds the drain up
	eventually(t, "the request runs", func() bool { st, _ := l.status(g1); return st.Active == 1 })
	was, _ := l.status(g1)
	l.serve(g2)
	l.must("promote back", l.Promote(t.Context(), g1))
	if st, _ := l.status(g1); st.PID != was.PID || st.State != Serving {
		t.Errorf("%+v, was %+v", st, was)
	}
	l.must("retire", l.Retire(t.Context(), g2))
	l.gone(g2)
	// One that has left is started again.
	l.must("promote what is gone", l.Promote(t.Context(), g2))
	if a, err := s.get(""); err != nil || a.Self != "r2" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestStartTellsWhyNot(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	include := filepath.Join(s.dir, "extra.conf")
	var ini map[string]string
	s.change = func(_ *Options, p *Pool) { p.Include = []string{include}; p.INI = ini }
	write := func(text string) {
		if err := os.WriteFile(include, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	l := s.superd()
	g := s.generation(1)
	write("nonsense = 1\n")
	fails := func(err error, words ...string) {
		t.Helper()
		if err == nil {
			t.Fatal("it started")
		}
		var why release.Explained
		if !errors.As(err, &why) || len(why.LastLines()) == 0 {
			t.Errorf("%v has no last lines", err)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %q", err, w)
			}
		}
		if l.Socket(g) != "" || len(l.Status(t.Context())) != 0 || exists(filepath.Join(s.dir, "run", "1")) {
			t.Errorf("something is left: %+v", l.Status(t.Context()))
		}
	}
	fails(l.Start(t.Context(), g), "start r1 (generation 1)", "php-fpm -t", "unknown entry 'nonsense'")
	fails(l.Test(t.Context(), g), "test r1 (generation 1)", "unknown entry 'nonsense'")
	// php-fpm -t does not find out that it can't start: the workers are to have more files than there may be.
	write("[another]\nuser = www-data\nlisten = /does/not/exist/x.sock\npm = static\npm.max_children = 1\n")
	err := l.Start(t.Context(), g)
	eventually(t, "nothing is left of it", func() bool { return len(l.Status(context.Background())) == 0 })
	fails(err, "exit 78")
	write("")
	l.must("test", l.Test(t.Context(), g))
	l.must("start", l.Start(t.Context(), g))
	if s.told(Died) != nil {
		t.Errorf("told: %+v", s.told(Died))
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	hang := filepath.Join(s.dir, "hang.php")
	if err := os.WriteFile(hang, []byte("<?php sleep(600);"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.change = func(_ *Options, p *Pool) {
		p.INI = map[string]string{"opcache.preload": hang, "opcache.preload_user": "www-data"}
	}
	l := s.superd()
	why := errors.New("took longer than a second")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
	defer cancel()
	began := time.Now()
	if err := l.Start(ctx, s.generation(1)); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	eventually(t, "nothing is left of it", func() bool { return len(l.Status(context.Background())) == 0 })
}

func TestRestartLosesNothing(t *testing.T) {
	t.Parallel()
	everyWay(t, restartLosesNothing)
}

func restartLosesNothing(t *testing.T, s *shop) {
	l := s.superd()
	g := s.generation(1)
	if err := l.Restart(t.Context()); err == nil {
		t.Error("there was nothing to restart")
	}
	l.serve(g)
	load := s.load()
	load.open(50)
	pids := map[int]bool{}
	for range 3 {
		st, _ := l.status(g)
		pids[st.PID] = true
		l.must("restart", l.Restart(t.Context()))
		eventually(t, "one master", func() bool { return len(l.Status(context.Background())) == 1 })
	}
	load.done()
	if st, _ := l.status(g); len(pids) != 3 || pids[st.PID] || st.State != Serving {
		t.Errorf("masters %v, then %+v", pids, st)
	}
	l.serve(s.generation(2))
	l.gone(g)
}

// A superd that dies in a restart leaves two masters of one generation.
func TestRestartCutShort(t *testing.T) {
	t.Parallel()
	everyWay(t, restartCutShort)
}

func restartCutShort(t *testing.T, s *shop) {
	first := s.superd()
	g := s.generation(1)
	first.serve(g)
	was, _ := first.status(g)
	if _, err := first.begin(t.Context(), first.place(g)); err != nil { // as Restart does
		t.Fatal(err)
	}
	first.end()
	second := s.superd()
	eventually(t, "one master", func() bool { return len(second.Status(context.Background())) == 1 })
	if st, _ := second.status(g); st.PID != was.PID || st.State != Serving {
		t.Errorf("%+v, was %+v", st, was)
	}
}

func TestStopAnswersWhoIsIn(t *testing.T) {
	t.Parallel()
	everyWay(t, stopAnswersWhoIsIn)
}

func stopAnswersWhoIsIn(t *testing.T, s *shop) {
	l := s.superd()
	l.serve(s.generation(1))
	l.must("start", l.Start(t.Context(), s.generation(2)))
	in := s.gate()
	for range 30 {
		in.come(300)
	}
	eventually(t, "all are in, and most in the queue", func() bool {
		st, _ := l.status(s.generation(1))
		return st.Active == 8 && st.Queue == 30-8
	})
	stopped := make(chan error, 1)
	go func() { stopped <- l.Stop(t.Context()) }()
	eventually(t, "it is leaving", func() bool { st, _ := l.status(s.generation(1)); return st.State == Draining })
	in.open()
	l.must("stop", <-stopped)
	if s.open() || len(l.Status(t.Context())) != 0 || len(l.children.Living()) != 0 {
		t.Errorf("left: %+v", l.Status(t.Context()))
	}
	l.end()
	if names := s.held(); len(names) != 0 {
		t.Errorf("the keeper still has %v", names)
	}
	again := s.superd()
	again.serve(s.generation(1)) // and it can begin anew
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
}

func TestStopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	everyWay(t, stopEndsWithItsContext)
}

func stopEndsWithItsContext(t *testing.T, s *shop) {
	l := s.superd()
	l.serve(s.generation(1))
	go func() { _, _ = s.get("spin") }()
	eventually(t, "the worker hangs", func() bool { st, _ := l.status(s.generation(1)); return st.Active == 1 })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("enough"))
	defer cancel()
	if err := l.Stop(ctx); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("%v", err)
	}
	// Somebody wants it after all.
	was, _ := l.status(s.generation(1))
	l.must("promote", l.Promote(t.Context(), s.generation(1)))
	if now, _ := l.status(s.generation(1)); was.State != Draining || now.State != Serving || now.PID != was.PID {
		t.Errorf("%+v, was %+v", now, was)
	}
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
}

func TestSweepKeepsNothingStale(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	run := filepath.Join(s.dir, "run")
	for _, dir := range []string{"3", "3-1", "test-x", "reload", "theirs"} {
		if err := os.MkdirAll(filepath.Join(run, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	listen(t, filepath.Join(run, "3", webFile))
	if err := os.Symlink("3/"+webFile, s.public()); err != nil {
		t.Fatal(err)
	}
	l := s.superd()
	if g, ok := l.Serving(); ok {
		t.Errorf("serving %v", g)
	}
	l.serve(s.generation(1))
	entries, err := os.ReadDir(run)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"1", "fpm.sock", "theirs"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("left: %v, want %v (%v)", names, want, err)
	}
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
}

// What a crash between two lines of Start leaves: a listener with the keeper, and no
// master.
func TestSweepTakesListenersBack(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	first := s.superd()
	g := s.generation(3)
	half := newServer(first.Web, first.place(g))
	if err := half.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.end()
	if names := s.held(); len(names) != 2 {
		t.Fatalf("the keeper has %v", names)
	}
	s.superd().end()
	if names, there := s.held(), exists(half.at.Home); len(names) > 0 || there {
		t.Errorf("left: %v, directory %v", names, there)
	}
	third := s.superd()
	third.must("start", third.Start(t.Context(), g))
}

// The keeper has lost the listeners: the master that lives lends them, and where it
// does not, users are served all the same.
func TestListenersThatTheKeeperLost(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	lose := func(l *life) {
		for _, name := range []string{"web", "status"} {
			if err := l.children.Drop(l.held("1", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := s.superd()
	g := s.generation(1)
	first.serve(g)
	was, _ := first.status(g)
	load := s.load()
	load.open(30)
	answered := func(n int64) {
		t.Helper()
		eventually(t, "answers", func() bool { return load.answered.Load() >= n })
	}
	answered(5)
	lose(first)
	first.end()
	second := s.superd()
	answered(load.answered.Load() + 20)
	eventually(t, "it serves", func() bool { st, _ := second.status(g); return st.State == Serving && st.PID == was.PID })
	load.done()
	if err := syscall.Kill(was.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another master", func() bool { st, _ := second.status(g); return st.PID != was.PID && st.Idle == 8 })
	st, _ := second.status(g)
	lose(second)
	second.end()
	end(t, st.PID)
	third := s.superd()
	eventually(t, "another master", func() bool { st, _ := third.status(g); return st.Idle == 8 })
	if a, err := s.get(""); err != nil || a.Self != "r1" {
		t.Errorf("%+v, %v", a, err)
	}
	if err := connectAs(t, s.public(), "www-data"); err != nil {
		t.Errorf("the web server's user cannot connect: %v", err)
	}
	if len(s.told(Note)) != 1 {
		t.Errorf("told: %+v", s.told(Note))
	}
}

func TestPublicPath(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := os.MkdirAll(s.public(), 0o755); err != nil {
		t.Fatal(err)
	}
	l := s.superd()
	g := s.generation(1)
	if err := l.Start(t.Context(), g); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("public path is a directory: %v", err)
	}
	if err := os.Remove(s.public()); err != nil {
		t.Fatal(err)
	}
	l.must("start", l.Start(t.Context(), g))
	asUser := func(path string) error { return connectAs(t, path, "www-data") }
	if asUser(l.Socket(g)) == nil {
		t.Error("another user may connect to a candidate")
	}
	l.must("promote", l.Promote(t.Context(), g))
	if err := asUser(s.public()); err != nil {
		t.Errorf("the web server's user cannot connect: %v", err)
	}
	if connectAs(t, s.public(), "nobody") == nil {
		t.Error("anybody may connect")
	}
	if asUser(filepath.Join(s.dir, "run", "1", statusFile)) == nil {
		t.Error("another user may connect to the status page")
	}
	if err := os.Remove(s.public()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the public path is back", func() bool { return exists(s.public()) })
	if a, err := s.get(""); err != nil || a.Self != "r1" {
		t.Errorf("%+v, %v", a, err)
	}
	eventually(t, "it is told", func() bool { return len(s.told(Note)) == 1 })
}

func TestTooLongAPathIsTold(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.change = func(o *Options, _ *Pool) { o.RunDir = filepath.Join(s.dir, "run", strings.Repeat("x", 90)) }
	l := s.superd()
	if err := l.Start(t.Context(), s.generation(1)); err == nil || !strings.Contains(err.Error(), "longer than 107 bytes") {
		t.Errorf("%v", err)
	}
}

func TestTwoAppsDoNotMix(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	one := s.superd()
	one.serve(s.generation(1))
	o := one.o
	o.App, o.RunDir, o.Listen = "other", filepath.Join(s.dir, "other"), filepath.Join(s.dir, "other", "fpm.sock")
	two := &life{Web: New(o), shop: s, children: one.children}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- two.Run(ctx) }()
	two.serve(s.generation(2))
	a, err := get(t.Context(), "unix", o.Listen, filepath.Join(s.generation(2).Dir, "public"), "")
	if b, err2 := s.get(""); err != nil || err2 != nil || a.Self != "r2" || b.Self != "r1" {
		t.Errorf("%q %v, %q %v", a.Self, err, b.Self, err2)
	}
	for _, c := range one.children.Living() {
		if c.Name() == "other/fpm" && one.Adopt(c) || c.Name() == "shop/fpm" && two.Adopt(c) {
			t.Errorf("%s was taken by the other app", c.Name())
		}
	}
	two.must("stop", two.Stop(t.Context()))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := s.get(""); err != nil {
		t.Error(err)
	}
}

// Before users come, nobody but superd: the status page does not hold a candidate up.
func TestStatusAnswersWhileAllAreBusy(t *testing.T) {
	t.Parallel()
	everyWay(t, statusAnswersWhileAllAreBusy)
}

func statusAnswersWhileAllAreBusy(t *testing.T, s *shop) {
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	for range 8 + 3 {
		go func() { _, _ = s.get("ms=600000") }()
	}
	eventually(t, "all are busy", func() bool {
		st, _ := l.status(g)
		return st.Active == 8 && st.Idle == 0 && st.Queue == 3
	})
}

func TestStatusPageWithAnyBytes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	g := s.generation(1)
	l.serve(g)
	params := fastcgi.Script(filepath.Join(g.Dir, "public"), "index.php", "/\xff\xfe\"\\<x>?ms=600000&a=\xff", "GET", "")
	go func() { _, _ = fastcgi.Do(context.Background(), "unix", s.public(), fastcgi.Request{Params: params}) }()
	eventually(t, "it is counted", func() bool { st, _ := l.status(g); return st.Active == 1 && st.Idle == 7 })
}

// A candidate that no user could reach is not waited for, whatever hangs in it, also
// not by the next superd.
func TestUnusedCandidateIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	everyWay(t, unusedCandidateIsNotWaitedFor)
}

func unusedCandidateIsNotWaitedFor(t *testing.T, s *shop) {
	s.change = func(o *Options, _ *Pool) { o.Drain = time.Hour }
	first := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	first.serve(g1)
	first.must("start", first.Start(t.Context(), g2))
	socket := first.Socket(g2)
	asked, never := make(chan struct{}), s.gate()
	query := never.query(0)
	go func() {
		defer close(asked)
		_, _ = get(t.Context(), "unix", socket, filepath.Join(g2.Dir, "public"), query)
	}()
	never.arrived()
	first.end()
	next := s.superd()
	next.must("retire", next.Retire(t.Context(), g2))
	next.gone(g2)
	<-asked // it was cut
	if now, _ := next.Serving(); now != g1 {
		t.Errorf("serving %s", now)
	}
}

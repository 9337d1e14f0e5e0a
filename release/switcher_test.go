package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstStartTakesTheLink(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	defer st.down()
	shot := st.settled()
	must(t, st.on("r1"))
	if shot.Live.Number != 1 || !shot.Previous.IsZero() || shot.Degraded != "" {
		t.Errorf("%+v", shot)
	}
	if slices.Contains(st.calls, "verify r1") {
		t.Error("a first start is not gated by checks")
	}
}

func TestThereAndBack(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	defer st.down()
	r := st.switchTo("r2")
	must(t, st.on("r2"))
	if r.Verdict != Live || r.From.Release != "r1" || r.By.User != "deploy" {
		t.Fatalf("%+v", r)
	}
	back, err := st.do(Request{Kind: KindRollback})
	must(t, err)
	must(t, st.on("r1"))
	if back.Verdict != Live || back.Kind != KindRollback || back.To.Number != 3 {
		t.Errorf("%+v", back)
	}
	if shot := st.settled(); shot.Previous.Release != "r2" {
		t.Errorf("previous is %s", shot.Previous)
	}
	if h := st.History(); len(h) != 2 || h[0].ID != r.ID || h[1].ID != back.ID {
		t.Errorf("history: %+v", h)
	}
	for _, kind := range []string{"switch.begun", "switch.phase", "switch.ended"} {
		if !st.heard(kind, "") {
			t.Errorf("no %s was told", kind)
		}
	}
	if !st.heard("switch.begun", "deploy") {
		t.Error("it was not told who asked")
	}
}

func TestWhatBeginSays(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3")
	st.broken["watch r3"] = errTrouble
	st.up()
	defer st.down()
	st.settled()
	refused := func(q Request, kind error, words ...string) {
		t.Helper()
		_, dry := st.DryRun(t.Context(), q)
		_, err := st.Begin(t.Context(), q)
		for _, err := range []error{err, dry} {
			var refusal *Refusal
			if !errors.Is(err, kind) || !errors.As(err, &refusal) {
				t.Errorf("%+v: %v, want %v", q, err, kind)
				continue
			}
			for _, word := range words {
				if !strings.Contains(refusal.Why+" "+refusal.Hint, word) {
					t.Errorf("%+v: %q, %q does not say %q", q, refusal.Why, refusal.Hint, word)
				}
			}
		}
	}
	refused(Request{Release: "r1"}, ErrAlreadyLive, "r1", "--restart")
	refused(Request{Release: "r9"}, ErrRejected, "r9", "superctl releases")
	refused(Request{Release: "../r1"}, ErrRejected)
	refused(Request{Release: ""}, ErrRejected)
	refused(Request{Kind: KindRollback}, ErrNothing)
	refused(Request{Release: "previous"}, ErrNothing)
	refused(Request{Kind: KindRollback, Release: "r1"}, ErrRejected, "live")

	if r := st.switchTo("r3"); r.Verdict != RolledBack || !r.Blame {
		t.Fatalf("%+v", r)
	}
	refused(Request{Release: "r3"}, ErrRejected, errTrouble.Error(), "--allow-bad", time.Now().Format("2006-01-02"))
	refused(Request{Release: "latest"}, ErrRejected, "r3")
	refused(Request{Release: "r3", Kind: KindRollback}, ErrRejected, "--allow-bad")
	if to, err := st.DryRun(t.Context(), Request{Release: "latest", AllowBad: true}); err != nil || to.Release != "r3" || to.Dir != st.dir("r3") {
		t.Errorf("latest would be %+v: %v", to, err)
	}
	must(t, st.Hold(By{User: "anna"}, "sale today"))
	refused(Request{Release: "r2"}, ErrHeld, "anna", "sale today", "superctl resume")
	must(t, st.on("r1"))

	// What may be done in spite of a hold, a mark, and being live.
	if r, err := st.do(Request{Release: "r2", Kind: KindRollback}); err != nil || r.Verdict != Live {
		t.Errorf("rollback while held: %v %+v", err, r)
	}
	must(t, st.Resume(By{User: "anna"}))
	if err := st.Resume(By{}); !errors.Is(err, ErrNothing) {
		t.Errorf("resumed twice: %v", err)
	}
	st.lock.Lock()
	delete(st.broken, "watch r3")
	st.lock.Unlock()
	if r, err := st.do(Request{Release: filepath.Join(st.root, "releases/r3"), AllowBad: true}); err != nil || r.Verdict != Live {
		t.Errorf("allow bad: %v %+v", err, r)
	}
	if bad := st.Snapshot().Bad; len(bad) != 0 {
		t.Errorf("live and marked bad: %v", bad)
	}
	if r, err := st.do(Request{Release: "r3", Restart: true}); err != nil || r.Verdict != Live || !r.Restart {
		t.Errorf("restart: %v %+v", err, r)
	}
	must(t, st.on("r3"))
	if p := st.Snapshot().Previous; p.Release != "r2" {
		t.Errorf("a restart has made %s the previous one", p)
	}
	if !st.heard("app.held", "sale today anna") || !st.heard("app.resumed", "anna") {
		t.Error("hold and resume were not told")
	}
}

// hang lets a switch hang in a verb, and returns once it does.
func (st *stage) hang(verb, release string) Record {
	st.t.Helper()
	st.lock.Lock()
	st.troubles[verb+" "+release] = trouble{"before", "hangs"}
	st.lock.Unlock()
	r, err := st.Begin(st.t.Context(), Request{Release: release, By: By{User: "first", PID: 7}})
	must(st.t, err)
	st.until("it hangs", func() bool {
		st.lock.Lock()
		defer st.lock.Unlock()
		_, pending := st.troubles[verb+" "+release]
		return !pending
	})
	return r
}

func TestOneAtATime(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	defer st.down()
	r := st.hang("rotate", "r2")
	_, err := st.Begin(t.Context(), Request{Release: "r3"})
	if !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	if _, dry := st.DryRun(t.Context(), Request{Release: "r3", LockWait: time.Hour}); !errors.Is(dry, ErrBusy) || !strings.Contains(dry.Error(), "r2") {
		t.Errorf("a dry run says %v", dry)
	}
	if !strings.Contains(r.ID, "-shop-") { // another app may begin its second generation in this second too
		t.Errorf("switch %s may be of any app", r.ID)
	}
	for _, word := range []string{r.ID, "r2", "first (pid 7)", "rotating", "ago"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if shot := st.Snapshot(); shot.Current == nil || shot.Current.Phase != Rotating || shot.Current.ID != r.ID || shot.Since.IsZero() {
		t.Errorf("%+v", shot)
	}
	list, err := st.Releases()
	must(t, err)
	for _, l := range list {
		if l.Live != (l.Name == "r2") || l.Parked != (l.Name == "r1") || l.InUse != (l.Name != "r3") {
			t.Errorf("%+v", l)
		}
	}
	must(t, st.Abort(By{User: "anna"}))
	if err := st.Abort(By{User: "anna"}); !errors.Is(err, ErrNothing) {
		t.Errorf("aborted twice: %v", err)
	}
	ended, err := st.Wait(t.Context(), r.ID)
	if err != nil || ended.Verdict != RolledBack || ended.Cause != "aborted by anna" || ended.Blame {
		t.Errorf("%v %+v", err, ended)
	}
	must(t, st.on("r1"))
	if err := st.Abort(By{}); !errors.Is(err, ErrNothing) {
		t.Errorf("aborted nothing: %v", err)
	}
	if !st.heard("switch.aborting", "anna") {
		t.Error("it was not told who aborted")
	}
}

// Those who wait for their turn: the newest gets it, the others are told.
func TestNewestWaits(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3", "r4")
	st.up()
	defer st.down()
	st.hang("rotate", "r2")
	var waiting sync.WaitGroup
	older := make(chan error, 1)
	waiting.Go(func() {
		_, err := st.do(Request{Release: "r3", LockWait: time.Minute})
		older <- err
	})
	st.until("the older waits", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.queued != nil
	})
	newer := make(chan Record, 1)
	waiting.Go(func() {
		r, err := st.do(Request{Release: "r4", LockWait: time.Minute, By: By{User: "newer"}})
		if err != nil {
			t.Error(err)
		}
		newer <- r
	})
	if err := <-older; !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "newer") || !strings.Contains(err.Error(), "r4") {
		t.Errorf("the older was told %v", err)
	}
	must(t, st.Abort(By{}))
	if r := <-newer; r.Verdict != Live || r.From.Release != "r1" {
		t.Errorf("%+v", r)
	}
	waiting.Wait()
	must(t, st.on("r4"))
}

func TestWaitsNoLongerThanAsked(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	defer st.down()
	st.hang("rotate", "r2")
	if _, err := st.Begin(t.Context(), Request{Release: "r3", LockWait: 20 * time.Millisecond}); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTrouble)
	if _, err := st.Begin(ctx, Request{Release: "r3", LockWait: time.Minute}); !errors.Is(err, errTrouble) {
		t.Error(err)
	}
	if _, err := st.Wait(ctx, st.Snapshot().Current.ID); !errors.Is(err, errTrouble) {
		t.Error(err)
	}
	if _, err := st.Wait(t.Context(), "no-such"); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
}

// Abort takes back or says that it cannot, exactly: asked at every failpoint.
func TestAbortIsExact(t *testing.T) {
	for _, point := range Failpoints() {
		st := newStage(t, "r1", "r2")
		var aborted error
		st.up()
		st.settled()
		met := false
		st.o.Failpoint = func(name string) {
			if name == point && !met {
				met = true
				aborted = st.Abort(By{User: "anna"})
			}
		}
		r := st.switchTo("r2")
		st.settled()
		switch {
		case !met:
		case aborted == nil && (r.Verdict == Live || st.on("r1") != nil):
			t.Errorf("%s: took the abort, and ended %s: %v", point, r.Verdict, st.on("r1"))
		case aborted != nil && (r.Verdict != Live || st.on("r2") != nil):
			t.Errorf("%s: refused the abort (%v), and ended %s: %v", point, aborted, r.Verdict, st.on("r2"))
		case aborted != nil && !errors.Is(aborted, ErrTooLate) && point != settled:
			t.Errorf("%s: %v", point, aborted)
		}
		st.down()
	}
}

// superd killed at every failpoint of a switch that goes well and of one that goes
// back, and then the machine going on, or started again.
func TestKilledAtEveryFailpoint(t *testing.T) {
	for _, bad := range []bool{false, true} {
		for _, reboot := range []bool{false, true} {
			for _, point := range Failpoints() {
				t.Run(fmt.Sprintf("%s bad %v reboot %v", point, bad, reboot), func(t *testing.T) {
					t.Parallel()
					killedAndBack(t, point, bad, reboot)
				})
			}
		}
	}
}

func killedAndBack(t *testing.T, point string, bad, reboot bool) {
	st := newStage(t, "r1", "r2")
	st.up()
	st.settled()
	if bad {
		st.broken["watch r2"] = errTrouble
	}
	st.killAt(point)
	begun, err := st.Begin(t.Context(), Request{Release: "r2"})
	must(t, err)
	if _, err := st.Wait(t.Context(), begun.ID); err == nil {
		st.down() // this switch does not come to it
		return
	}
	st.gone()
	if !st.died {
		t.Fatal("it was not killed")
	}
	if reboot {
		st.reboot()
		st.boot = "boot-2"
	}
	st.up()
	defer st.down()
	shot := st.settled()
	want := shot.Live.Release
	if bad {
		want = "r1"
	}
	must(t, st.on(want))
	if shot.Degraded != "" {
		t.Errorf("degraded: %s", shot.Degraded)
	}
	if point == "preparing.entering" {
		return // it never was
	}
	var ids []string
	for _, r := range st.History() {
		ids = append(ids, r.ID)
		if live := r.Verdict == Live; live != (want == "r2") {
			t.Errorf("%s is live, and the history says %s", want, r.Verdict)
		}
	}
	if !slices.Equal(ids, []string{begun.ID}) {
		t.Errorf("history has %v, want %s once", ids, begun.ID)
	}
	if _, err := st.Wait(t.Context(), begun.ID); err != nil {
		t.Error(err)
	}
	st.lock.Lock()
	clear(st.broken)
	st.lock.Unlock()
	other := map[string]string{"r1": "r2", "r2": "r1"}[want]
	r, err := st.do(Request{Release: other, AllowBad: true})
	if err != nil || r.Verdict != Live || r.To.Number <= shot.Live.Number || r.To.Number <= begun.To.Number {
		t.Errorf("the next switch: %v %+v", err, r)
	}
	must(t, st.on(other))
}

// After a reboot the site answers first, and what is left of the switch, hooks and
// all, comes later.
func TestSiteComesFirst(t *testing.T) {
	for _, tt := range []struct{ verb, point, first, later string }{
		{"", "committing.before", "promote r2", "retire r1"},
		{"", "committing.retired", "rotate r2", "retire r1"},
		{"", "preparing.before", "promote r1", ""},
		{"", "starting.before", "promote r1", "retire r2"},
		{"", "verifying.after", "promote r1", "remove r2"},
		{"start r2", "rollback.starting.before", "promote r1", "retire r2"},
		{"watch r2", "rollback.promoting.before", "promote r1", "rotate r1"},
		{"", "rotating.before", "promote r2", "rotate r2"},
	} {
		st := newStage(t, "r1", "r2")
		st.up()
		st.settled()
		st.broken[tt.verb] = errTrouble
		st.killAt(tt.point)
		_, err := st.Begin(t.Context(), Request{Release: "r2"})
		must(t, err)
		st.gone()
		st.reboot()
		before := len(st.calls)
		st.up()
		st.settled()
		calls := st.calls[before:]
		first, later := slices.Index(calls, tt.first), slices.Index(calls, tt.later)
		if first < 0 || tt.later != "" && later < first {
			t.Errorf("%s: %q", tt.point, calls)
		}
		st.down()
	}
}

// A superd that ends by itself lays its switch down, and the next one goes on.
func TestStopAndGoOn(t *testing.T) {
	for verb, want := range map[string]string{"start": "r1", "verify": "r1", "rotate": "r2", "watch": "r2"} {
		st := newStage(t, "r1", "r2")
		st.up()
		r := st.hang(verb, "r2")
		waited := make(chan error, 1)
		var wait sync.WaitGroup
		wait.Go(func() {
			_, err := st.Wait(t.Context(), r.ID)
			waited <- err
		})
		st.down()
		if err := <-waited; !errors.Is(err, ErrStopping) {
			t.Errorf("%s: whoever waited was told %v", verb, err)
		}
		wait.Wait()
		if _, err := st.Begin(t.Context(), Request{Release: "r2"}); !errors.Is(err, ErrStopping) {
			t.Errorf("%s: began after the end: %v", verb, err)
		}
		if len(st.History()) != 0 {
			t.Errorf("%s: something ended: %+v", verb, st.History())
		}
		st.up()
		st.settled()
		if err := st.on(want); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		st.down()
	}
}

func TestLinkAtBoot(t *testing.T) {
	for name, tt := range map[string]struct {
		stopped bool // nothing runs
		link    func(*stage)
		want    string
		says    string
	}{
		"moved, runs":      {false, func(st *stage) { st.point2("r2") }, "r1", "although the link leads to r2"},
		"moved, stopped":   {true, func(st *stage) { st.point2("r2") }, "r2", "nothing ran"},
		"moved to bad":     {true, func(st *stage) { st.point2("bad") }, "r1", "marked bad"},
		"moved to nowhere": {true, func(st *stage) { st.point2("r9") }, "r1", "leads astray"},
		"missing":          {true, func(st *stage) { must(st.t, os.Remove(st.tree.current())) }, "r1", "is missing"},
		"a directory": {true, func(st *stage) {
			must(st.t, errors.Join(os.Remove(st.tree.current()), os.Mkdir(st.tree.current(), 0o755)))
		}, "r1", "not a symbolic link"},
		"outside the releases": {true, func(st *stage) { st.point2("../outside") }, "r1", "leads astray"},
		"as it was":            {true, func(*stage) {}, "r1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, "r1", "r2", "bad")
			must(t, os.Mkdir(filepath.Join(st.root, "outside"), 0o755))
			st.broken["watch bad"] = errTrouble
			st.up()
			st.switchTo("bad")
			st.down()
			if tt.stopped {
				st.reboot()
			}
			tt.link(st)
			st.up()
			defer st.down()
			shot := st.settled()
			if shot.Live.Release != tt.want || st.serving != shot.Live.Number || st.slots[2] != shot.Live.Number || len(st.running) != 1 {
				t.Errorf("live is %s; %d serves of %v", shot.Live, st.serving, st.running)
			}
			if tt.says != "" && !st.heard("app.note", tt.says) {
				t.Errorf("it was not told that %q: %+v", tt.says, st.events)
			}
		})
	}
}

// The live release was deleted while superd was down: the newest good one is taken,
// and the link with it. When there is none, superd says so and waits.
func TestLiveIsGone(t *testing.T) {
	for _, left := range []string{"r2", "r1", ""} {
		t.Run("left "+left, func(t *testing.T) { liveIsGone(t, left, true) })
		t.Run("runs, left "+left, func(t *testing.T) { liveIsGone(t, left, false) })
	}
}

func liveIsGone(t *testing.T, left string, reboot bool) {
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	st.settled()
	st.switchTo("r2")
	st.switchTo("r3")
	st.down()
	if reboot {
		st.reboot()
	}
	for _, r := range []string{"r1", "r2", "r3"} {
		if r != left {
			must(t, os.RemoveAll(st.dir(r)))
		}
	}
	st.up()
	defer st.down()
	shot := st.settled()
	if left != "" {
		if left == "r1" && shot.Live.Release != "r1" {
			t.Fatalf("live is %s", shot.Live)
		}
		must(t, st.on(left))
		return
	}
	if !strings.Contains(shot.Degraded, "is gone") || reboot != (st.serving == 0) {
		t.Fatalf("%+v, %d serves", shot, st.serving)
	}
	st.release("r4", 0)
	if r := st.switchTo("r4"); r.Verdict != Conflict && r.Verdict != Live {
		t.Errorf("%+v", r)
	}
}

func TestWaitsForALink(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.up()
	defer st.down()
	shot := st.settled()
	if !strings.Contains(shot.Degraded, "the link") || !strings.Contains(shot.Degraded, "is missing") {
		t.Errorf("degraded: %q", shot.Degraded)
	}
	st.release("r1", 0)
	st.point2("r1")
	st.until("the link is taken", func() bool { return st.Snapshot().Live.Release == "r1" && st.Snapshot().Degraded == "" })
	must(t, st.on("r1"))
	if told := st.times("app.note", "is missing"); told != 1 {
		t.Errorf("told %d times", told)
	}
}

// Before any link there is, a switch makes the first one.
func TestSwitchIsTheFirstStart(t *testing.T) {
	st := newStage(t)
	st.release("r1", 0)
	st.up()
	defer st.down()
	if r := st.switchTo("r1"); r.Verdict != Live {
		t.Fatalf("%+v", r)
	}
	st.settled()
	must(t, st.on("r1"))
	if d := st.Snapshot().Degraded; d != "" {
		t.Errorf("degraded: %s", d)
	}
}

// What is to be live and cannot be brought up is tried again, told once, and does not
// keep a person from switching to something that works.
func TestKeepsTrying(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"start", "promote", "rotate"} {
		t.Run(verb, func(t *testing.T) {
			st := newStage(t, "r1", "r2")
			st.broken[verb+" r1"] = errTrouble
			st.up()
			defer st.down()
			shot := st.settled()
			if !strings.Contains(shot.Degraded, errTrouble.Error()) || !st.heard("app.note", errTrouble.Error()) {
				t.Fatalf("%+v", shot)
			}
			if verb != "rotate" && st.slots[0] != 1 {
				t.Error("the workers wait for the web")
			}
			st.lock.Lock()
			delete(st.broken, verb+" r1")
			st.lock.Unlock()
			st.until("it is tried again", func() bool { return st.Snapshot().Degraded == "" })
			must(t, st.on("r1"))
		})
	}
	t.Run("switch away", func(t *testing.T) {
		st := newStage(t, "r1", "r2")
		st.broken["start r1"] = errTrouble
		st.up()
		defer st.down()
		st.settled()
		if r := st.switchTo("r2"); r.Verdict != Live {
			t.Fatalf("%+v", r)
		}
		shot := st.settled()
		must(t, st.on("r2"))
		if shot.Degraded != "" {
			t.Errorf("degraded: %s", shot.Degraded)
		}
	})
}

// Degraded: superd keeps what answers and does nothing more by itself, also not when
// it comes back. A switch that succeeds, or a person's word, ends it.
func TestDegraded(t *testing.T) {
	for _, mend := range []string{"switch", "resume", "same"} {
		t.Run(mend, func(t *testing.T) {
			st := newStage(t, "r1", "r2", "r3")
			st.up()
			defer func() { st.down() }()
			st.settled()
			st.lock.Lock()
			st.broken["watch r2"], st.broken["rotate r1"] = errTrouble, errors.New("stuck")
			st.lock.Unlock()
			if r := st.switchTo("r2"); r.Verdict != Degraded {
				t.Fatalf("%+v", r)
			}
			st.lock.Lock()
			clear(st.broken)
			calls := len(st.calls)
			st.lock.Unlock()
			shot := st.settled()
			if shot.Live.Release != "r1" || st.serving != 1 || shot.Hold == nil || !strings.Contains(shot.Degraded, "could not be taken back") {
				t.Errorf("%+v", shot)
			}
			if len(st.calls) != calls {
				t.Errorf("did %q by itself", st.calls[calls:])
			}
			switch mend {
			case "switch":
				st.switchTo("r3")
				must(t, st.on("r3"))
			case "same":
				st.switchTo("r1")
				must(t, st.on("r1"))
			case "resume":
				must(t, st.Resume(By{User: "anna"}))
			}
			if shot := st.settled(); shot.Degraded != "" || shot.Hold != nil {
				t.Errorf("%+v", shot)
			}
		})
	}
}

// With auto_rollback = false, and with NO_ROLLBACK in the release, a failure pauses
// once users are on it.
func TestOnlyAPersonTakesItBack(t *testing.T) {
	for _, why := range []string{"file", "configuration"} {
		for _, then := range []string{"resume", "abort"} {
			t.Run(why+" "+then, func(t *testing.T) {
				st := newStage(t, "r1", "r2")
				if why == "file" {
					must(t, os.WriteFile(filepath.Join(st.dir("r2"), "NO_ROLLBACK"), nil, 0o644))
				} else {
					st.auto = false
				}
				st.broken["watch r2"] = errTrouble
				st.up()
				defer st.down()
				r, err := st.Begin(t.Context(), Request{Release: "r2"})
				must(t, err)
				st.until("it pauses", func() bool { return st.Snapshot().Paused != "" })
				if shot := st.Snapshot(); !strings.Contains(shot.Paused, errTrouble.Error()) || shot.Current.Phase != Watching {
					t.Errorf("%+v", shot)
				}
				if _, err := st.Begin(t.Context(), Request{Release: "r1"}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "paused") {
					t.Errorf("%v", err)
				}
				st.lock.Lock()
				clear(st.broken)
				st.lock.Unlock()
				want := "r2"
				if then == "abort" {
					want = "r1"
					must(t, st.Abort(By{}))
				} else {
					must(t, st.Resume(By{User: "anna"}))
				}
				_, err = st.Wait(t.Context(), r.ID)
				must(t, err)
				must(t, st.on(want))
			})
		}
	}
}

// A human who moves the link in the middle wins; what superd runs stays whole.
func TestSomeoneMovesTheLink(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	defer st.down()
	r := st.hang("rotate", "r2")
	st.point2("r3")
	must(t, st.Abort(By{}))
	ended, err := st.Wait(t.Context(), r.ID)
	must(t, err)
	if ended.Verdict != Conflict || st.serving != 1 {
		t.Errorf("%+v, %d serves", ended, st.serving)
	}
	if where, err := st.tree.Where(t.Context()); err != nil || where != st.dir("r3") {
		t.Errorf("the link is at %s: %v", where, err)
	}
	if _, err := st.DryRun(t.Context(), Request{Release: "r2"}); !errors.Is(err, ErrLinkMoved) {
		t.Errorf("%v", err)
	}
	if r := st.switchTo("r3"); r.Verdict != Live {
		t.Errorf("%+v", r)
	}
	must(t, st.on("r3"))
}

// State and history may be lost or torn; generation numbers are still never reused.
func TestStateIsLost(t *testing.T) {
	for _, file := range []string{"state", "journal", "history.ndjson"} {
		t.Run(file, func(t *testing.T) {
			st := newStage(t, "r1", "r2")
			st.up()
			st.settled()
			st.switchTo("r2")
			st.switchTo("r1")
			used := st.Snapshot().Live.Number
			st.down()
			must(t, os.Remove(filepath.Join(st.root, "state", file)))
			st.up()
			defer st.down()
			shot := st.settled()
			must(t, st.on("r1"))
			seen := map[string]bool{}
			for _, r := range st.History() {
				if seen[r.ID] {
					t.Errorf("%s is in the history twice", r.ID)
				}
				seen[r.ID] = true
			}
			if shot.Live.Number < used {
				t.Errorf("live is %s again", shot.Live)
			}
			if r := st.switchTo("r2"); r.To.Number <= used {
				t.Errorf("generation %d is given out again", r.To.Number)
			}
		})
	}
}

// An unknown phase is of a newer superd: nothing is touched but what is live.
func TestJournalOfANewerSuperd(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	live := st.settled().Live
	st.down()
	st.open()
	must(t, st.o.Journal.Enter(Record{ID: "x", From: live, To: Generation{Number: 2, Release: "r2", Dir: st.dir("r2")}, Phase: "dancing"}))
	for _, f := range st.files {
		must(t, f.Close())
	}
	st.up()
	defer st.down()
	shot := st.settled()
	must(t, st.on("r1"))
	if !strings.Contains(shot.Degraded, "x") || !st.heard("switch.ended", "dancing") {
		t.Errorf("%+v", shot)
	}
	if r := st.switchTo("r2"); r.Verdict != Live || r.To.Number != 3 {
		t.Errorf("%+v", r)
	}
}

func TestProgressNeverBlocks(t *testing.T) {
	st := newStage(t, "r1")
	st.open()
	for range 100 {
		st.Progress()
	}
	for _, f := range st.files {
		must(t, f.Close())
	}
}

// While superd settles a request waits a little, or as long as it was asked to.
func TestBeginWhileSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, "r1", "r2")
		st.troubles["rotate r1"] = trouble{"before", "hangs"} // until its limit
		st.up()
		defer st.down()
		start := time.Now()
		_, err := st.Begin(t.Context(), Request{Release: "r2"})
		if took := time.Since(start); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "bringing up r1") || took != settlePatience {
			t.Errorf("after %s: %v", took, err)
		}
		if !st.Snapshot().Settling {
			t.Error("it is not told that superd settles")
		}
		r, err := st.do(Request{Release: "r2", LockWait: time.Hour})
		if took := time.Since(start); err != nil || r.Verdict != Live || took < st.o.Limits.Rotate || took > 2*st.o.Limits.Rotate {
			t.Errorf("after %s: %v %+v", took, err, r)
		}
	})
}

// What cannot be brought up is tried ever slower, and never given up.
func TestTriesEverSlower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, "r1")
		st.broken["promote r1"] = errTrouble
		st.up()
		defer st.down()
		var pauses []time.Duration
		last, seen := time.Now(), 0
		for len(pauses) < 9 {
			time.Sleep(100 * time.Millisecond)
			st.lock.Lock()
			tries := 0
			for _, c := range st.calls {
				if c == "promote r1" {
					tries++
				}
			}
			st.lock.Unlock()
			if tries > seen {
				pauses = append(pauses, time.Since(last).Round(time.Second))
				last, seen = time.Now(), tries
			}
		}
		if got := fmt.Sprint(pauses); got != "[0s 1s 2s 4s 8s 16s 30s 30s 30s]" {
			t.Errorf("tried after %s", got)
		}
		notes := 0
		for _, e := range st.events {
			if strings.Contains(e.Reason, errTrouble.Error()) {
				notes++
			}
		}
		if notes != 1 {
			t.Errorf("told %d times", notes)
		}
	})
}

// Whoever wants another release does not wait for one that hangs on its way up; and
// may think again before it is his turn.
func TestSwitchEndsAnAttempt(t *testing.T) {
	for _, abort := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t, "r1", "r2")
			st.broken["promote r1"] = errTrouble
			st.up()
			defer st.down()
			synctest.Wait()
			st.lock.Lock()
			clear(st.broken)
			st.troubles["promote r1"] = trouble{"before", "hangs"}
			if abort {
				st.troubles["prepare r2"] = trouble{"before", "hangs"}
			}
			st.lock.Unlock()
			time.Sleep(firstPause + time.Millisecond) // it is tried again, and hangs
			start := time.Now()
			r, err := st.Begin(t.Context(), Request{Release: "r2"})
			must(t, err)
			want := Live
			if abort {
				synctest.Wait() // it has given way
				must(t, st.Abort(By{}))
				want = Rejected
			}
			ended, err := st.Wait(t.Context(), r.ID)
			if err != nil || ended.Verdict != want || time.Since(start) > time.Second {
				t.Fatalf("after %s: %v %+v", time.Since(start), err, ended)
			}
			if st.heard("app.note", errGaveWay.Error()) {
				t.Error("giving way is told as a trouble")
			}
			if !abort {
				must(t, st.on("r2"))
				return
			}
			time.Sleep(time.Minute)
			must(t, st.on("r1"))
		})
	}
}

// An app that is degraded is not moved any more, also if it was being brought up.
func TestDegradedKeepsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, "r1", "r2")
		st.broken["rotate r1"], st.broken["watch r2"] = errTrouble, errTrouble
		st.up()
		defer st.down()
		if r := st.switchTo("r2"); r.Verdict != Degraded {
			t.Fatalf("%+v", r)
		}
		synctest.Wait()
		st.lock.Lock()
		calls := len(st.calls)
		st.lock.Unlock()
		time.Sleep(time.Hour)
		st.lock.Lock()
		defer st.lock.Unlock()
		if len(st.calls) != calls {
			t.Errorf("did %q by itself", st.calls[calls:])
		}
	})
}

// Whoever has heard that a switch has ended can begin the next one, at once.
func TestBeginAfterTheEnd(t *testing.T) {
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	defer st.down()
	st.settled()
	heard := make(chan error, 1)
	st.o.Tell = func(e Event) {
		if e.Kind == "switch.ended" && e.To.Release == "r2" {
			var begin sync.WaitGroup
			begin.Go(func() {
				_, err := st.Begin(t.Context(), Request{Release: "r3"})
				heard <- err
			})
			select { // it is asked while the end is still being told
			case err := <-heard:
				t.Errorf("not waited: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	r := st.switchTo("r2")
	must(t, <-heard)
	st.until("the next one is live", func() bool { return st.Snapshot().Live.Release == "r3" })
	st.settled()
	must(t, st.on("r3"))
	if h := st.History(); len(h) != 2 || h[0].ID != r.ID {
		t.Errorf("%+v", h)
	}
}

// The link is moved by someone while superd is dead in the middle of a switch. After
// a reboot it wins over the journal; else what runs goes back, and the link is theirs.
func TestLinkMovedWhileDead(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		st := newStage(t, "r1", "r2", "r3")
		st.up()
		st.settled()
		st.killAt("rotating.before")
		begun, err := st.Begin(t.Context(), Request{Release: "r2"})
		must(t, err)
		st.gone()
		st.point2("r3")
		if reboot {
			st.reboot()
		}
		st.up()
		st.settled()
		if r, err := st.Wait(t.Context(), begun.ID); err != nil || r.Verdict != Conflict {
			t.Errorf("reboot %v: %v %+v", reboot, err, r)
		}
		if reboot {
			must(t, st.on("r3"))
		} else if live := st.Snapshot().Live; live.Release != "r1" || st.serving != 1 || len(st.running) != 1 || !st.heard("app.note", "although the link leads to r3") {
			t.Errorf("live is %s, %d serves of %v", live, st.serving, st.running)
		}
		st.down()
	}
}

// With nothing left but the history, numbers are still not given out twice.
func TestOnlyHistoryIsLeft(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	st.switchTo("r2")
	used := st.settled().Live.Number
	st.down()
	st.reboot()
	must(t, errors.Join(os.Remove(filepath.Join(st.root, "state", "state")), os.Remove(filepath.Join(st.root, "state", "journal"))))
	st.up()
	defer st.down()
	if live := st.settled().Live; live.Number <= used {
		t.Errorf("live is %s", live)
	}
	must(t, st.on("r2"))
}

// A switch that is past its commit stays, if anything of it runs.
func TestLinkMovedAfterCommit(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		st := newStage(t, "r1", "r2", "r3")
		st.up()
		st.settled()
		st.killAt("committing.retired")
		_, err := st.Begin(t.Context(), Request{Release: "r2"})
		must(t, err)
		st.gone()
		st.point2("r3")
		want := "r2"
		if reboot {
			st.reboot()
			want = "r3"
		}
		st.up()
		if live := st.settled().Live; live.Release != want || st.serving != live.Number || len(st.running) != 1 {
			t.Errorf("reboot %v: live is %s, %d serves of %v", reboot, live, st.serving, st.running)
		}
		st.down()
	}
}

// Who goes forward shares users with what is live, whoever has asked. Nobody does who
// goes back, or where nothing is live that could have the others.
func TestWhoSharesUsers(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	st.settled()
	defer st.down()
	ended := func(q Request) Record {
		t.Helper()
		r, err := st.Begin(t.Context(), q)
		must(t, err)
		r, err = st.Wait(t.Context(), r.ID)
		must(t, err)
		return r
	}
	for _, c := range []struct {
		what   string
		q      Request
		shares bool
	}{
		{"a switch", Request{Release: "r2"}, true},
		{"a restart", Request{Release: "r2", Restart: true}, true},
		{"a rollback", Request{Kind: KindRollback}, false},
	} {
		if r := ended(c.q); (r.Sharing != nil) != c.shares || r.Verdict != Live {
			t.Errorf("%s: %s, share %+v", c.what, r.Verdict, r.Sharing)
		}
	}
	must(t, st.change(func(s *State) { s.Degraded = "it was left so" }))
	if r := ended(Request{Release: "r2"}); r.Sharing != nil {
		t.Error("the way out of a degraded state waits for a share")
	}
}

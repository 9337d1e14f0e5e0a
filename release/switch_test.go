package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oldG = Generation{Number: 1, Release: "old", Dir: "/releases/old"}
	newG = Generation{Number: 2, Release: "new", Dir: "/releases/new"}
)

// trial is one switch from oldG to newG in a world.
type trial struct {
	*world
	*Switch
	memory *memory
	ctx    func() context.Context
	cancel context.CancelCauseFunc
	events []Event
	stop   chan struct{}
	goOn   chan struct{}
}

func newTrial(t *testing.T) *trial {
	w := newWorld(t, oldG)
	tr := &trial{world: w, memory: &memory{}, stop: make(chan struct{}), goOn: make(chan struct{}, 1)}
	w.journal = tr.memory
	tr.begin(Record{ID: "s1", Kind: KindSwitch, From: oldG, To: newG, Sharing: &Sharing{Share: 0.1}})
	return tr
}

// begin makes the Switch anew, as the next superd does.
func (tr *trial) begin(r Record) {
	ctx, cancel := context.WithCancelCause(tr.t.Context())
	tr.ctx, tr.cancel = func() context.Context { return ctx }, cancel
	tr.cancelAs = func() { tr.cancel(fmt.Errorf("%w by deploy", ErrAborted)) }
	tr.Switch = &Switch{
		Record: r, Parts: tr.parts(), Journal: tr.memory, Limits: Limits{}.orDefaults(),
		Stop: tr.stop, GoOn: tr.goOn, Tell: func(e Event) { tr.events = append(tr.events, e) },
	}
}

// end runs how and tells whether superd was killed in it.
func (tr *trial) end(how func(context.Context) error) (err error, died bool) {
	defer func() {
		if k := recover(); k != nil {
			if _, ok := k.(killed); !ok {
				panic(k)
			}
			died = true
		}
	}()
	defer tr.cancel(nil)
	return how(tr.ctx()), false
}

// goesOn is the switch with what the next superds make of it.
func (tr *trial) goesOn() error {
	err, died := tr.end(tr.Run)
	for n := 0; died; n++ {
		if n == 5 {
			tr.t.Fatal("killed again and again")
		}
		last := tr.memory.Last()
		if last.ID == "" {
			return nil // nothing had begun
		}
		tr.begin(last)
		err, died = tr.end(tr.Resume)
	}
	return err
}

var forwardVerbs = []string{"prepare new", "start new", "verify new", "canary new", "share new", "try new", "point new", "promote new", "rotate new", "watch new"}

var undoVerbs = []string{"point old", "promote old", "rotate old", "remove new", "retire new"}

func TestSwitchGoesThrough(t *testing.T) {
	tr := newTrial(t)
	if err := tr.goesOn(); err != nil {
		t.Fatal(err)
	}
	if err := tr.wholly(newG); err != nil {
		t.Fatal(err)
	}
	want := append(slices.Clone(forwardVerbs), "retire old", "finish new")
	if !slices.Equal(tr.calls, want) {
		t.Errorf("did %q, want %q", tr.calls, want)
	}
	last := tr.memory.Last()
	if last.Phase != Ended || last.Verdict != Live || last.Live != newG || last.Ended.IsZero() {
		t.Errorf("the journal ends with %+v", last)
	}
}

// The promise: whatever happens to any verb, before, in the middle of or after its
// effect, the old generation serves alone in the end – or, when superd died after the
// link had been moved, the new one does.
func TestTroubleAtEveryStep(t *testing.T) {
	for _, verb := range forwardVerbs {
		for _, when := range []string{"before", "half", "after"} {
			for _, how := range []string{"fails", "hangs", "aborted", "killed"} {
				t.Run(fmt.Sprintf("%s %s %s", verb, how, when), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { troubleAt(t, verb, trouble{when, how}) })
				})
			}
		}
	}
}

func troubleAt(t *testing.T, verb string, tb trouble) {
	tr := newTrial(t)
	tr.troubles[verb] = tb
	err := tr.goesOn()
	last := tr.memory.Last()
	moved := slices.Contains([]string{"promote new", "rotate new", "watch new"}, verb) || verb == "point new" && tb.when != "before"
	if tb.how == "killed" && moved {
		if err := errors.Join(err, tr.wholly(newG)); err != nil || last.Verdict != Live {
			t.Fatalf("%v, verdict %s", err, last.Verdict)
		}
		return
	}
	if err := tr.wholly(oldG); err != nil {
		t.Fatal(err)
	}
	want := RolledBack
	if verb == "prepare new" {
		want = Rejected
	}
	var failure *Failure
	if !errors.As(err, &failure) || failure.Verdict != want || last.Verdict != want || last.Phase != Ended || last.Live != oldG {
		t.Fatalf("%v; the journal ends with %+v; want %s", err, last, want)
	}
	if len(tr.events) == 0 || tr.events[len(tr.events)-1].Phase != Ended {
		t.Errorf("the last that was told is %+v", tr.events)
	}
	blame := verb != "prepare new" && (tb.how == "fails" || tb.how == "hangs")
	if last.Blame != blame {
		t.Errorf("blames the release: %v", last.Blame)
	}
	cause := map[string]error{"fails": errTrouble, "aborted": ErrAborted, "killed": ErrInterrupted}[tb.how]
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%v is not %v", err, cause)
	}
	if tb.how == "hangs" && !strings.Contains(last.Cause, "took longer than") {
		t.Errorf("the cause is %q", last.Cause)
	}
}

// Without a share a switch has no such phase, neither does it go nor come back.
func TestWithoutShare(t *testing.T) {
	for _, bad := range []bool{false, true} {
		tr := newTrial(t)
		tr.Sharing = nil
		if bad {
			tr.broken["watch new"] = errTrouble
		}
		_ = tr.goesOn()
		for _, entry := range tr.memory.entries {
			if entry.Phase == Canary || entry.Reached == Canary {
				t.Errorf("the journal has %+v", entry)
			}
		}
		if slices.Contains(tr.calls, "share new") || slices.Contains(tr.calls, "try new") {
			t.Errorf("did %q", tr.calls)
		}
	}
}

// What came of the share is kept, whether it went well or not; where nothing serves
// that could have the others, users are not kept waiting.
func TestShareIsRemembered(t *testing.T) {
	want := Sharing{Share: 0.1, Measured: 0.1, Requests: 10, Others: 90}
	for _, bad := range []bool{false, true} {
		tr := newTrial(t)
		if bad {
			tr.troubles["try new"] = trouble{"after", "fails"}
		}
		err := tr.goesOn()
		last := tr.memory.Last()
		if (err != nil) != bad || last.Sharing == nil || *last.Sharing != want || last.Blame != bad {
			t.Errorf("%v; the journal ends with %+v, %+v", err, last, last.Sharing)
		}
		if bad && (last.Reached != Canary || last.Verdict != RolledBack) {
			t.Errorf("reached %s, %s", last.Reached, last.Verdict)
		}
	}
	tr := newTrial(t)
	tr.serving = 0
	if err := tr.goesOn(); err != nil {
		t.Error(err)
	}
	if slices.Contains(tr.calls, "try new") || tr.serving != newG.Number {
		t.Errorf("did %q; %d serves", tr.calls, tr.serving)
	}
}

// On the way back from a share users come first; if they cannot be taken back, all
// else is, but for what they use.
func TestWayBackFromShare(t *testing.T) {
	back := []string{"promote old", "remove new", "retire new"}
	for _, stuck := range []bool{false, true} {
		tr := newTrial(t)
		tr.broken["try new"] = errTrouble
		if stuck {
			tr.broken["promote old"] = errTrouble
		}
		_ = tr.goesOn()
		if calls := tr.calls[slices.Index(tr.calls, "try new")+1:]; !slices.Equal(calls, back) {
			t.Errorf("went back by %q, want %q", calls, back)
		}
		last := tr.memory.Last()
		if stuck && (last.Verdict != Degraded || last.Live != oldG || !tr.running[newG.Number]) {
			t.Errorf("the journal ends with %+v", last)
		}
		if !stuck && tr.wholly(oldG) != nil {
			t.Error(tr.wholly(oldG))
		}
	}
}

// Nothing may keep a rollback from what it can still do: each undo fails, hangs, and
// is cut short, while the switch goes back from its last phase.
func TestUndoInTrouble(t *testing.T) {
	for _, verb := range undoVerbs {
		for _, when := range []string{"before", "half", "after"} {
			for _, how := range []string{"fails", "hangs", "killed"} {
				t.Run(fmt.Sprintf("%s %s %s", verb, how, when), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { undoInTrouble(t, verb, trouble{when, how}) })
				})
			}
		}
	}
}

func undoInTrouble(t *testing.T, verb string, tb trouble) {
	tr := newTrial(t)
	tr.broken["watch new"] = errTrouble
	tr.troubles[verb] = tb
	begin := time.Now()
	err := tr.goesOn()
	last := tr.memory.Last()
	if took := time.Since(begin); tb.how == "hangs" && (took == 0 || took > tr.Limits.Undo) {
		t.Errorf("hung for %s", took)
	}
	for _, undo := range undoVerbs {
		if !slices.Contains(tr.calls, undo) {
			t.Errorf("%s was not tried", undo)
		}
	}
	if tb.how == "killed" {
		if err := tr.wholly(oldG); err != nil || last.Verdict != RolledBack {
			t.Fatalf("%v, verdict %s", err, last.Verdict)
		}
		return
	}
	var failure *Failure
	if !errors.As(err, &failure) || failure.Verdict != Degraded || failure.Undo == nil || !errors.Is(err, errTrouble) {
		t.Fatal(err)
	}
	if last.Phase != Ended || last.Verdict != Degraded || !last.Blame {
		t.Errorf("the journal ends with %+v", last)
	}
	tr.degradedWell(t, verb, tb, last)
}

// degradedWell tells that whatever could be taken back was, and that what is said to
// be live really serves.
func (tr *trial) degradedWell(t *testing.T, verb string, tb trouble, last Record) {
	t.Helper()
	kept := verb == "promote old" && tb.when == "before"
	if kept && (tr.serving != newG.Number || !tr.running[newG.Number]) {
		t.Errorf("users could not be moved, and generation %d serves of %v", tr.serving, tr.running)
	}
	if !kept && tr.serving != oldG.Number {
		t.Errorf("generation %d serves", tr.serving)
	}
	if tb.when == "before" && last.Live.Number != tr.serving {
		t.Errorf("%s is said to be live, and generation %d serves", last.Live, tr.serving)
	}
	if verb != "point old" && tr.link != oldG.Dir {
		t.Errorf("the link is at %s", tr.link)
	}
	if verb != "rotate old" && tr.slots != [3]uint64{1, 1, 1} {
		t.Errorf("workers %v run", tr.slots)
	}
}

// Every pair of deaths: at one failpoint, and at another one of the superd that
// goes on. With a release that is good, and with one that goes back at its end.
func TestKilledTwice(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "watch new", "try new"} {
		for _, first := range Failpoints() {
			for _, second := range append(Failpoints(), "") {
				if err := killedAt(t, bad, first, second); err != nil {
					t.Errorf("bad %q, killed at %s, then at %q: %v", bad, first, second, err)
				}
			}
		}
	}
}

func killedAt(t *testing.T, bad string, points ...string) error {
	tr := newTrial(t)
	if bad != "" {
		tr.broken[bad] = errTrouble
	}
	at := 0
	arm := func() {
		tr.Failpoint = func(name string) {
			if at < len(points) && points[at] == name {
				at++
				panic(killed{name})
			}
		}
	}
	arm()
	_, died := tr.end(tr.Run)
	for died {
		last := tr.memory.Last()
		if last.ID == "" {
			return tr.wholly(oldG)
		}
		tr.begin(last)
		arm()
		_, died = tr.end(tr.Resume)
	}
	last := tr.memory.Last()
	if last.Phase != Ended {
		return fmt.Errorf("the journal ends with %s", last.Phase)
	}
	if bad != "" && last.Live != oldG {
		return fmt.Errorf("%s is live", last.Live)
	}
	return tr.wholly(last.Live)
}

// What the next superd makes of each place: the journal and the link decide.
func TestResumeDecides(t *testing.T) {
	for point, want := range map[string]Generation{
		"preparing.before": oldG, "starting.after": oldG, "verifying.after": oldG,
		"canary.entering": oldG, "canary.before": oldG, "canary.shared": oldG, "canary.after": oldG,
		"promoting.entering": oldG, "promoting.before": oldG, "promoting.linked": newG, "promoting.after": newG,
		"rotating.before": newG, "watching.after": newG, "committing.entering": newG, "committing.before": newG,
		"committing.retired": newG, "ended.entering": newG, "ended.before": newG,
	} {
		tr := newTrial(t)
		tr.Failpoint = func(name string) {
			if name == point {
				panic(killed{name})
			}
		}
		_, died := tr.end(tr.Run)
		if !died {
			t.Fatalf("%s was not met", point)
		}
		tr.begin(tr.memory.Last())
		tr.end(tr.Resume)
		if err := tr.wholly(want); err != nil {
			t.Errorf("killed at %s: %v", point, err)
		}
	}
}

// After a reboot nothing runs; once users had been moved, what is decided runs again.
func TestResumeAfterReboot(t *testing.T) {
	for _, point := range []string{"promoting.linked", "promoting.after", "rotating.before", "watching.before", "rollback.promoting.before", "rollback.rotating.before"} {
		tr := newTrial(t)
		want := newG
		if strings.HasPrefix(point, "rollback") {
			tr.broken["watch new"], want = errTrouble, oldG
		}
		tr.Failpoint = func(name string) {
			if name == point {
				panic(killed{name})
			}
		}
		tr.end(tr.Run)
		tr.reboot()
		tr.begin(tr.memory.Last())
		tr.end(tr.Resume)
		if err := tr.wholly(want); err != nil {
			t.Errorf("%s: %v", point, err)
		}
	}
}

// What is past the point of no return, or on its way back, goes on whatever is asked.
func TestResumeIsNotCancelled(t *testing.T) {
	for phase, want := range map[Phase]Generation{Committing: newG, RollingBack: oldG} {
		tr := newTrial(t)
		tr.Failpoint = func(name string) {
			if name == string(phase)+".before" {
				panic(killed{name})
			}
		}
		if phase == RollingBack {
			tr.broken["watch new"] = errTrouble
		}
		tr.end(tr.Run)
		tr.begin(tr.memory.Last())
		tr.cancelAs()
		tr.end(tr.Resume)
		if err := tr.wholly(want); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
	}
}

// A switch that has brought superd down twice goes back, unless it must not.
func TestResumedTwice(t *testing.T) {
	for _, keep := range []bool{false, true} {
		tr := newTrial(t)
		tr.NoRollback = keep
		deaths := 0
		_, died := tr.end(func(ctx context.Context) error {
			tr.troubles["watch new"] = trouble{"before", "killed"}
			return tr.Run(ctx)
		})
		for died && deaths < 2 {
			deaths++
			tr.begin(tr.memory.Last())
			if deaths == 1 {
				tr.troubles["watch new"] = trouble{"before", "killed"}
			}
			_, died = tr.end(tr.Resume)
		}
		want := oldG
		if keep {
			want = newG
		}
		if err := tr.wholly(want); err != nil {
			t.Errorf("no rollback %v: %v", keep, err)
		}
	}
}

// A journal that cannot be written stops a switch before it does harm, and never
// stops a rollback. The entry may be on disk all the same.
func TestJournalFails(t *testing.T) {
	for _, bad := range []bool{false, true} {
		for _, phase := range []Phase{Preparing, Starting, Verifying, Canary, Promoting, Rotating, Watching, Committing, RollingBack, Ended} {
			for _, kept := range []bool{false, true} {
				for _, forever := range []bool{false, true} {
					if forever && kept {
						continue
					}
					name := fmt.Sprintf("%s bad %v kept %v forever %v", phase, bad, kept, forever)
					t.Run(name, func(t *testing.T) { journalFails(t, phase, bad, kept, forever) })
				}
			}
		}
	}
}

func journalFails(t *testing.T, phase Phase, bad, kept, forever bool) {
	tr := newTrial(t)
	if bad {
		tr.broken["watch new"] = errTrouble
	}
	tr.journal = nil // what is done after a failed entry is not on disk
	failing := false
	tr.memory.fail = func(r Record) (bool, error) {
		failing = failing && forever || r.Phase == phase
		if failing {
			return kept, errTrouble
		}
		return true, nil
	}
	err, _ := tr.end(tr.Run)
	want := oldG
	if !bad && (phase == RollingBack || phase == Ended) {
		want = newG // it does not come to the former; the latter is no reason to go back
	}
	if err := tr.wholly(want); err != nil {
		t.Fatal(err)
	}
	var failure *Failure
	if want == oldG && !errors.As(err, &failure) || want == newG && err != nil {
		t.Fatal(err)
	}
	if want == oldG && !bad && (tr.Blame || !errors.Is(err, errJournal)) {
		t.Errorf("%v; blames the release: %v", err, tr.Blame)
	}
	if forever {
		return // superd dies with a disk that is broken: what then was in the journal is old
	}
	tr.memory.fail = nil
	tr.begin(tr.memory.Last())
	tr.end(tr.Resume)
	if err := tr.wholly(want); err != nil {
		t.Errorf("after superd was killed: %v", err)
	}
}

// Whoever moves the link while a switch is going on has won: no rollback on top of it.
func TestLinkMovedAtEveryStep(t *testing.T) {
	for _, verb := range append(slices.Clone(forwardVerbs), "point old") {
		for _, when := range []string{"before", "after"} {
			t.Run(verb+" "+when, func(t *testing.T) {
				tr := newTrial(t)
				if verb == "point old" {
					tr.broken["rotate new"] = errTrouble
				}
				tr.troubles[verb] = trouble{when, "moved"}
				err := tr.goesOn()
				var failure *Failure
				if !errors.As(err, &failure) || tr.link != "/elsewhere" {
					t.Fatalf("%v, and the link is at %s", err, tr.link)
				}
				want := Conflict
				if verb == "point old" && when == "after" {
					want = RolledBack // it was ours until then
				}
				if failure.Verdict != want || tr.Blame != (verb == "point old") {
					t.Errorf("verdict %s, blame %v", failure.Verdict, tr.Blame)
				}
				tr.link = oldG.Dir
				if err := tr.wholly(oldG); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestPausesOnlyOnceUsersAreOnIt(t *testing.T) {
	for _, verb := range forwardVerbs {
		for _, keep := range []bool{false, true} {
			for _, abort := range []bool{false, true} {
				name := fmt.Sprintf("%s keep %v abort %v", verb, keep, abort)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { pauses(t, verb, keep, abort) })
				})
			}
		}
	}
}

func pauses(t *testing.T, verb string, keep, abort bool) {
	tr := newTrial(t)
	tr.NoRollback = keep
	reason := fmt.Errorf("the database is down: %w", ErrInconclusive)
	if keep {
		reason = errTrouble
	}
	tr.broken[verb] = reason
	ended := make(chan error)
	var run sync.WaitGroup
	run.Go(func() { ended <- errOf(tr.end(tr.Run)) })
	synctest.Wait()
	select {
	case err := <-ended:
		run.Wait()
		if verb == "rotate new" || verb == "watch new" {
			t.Fatalf("did not pause: %v", err)
		}
		if err := tr.wholly(oldG); err != nil {
			t.Fatal(err)
		}
		return
	default:
	}
	last := tr.events[len(tr.events)-1]
	if verb != "rotate new" && verb != "watch new" || last.Kind != "switch.paused" || last.Reason != reason.Error() || tr.serving != newG.Number {
		t.Fatalf("paused with %+v", last)
	}
	tr.lock.Lock()
	delete(tr.broken, verb)
	tr.lock.Unlock()
	want := newG
	if abort {
		want = oldG
		tr.cancelAs()
	} else {
		tr.goOn <- struct{}{}
	}
	<-ended
	run.Wait()
	if err := tr.wholly(want); err != nil {
		t.Error(err)
	}
}

// Progress is what a limit counts from; without it a step of a minute too long ends.
func TestProgressRenewsALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		progress := make(chan struct{})
		s := &Switch{Progress: progress}
		begin := time.Now()
		err := s.within(t.Context(), time.Minute, func(ctx context.Context) error {
			for range 3 {
				time.Sleep(50 * time.Second)
				progress <- struct{}{}
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(begin); took != 210*time.Second || err == nil || !strings.HasPrefix(err.Error(), "took longer than 1m0s") {
			t.Errorf("ended after %s: %v", took, err)
		}
	})
}

// Stop lays a switch down wherever it is, also on its way back, and the next superd
// ends it.
func TestStopLaysDown(t *testing.T) {
	for _, bad := range []bool{false, true} {
		for _, verb := range append(append(slices.Clone(forwardVerbs), undoVerbs...), "retire old", "finish new") {
			t.Run(fmt.Sprintf("%s bad %v", verb, bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { stopsIn(t, verb, bad) })
			})
		}
	}
}

func stopsIn(t *testing.T, verb string, bad bool) {
	tr := newTrial(t)
	if bad {
		tr.broken["finish new"], tr.troubles["watch new"] = errTrouble, trouble{"after", "fails"}
	}
	if tr.troubles[verb].how == "" {
		tr.troubles[verb] = trouble{"before", "hangs"}
	}
	ended := make(chan error, 1)
	var run sync.WaitGroup
	run.Go(func() { ended <- errOf(tr.end(tr.Run)) })
	synctest.Wait()
	begun := slices.Contains(tr.calls, verb)
	select {
	case <-ended:
		run.Wait()
		if begun && tr.troubles[verb].how != "" {
			t.Fatal("did not hang")
		}
		return // this switch does not come to it
	default:
	}
	before := tr.memory.Last().Phase
	close(tr.stop)
	synctest.Wait()
	if err := <-ended; !errors.Is(err, ErrStopping) {
		t.Fatalf("ended with %v", err)
	}
	run.Wait()
	last := tr.memory.Last()
	if last.Phase != before || last.Verdict != "" {
		t.Fatalf("was in %s, laid down as %+v", before, last)
	}
	tr.stop = nil
	tr.begin(last)
	tr.end(tr.Resume)
	if err := tr.wholly(tr.Live); err != nil {
		t.Error(err)
	}
}

func errOf(err error, _ bool) error { return err }

// superd that has lost its keeper hears of that by a verb that fails. That is not the
// release's fault, and no reason to go back or to wait for a person: the switch is laid
// down where it is, and the next superd goes on with it.
func TestHelplessSuperdLaysDown(t *testing.T) {
	for _, bad := range []bool{false, true} {
		for _, verb := range append(append(slices.Clone(forwardVerbs), undoVerbs...), "retire old", "finish new") {
			for _, when := range []string{"before", "half", "after"} {
				t.Run(fmt.Sprintf("%s %s bad %v", verb, when, bad), func(t *testing.T) { helplessIn(t, verb, when, bad) })
			}
		}
	}
}

func helplessIn(t *testing.T, verb, when string, bad bool) {
	tr := newTrial(t)
	if bad && verb != "watch new" {
		tr.troubles["watch new"] = trouble{"after", "fails"}
	}
	tr.troubles[verb] = trouble{when, "fails"}
	tr.Helpless = func(err error) bool { return errors.Is(err, errTrouble) && tr.calls[len(tr.calls)-1] == verb }
	err, _ := tr.end(tr.Run)
	if !slices.Contains(tr.calls, verb) {
		return // this switch does not come to it
	}
	last := tr.calls[len(tr.calls)-1]
	if users := verb == "point old" && last == "promote old"; !errors.Is(err, ErrStopping) || last != verb && !users { // they come first
		t.Fatalf("ended with %v, after %q", err, tr.calls)
	}
	if last := tr.memory.Last(); last.Verdict != "" || last.Waits != "" || last.Blame && !bad {
		t.Fatalf("laid down as %+v", last)
	}
	tr.begin(tr.memory.Last())
	tr.end(tr.Resume)
	if err := tr.wholly(tr.Live); err != nil {
		t.Error(err)
	}
}

// The link and then users come first on the way back, for workers take their time;
// the rest is undone latest first.
func TestOrderOfTheWayBack(t *testing.T) {
	tr := newTrial(t)
	tr.broken["watch new"] = errTrouble
	_ = tr.goesOn()
	if back := tr.calls[len(forwardVerbs):]; !slices.Equal(back, undoVerbs) {
		t.Errorf("went back by %q, want %q", back, undoVerbs)
	}
}

// A watched switch finds the link moved; giving it back is part of the way back,
// unless it is someone else's by then.
func TestWatchedGivesTheLinkBack(t *testing.T) {
	for link, want := range map[string]string{newG.Dir: oldG.Dir, "/third": "/third"} {
		for _, verb := range forwardVerbs {
			tr := newTrial(t)
			tr.Watched, tr.link = true, link
			tr.broken[verb] = errTrouble
			tr.journal = nil
			err := tr.goesOn()
			if err == nil || tr.link != want || tr.serving != oldG.Number {
				t.Errorf("link at %s, %s fails: %v, then the link is at %s", link, verb, err, tr.link)
			}
		}
	}
}

// Whoever moves a watched link back before users were moved means it.
func TestWatchedLinkWentBack(t *testing.T) {
	tr := newTrial(t)
	tr.Watched, tr.link = true, oldG.Dir
	var failure *Failure
	if err := tr.goesOn(); !errors.As(err, &failure) || failure.Verdict != Conflict {
		t.Error(err)
	}
	if err := tr.wholly(oldG); err != nil {
		t.Error(err)
	}
}

// The first switch of an app goes from nothing, and back to nothing.
func TestFromNothing(t *testing.T) {
	for _, bad := range []bool{false, true} {
		w := newWorld(t, Generation{})
		tr := &trial{world: w, memory: &memory{}}
		w.journal = tr.memory
		tr.begin(Record{ID: "s1", To: newG})
		if bad {
			tr.broken["watch new"] = errTrouble
		}
		err := tr.goesOn()
		if bad != (err != nil) || bad && (w.serving != 0 || len(w.running) != 0 || w.slots != [3]uint64{}) {
			t.Errorf("bad %v: %v; %d serves, %v run", bad, err, w.serving, w.running)
		}
		if err := w.wholly(newG); !bad && err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownPhaseIsLeftAlone(t *testing.T) {
	tr := newTrial(t)
	tr.begin(Record{ID: "s1", From: oldG, To: newG, Phase: "dancing"})
	err, _ := tr.end(tr.Resume)
	if err == nil || !strings.Contains(err.Error(), `"dancing"`) || len(tr.calls) > 0 {
		t.Errorf("%v, did %q", err, tr.calls)
	}
}

func TestFullMachineIsNotTheReleasesFault(t *testing.T) {
	for _, want := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		tr := newTrial(t)
		tr.broken["start new"] = &fs.PathError{Op: "open", Path: "/run/x", Err: want}
		_ = tr.goesOn()
		if tr.Verdict != RolledBack || tr.Blame {
			t.Errorf("%v: verdict %s, blame %v", want, tr.Verdict, tr.Blame)
		}
	}
}

// Failpoints lists what is hit, no more and no less.
func TestFailpointsAreAllMet(t *testing.T) {
	met := map[string]bool{settled: true} // the Switcher's own
	for _, bad := range []string{"", "watch new", "try new"} {
		tr := newTrial(t)
		if bad != "" {
			tr.broken[bad] = errTrouble
		}
		tr.Failpoint = func(name string) { met[name] = true }
		_ = tr.goesOn()
	}
	for _, name := range Failpoints() {
		if !met[name] {
			t.Errorf("%s is never met", name)
		}
		delete(met, name)
	}
	if len(met) > 0 {
		t.Errorf("met and not listed: %v", met)
	}
}

func TestEverythingHasALimit(t *testing.T) {
	s := &Switch{Parts: newWorld(t, oldG).parts(), Limits: Limits{}.orDefaults()}
	for _, st := range s.steps() {
		if st.limit <= 0 {
			t.Errorf("%s has no limit", st.phase)
		}
	}
	l := Limits{Undo: time.Second}.orDefaults()
	if l.Retire <= 0 || l.Finish <= 0 || l.Undo < l.Link+l.Promote {
		t.Errorf("%+v", l)
	}
}

// A pause waits for a person, not for one who has spoken already, nor for a superd
// that stops.
func TestPauseEnds(t *testing.T) {
	tr := newTrial(t)
	tr.NoRollback = true
	tr.troubles["rotate new"] = trouble{"before", "aborted"}
	_ = tr.goesOn()
	for _, e := range tr.events {
		if e.Kind == "switch.paused" {
			t.Errorf("paused, although aborted: %+v", e)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		tr := newTrial(t)
		tr.NoRollback = true
		tr.broken["rotate new"] = errTrouble
		ended := make(chan error, 1)
		var run sync.WaitGroup
		run.Go(func() { ended <- errOf(tr.end(tr.Run)) })
		synctest.Wait()
		close(tr.stop)
		run.Wait()
		if err := <-ended; !errors.Is(err, ErrStopping) || tr.memory.Last().Phase != Rotating {
			t.Errorf("%v, in %s", err, tr.memory.Last().Phase)
		}
	})
}

// Whoever is told of a phase may be the one who takes the switch back: the last look
// is after the word.
func TestAbortedByWhoIsTold(t *testing.T) {
	for _, phase := range []Phase{Preparing, Starting, Verifying, Canary, Promoting, Rotating, Watching, Committing} {
		tr := newTrial(t)
		tr.Tell = func(e Event) {
			if e.Phase == phase {
				tr.cancelAs()
			}
		}
		_ = tr.goesOn()
		if err := tr.wholly(oldG); err != nil || tr.memory.Last().Verdict == Live {
			t.Errorf("%s: %v", phase, err)
		}
		for _, entry := range tr.memory.entries {
			if entry.Phase == phase {
				t.Errorf("%s was entered", phase)
			}
		}
	}
}

// A switch that waits for a person goes on waiting in the next superd, and the one
// after, without looking again: what it was paused for is known only to who looked then.
func TestPauseOutlivesSuperd(t *testing.T) {
	for _, abort := range []bool{false, true} {
		t.Run(fmt.Sprintf("abort %v", abort), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { pauseOutlivesSuperd(t, abort) })
		})
	}
}

func pauseOutlivesSuperd(t *testing.T, abort bool) {
	tr := newTrial(t)
	reason := fmt.Errorf("the database is down: %w", ErrInconclusive)
	tr.broken["watch new"] = reason
	how := func(ctx context.Context) error { return tr.Run(ctx) }
	for superd := range 4 {
		ended := make(chan error, 1)
		var run sync.WaitGroup
		run.Go(func() { ended <- errOf(tr.end(how)) })
		synctest.Wait()
		last := tr.events[len(tr.events)-1]
		if last.Kind != "switch.paused" || last.Reason != reason.Error() || tr.serving != newG.Number {
			t.Fatalf("superd %d: %+v, serving %d", superd, last, tr.serving)
		}
		if superd == 3 {
			decide(t, tr, abort, ended)
			run.Wait()
			return
		}
		close(tr.stop)
		run.Wait()
		if err := <-ended; !errors.Is(err, ErrStopping) {
			t.Fatalf("superd %d ended with %v", superd, err)
		}
		delete(tr.broken, "watch new") // looking again would find nothing wrong
		tr.stop = make(chan struct{})
		tr.begin(tr.memory.Last())
		how = func(ctx context.Context) error { return tr.Resume(ctx) }
	}
}

func decide(t *testing.T, tr *trial, abort bool, ended chan error) {
	t.Helper()
	want := newG
	if abort {
		want = oldG
		tr.cancelAs()
	} else {
		tr.goOn <- struct{}{}
	}
	<-ended
	if err := tr.wholly(want); err != nil {
		t.Error(err)
	}
	if tr.memory.Last().Waits != "" {
		t.Errorf("ends waiting for a person: %+v", tr.memory.Last())
	}
}

// What was inconclusive has recovered: the switch goes on by itself, and nobody had to
// decide. A release that must not be taken back waits for a person all the same.
func TestPauseEndsWhenItRecovers(t *testing.T) {
	for _, verb := range []string{"rotate new", "watch new"} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s keep %v", verb, keep), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { pauseEndsByItself(t, verb, keep) })
			})
		}
	}
}

func pauseEndsByItself(t *testing.T, verb string, keep bool) {
	tr := newTrial(t)
	tr.NoRollback = keep
	if tr.broken[verb] = errTrouble; verb == "watch new" {
		tr.broken[verb] = fmt.Errorf("the database is down: %w", ErrInconclusive)
	}
	tr.down = true
	ended := make(chan error, 1)
	var run sync.WaitGroup
	run.Go(func() { ended <- errOf(tr.end(tr.Run)) })
	synctest.Wait()
	time.Sleep(10 * lookAgain) // it is down for a while
	tr.lock.Lock()
	paused := 0
	for _, e := range tr.events {
		if e.Kind == "switch.paused" {
			paused++
		}
	}
	delete(tr.broken, verb)
	tr.down = false
	tr.lock.Unlock()
	if paused != 1 || tr.serving != newG.Number {
		t.Fatalf("paused %d times, serving %d", paused, tr.serving)
	}
	if keep {
		time.Sleep(10 * lookAgain)
		select {
		case err := <-ended:
			t.Fatalf("did not wait for a person: %v", err)
		default:
		}
		tr.goOn <- struct{}{}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	run.Wait()
	if err := tr.wholly(newG); err != nil {
		t.Error(err)
	}
}

// Workers could not be moved, the switch was paused, and superd died. The next one moves
// them: then there is nothing left to wait for.
func TestPausedRotationGoesWellInTheNextSuperd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTrial(t)
		tr.NoRollback = true
		tr.broken["rotate new"] = errTrouble
		ended := make(chan error, 1)
		var run sync.WaitGroup
		run.Go(func() { ended <- errOf(tr.end(tr.Run)) })
		synctest.Wait()
		close(tr.stop)
		run.Wait()
		if err := <-ended; !errors.Is(err, ErrStopping) || tr.memory.Last().Waits == "" {
			t.Fatalf("%v, waits for %q", err, tr.memory.Last().Waits)
		}
		delete(tr.broken, "rotate new")
		tr.stop = make(chan struct{})
		tr.begin(tr.memory.Last())
		run.Go(func() { ended <- errOf(tr.end(tr.Resume)) })
		synctest.Wait()
		select {
		case err := <-ended:
			if err != nil || tr.wholly(newG) != nil {
				t.Errorf("%v, %v", err, tr.wholly(newG))
			}
		default:
			t.Error("it waits for a person")
			tr.goOn <- struct{}{}
			<-ended
		}
		run.Wait()
	})
}

package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quick is how the tests watch: what takes seconds takes moments.
var quick = LinkOptions{Follow: true, Settle: 40 * time.Millisecond, Grace: 300 * time.Millisecond}

// watched is a stage whose link is watched, by each superd that comes up.
func watched(t *testing.T, o LinkOptions, releases ...string) *stage {
	st := newStage(t, releases...)
	st.watching = &o
	return st
}

// sh runs what a deploy tool runs, in the app's root.
func (st *stage) sh(script string) {
	st.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = st.root
	cmd.Env = append(os.Environ(), "ROOT="+st.root)
	if out, err := cmd.CombinedOutput(); err != nil {
		st.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// exchange swaps two files at one stroke: there is no moment in which one is missing.
func (st *stage) exchange(one, other string) {
	st.t.Helper()
	must(st.t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(st.root, one), unix.AT_FDCWD, filepath.Join(st.root, other), unix.RENAME_EXCHANGE))
}

// becomes waits until the app is wholly on a release, and nothing goes on.
func (st *stage) becomes(release string) {
	st.t.Helper()
	err := errors.New("nothing was looked at")
	for end := time.Now().Add(20 * time.Second); err != nil; {
		if time.Now().After(end) {
			st.t.Fatalf("not on %s: %v; %+v; told: %v", release, err, st.Snapshot(), st.reasons())
		}
		if shot := st.Snapshot(); shot.Current == nil && !shot.Settling {
			err = st.on(release)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// stays makes sure that for a while nothing happens.
func (st *stage) stays(release string) {
	st.t.Helper()
	before := len(st.History())
	time.Sleep(10 * quick.Settle)
	if live := st.settled().Live; live.Release != release || st.serving != live.Number || len(st.History()) != before {
		st.t.Errorf("live is %s, want %s; %d serves; told: %v", live, release, st.serving, st.reasons())
	}
}

func (st *stage) reasons() []string {
	st.told.Lock()
	defer st.told.Unlock()
	var all []string
	for _, e := range st.events {
		if e.Reason != "" {
			all = append(all, e.Kind+": "+e.Reason)
		}
	}
	return all
}

// times is how often an event of that kind has said that.
func (st *stage) times(kind, what string) int {
	n := 0
	for _, r := range st.reasons() {
		if strings.HasPrefix(r, kind) && strings.Contains(r, what) {
			n++
		}
	}
	return n
}

func (st *stage) link2() string {
	st.t.Helper()
	where, err := st.tree.Where(st.t.Context())
	must(st.t, err)
	return filepath.Base(where)
}

// Whatever moves the link, superd follows: these are the commands of real tools.
func TestLinkIsFollowed(t *testing.T) {
	for name, script := range map[string]string{
		"ln -sfn":               `ln -sfn releases/r2 current`,
		"ln -sfn, absolute":     `ln -sfn "$ROOT/releases/r2" current`,
		"mv -T":                 `ln -s releases/r2 next; mv -T next current`,
		"unlink, then create":   `rm current; ln -s releases/r2 current`,
		"Deployer":              `ln -nfs --relative "$ROOT/releases/r2" "$ROOT/release"; mv -T "$ROOT/release" "$ROOT/current"`,
		"Deployer, not atomic":  `ln -nfs --relative "$ROOT/releases/r2" "$ROOT/current"`,
		"Capistrano":            `ln -s "$ROOT/releases/r2" "$ROOT/releases/current"; mv "$ROOT/releases/current" "$ROOT"`,
		"through another link":  `ln -s r2 releases/stable; ln -sfn releases/stable current`,
		"away for a moment":     `ln -sfn releases/r9 current; rm current; ln -s releases/r2 current`,
		"the last of several":   `ln -sfn releases/r3 current; ln -sfn releases/r2 current`,
		"with a trailing slash": `ln -sfn releases/r2/ current`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick
			o.Grace = time.Hour // however long a script leaves it missing
			if name == "the last of several" {
				o.Settle = 3 * time.Second // both moves are within it
			}
			st := watched(t, o, "r1", "r2", "r3")
			st.up()
			defer st.down()
			st.settled()
			st.sh(script)
			st.becomes("r2")
			h := st.History()
			if len(h) != 1 || !h[0].Watched || h[0].By != (By{}) || h[0].Verdict != Live || !st.heard("switch.begun", "the link leads to it") {
				t.Errorf("%+v", h)
			}
			if link := st.Snapshot().Link; link != "" {
				t.Errorf("something is wrong with the link: %s", link)
			}
			// and back, as a rollback of such a tool does it
			st.sh(`ln -nfs --relative releases/r1 current`)
			st.becomes("r1")
			if h := st.History(); len(h) != 2 || h[0].Kind != KindSwitch || h[1].Kind != KindRollback {
				t.Errorf("%+v", h)
			}
		})
	}
}

// A link that leads to a link: the second one is moved, and nothing happens where the
// first one is.
func TestInnerLinkIsMoved(t *testing.T) {
	t.Parallel()
	st := watched(t, quick, "r1", "r2")
	st.sh(`ln -s r1 releases/stable; ln -sfn releases/stable current`)
	st.up()
	defer st.down()
	st.settled()
	st.sh(`ln -sfn r2 releases/stable`)
	st.becomes("r2")
}

// The directory that holds the link is replaced; the new one is watched.
func TestDirectoryIsReplaced(t *testing.T) {
	st := watched(t, quick, "r1", "r2")
	st.sh(`mkdir public; ln -s ../releases/r1 public/current`)
	st.currentAt = "public/current"
	st.up()
	defer st.down()
	st.settled()
	st.sh(`mkdir new; ln -s ../releases/r1 new/current; mv public old; mv new public`)
	st.stays("r1")
	st.sh(`ln -sfn ../releases/r2 public/current`)
	st.becomes("r2")
}

// superd's own moves are not others': they begin nothing, and do not count.
func TestOwnMovesAreOwn(t *testing.T) {
	st := watched(t, quick, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	for range 4 {
		st.switchTo("r2")
		st.switchTo("r1")
	}
	st.stays("r1")
	for _, r := range st.History() {
		if r.Watched {
			t.Errorf("%+v", r)
		}
	}
	if shot := st.Snapshot(); shot.Hold != nil {
		t.Errorf("held: %+v", shot.Hold)
	}
}

// Moved to where it leads already: nothing happens.
func TestMovedToTheLiveRelease(t *testing.T) {
	t.Parallel()
	st := watched(t, quick, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	for range 6 {
		st.sh(`ln -sfn "$ROOT/releases/r1" current; ln -sfn releases/r1 current`)
	}
	st.stays("r1")
	if shot := st.Snapshot(); shot.Hold != nil || shot.Link != "" {
		t.Errorf("%+v", shot)
	}
}

// A live release that is changed in place is told of, once, and nothing is done about it.
func TestChangedInPlace(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"the directory is another": `cp -a releases/r1 r1.new; mv releases/r1 r1.old; mv r1.new releases/r1`,
		"a required file is":       `echo "<?php // other" > vendor.new; mv vendor.new releases/r1/vendor/autoload.php`,
	} {
		t.Run(name, func(t *testing.T) {
			st := watched(t, quick, "r1", "r2")
			st.sh(`mkdir -p releases/r1/vendor; echo "<?php" > releases/r1/vendor/autoload.php`)
			st.required = []string{"vendor/autoload.php"}
			st.up()
			defer st.down()
			st.settled()
			st.stays("r1") // it has been seen
			if n := st.times("app.note", "changed in place"); n > 0 {
				t.Fatalf("told %d times before it was", n)
			}
			st.sh(script)
			st.until("it is told", func() bool { return st.times("app.note", "changed in place") == 1 })
			st.stays("r1")
			if n := st.times("app.note", "changed in place"); n != 1 {
				t.Errorf("told %d times", n)
			}
		})
	}
}

// A link that leads nowhere: what runs stays, and the link goes back after the grace.
func TestLostLinkGoesBack(t *testing.T) {
	slow := quick
	slow.Grace = 4 * time.Second // longer than a busy machine looks away: what is told meanwhile is seen
	for name, script := range map[string]string{
		"missing":               `rm current`,
		"dangling":              `ln -sfn releases/r9 current`,
		"outside the releases":  `mkdir outside; ln -sfn outside current`,
		"upwards":               `mkdir outside; ln -sfn releases/../outside current`,
		"a file":                `touch releases/file; ln -sfn releases/file current`,
		"below a release":       `mkdir releases/r2/public; ln -sfn releases/r2/public current`,
		"the releases as whole": `ln -sfn releases current`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := watched(t, slow, "r1", "r2")
			st.up()
			defer st.down()
			st.settled()
			began := time.Now()
			st.sh(script)
			st.until("it is told", func() bool { return strings.Contains(st.Snapshot().Link, "goes back") })
			st.becomes("r1")
			if took := time.Since(began); took < slow.Grace {
				t.Errorf("the link was put back after %s", took)
			}
			st.until("it is told", func() bool { return st.times("app.note", "was put back to r1") == 1 && st.Snapshot().Link == "" })
			if len(st.History()) != 0 {
				t.Errorf("%+v", st.History())
			}
		})
	}
}

// Something that is not a link, or leads in a circle, is left as it is, and told once.
func TestBlockedLinkIsLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct{ script, says, same string }{
		"a directory": {`mkdir next; touch next/precious`, "not a symbolic link", `test -f current/precious`},
		"a file":      {`echo precious > next`, "not a symbolic link", `grep -q precious current`},
		"a loop":      {`ln -s loop next; ln -s current loop`, "too many links", `test "$(readlink current)" = loop`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := watched(t, quick, "r1", "r2")
			st.up()
			defer st.down()
			st.settled()
			st.sh(tt.script)
			st.exchange("next", "current")
			st.until("status has it", func() bool { return strings.Contains(st.Snapshot().Link, tt.says) })
			time.Sleep(2 * quick.Grace)
			st.stays("r1")
			st.sh(tt.same)
			if n := st.times("app.note", tt.says); n != 1 {
				t.Errorf("told %d times", n)
			}
			if _, err := st.Adopt(t.Context(), Request{By: By{User: "deploy"}}); !errors.Is(err, ErrRejected) {
				t.Errorf("adopted: %v", err)
			}
			st.sh(`ln -s releases/r2 other`)
			st.exchange("other", "current")
			st.becomes("r2")
		})
	}
}

// A watched release that fails is taken back, and the link with it; moved in again it
// is refused, for it is marked.
func TestWatchedReleaseFails(t *testing.T) {
	for _, verb := range []string{"start", "verify", "canary", "promote", "rotate", "watch"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			st := watched(t, quick, "r1", "r2")
			st.broken[verb+" r2"] = errTrouble
			st.up()
			defer st.down()
			st.settled()
			st.sh(`ln -sfn releases/r2 current`)
			st.until("it has failed", func() bool { return len(st.History()) == 1 })
			st.becomes("r1")
			if r := st.History()[0]; r.Verdict != RolledBack || !r.Blame || !r.Watched {
				t.Fatalf("%+v", r)
			}
			st.sh(`ln -sfn releases/r2 current`)
			st.until("it is told", func() bool { return st.heard("app.note", "marked bad") })
			st.becomes("r1")
			st.stays("r1")
			if st.Snapshot().Hold != nil || len(st.History()) != 1 {
				t.Errorf("%+v", st.Snapshot())
			}
		})
	}
}

// An incomplete release is rejected, and the link goes back.
func TestWatchedReleaseIsIncomplete(t *testing.T) {
	st := watched(t, quick, "r1", "r2")
	st.required = []string{"vendor/autoload.php"}
	st.up()
	defer st.down()
	st.settled()
	st.sh(`ln -sfn releases/r2 current`)
	st.until("it is rejected", func() bool { return len(st.History()) == 1 })
	st.becomes("r1")
	if r := st.History()[0]; r.Verdict != Rejected || r.Blame || !strings.Contains(r.Cause, "autoload") {
		t.Errorf("%+v", r)
	}
}

// The link is moved to a third release while a switch is going on: that switch ends in
// a conflict, and theirs is switched to. It does not matter whose switch it was.
func TestLinkMovedDuringASwitch(t *testing.T) {
	for _, byLink := range []bool{false, true} {
		for _, verb := range []string{"start", "verify", "rotate", "watch"} {
			t.Run(fmt.Sprintf("%s, by link %v", verb, byLink), func(t *testing.T) {
				t.Parallel()
				st := watched(t, quick, "r1", "r2", "r3")
				st.up()
				defer st.down()
				st.settled()
				id := st.hangs(verb, byLink)
				st.sh(`ln -sfn releases/r3 current`)
				r, err := st.Wait(t.Context(), id)
				if err != nil || r.Verdict != Conflict || r.Blame || r.To.Release != "r2" {
					t.Errorf("%v %+v", err, r)
				}
				st.becomes("r3")
				if h := st.History(); len(h) != 2 || !h[1].Watched || h[1].From.Release != "r1" {
					t.Errorf("%+v", h)
				}
			})
		}
	}
}

// hangs begins a switch to r2 that hangs in a verb.
func (st *stage) hangs(verb string, byLink bool) string {
	if !byLink {
		return st.hang(verb, "r2").ID
	}
	st.lock.Lock()
	st.troubles[verb+" r2"] = trouble{"before", "hangs"}
	st.lock.Unlock()
	st.sh(`ln -sfn releases/r2 current`)
	st.until("it hangs", func() bool {
		st.lock.Lock()
		defer st.lock.Unlock()
		_, pending := st.troubles[verb+" r2"]
		return !pending
	})
	return st.Snapshot().Current.ID
}

// The link is moved back to the old release: that takes the switch back.
func TestLinkMovedBackDuringASwitch(t *testing.T) {
	for _, byLink := range []bool{false, true} {
		for verb, want := range map[string]Verdict{"verify": Conflict, "rotate": RolledBack, "watch": RolledBack} {
			if !byLink && verb == "verify" {
				continue // there the link has not been moved yet
			}
			t.Run(fmt.Sprintf("%s, by link %v", verb, byLink), func(t *testing.T) {
				t.Parallel()
				st := watched(t, quick, "r1", "r2")
				st.up()
				defer st.down()
				st.settled()
				id := st.hangs(verb, byLink)
				st.sh(`ln -sfn releases/r1 current`)
				r, err := st.Wait(t.Context(), id)
				if err != nil || r.Verdict != want || r.Blame {
					t.Errorf("%v %+v", err, r)
				}
				st.becomes("r1")
				st.stays("r1")
			})
		}
	}
}

// A link that was moved back is a rollback also where only a person takes a release back.
func TestLinkMovedBackAtTheEndOfWatching(t *testing.T) {
	st := watched(t, LinkOptions{Follow: true, Settle: time.Hour, Grace: time.Hour}, "r1", "r2")
	st.auto = false
	st.up()
	defer st.down()
	st.settled()
	st.reached = func(name string) {
		if name == "rotating.after" {
			st.point2("r1")
		}
	}
	if r := st.switchTo("r2"); r.Verdict != RolledBack || !strings.Contains(r.Cause, "moved back") || r.Blame {
		t.Errorf("%+v", r)
	}
	must(t, st.on("r1"))
}

// The link is moved once the switch is past its commit: theirs wins, with a switch of
// its own.
func TestLinkMovedAfterOurCommit(t *testing.T) {
	st := watched(t, quick, "r1", "r2", "r3")
	st.up()
	defer st.down()
	st.settled()
	st.reached = func(name string) {
		if name == "committing.before" {
			st.point2("r3")
		}
	}
	if r := st.switchTo("r2"); r.Verdict != Live {
		t.Errorf("%+v", r)
	}
	st.becomes("r3")
	if h := st.History(); len(h) != 2 || h[1].From.Release != "r2" || !h[1].Watched {
		t.Errorf("%+v", h)
	}
}

// A link that flaps is not followed any longer, until a person says so.
func TestFlappingLinkIsHeld(t *testing.T) {
	t.Parallel()
	o := quick
	o.Settle = 8 * time.Second // no pause between two moves is as long
	st := watched(t, o, "r1", "r2", "r3")
	st.up()
	defer st.down()
	st.settled()
	for i, to := range []string{"r2", "r3", "r2", "r3"} {
		st.sh("ln -sfn releases/" + to + " current")
		time.Sleep(time.Second) // until that is seen
		if held := st.Snapshot().Hold != nil; held && i < 3 {
			t.Errorf("held after %d moves", i+1)
		}
	}
	st.until("it is held", func() bool { return st.Snapshot().Hold != nil })
	hold := st.Snapshot().Hold
	if hold.Human || !strings.Contains(hold.Reason, "moved 4 times") || !st.heard("app.held", "moved 4 times") {
		t.Errorf("%+v", hold)
	}
	time.Sleep(o.Settle + 2*time.Second)
	st.stays("r1")
	if st.link2() != "r3" || !strings.Contains(st.Snapshot().Link, "superctl resume") {
		t.Errorf("the link leads to %s: %q", st.link2(), st.Snapshot().Link)
	}
	must(t, st.Resume(By{User: "anna"}))
	st.becomes("r3")
	if st.Snapshot().Hold != nil {
		t.Error("held again")
	}
}

// While a person holds the app, nothing is done about the link.
func TestHeldLinkIsNotFollowed(t *testing.T) {
	st := watched(t, quick, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	must(t, st.Hold(By{User: "anna"}, "sale"))
	st.sh(`ln -sfn releases/r2 current`)
	st.until("it is told", func() bool { return strings.Contains(st.Snapshot().Link, "held") })
	st.stays("r1")
	if _, err := st.Adopt(t.Context(), Request{By: By{User: "deploy"}}); !errors.Is(err, ErrHeld) {
		t.Errorf("adopted: %v", err)
	}
	if st.link2() != "r2" {
		t.Error("the link was moved")
	}
	must(t, st.Resume(By{User: "anna"}))
	st.becomes("r2")
}

// With follow_link off a move is told, and that is all. A script may still ask.
func TestLinkIsOnlyTold(t *testing.T) {
	t.Parallel()
	o := quick
	o.Follow = false
	st := watched(t, o, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	st.sh(`ln -sfn releases/r2 current`)
	st.until("it is told", func() bool { return strings.Contains(st.Snapshot().Link, "follow_link is off") })
	st.stays("r1")
	st.sh(`rm current`)
	time.Sleep(2 * o.Grace)
	if where, err := st.tree.Where(t.Context()); err != nil || where != "" {
		t.Errorf("the link leads to %s: %v", where, err)
	}
	st.sh(`ln -s releases/r2 current`)
	begun, err := st.Adopt(t.Context(), Request{By: By{User: "deploy"}})
	must(t, err)
	if r, err := st.Wait(t.Context(), begun.ID); err != nil || r.Verdict != Live || r.By.User != "deploy" {
		t.Errorf("%v %+v", err, r)
	}
	st.becomes("r2")
}

// The link was moved while superd was dead, before it could begin anything.
func TestKilledBetweenMoveAndSwitch(t *testing.T) {
	o := quick
	o.Settle = time.Hour
	st := watched(t, o, "r1", "r2")
	st.up()
	st.settled()
	st.sh(`ln -sfn releases/r2 current`)
	st.down()
	st.watching = &quick
	st.up()
	defer st.down()
	st.becomes("r2")
	if h := st.History(); len(h) != 1 || !h[0].Watched {
		t.Errorf("%+v", h)
	}
}

// superd is killed everywhere in a watched switch. The link and what runs agree
// afterwards, whatever came of it.
func TestKilledInAWatchedSwitch(t *testing.T) {
	for _, bad := range []bool{false, true} {
		for _, point := range Failpoints() {
			t.Run(fmt.Sprintf("%s bad %v", point, bad), func(t *testing.T) {
				t.Parallel()
				killedWatched(t, point, bad)
			})
		}
	}
}

func killedWatched(t *testing.T, point string, bad bool) {
	st := watched(t, LinkOptions{Follow: true, Grace: time.Hour}, "r1", "r2")
	if bad {
		st.broken["watch r2"] = errTrouble
	}
	st.up()
	st.settled()
	st.killAt(point)
	st.sh(`ln -sfn releases/r2 current`)
	st.until("it is killed or over", func() bool {
		select {
		case <-st.dead:
			return true
		default:
			return len(st.History()) > 0 && st.Snapshot().Current == nil
		}
	})
	if len(st.History()) > 0 && st.Snapshot().Current == nil && st.point.Load() != nil {
		st.down() // this switch does not come to it
		return
	}
	st.gone()
	st.up()
	defer st.down()
	live := st.settled().Live.Release
	if bad || strings.HasPrefix(point, "starting") || strings.HasPrefix(point, "verifying") {
		live = "r1"
	}
	if point == "preparing.entering" && !bad {
		live = "r2" // nothing was begun: it is begun now
	}
	st.becomes(live)
	if shot := st.Snapshot(); shot.Degraded != "" || shot.Hold != nil {
		t.Errorf("%+v", shot)
	}
}

func TestAdopt(t *testing.T) {
	script := By{User: "deploy", PID: 7}
	slow := LinkOptions{Follow: true, Settle: time.Hour, Grace: time.Hour}
	t.Run("begins at once", func(t *testing.T) {
		st := watched(t, slow, "r1", "r2")
		st.up()
		defer st.down()
		st.settled()
		st.sh(`ln -sfn releases/r2 current`)
		begun, err := st.Adopt(t.Context(), Request{Release: "r2", By: script})
		must(t, err)
		if r, err := st.Wait(t.Context(), begun.ID); err != nil || r.Verdict != Live || r.By != script || !r.Watched {
			t.Errorf("%v %+v", err, r)
		}
		must(t, st.on("r2"))
		if r, err := st.Adopt(t.Context(), Request{By: script}); !errors.Is(err, ErrAlreadyLive) || r.To.Release != "r2" {
			t.Errorf("again: %v %+v", err, r)
		}
	})
	t.Run("joins", func(t *testing.T) {
		st := watched(t, quick, "r1", "r2")
		st.up()
		defer st.down()
		st.settled()
		id := st.hangs("verify", true)
		for _, name := range []string{"", "r2"} {
			if r, err := st.Adopt(t.Context(), Request{Release: name, By: script}); err != nil || r.ID != id {
				t.Errorf("%v %+v", err, r)
			}
		}
		must(t, st.Abort(script))
		st.becomes("r1")
		_, err := st.Adopt(t.Context(), Request{Release: "r2", By: script})
		if !errors.Is(err, ErrLinkMoved) || !strings.Contains(err.Error(), "aborted by deploy") {
			t.Errorf("what was taken back is adopted: %v", err)
		}
	})
	t.Run("takes the place of another", func(t *testing.T) {
		st := watched(t, slow, "r1", "r2", "r3")
		st.up()
		defer st.down()
		st.settled()
		other := st.hang("rotate", "r2")
		st.sh(`ln -sfn releases/r3 current`)
		begun, err := st.Adopt(t.Context(), Request{By: script})
		must(t, err)
		if r, err := st.Wait(t.Context(), begun.ID); err != nil || r.Verdict != Live || r.To.Release != "r3" {
			t.Errorf("%v %+v", err, r)
		}
		if r, err := st.Wait(t.Context(), other.ID); err != nil || r.Verdict != Conflict {
			t.Errorf("%v %+v", err, r)
		}
	})
	t.Run("leaves a switch alone whose link it has not moved", func(t *testing.T) {
		st := watched(t, slow, "r1", "r2")
		st.up()
		defer st.down()
		st.settled()
		other := st.hang("verify", "r2")
		if _, err := st.Adopt(t.Context(), Request{By: script}); !errors.Is(err, ErrBusy) {
			t.Errorf("%v", err)
		}
		if c := st.Snapshot().Current; c == nil || c.ID != other.ID || c.Phase != Verifying {
			t.Errorf("%+v", c)
		}
	})
	t.Run("marked bad", func(t *testing.T) {
		st := watched(t, slow, "r1", "r2")
		st.broken["watch r2"] = errTrouble
		st.up()
		defer st.down()
		st.settled()
		st.switchTo("r2")
		st.sh(`ln -sfn releases/r2 current`)
		if _, err := st.Adopt(t.Context(), Request{By: script}); !errors.Is(err, ErrRejected) {
			t.Errorf("%v", err)
		}
		must(t, st.on("r1"))
		st.lock.Lock()
		clear(st.broken)
		st.lock.Unlock()
		st.sh(`ln -sfn releases/r2 current`)
		begun, err := st.Adopt(t.Context(), Request{By: script, AllowBad: true})
		must(t, err)
		if r, err := st.Wait(t.Context(), begun.ID); err != nil || r.Verdict != Live {
			t.Errorf("%v %+v", err, r)
		}
	})
	t.Run("leads nowhere", func(t *testing.T) {
		st := watched(t, slow, "r1", "r2")
		st.up()
		defer st.down()
		st.settled()
		for _, link := range []string{"releases/r9", "/", "releases"} {
			st.sh("ln -sfn " + link + " current")
			if _, err := st.Adopt(t.Context(), Request{By: script}); !errors.Is(err, ErrRejected) {
				t.Errorf("%s: %v", link, err)
			}
		}
		if len(st.History()) != 0 {
			t.Errorf("%+v", st.History())
		}
	})
}

// The policy alone, without clocks and disks.
func TestDecide(t *testing.T) {
	tree := &Tree{Root: "/srv", Current: "current", Releases: "releases"}
	r1 := Generation{1, "r1", "/srv/releases/r1"}
	r2 := Generation{2, "r2", "/srv/releases/r2"}
	at := func(g Generation) sight { return sight{dir: g.Dir} }
	during := func(p Phase, watched bool) Snapshot {
		return Snapshot{Live: r1, Current: &Record{ID: "s", Phase: p, From: r1, To: r2, Watched: watched}}
	}
	r3 := at(Generation{3, "r3", "/srv/releases/r3"})
	missing := sight{lost: "missing"}
	stays := Snapshot{Live: r1}
	now := time.Now()
	flaps := []time.Time{now, now, now, now}
	for name, tt := range map[string]struct {
		shot  Snapshot
		seen  sight
		quiet time.Duration
		moves []time.Time
		begun bool
		off   bool
		want  deedKind
	}{
		"as it is":                        {shot: stays, seen: at(r1), quiet: time.Hour},
		"moved just now":                  {shot: stays, seen: at(r2), quiet: 2*time.Second - 1},
		"moved, quiet":                    {shot: stays, seen: at(r2), quiet: 2 * time.Second, want: deedBegin},
		"moved, tried":                    {shot: stays, seen: at(r2), quiet: time.Hour, begun: true},
		"moved, off":                      {shot: stays, seen: at(r2), quiet: time.Hour, off: true},
		"missing, off":                    {shot: stays, seen: missing, quiet: time.Hour, off: true},
		"nothing live":                    {seen: at(r2), quiet: time.Hour},
		"settling":                        {shot: Snapshot{Live: r1, Settling: true}, seen: at(r2), quiet: time.Hour},
		"held":                            {shot: Snapshot{Live: r1, Hold: &Hold{}}, seen: at(r2), quiet: time.Hour},
		"held, missing":                   {shot: Snapshot{Live: r1, Hold: &Hold{}}, seen: missing, quiet: time.Hour},
		"missing for less than the grace": {shot: stays, seen: missing, quiet: 30*time.Second - 1},
		"missing for the grace":           {shot: stays, seen: missing, quiet: 30 * time.Second, want: deedReturn},
		"a directory":                     {shot: stays, seen: sight{blocked: "is a directory"}, quiet: time.Hour},
		"bad":                             {shot: Snapshot{Live: r1, Bad: map[string]Mark{"r2": {}}}, seen: at(r2), quiet: 2 * time.Second, want: deedReturn},
		"bad, just now":                   {shot: Snapshot{Live: r1, Bad: map[string]Mark{"r2": {}}}, seen: at(r2)},
		"flaps":                           {shot: stays, seen: at(r2), moves: flaps, want: deedHold},
		"flaps back":                      {shot: stays, seen: at(r1), moves: flaps, want: deedHold},
		"flaps, off":                      {shot: stays, seen: at(r2), moves: flaps, off: true},
		"three moves":                     {shot: stays, seen: at(r2), moves: flaps[1:], quiet: time.Hour, want: deedBegin},
		"flaps in a switch":               {shot: during(Rotating, true), seen: r3, moves: flaps, want: deedHold},

		"ours, before the flip":                  {shot: during(Verifying, false), seen: at(r1), quiet: time.Hour},
		"ours, in the flip, not seen yet":        {shot: during(Promoting, false), seen: at(r1), quiet: time.Hour},
		"ours, after the flip":                   {shot: during(Rotating, false), seen: at(r2), quiet: time.Hour},
		"ours, moved back":                       {shot: during(Rotating, false), seen: at(r1), quiet: time.Hour, want: deedYield},
		"ours, moved back just now":              {shot: during(Rotating, false), seen: at(r1)},
		"ours, moved back, off":                  {shot: during(Rotating, false), seen: at(r1), quiet: time.Hour, off: true},
		"ours, moved on":                         {shot: during(Starting, false), seen: r3, quiet: time.Hour, want: deedYield},
		"ours, away for a moment":                {shot: during(Rotating, false), seen: missing, quiet: time.Hour},
		"watched, moved back before users moved": {shot: during(Starting, true), seen: at(r1), quiet: time.Hour, want: deedYield},
		"watched, as it is":                      {shot: during(Starting, true), seen: at(r2), quiet: time.Hour},
	} {
		w := LinkWatch{
			o: LinkOptions{Follow: !tt.off, Settle: 2 * time.Second, Grace: 30 * time.Second}, s: &Switcher{o: Options{Tree: tree}},
			seen: tt.seen, since: now.Add(-tt.quiet), moves: tt.moves, begun: tt.begun,
		}
		d := w.decide(tt.shot, now)
		if d.do != tt.want {
			t.Errorf("%s: %+v, want %d", name, d, tt.want)
		}
		if d.wait < 0 || d.wait > 30*time.Second {
			t.Errorf("%s: waits %s", name, d.wait)
		}
	}
}

// What counts as a move: only another release, only by others, only for five minutes.
func TestMovesAreCounted(t *testing.T) {
	w := LinkWatch{}
	now := time.Now()
	at := func(dir string, moves uint64, put string) {
		now = now.Add(time.Minute)
		s := sight{dir: dir}
		if dir == "" {
			s.lost = "missing"
		}
		w.take(view{s, moves, put}, now)
	}
	at("r1", 0, "")
	at("r2", 0, "")
	at("", 0, "")
	at("r2", 0, "")
	if len(w.moves) != 1 {
		t.Errorf("%d moves, want 1", len(w.moves))
	}
	at("r1", 1, "r1") // ours
	at("r2", 1, "r1")
	at("r1", 1, "r1") // to where we had put it once, by others
	at("r3", 2, "r2") // ours, and theirs on top of it
	if len(w.moves) != 3 {
		t.Errorf("%d moves, want 3", len(w.moves))
	}
	now = now.Add(3 * time.Minute)
	at("r3", 2, "r2")
	if len(w.moves) != 2 {
		t.Errorf("%d moves in the last minutes, want 2", len(w.moves))
	}
}

// Without inotify the poll finds everything.
func TestWatchWithoutHints(t *testing.T) {
	st := watched(t, quick, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	w := NewLinkWatch(st.Switcher, quick)
	h := hints{link: filepath.Join(st.root, "nowhere", "current")}
	if why := h.listen(); why == "" {
		t.Error("there is nothing to listen to")
	}
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	if !h.wait(ctx, nil, 20*time.Millisecond) || time.Since(began) < 20*time.Millisecond {
		t.Error("it did not wait")
	}
	cancel()
	if h.wait(ctx, nil, time.Hour) {
		t.Error("it does not end")
	}
	if wait := w.look(t.Context(), time.Now()); wait <= 0 || wait > pollPause {
		t.Errorf("looks again after %s", wait)
	}
}

// A link that is put back is compared first: one that has been moved again stays.
func TestReturnIsCompareAndSwap(t *testing.T) {
	st := watched(t, LinkOptions{Follow: true, Settle: time.Hour, Grace: time.Hour}, "r1", "r2", "r3")
	st.up()
	defer st.down()
	live := st.settled().Live
	st.sh(`ln -sfn releases/r3 current`)
	for _, was := range []string{"", st.dir("r2"), filepath.Join(st.root, "outside")} {
		must(t, st.returnLink(t.Context(), was, live, "it led astray"))
		if st.link2() != "r3" {
			t.Fatalf("it was at %q, and someone has moved it since; now it leads to %s", was, st.link2())
		}
	}
	must(t, st.returnLink(t.Context(), st.dir("r3"), live, "it led astray"))
	must(t, st.on("r1"))
	st.sh(`ln -sfn releases/r3 current`)
	must(t, os.RemoveAll(st.dir("r1")))
	if err := st.returnLink(t.Context(), st.dir("r3"), live, "it led astray"); err == nil || st.link2() != "r3" {
		t.Errorf("the link was put back to a release that is gone: %v, %s", err, st.link2())
	}
}

package release

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stage is an app with a real disk and a world for the rest. Its superd can end and
// come back.
type stage struct {
	*world
	*Switcher
	t     *testing.T
	root  string
	tree  *Tree
	point atomic.Pointer[string] // the failpoint at which superd is killed, once
	boot  string
	auto  bool

	watching  *LinkOptions      // nil: the link is not watched
	currentAt string            // the link; "current"
	required  []string          // of a release
	reached   func(name string) // hears of every failpoint; may be nil
	dead      chan struct{}     // is closed when this superd is killed

	files  []interface{ Close() error }
	cancel context.CancelFunc
	life   sync.WaitGroup
	died   bool

	told   sync.Mutex
	events []Event
}

func newStage(t *testing.T, releases ...string) *stage {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	st := &stage{t: t, root: root, world: newWorld(t, Generation{}), boot: "boot-1", auto: true}
	for i, r := range releases {
		st.release(r, time.Duration(i)*time.Second)
	}
	if len(releases) > 0 {
		st.point2(releases[0])
	}
	return st
}

// TestMain puts files into memory where it can: what was written survives the end of
// superd in any case, and that is all that these tests end.
func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp("/dev/shm", "release-*"); err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		_ = os.Chmod(dir, 0o755)
		_ = os.Setenv("TMPDIR", dir)
	}
	// What these tests do most is wait: more of them than there are processors may.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	m.Run()
}

// release makes a release; a greater age means changed later.
func (st *stage) release(name string, age time.Duration) {
	dir := filepath.Join(st.root, "releases", name)
	when := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(age)
	must(st.t, os.MkdirAll(dir, 0o755))
	must(st.t, os.Chtimes(dir, when, when))
}

// point2 moves the link as someone else does.
func (st *stage) point2(release string) {
	link := filepath.Join(st.root, "current")
	_ = os.Remove(link + ".other")
	must(st.t, os.Symlink(filepath.Join("releases", release), link+".other"))
	must(st.t, os.Rename(link+".other", link))
}

func (st *stage) dir(release string) string { return filepath.Join(st.root, "releases", release) }

// up is a new superd.
func (st *stage) up() {
	st.t.Helper()
	st.open()
	ctx, cancel := context.WithCancel(st.t.Context())
	st.cancel = cancel
	dead := make(chan struct{})
	st.dead = dead
	if st.watching != nil {
		w := NewLinkWatch(st.Switcher, *st.watching)
		st.life.Go(func() {
			watching, end := context.WithCancel(ctx) // who is killed watches no longer
			defer end()
			st.life.Go(func() {
				select {
				case <-dead:
					end()
				case <-watching.Done():
				}
			})
			_ = w.Run(watching)
		})
	}
	st.life.Go(func() {
		defer func() {
			if k := recover(); k != nil {
				if _, ok := k.(killed); !ok {
					panic(k)
				}
				st.died = true
				close(dead)
			}
		}()
		_ = st.Run(ctx)
	})
}

func (st *stage) open() {
	st.t.Helper()
	state := filepath.Join(st.root, "state")
	j, err := OpenJournal(filepath.Join(state, "journal"))
	must(st.t, err)
	s, err := OpenState(filepath.Join(state, "state"))
	must(st.t, err)
	h, err := OpenHistory(filepath.Join(state, "history.ndjson"))
	must(st.t, err)
	st.files = []interface{ Close() error }{j, s}
	st.tree = &Tree{App: "shop", Root: st.root, Releases: "releases", Current: cmp.Or(st.currentAt, "current"), InUse: st.inUseDirs}
	st.tree.Required = st.required
	st.tree.Test = func(ctx context.Context, g Generation) error {
		return st.run(ctx, "prepare", g, func(bool) error { return nil })
	}
	parts := st.parts()
	parts.Files = nil
	st.died = false
	st.Switcher = NewSwitcher(Options{
		App: "shop", Tree: st.tree, Parts: parts, Journal: j, State: s, History: h, AutoRollback: st.auto, CanaryShare: 0.1,
		Tell: st.hear, Failpoint: st.reach, BootID: st.boot,
	})
	st.cancelAs = func() { must(st.t, st.Abort(By{User: "deploy"})) }
}

func (st *stage) reach(name string) {
	if st.reached != nil {
		st.reached(name)
	}
	if aim := st.point.Load(); aim != nil && *aim == name {
		st.point.Store(nil)
		panic(killed{name})
	}
}

// killAt ends superd when the switch comes to that failpoint.
func (st *stage) killAt(name string) { st.point.Store(&name) }

func (st *stage) hear(e Event) {
	st.told.Lock()
	defer st.told.Unlock()
	st.events = append(st.events, e)
}

// heard tells whether an event of that kind has said that.
func (st *stage) heard(kind, what string) bool {
	st.told.Lock()
	defer st.told.Unlock()
	return slices.ContainsFunc(st.events, func(e Event) bool {
		return e.Kind == kind && strings.Contains(e.Reason+" "+e.By.User, what)
	})
}

// down ends superd, with what runs going on.
func (st *stage) down() {
	st.cancel()
	st.life.Wait()
	for _, f := range st.files {
		must(st.t, f.Close())
	}
}

// gone waits for a superd that is to be killed.
func (st *stage) gone() {
	st.life.Wait()
	st.down()
}

func (st *stage) inUseDirs() map[string]bool {
	st.lock.Lock()
	defer st.lock.Unlock()
	used := map[string]bool{}
	for g := range st.running {
		used[st.dir(st.names[g])] = true
	}
	for _, g := range st.slots {
		if g != 0 {
			used[st.dir(st.names[g])] = true
		}
	}
	return used
}

// settled waits until superd has settled and does nothing.
func (st *stage) settled() Snapshot {
	st.t.Helper()
	var shot Snapshot
	st.until("superd settles", func() bool {
		shot = st.Snapshot()
		return !shot.Settling && shot.Current == nil
	})
	return shot
}

func (st *stage) until(what string, ok func() bool) {
	st.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			st.t.Fatalf("waited too long: %s; %+v", what, st.Snapshot())
		}
		time.Sleep(time.Millisecond)
	}
}

// on tells whether the app is wholly on a release, and knows it.
func (st *stage) on(release string) error {
	st.lock.Lock()
	where, err := st.tree.Where(st.t.Context())
	st.link = where
	st.lock.Unlock()
	if err != nil {
		return err
	}
	live := st.Snapshot().Live
	if live.Release != release || live.Dir != st.dir(release) {
		return fmt.Errorf("%s is said to be live, not %s", live, release)
	}
	return st.wholly(live)
}

// do asks for a switch and waits for its end.
func (st *stage) do(q Request) (Record, error) {
	begun, err := st.Begin(st.t.Context(), q)
	if err != nil {
		return begun, err
	}
	return st.Wait(st.t.Context(), begun.ID)
}

func (st *stage) switchTo(release string) Record {
	st.t.Helper()
	r, err := st.do(Request{Release: release, By: By{User: "deploy"}})
	must(st.t, err)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

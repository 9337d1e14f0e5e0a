package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"superd/release/beneath"
)

// newTree makes releases, the last named changed last, and a link to the first.
func newTree(t *testing.T, releases ...string) *Tree {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	tree := &Tree{App: "shop", Root: root, Releases: "releases", Current: "current"}
	must(t, os.MkdirAll(tree.releases(), 0o755))
	for i, name := range releases {
		must(t, os.Mkdir(filepath.Join(tree.releases(), name), 0o755))
		when := time.Unix(int64(1_700_000_000+i), 0)
		must(t, os.Chtimes(filepath.Join(tree.releases(), name), when, when))
	}
	if len(releases) > 0 {
		must(t, os.Symlink("releases/"+releases[0], tree.current()))
	}
	return tree
}

func (t *Tree) generation(number uint64, name string) Generation {
	return Generation{Number: number, Release: name, Dir: t.dir(name)}
}

func TestResolve(t *testing.T) {
	tree := newTree(t, "r1", "r2", ".hidden", "with space", "-dash")
	releases := tree.releases()
	must(t, os.WriteFile(filepath.Join(releases, "file"), nil, 0o644))
	for name, target := range map[string]string{
		"alias": "r1", "out": "/etc", "up": "..", "self": ".", "loop": "loop", "dangling": "r9", "deep": "r1/sub", "dotted": ".hidden",
	} {
		must(t, os.Symlink(target, filepath.Join(releases, name)))
	}
	must(t, os.MkdirAll(filepath.Join(releases, "r1/sub"), 0o755))
	must(t, os.Chtimes(filepath.Join(releases, "r1"), time.Unix(1, 0), time.Unix(1, 0)))
	must(t, os.Symlink(releases, filepath.Join(tree.Root, "shortcut")))
	must(t, os.Symlink(tree.Root, tree.Root+".link"))
	t.Cleanup(func() { _ = os.Remove(tree.Root + ".link") })

	for name, want := range map[string]string{
		"r1": "r1", "alias": "r1", "with space": "with space", "-dash": "-dash", "latest": "-dash", "r1/": "r1", "alias//": "r1",
		"releases/r2": "r2", "./releases//r2/": "r2", releases + "/r2": "r2", releases + "/r2/": "r2",
	} {
		g, err := tree.Resolve(name)
		if err != nil || g.Release != want || g.Dir != filepath.Join(releases, want) || g.Number != 0 {
			t.Errorf("%q: %+v, %v", name, g, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "../r1", "r1/..", "releases/../releases/r1", releases + "/../releases/r1", "/etc", "/", "r1/sub", "releases/r1/sub",
		".hidden", ".hidden/", "./", "../", "//", "releases/.hidden", "file", "out", "up", "self", "loop", "dangling", "deep", "dotted", "r9", "r1\x00", "r1\n", "\xff",
		strings.Repeat("a", 300), "shortcut/r1", "current", tree.current(), "{release}", "*",
	} {
		if g, err := tree.Resolve(name); err == nil {
			t.Errorf("%q is taken for %+v", name, g)
		}
	}
	linked := &Tree{Root: tree.Root + ".link", Releases: tree.Releases} // the whole app behind a link: what is real is the same
	for _, name := range []string{"r1", linked.Root + "/releases/r1", releases + "/r1"} {
		if g, err := linked.Resolve(name); err != nil || g.Dir != filepath.Join(releases, "r1") {
			t.Errorf("behind a link, %q: %+v, %v", name, g, err)
		}
	}
	if _, err := newTree(t).Resolve("latest"); err == nil || !strings.Contains(err.Error(), "there is no release") {
		t.Errorf("latest of none: %v", err)
	}
}

// The link in every shape it may have.
func TestWhere(t *testing.T) {
	tree := newTree(t, "r1", "r2")
	r1 := tree.dir("r1")
	link := func(target string) func() error { return func() error { return os.Symlink(target, tree.current()) } }
	for name, tt := range map[string]struct {
		make func() error
		want string
		err  error
	}{
		"missing":   {func() error { return nil }, "", nil},
		"relative":  {link("releases/r1"), r1, nil},
		"absolute":  {link(r1), r1, nil},
		"slash":     {link("releases/r1/"), r1, nil},
		"through":   {func() error { return errors.Join(os.Symlink("r1", tree.releases()+"/a"), link("releases/a")()) }, r1, nil},
		"dangling":  {link("releases/r9"), tree.dir("r9"), nil},
		"nowhere":   {link("/no/such/place"), "/no/such/place", nil},
		"loop":      {link("current"), "", syscall.ELOOP},
		"directory": {func() error { return os.Mkdir(tree.current(), 0o755) }, "", ErrNotLink},
		"file":      {func() error { return os.WriteFile(tree.current(), nil, 0o644) }, "", ErrNotLink},
	} {
		must(t, os.RemoveAll(tree.current()))
		must(t, tt.make())
		where, err := tree.Where(t.Context())
		if where != tt.want || (tt.err == nil) != (err == nil) {
			t.Errorf("%s: %q, %v", name, where, err)
		}
		if errors.Is(tt.err, ErrNotLink) && !errors.Is(err, ErrNotLink) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPoint(t *testing.T) {
	for _, style := range []string{"relative", "absolute"} {
		tree := newTree(t, "r1", "r2")
		r1, r2 := tree.generation(1, "r1"), tree.generation(2, "r2")
		if style == "absolute" {
			must(t, os.Remove(tree.current()))
			must(t, os.Symlink(r1.Dir, tree.current()))
		}
		for _, step := range [][2]Generation{{r1, r2}, {r1, r2}, {r2, r1}, {r2, r1}, {r1, r2}} {
			must(t, tree.Point(t.Context(), step[0], step[1]))
			text, err := os.Readlink(tree.current())
			must(t, err)
			if where, err := tree.Where(t.Context()); err != nil || where != step[1].Dir || filepath.IsAbs(text) != (style == "absolute") {
				t.Errorf("%s: to %s: %q, %v", style, step[1], text, err)
			}
		}
	}
}

func TestPointIsNotBegunWhenCancelled(t *testing.T) {
	tree := newTree(t, "r1", "r2")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTrouble)
	err := tree.Point(ctx, tree.generation(1, "r1"), tree.generation(2, "r2"))
	if where, _ := tree.Where(t.Context()); !errors.Is(err, errTrouble) || where != tree.dir("r1") {
		t.Errorf("%v; the link is at %s", err, where)
	}
}

// Whatever is there and is not ours stays as it is.
func TestPointLeavesOthersAlone(t *testing.T) {
	for name, is := range map[string]func(*Tree) error{
		"another release": func(t *Tree) error { return os.Symlink("releases/r3", t.current()) },
		"nowhere":         func(t *Tree) error { return os.Symlink("releases/r9", t.current()) },
		"a loop":          func(t *Tree) error { return os.Symlink("current", t.current()) },
		"a directory": func(t *Tree) error {
			return errors.Join(os.Mkdir(t.current(), 0o755), os.WriteFile(t.current()+"/precious", nil, 0o644))
		},
		"a file": func(t *Tree) error { return os.WriteFile(t.current(), []byte("x"), 0o644) },
	} {
		tree := newTree(t, "r1", "r2", "r3")
		must(t, os.Remove(tree.current()))
		must(t, is(tree))
		before := look(t, tree.current())
		err := tree.Point(t.Context(), tree.generation(1, "r1"), tree.generation(2, "r2"))
		if !errors.Is(err, ErrLinkMoved) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, look(t, tree.current())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	tree := newTree(t, "r1", "r2")
	must(t, tree.Point(t.Context(), tree.generation(1, "r1"), Generation{}))
	if where, _ := tree.Where(t.Context()); where != tree.dir("r1") {
		t.Errorf("moved to %s for nothing", where)
	}
	must(t, os.Remove(tree.current()))
	must(t, tree.Point(t.Context(), tree.generation(1, "r1"), tree.generation(2, "r2")))
	if where, _ := tree.Where(t.Context()); where != tree.dir("r2") {
		t.Errorf("a missing link was not made: %q", where)
	}
}

// look is everything below path.
func look(t *testing.T, path string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	must(t, filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text, _ := os.Readlink(p)
		seen[p] = d.Type().String() + " " + text
		return nil
	}))
	return seen
}

// Between the look at the link and its exchange someone else moves it, as mv -T does:
// what comes out shows it, and is put back.
func TestReplaceGivesBack(t *testing.T) {
	tree := newTree(t, "r1", "r2", "r3")
	must(t, tree.spare(0, tree.generation(2, "r2")))
	err := tree.replace(tree.spareName(0), "releases/other")
	if text, _ := os.Readlink(tree.current()); !errors.Is(err, ErrLinkMoved) || text != "releases/r1" {
		t.Errorf("%v; the link says %q", err, text)
	}
	must(t, os.Remove(tree.current()))
	must(t, os.Mkdir(tree.current(), 0o755))
	must(t, os.WriteFile(tree.current()+"/precious", nil, 0o644))
	err = tree.replace(tree.spareName(0), "releases/r1")
	if _, there := os.Stat(tree.current() + "/precious"); !errors.Is(err, ErrLinkMoved) || there != nil {
		t.Errorf("%v; %v", err, there)
	}
	must(t, os.RemoveAll(tree.current()))
	if err := tree.replace(tree.spareName(0), "releases/r1"); !errors.Is(err, ErrLinkMoved) {
		t.Errorf("gone: %v", err)
	}
	must(t, os.Symlink("releases/r3", tree.current()))
	if err := tree.replace(tree.spareName(0), ""); !errors.Is(err, ErrLinkMoved) {
		t.Errorf("made meanwhile: %v", err)
	}
	if text, _ := os.Readlink(tree.current()); text != "releases/r3" {
		t.Errorf("the link says %q", text)
	}
}

// A directory of someone's that a crash has left under the name of a spare link is
// not deleted.
func TestSpareIsNotSomeonesDirectory(t *testing.T) {
	tree := newTree(t, "r1", "r2")
	precious := filepath.Join(tree.spareName(0), "precious")
	must(t, os.MkdirAll(precious, 0o755))
	err := tree.Prepare(t.Context(), tree.generation(1, "r1"), tree.generation(2, "r2"))
	if _, there := os.Stat(precious); err == nil || there != nil {
		t.Errorf("%v; %v", err, there)
	}
}

// Readers see a whole release at every moment, and a deploy tool that moves the link
// at the same time with ln -sfn or mv -T never loses to a switch that did not see it.
func TestLinkRace(t *testing.T) {
	t.Parallel()
	tree := newTree(t, "r1", "r2", "r3")
	r1, r2 := tree.generation(1, "r1"), tree.generation(2, "r2")
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if text, err := os.Readlink(tree.current()); err != nil || !strings.HasPrefix(text, "releases/r") {
					t.Errorf("saw %q, %v", text, err)
					return
				}
			}
		})
	}
	for n := range 300 {
		from, to := r1, r2
		if n%2 == 1 {
			from, to = r2, r1
		}
		must(t, tree.Point(ctx, from, to))
	}
	for range 100 { // theirs wins, whoever comes first
		theirsWins(t, tree, func() error {
			return errors.Join(os.Symlink("releases/r3", tree.current()+".tmp"), os.Rename(tree.current()+".tmp", tree.current()))
		})
	}
	cancel()
	readers.Wait()
	for range 100 { // with a moment at which there is no link
		theirsWins(t, tree, func() error {
			must(t, os.Remove(tree.current()))
			return os.Symlink("releases/r3", tree.current())
		})
	}
}

// theirsWins moves the link from r1 to r2 while someone else moves it to r3.
func theirsWins(t *testing.T, tree *Tree, move func() error) {
	t.Helper()
	var theirs sync.WaitGroup
	var moved error
	theirs.Go(func() { moved = move() })
	err := tree.Point(t.Context(), tree.generation(1, "r1"), tree.generation(2, "r2"))
	theirs.Wait()
	if err != nil && !errors.Is(err, ErrLinkMoved) {
		t.Fatal(err)
	}
	want := "r3"
	if moved != nil { // ours was there first, and they were told
		want = "r2"
	}
	if where, err := tree.Where(t.Context()); err != nil || where != tree.dir(want) {
		t.Fatalf("they: %v; the link is at %s: %v", moved, where, err)
	}
	must(t, tree.Point(t.Context(), Generation{}, tree.generation(1, "r1")))
}

func TestCheck(t *testing.T) {
	tree := newTree(t, "r1", "r2", "r3")
	r1, r2 := tree.generation(1, "r1"), tree.generation(2, "r2")
	check := func(want error, words string) {
		t.Helper()
		before := look(t, tree.Root)
		err := tree.Check(t.Context(), r1, r2)
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) || want != nil && !errors.Is(err, want) {
			t.Errorf("%v, want %v and %q", err, want, words)
		}
		if diff := cmp.Diff(before, look(t, tree.Root)); diff != "" {
			t.Errorf("touched something: %s", diff)
		}
	}
	check(nil, "")
	tree.Required = []string{"vendor/autoload.php"}
	check(fs.ErrNotExist, "not complete")
	must(t, os.MkdirAll(r2.Dir+"/vendor/autoload.php", 0o755))
	check(nil, "")
	tree.MinFreeBytes = 1 << 62
	check(nil, "MiB free")
	tree.MinFreeBytes, tree.MinFreeInodes = 0, 1<<62
	check(nil, "inodes free")
	tree.MinFreeInodes = 0
	tree.Test = func(context.Context, Generation) error { return errTrouble }
	check(errTrouble, "trouble")
	tree.Test = nil
	must(t, errors.Join(os.Remove(tree.current()), os.Symlink("releases/r3", tree.current())))
	check(ErrLinkMoved, "r3, neither at r1 nor at r2")
	must(t, errors.Join(os.Remove(tree.current()), os.Mkdir(tree.current(), 0o755)))
	check(ErrNotLink, "left alone")
	must(t, os.Remove(tree.current()))
	check(nil, "")
	must(t, os.RemoveAll(r2.Dir))
	check(fs.ErrNotExist, "r2")
	must(t, os.Symlink("r3", r2.Dir))
	check(nil, "is at")
}

// The app's user must be able to read what is required, and rights are asked as the
// kernel sees them; nothing of that stays with the process.
func TestCompleteAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can take another user's rights")
	}
	base := t.TempDir()
	must(t, errors.Join(os.Chmod(base, 0o755), os.Chmod(filepath.Dir(base), 0o755)))
	dir := filepath.Join(base, "r1")
	file := filepath.Join(dir, "autoload.php")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(file, nil, 0o644))
	tree := &Tree{Root: base, UID: 65534, GID: 65534, Groups: []uint32{4711}, Required: []string{"autoload.php"}}
	must(t, tree.complete(dir))
	for name, tt := range map[string]struct {
		mode, dirMode fs.FileMode
		gid           int
		ok            bool
	}{
		"nobody may":            {0o600, 0o755, 0, false},
		"its group may":         {0o640, 0o755, 65534, true},
		"another group of his":  {0o640, 0o755, 4711, true},
		"a group not of his":    {0o640, 0o755, 4712, false},
		"the directory is shut": {0o644, 0o700, 0, false},
		"not to be listed":      {0o644, 0o711, 0, false},
	} {
		must(t, errors.Join(os.Chmod(file, tt.mode), os.Chmod(dir, tt.dirMode), os.Chown(file, 0, tt.gid)))
		err := tree.complete(dir)
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "the app's user cannot read") {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, errors.Join(os.Chmod(file, 0o600), os.Chmod(dir, 0o700)))
	groups, err := unix.Getgroups()
	must(t, err)
	if slices.Contains(groups, 4711) {
		t.Error("the process has another user's groups now")
	}
	var all sync.WaitGroup // on as many threads as there may be
	for range 50 {
		all.Go(func() {
			if _, err := os.ReadFile(file); err != nil {
				t.Errorf("the process has lost its rights: %v", err)
			}
			if groups, err := unix.Getgroups(); err != nil || slices.Contains(groups, 4711) {
				t.Errorf("groups %v, %v", groups, err)
			}
		})
	}
	all.Wait()
	must(t, os.Remove(file))
	must(t, unix.Mkfifo(file, 0o644)) // not something to wait for
	must(t, os.Chmod(dir, 0o755))
	must(t, tree.complete(dir))
}

func TestHooks(t *testing.T) {
	tree := newTree(t, "r1", "r2")
	r1, r2 := tree.generation(1, "r1"), tree.generation(2, "r2")
	tree.Before, tree.After = Hook{Command: []string{"migrate"}, Timeout: time.Minute}, Hook{Command: []string{"warm"}}
	var ran []string
	var hookErr error
	tree.RunHook = func(ctx context.Context, h Hook, g Generation, env []string) error {
		ran = append(ran, h.Command[0]+" "+g.Release+" "+strings.Join(env, " "))
		if _, limited := ctx.Deadline(); limited != (h.Timeout > 0) {
			t.Errorf("%s has a deadline: %v", h.Command[0], limited)
		}
		return hookErr
	}
	ctx := about(t.Context(), &Record{ID: "s1", Kind: KindSwitch})
	must(t, tree.Prepare(ctx, r1, r2))
	must(t, tree.Finish(ctx, r1, r2))
	env := fmt.Sprintf("SUPERD_APP=shop SUPERD_RELEASE=r2 SUPERD_RELEASE_DIR=%s SUPERD_FROM=r1 SUPERD_TO=r2 SUPERD_SWITCH_ID=s1 SUPERD_ACTION=switch", r2.Dir)
	if diff := cmp.Diff([]string{"migrate r2 " + env, "warm r2 " + env}, ran); diff != "" {
		t.Error(diff)
	}
	ran = nil
	must(t, tree.Prepare(about(t.Context(), &Record{ID: "s2", Kind: KindRollback}), r2, r1))
	if len(ran) != 0 {
		t.Errorf("a rollback has migrated: %q", ran)
	}
	hookErr = errTrouble
	if err := tree.Prepare(ctx, r1, r2); !errors.Is(err, errTrouble) || !strings.Contains(err.Error(), `before hook "migrate"`) {
		t.Error(err)
	}
	tree.Before.Timeout = time.Nanosecond
	tree.RunHook = func(ctx context.Context, _ Hook, _ Generation, _ []string) error { <-ctx.Done(); return ctx.Err() }
	if err := tree.Prepare(ctx, r1, r2); err == nil || !strings.Contains(err.Error(), "its timeout of 1ns") {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	all := []string{"r1", "r2", "r3", "r4", "r5", "r6", "r7"}
	for name, tt := range map[string]struct {
		keep     int
		from, to string
		good     []string
		inUse    []string
		link     string
		want     []string
	}{
		"off":                  {0, "r5", "r6", nil, nil, "r6", all},
		"three":                {3, "r5", "r6", nil, nil, "r6", []string{"r4", "r5", "r6", "r7"}},
		"good ones first":      {3, "r5", "r6", []string{"r5", "r2", "r1"}, nil, "r6", []string{"r2", "r5", "r6", "r7"}},
		"in use":               {2, "r5", "r6", nil, []string{"r1"}, "r6", []string{"r1", "r5", "r6", "r7"}},
		"the link":             {2, "r5", "r6", nil, nil, "r3", []string{"r3", "r5", "r6", "r7"}},
		"newer ones stay":      {1, "r2", "r3", nil, nil, "r3", []string{"r2", "r3", "r4", "r5", "r6", "r7"}},
		"back to an older one": {1, "r6", "r5", nil, nil, "r5", []string{"r5", "r6", "r7"}},
		"a restart":            {1, "r6", "r6", []string{"r6", "r3"}, nil, "r6", []string{"r3", "r6", "r7"}},
		"more than there are":  {20, "r5", "r6", nil, nil, "r6", all},
		"the first":            {1, "", "r6", nil, nil, "r6", []string{"r6", "r7"}},
		"gone good ones":       {3, "r5", "r6", []string{"r9", "r8", "r1"}, nil, "r6", []string{"r1", "r5", "r6", "r7"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := newTree(t, all...)
			tree.KeepReleases = tt.keep
			must(t, os.Remove(tree.current()))
			must(t, os.Symlink("releases/"+tt.link, tree.current()))
			tree.Good = func() (good []Generation) {
				for _, name := range tt.good {
					good = append(good, tree.generation(1, name))
				}
				return good
			}
			tree.InUse = func() map[string]bool {
				used := map[string]bool{}
				for _, name := range tt.inUse {
					used[tree.dir(name)] = true
				}
				return used
			}
			from := Generation{}
			if tt.from != "" {
				from = tree.generation(1, tt.from)
			}
			must(t, tree.Finish(t.Context(), from, tree.generation(2, tt.to)))
			entries, err := os.ReadDir(tree.releases())
			must(t, err)
			var left []string
			for _, e := range entries {
				left = append(left, e.Name())
			}
			if diff := cmp.Diff(tt.want, left); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Pruning follows no link out of the releases, takes away what a crash has left, and
// deletes nothing while it cannot tell where the link leads.
func TestPruneStaysInside(t *testing.T) {
	tree := newTree(t, "r1", "r2", "r3")
	outside := filepath.Join(tree.Root, "shared")
	must(t, os.MkdirAll(filepath.Join(outside, "uploads"), 0o755))
	must(t, os.Symlink(outside, filepath.Join(tree.releases(), "r1", "storage")))
	must(t, os.Symlink(outside, filepath.Join(tree.releases(), "aaa")))
	must(t, os.Chtimes(filepath.Join(tree.releases(), "r1"), time.Unix(1, 0), time.Unix(1, 0)))
	must(t, os.MkdirAll(filepath.Join(tree.releases(), ".trash-r0.0", "x"), 0o755))
	must(t, os.MkdirAll(filepath.Join(tree.releases(), ".trash-r1.0"), 0o755))
	tree.KeepReleases = 1
	to, from := tree.generation(3, "r3"), tree.generation(2, "r2")

	must(t, errors.Join(os.Remove(tree.current()), os.Symlink("current", tree.current())))
	if err := tree.Finish(t.Context(), from, to); err == nil {
		t.Error("pruned with a link that is a loop")
	}
	if _, err := os.Stat(tree.dir("r1")); err != nil {
		t.Error(err)
	}
	must(t, errors.Join(os.Remove(tree.current()), os.Symlink("releases/r3", tree.current())))
	must(t, tree.Finish(t.Context(), from, to))
	entries, err := os.ReadDir(tree.releases())
	must(t, err)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"aaa", "r2", "r3"}, left); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(outside, "uploads")); err != nil {
		t.Error(err)
	}
}

// Who deploys owns the root of the app and puts a link to everybody's homes in the place
// of the releases: nothing there is a release, is listed, or is deleted as an old one.
// What root has linked there, another disk, say, is used as before.
func TestReleasesLeadOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give links to others")
	}
	tree := newTree(t, "r1", "r2", "r3")
	homes, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	for _, name := range []string{"alice", "bob", "carol"} {
		must(t, os.MkdirAll(filepath.Join(homes, name, "mail"), 0o700))
	}
	must(t, os.Rename(tree.releases(), tree.releases()+".own"))
	must(t, os.Symlink(homes, tree.releases()))
	tree.KeepReleases = 1
	from, to := Generation{1, "bob", filepath.Join(homes, "bob")}, Generation{2, "carol", filepath.Join(homes, "carol")}
	all := func() string {
		entries, err := os.ReadDir(homes)
		must(t, err)
		return fmt.Sprint(entries)
	}
	before := all()

	must(t, os.Lchown(tree.releases(), 12345, 12345))
	if g, err := tree.Resolve("alice"); !errors.Is(err, beneath.ErrOutside) {
		t.Errorf("a home is the release %+v: %v", g, err)
	}
	if g, err := tree.Resolve("latest"); !errors.Is(err, beneath.ErrOutside) {
		t.Errorf("the latest release is %+v: %v", g, err)
	}
	if err := tree.Finish(t.Context(), from, to); !errors.Is(err, beneath.ErrOutside) {
		t.Errorf("pruned: %v", err)
	}
	if now := all(); now != before {
		t.Errorf("there were %s, and are %s", before, now)
	}
	must(t, os.Lchown(tree.releases(), 0, 0))
	if g, err := tree.Resolve("alice"); err != nil || g.Dir != filepath.Join(homes, "alice") {
		t.Errorf("behind a link of root's: %+v, %v", g, err)
	}
}

// smallDisk is a file system of its own that can be filled.
func smallDisk(t *testing.T) (dir string, fill func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, unix.Mount("small", dir, "tmpfs", 0, "size=2m,nr_inodes=200"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func() {
		for n := range 1000 { // first the blocks, then the inodes
			f, err := os.Create(filepath.Join(dir, fmt.Sprintf("fill-%d", n)))
			if err != nil {
				break
			}
			_, _ = f.Write(make([]byte, 4<<20))
			must(t, f.Close())
		}
		if err := os.WriteFile(filepath.Join(dir, "more"), []byte("x"), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
	}
}

// The disk of link, journal, state and history fills up at each step of a switch: it
// goes on or back all the same, and is settled when superd comes back.
func TestFullDisk(t *testing.T) {
	for _, verb := range []string{"prepare", "start", "verify", "canary", "promote", "rotate", "watch"} {
		for _, bad := range []bool{false, true} {
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s bad %v again %v", verb, bad, again), func(t *testing.T) {
					t.Parallel()
					fullDisk(t, verb, bad, again)
				})
			}
		}
	}
}

func fullDisk(t *testing.T, verb string, bad, again bool) {
	dir, fill := smallDisk(t)
	st := newStage(t)
	st.root = dir
	st.release("r1", 0)
	st.release("r2", time.Second)
	st.point2("r1")
	st.up()
	defer func() { st.down() }()
	st.settled()
	st.hang(verb, "r2")
	fill()
	want := "r2"
	st.lock.Lock()
	if bad {
		st.broken["watch r2"] = errTrouble
		want = "r1"
	}
	st.lock.Unlock()
	if again || verb == "prepare" {
		st.down() // and the disk stays full
		st.up()
		if verb != "promote" && verb != "rotate" && verb != "watch" {
			want = "r1"
		}
	} else {
		st.let()
		want = "r1" // a hang that ends as an abort
	}
	st.settled()
	must(t, st.on(want))
	if len(st.History()) != 1 {
		t.Errorf("history: %+v", st.History())
	}
}

// let takes back the switch that hangs.
func (st *stage) let() { must(st.t, st.Abort(By{})) }

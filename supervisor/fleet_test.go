package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/supervisor/cgroup"
	"superd/supervisor/cgroup/cgrouptest"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/notify"
	"superd/supervisor/output"
)

const long = 60 * time.Second // this machine may be busy

// A house is a keeper and the directories that outlive a superd.
type house struct {
	dir    string
	keeper *keepertest.Keeper

	base     string                                          // a cgroup to divide, if there is one
	settings func(string, map[string]string) output.Settings // nil: the usual ones
}

func newHouse(t testing.TB) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "house") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &house{dir: dir, keeper: keepertest.Start(t)}
}

// A fleet is one superd.
type fleet struct {
	*Children
	t     testing.TB
	words *record
	ran   chan error // from Run
	leave func()
}

// A record is a log for tests.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// open is a superd that comes; leave is its death.
func (h *house) open(t testing.TB) *fleet {
	t.Helper()
	f := &fleet{t: t, words: new(record)}
	log := slog.New(slog.NewTextHandler(f.words, nil))
	ns, err := notify.Listen(filepath.Join(h.dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	store := output.Open(output.Options{Dir: filepath.Join(h.dir, "log"), Log: log, Settings: h.settings})
	var groups *cgroup.Tree
	if h.base != "" {
		if groups, err = cgroup.Open(h.base, "children", true); err != nil {
			t.Fatal(err)
		}
	}
	f.Children, err = Open(t.Context(), Options{
		Keeper: h.keeper.Socket(), State: filepath.Join(h.dir, "state"), Notify: ns, Output: store, Log: log, Groups: groups,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	f.ran = ran
	go func() { ran <- f.Run(ctx) }()
	f.leave = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		store.Close()
		ns.Close()
	})
	t.Cleanup(func() {
		f.leave()
		if t.Failed() {
			t.Logf("log of superd:\n%s", f.words)
			t.Logf("keeper:\n%s", h.keeper.Said())
		}
	})
	return f
}

func spec(name, mood string, env ...string) Spec {
	return Spec{
		Name: name, Slot: name + "@1", Argv: []string{self()}, Dir: "/", Log: name + ".log",
		Env:  append([]string{"PATH=/bin:/usr/bin", "GORACE=atexit_sleep_ms=0", "MOOD=" + mood}, env...),
		User: Credential{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())},
	}
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exe
}

// start starts a child and waits for the line that says it is there.
func (f *fleet) start(name, mood, line string) *Child {
	f.t.Helper()
	c, err := f.Start(f.t.Context(), spec(name, mood, "NOTIFY_SOCKET="+f.NotifySocket()))
	if err != nil {
		f.t.Fatal(err)
	}
	if line != "" {
		eventually(f.t, name+" says "+line, func() bool { return slices.Contains(c.Tail(100), line) })
	}
	return c
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !is(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", long, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func wait(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(long):
		t.Fatalf("not within %s: %s", long, what)
	}
}

func (h *house) log(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, "log", name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lives tells whether a process is there and not only waits to be reaped.
func lives(pid int) bool {
	s, err := readStat(pid)
	return err == nil && !s.isDead()
}

// beSuperd is a superd to be killed: it keeps three talkative children up.
func beSuperd(args []string) {
	dir, keeper := args[0], args[1]
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store := output.Open(output.Options{Dir: filepath.Join(dir, "log"), MaxSize: 300_000, Keep: 1000, Log: log})
	ctx := context.Background()
	var groups *cgroup.Tree
	if len(args) > 2 {
		var err error
		if groups, err = cgroup.Open(args[2], "children", false); err != nil {
			panic(err)
		}
	}
	c, err := Open(ctx, Options{Keeper: keeper, State: filepath.Join(dir, "state"), Output: store, Log: log, Groups: groups})
	if err != nil {
		panic(err)
	}
	for n := len(c.Adopted()); n < 3; n++ {
		if _, err := c.Start(ctx, spec(fmt.Sprint("talker-", n), "lines")); err != nil {
			panic(err)
		}
	}
	fmt.Println("up")
	if err := c.Run(ctx); err != nil {
		panic(err)
	}
}

// TestKilledSuperds kills superd again and again while its children write, and
// looks for every line once, every child once, and the right exit of each.
func TestKilledSuperds(t *testing.T) {
	h := newHouse(t)
	h.base = cgrouptest.Try(t)
	size := func() (sum int64) {
		files, _ := filepath.Glob(filepath.Join(h.dir, "log", "*"))
		for _, f := range files {
			if info, err := os.Stat(f); err == nil {
				sum += info.Size()
			}
		}
		return sum
	}
	for round := range 15 {
		before := size()
		cmd := exec.Command(self())
		cmd.Env = append(os.Environ(), "MOOD=superd "+h.dir+" "+h.keeper.Socket()+" "+h.base)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if round%3 != 2 { // every third at any moment, also while it comes
			eventually(t, "lines are moved", func() bool { return size() > before })
		}
		time.Sleep(time.Duration(round*7) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	f := h.open(t)
	for n := len(f.Adopted()); n < 3; n++ { // the killing may have come before all were there
		f.start(fmt.Sprint("talker-", n), "lines", "")
	}
	kids := f.Living()
	if len(kids) != 3 {
		t.Fatalf("%d children, want 3", len(kids))
	}
	never := map[string]bool{}
	for _, c := range kids {
		exit, killed, err := c.Stop(t.Context(), 15, long, nil)
		if err == nil && strings.HasPrefix(exit.Failure, "gate") {
			never[c.Name()] = true // the killing came before its gate was open: nothing ran
		} else if err != nil || killed || exit.Code() != 0 {
			t.Errorf("%s: %s, %v, %v", c.Name(), exit, killed, err)
		}
		if err := c.Acknowledge(); err != nil {
			t.Error(err)
		}
	}
	if h.base != "" {
		h.noLeaves(t)
	}
	f.leave()
	for n := range 3 {
		name := fmt.Sprint("talker-", n)
		if never[name] {
			if _, err := os.Stat(filepath.Join(h.dir, "log", name+".log")); err == nil {
				t.Errorf("%s never ran and has written", name)
			}
			continue
		}
		var text strings.Builder
		for old := 1000; old >= 1; old-- {
			if b, err := os.ReadFile(filepath.Join(h.dir, "log", fmt.Sprintf("%s.log.%d", name, old))); err == nil {
				text.Write(b)
			}
		}
		text.WriteString(h.log(t, name))
		lines := strings.Split(text.String(), "\n")
		for i, l := range lines[:len(lines)-1] {
			if l != fmt.Sprintf("line %06d", i) {
				t.Fatalf("%s: line %d is %q", name, i, l)
			}
		}
		if last := lines[len(lines)-1]; last != fmt.Sprintf("lines %d, no end", len(lines)-1) {
			t.Errorf("%s ends with %q after %d lines", name, last, len(lines)-1)
		}
		t.Logf("%s: %d lines", name, len(lines)-1)
	}
}

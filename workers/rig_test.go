package workers_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/notify"
	"superd/supervisor/output"
	"superd/workers"
)

// patience is how long a test waits for what is sure to come: the machine may be
// busy with other things.
const patience = 60 * time.Second

// A rig is a keeper with its workers, and one superd after another.
type rig struct {
	t      *testing.T
	keeper *keepertest.Keeper
	dir    string
	exe    string // this test, which is a worker too

	mu    sync.Mutex
	moods map[uint64]mood // by generation; well if there is none
	err   map[uint64]error
}

func newRig(t *testing.T) *rig {
	dir, err := os.MkdirTemp("", "wrk") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, keeper: keepertest.Start(t), dir: dir, exe: exe, moods: map[uint64]mood{}, err: map[uint64]error{}}
	for n := range 100 {
		if err := os.Mkdir(r.gen(n).Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rig) gen(n int) release.Generation {
	return release.Generation{Number: uint64(n), Release: fmt.Sprintf("r%d", n), Dir: filepath.Join(r.dir, fmt.Sprintf("r%d", n))}
}

func (r *rig) mood(n int, m mood) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moods[uint64(n)] = m
}

func (r *rig) file(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) make(name string) {
	r.t.Helper()
	if err := os.WriteFile(r.file(name), nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// pool is a pool of the test's workers, start-first, well when they say READY=1.
func (r *rig) pool(name string, processes int) workers.Pool {
	return workers.Pool{
		Name: name, Processes: processes, Order: workers.StartFirst, MaxDraining: 100,
		MaxParallel: func(int) int { return 2 }, MinHealthyTime: 100 * time.Millisecond,
		StopSignal: syscall.SIGTERM, StopTimeout: patience, Planned: []int{0, 12},
		Backoff: supervisor.Backoff{First: 50 * time.Millisecond, Max: time.Second, Factor: 2, ResetAfter: time.Minute},
		Proof: func(int, release.Generation) func(context.Context, *supervisor.Child) error {
			return supervisor.Notified(patience)
		},
		Spec: func(slot int, g release.Generation) (supervisor.Spec, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			m, ok := r.moods[g.Number]
			if !ok {
				m = mood{kind: well}
			}
			return supervisor.Spec{
				Argv: []string{r.exe}, Dir: g.Dir, Umask: 0o022,
				Env: append(m.env(), "PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0", "LEDGER="+r.file("ledger"), "NOTIFY_SOCKET="+r.file("notify"),
					fmt.Sprintf("WHO=%s:%d@%d", name, slot, g.Number)),
			}, r.err[g.Number]
		},
	}
}

// A superd is one life of it, as far as workers go.
type superd struct {
	*workers.Fleet
	r        *rig
	children *supervisor.Children
	crash    func() // leaves everything as it is, as a death does
	adopted  int

	mu       sync.Mutex
	events   []workers.Event
	progress int
}

func (r *rig) superd(allowed int, pools ...workers.Pool) *superd {
	t := r.t
	t.Helper()
	server, err := notify.Listen(r.file("notify"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	store := output.Open(output.Options{Dir: r.file("log"), Log: log})
	children, err := supervisor.Open(t.Context(), supervisor.Options{
		Keeper: r.keeper.Socket(), State: r.file("state"), Notify: server, Output: store, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &superd{r: r, children: children}
	s.Fleet = workers.New(workers.Options{
		App: "shop", Pools: pools, MaxFailures: allowed, Children: children, Log: log, RecycleEvery: 100 * time.Millisecond,
		Tell: func(e workers.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		},
		Progress: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.progress++
		},
	})
	for _, c := range children.Adopted() {
		if s.Adopt(c) {
			s.adopted++
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = children.Run(ctx) })
	parts.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("fleet: %v", err)
		}
	})
	s.crash = sync.OnceFunc(func() {
		cancel()
		parts.Wait()
		_ = children.Close()
		_ = store.Close()
		_ = server.Close()
	})
	t.Cleanup(s.crash)
	return s
}

// heard are the events of a kind so far.
func (s *superd) heard(kind string) []workers.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []workers.Event
	for _, e := range s.events {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

// rotate is Rotate that must not fail.
func (s *superd) rotate(n int) {
	s.r.t.Helper()
	if err := s.Rotate(s.r.t.Context(), s.r.gen(n)); err != nil {
		s.r.t.Fatal(err)
	}
}

func (s *superd) pool(name string) workers.PoolStatus {
	for _, p := range s.Status() {
		if p.Name == name {
			return p
		}
	}
	s.r.t.Fatalf("no pool %s", name)
	return workers.PoolStatus{}
}

// wholly waits until the pool has exactly n workers, all of one generation, one in
// each of the first n slots, and nothing else lives.
func (s *superd) wholly(pool string, n, generation int) {
	s.r.t.Helper()
	want := map[string]int{}
	for slot := range n {
		want[fmt.Sprintf("%s:%d@%d", pool, slot, generation)] = 1
	}
	s.r.soon(fmt.Sprintf("%s wholly on %d", pool, generation), func() string {
		have := map[string]int{}
		for _, l := range s.r.living() {
			if strings.HasPrefix(l.who, pool+":") {
				have[l.base()]++
			}
		}
		status := s.pool(pool)
		if maps.Equal(have, want) && status.Running == n && status.Draining == 0 && status.Wanted == n && len(status.Workers) == n {
			return ""
		}
		return fmt.Sprintf("alive: %v, status: %+v", have, status)
	})
}

// soon waits until ok returns "", and fails with what it last returned.
func (r *rig) soon(what string, ok func() string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		not := ok()
		if not == "" {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %s: %s", what, patience, not)
		}
	}
}

// A life is what the ledger says of one process.
type life struct {
	who        string // "emails:3@7"
	pid        int
	start, end int64
	terms      []int64
}

// base is who, with the slot that a second one of slot and generation has.
func (l life) base() string {
	pool, rest, _ := strings.Cut(l.who, ":")
	slot, gen, _ := strings.Cut(rest, "@")
	n, _ := strconv.Atoi(slot)
	return fmt.Sprintf("%s:%d@%s", pool, n%10000, gen)
}

func (l life) in(pool string) bool { return strings.HasPrefix(l.who, pool+":") }

// lives are all that was ever started, in that order.
func (r *rig) lives() []life {
	r.t.Helper()
	text, err := os.ReadFile(r.file("ledger"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	all := map[int]*life{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var at int64
		var word, who string
		var pid int
		if _, err := fmt.Sscan(line, &at, &word, &who, &pid); err != nil {
			r.t.Fatalf("ledger: %q: %v", line, err)
		}
		l := all[pid]
		if word == "start" {
			l = &life{who: who, pid: pid, start: at}
			all[pid] = l
		}
		switch word {
		case "term":
			l.terms = append(l.terms, at)
		case "end":
			l.end = at
		}
	}
	var lives []life
	for _, l := range all {
		lives = append(lives, *l)
	}
	slices.SortFunc(lives, func(a, b life) int { return cmp.Compare(a.start, b.start) })
	return lives
}

// living are those that are processes now.
func (r *rig) living() []life {
	return slices.DeleteFunc(r.lives(), func(l life) bool {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", l.pid))
		return err != nil || !strings.Contains(string(env), "LEDGER="+r.file("ledger")+"\x00")
	})
}

// fewest is the least number of workers of a pool that took jobs, that is had begun
// and were not told to go, at any instant from when there were full of them.
func (r *rig) fewest(pool string, full int) int {
	type change struct {
		at int64
		by int
	}
	var changes []change
	for _, l := range r.lives() {
		if !l.in(pool) {
			continue
		}
		changes = append(changes, change{l.start, 1})
		if len(l.terms) > 0 {
			changes = append(changes, change{l.terms[0], -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.by, a.by)) })
	count, least, reached := 0, full, false
	for _, c := range changes {
		count += c.by
		reached = reached || count >= full
		if reached {
			least = min(least, count)
		}
	}
	return least
}

// toldOnce fails if any worker was told to go more than once, or if one that a
// worker had made was told at all.
func (r *rig) toldOnce() {
	r.t.Helper()
	for _, l := range r.lives() {
		if len(l.terms) > 1 || len(l.terms) > 0 && strings.HasPrefix(l.who, "child-of-") {
			r.t.Errorf("%s (pid %d) was told to go %d times", l.who, l.pid, len(l.terms))
		}
	}
}

// again is the next superd, after the death of this one.
func (r *rig) again(s *superd, allowed int, pools ...workers.Pool) *superd {
	r.t.Helper()
	s.crash()
	return r.superd(allowed, pools...)
}

func (r *rig) fail(n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err[uint64(n)] = err
}

func (s *superd) signs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress
}

// of are all lives of a generation.
func (r *rig) of(generation int) []life {
	return slices.DeleteFunc(r.lives(), func(l life) bool { return !strings.HasSuffix(l.who, fmt.Sprintf("@%d", generation)) })
}

// count is "" when exactly n processes of a generation live.
func (r *rig) count(generation, n int) string {
	have := 0
	for _, l := range r.living() {
		if strings.HasSuffix(l.who, fmt.Sprintf("@%d", generation)) {
			have++
		}
	}
	if have == n {
		return ""
	}
	return fmt.Sprintf("%d of generation %d live, want %d", have, generation, n)
}

// draining waits until exactly n workers of all pools drain.
func (r *rig) draining(s *superd, n int) {
	r.t.Helper()
	r.soon("draining", func() string {
		have := 0
		for _, p := range s.Status() {
			have += p.Draining
		}
		if have == n {
			return ""
		}
		return fmt.Sprintf("%d drain, want %d", have, n)
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

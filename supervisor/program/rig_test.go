package program_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/output"
	"superd/supervisor/program"
)

// patience is how long a test waits for what is sure to come.
const patience = 60 * time.Second

// A rig is a machine: its disk, a keeper, and one superd after another.
type rig struct {
	t      *testing.T
	keeper *keepertest.Keeper
	dir    string
}

func newRig(t *testing.T) *rig {
	dir, err := os.MkdirTemp("", "prg") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &rig{t: t, keeper: keepertest.Start(t), dir: dir}
}

func (r *rig) file(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) touch(name string) {
	r.t.Helper()
	r.write(name, "")
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Scripts that programs of the tests are. Each writes what it does into the ledger,
// whose order is the order of what happened.
const (
	note = `note() { echo "$1 $WHO $$" >>"$LEDGER"; }; trap 'note told; exit 0' TERM; note start; `
	stay = `while :; do sleep 0.02; done`

	well   = note + `note up; echo up; ` + stay
	slow   = note + `while ! [ -e "$GO" ]; do sleep 0.02; done; note up; echo up; ` + stay // up when the file is there
	linger = note + `trap 'note told; while ! [ -e "$GO" ]; do sleep 0.02; done; note gone; exit 0' TERM; note up; echo up; ` + stay
	deaf   = note + `trap 'note told' TERM; note up; echo up; ` + stay
	fails  = note + `exit 3`
	done   = note + `exit 0`
)

// script is a program of one process that is up when it says so.
func (r *rig) script(name, text string, after ...string) program.Program {
	p := program.Program{
		Name: name, Processes: 1, Autostart: true, Restart: supervisor.Always, Planned: []int{0},
		Backoff:       supervisor.Backoff{First: 20 * time.Millisecond, Max: 100 * time.Millisecond, Factor: 2, ResetAfter: time.Minute},
		RestartWindow: time.Minute, StopSignal: syscall.SIGTERM, StopTimeout: patience,
		Proof: func(int) func(context.Context, *supervisor.Child) error {
			return supervisor.Wrote(regexp.MustCompile("^up$"), patience)
		},
		Spec: func(n int) (supervisor.Spec, error) {
			return supervisor.Spec{
				Argv: []string{"/bin/sh", "-c", text}, Dir: r.dir, Umask: 0o022,
				Env: []string{"PATH=/usr/bin:/bin", "LEDGER=" + r.file("ledger"), "GO=" + r.file("go-"+name), fmt.Sprintf("WHO=%s:%d", name, n)},
			}, nil
		},
	}
	for _, other := range after {
		if !strings.Contains(other, ".") {
			other = "program." + other
		}
		p.After = append(p.After, other)
	}
	return p
}

// A superd is one life of it, as far as programs go.
type superd struct {
	*program.Set
	r       *rig
	adopted int
	crash   func() // leaves everything as it is, as a death does

	mu     sync.Mutex
	events []program.Event
}

func (r *rig) superd(programs ...program.Program) *superd {
	return r.superdWith(func(string) bool { return true }, programs...)
}

func (r *rig) superdWith(up func(string) bool, programs ...program.Program) *superd {
	t := r.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	store := output.Open(output.Options{Dir: r.file("log"), Log: log})
	children, err := supervisor.Open(t.Context(), supervisor.Options{Keeper: r.keeper.Socket(), State: r.file("state"), Output: store, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s := &superd{r: r}
	s.Set = program.New(program.Options{
		Programs: programs, Children: children, State: r.file("programs.json"), Log: log, Up: up, RecycleEvery: 100 * time.Millisecond,
		Tell: func(e program.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
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
			t.Errorf("set: %v", err)
		}
	})
	s.crash = sync.OnceFunc(func() {
		cancel()
		parts.Wait()
		_ = children.Close()
		_ = store.Close()
	})
	t.Cleanup(s.crash)
	return s
}

// reboot ends everything, and gives the rig another keeper: what is on disk stays.
func (r *rig) reboot(s *superd) {
	r.t.Helper()
	if err := s.StopAll(r.t.Context(), func() {}); err != nil {
		r.t.Fatal(err)
	}
	s.crash()
	r.keeper.Kill()
	r.keeper = keepertest.Start(r.t)
}

// kept is what superd has left with the keeper.
func (r *rig) kept() string {
	r.t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", r.keeper.PID()))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, fd := range fds {
		if name, _ := os.Readlink(fd); strings.Contains(name, "memfd:superd-memory") {
			text, _ := os.ReadFile(fd) // it may have been put aside for the next
			return string(text)
		}
	}
	return ""
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

// is waits until a process is in a state.
func (s *superd) is(name string, state supervisor.State) program.Status {
	s.r.t.Helper()
	var now program.Status
	s.r.soon(name+" is "+string(state), func() string {
		if now = s.status(name); now.State == state {
			return ""
		}
		return fmt.Sprintf("%+v", now)
	})
	return now
}

func (s *superd) status(name string) program.Status {
	for _, st := range s.Status() {
		if st.Name == name {
			return st
		}
	}
	return program.Status{}
}

// heard are the events of a kind so far.
func (s *superd) heard(kind string) []program.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.events), func(e program.Event) bool { return e.Kind != kind })
}

// hears waits until there were n events of a kind. They are told a little later than the
// state shows.
func (s *superd) hears(kind string, n int) {
	s.r.t.Helper()
	s.r.soon(fmt.Sprintf("%d events %s", n, kind), func() string {
		if all := s.heard(kind); len(all) != n {
			return fmt.Sprintf("%d: %+v", len(all), all)
		}
		return ""
	})
}

// must is for orders that are to go well.
func (s *superd) must(results program.Results, err error) {
	s.r.t.Helper()
	if err != nil {
		s.r.t.Fatal(err)
	}
	for name, err := range results {
		if err != nil {
			s.r.t.Fatalf("%s: %v", name, err)
		}
	}
}

// ledger is what happened so far, without the PIDs: "start web:0".
func (r *rig) ledger() []string {
	text, err := os.ReadFile(r.file("ledger"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		all = append(all, f[0]+" "+f[1])
	}
	return all
}

func (r *rig) times(what string) int {
	n := 0
	for _, line := range r.ledger() {
		if line == what {
			n++
		}
	}
	return n
}

// ordered fails unless these happened in this order, whatever was between.
func (r *rig) ordered(want ...string) {
	r.t.Helper()
	rest := r.ledger()
	for _, w := range want {
		i := slices.Index(rest, w)
		if i < 0 {
			r.t.Fatalf("%q is not where it should be in %q", w, r.ledger())
		}
		rest = rest[i+1:]
	}
}

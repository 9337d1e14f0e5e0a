package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/config"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/output"
)

// A hookRig is a keeper with hooks, and one superd after another.
type hookRig struct {
	t      *testing.T
	keeper *keepertest.Keeper
	dir    string
	app    *config.App
}

// newHookRig has a before hook that runs script.
func newHookRig(t *testing.T, script string, timeout time.Duration) *hookRig {
	r := &hookRig{t: t, keeper: keepertest.Start(t), dir: t.TempDir(), app: &config.App{Name: "shop"}}
	r.app.Switch.Before = &config.Hook{Command: []string{"/bin/sh", "-c", script}, Timeout: timeout}
	return r
}

// A life is one superd, as far as hooks go.
type life struct {
	*hooks
	r     *hookRig
	crash func() // leaves everything as it is, as a death does
}

func (r *hookRig) superd() *life {
	t := r.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	store := output.Open(output.Options{Dir: filepath.Join(r.dir, "log"), Log: log})
	children, err := supervisor.Open(t.Context(), supervisor.Options{
		Keeper: r.keeper.Socket(), State: filepath.Join(r.dir, "state"), Output: store, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &hooks{around: newSurroundings(func() *config.App { return r.app }), children: children}
	for _, c := range children.Adopted() {
		if !h.adopt(c) {
			t.Errorf("%s has no owner", c.Name())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = children.Run(ctx) })
	parts.Go(func() { _ = h.Run(ctx) })
	l := &life{hooks: h, r: r, crash: sync.OnceFunc(func() {
		cancel()
		parts.Wait()
		_ = children.Close()
		_ = store.Close()
	})}
	t.Cleanup(l.crash)
	return l
}

// hook runs the app's before hook for a switch.
func (l *life) hook(ctx context.Context, id string) error {
	b := l.r.app.Switch.Before
	return l.runFor(ctx, id, release.Hook{Command: b.Command, Timeout: b.Timeout}, release.Generation{Number: 7, Release: "r42", Dir: l.r.dir}, nil)
}

// leftOver begins the hook of a switch under a superd that dies meanwhile.
func (r *hookRig) leftOver(id string) {
	r.t.Helper()
	l := r.superd()
	b := r.app.Switch.Before
	if _, err := l.begin(r.t.Context(), release.Hook{Command: b.Command, Timeout: b.Timeout}, release.Generation{Number: 7, Release: "r42", Dir: r.dir}, nil, l.slot(id)); err != nil {
		r.t.Fatal(err)
	}
	r.soon("the hook has begun", func() bool { return r.starts() == 1 })
	l.crash()
}

// starts is how often the script wrote a line to "starts".
func (r *hookRig) starts() int {
	b, _ := os.ReadFile(filepath.Join(r.dir, "starts"))
	return strings.Count(string(b), "\n")
}

func (r *hookRig) soon(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s", what)
		}
	}
}

const begins = "echo $$ >>starts; "

func TestHookLeftOverEndsAtItsTimeout(t *testing.T) {
	r := newHookRig(t, begins+"sleep 1000", 3*time.Second)
	r.leftOver("one")
	l := r.superd()
	r.soon("the hook is stopped and buried", func() bool { return len(l.running()) == 0 && len(l.children.Living()) == 0 })
	exit := l.left[l.slot("one")].Exit()
	if exit.Ran < 3*time.Second || exit.Status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %s", exit)
	}
}

func TestHookOfAnotherSwitchIsRefusedMeanwhile(t *testing.T) {
	r := newHookRig(t, begins+"until test -e go; do sleep 0.05; done", time.Hour)
	r.leftOver("one")
	l := r.superd()
	pid := l.running()[0].PID()
	err := l.hook(t.Context(), "two")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the before hook of one, to release r42, still runs (pid %d, ", pid)) {
		t.Fatalf("beside the hook of another switch: %v", err)
	}
	if p := l.problems(); len(p) != 1 || !strings.HasPrefix(p[0], fmt.Sprintf("the before hook of one still runs (pid %d, ", pid)) {
		t.Errorf("status says %q", p)
	}
	if r.starts() != 1 {
		t.Errorf("%d hooks were started", r.starts())
	}
	r.letGo()
	r.soon("the hook has ended", func() bool { return len(l.running()) == 0 })
	if err := l.hook(t.Context(), "two"); err != nil || r.starts() != 2 {
		t.Errorf("afterwards: %v, %d hooks were started", err, r.starts())
	}
	if p := l.problems(); len(p) != 0 {
		t.Errorf("status still says %q", p)
	}
}

func (r *hookRig) letGo() {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "go"), nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func TestHookOfTheSameSwitchIsWaitedFor(t *testing.T) {
	r := newHookRig(t, begins+"until test -e go; do sleep 0.05; done; echo why; exit 3", time.Hour)
	r.leftOver("one")
	l := r.superd()
	var got error
	var runs sync.WaitGroup
	runs.Go(func() { got = l.hook(t.Context(), "one") })
	r.soon("the switch goes on with it", func() bool { return len(l.running()) == 0 })
	r.letGo()
	runs.Wait()
	if got == nil || !strings.Contains(got.Error(), "exit 3") || r.starts() != 1 {
		t.Errorf("got %v, %d hooks were started", got, r.starts())
	}
}

func TestTimeOfTheSameSwitchsHookCountsFromItsBirth(t *testing.T) {
	r := newHookRig(t, begins+"sleep 1000", 4*time.Second)
	r.leftOver("one")
	l := r.superd()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	err := l.hook(ctx, "one")
	if err == nil || err.Error() != "took longer than its timeout of 4s" {
		t.Errorf("got %v", err)
	}
	if n := len(l.children.Living()); n != 0 {
		t.Errorf("%d hooks are left", n)
	}
}

func TestHookThatEndedMeanwhileIsNotRunAgain(t *testing.T) {
	r := newHookRig(t, begins+"exit 3", time.Hour)
	r.leftOver("one")
	l := r.superd()
	r.soon("the hook is buried", func() bool { return len(l.children.Living()) == 0 })
	if err := l.hook(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), "exit 3") || r.starts() != 1 {
		t.Errorf("got %v, %d hooks were started", err, r.starts())
	}
}

func TestShutdownWaitsForAHookNoLongerThanItsTimeout(t *testing.T) {
	r := newHookRig(t, begins+"sleep 1000", 3*time.Second)
	l := r.superd()
	ctx, cancel := context.WithCancelCause(t.Context())
	var got error
	var runs sync.WaitGroup
	runs.Go(func() { got = l.hook(ctx, "one") })
	r.soon("the hook has begun", func() bool { return r.starts() == 1 })
	cancel(release.ErrStopping)
	runs.Wait()
	if !errors.Is(got, release.ErrStopping) || len(l.running()) != 1 {
		t.Fatalf("got %v, and %d hooks are left to the next superd", got, len(l.running()))
	}
	bounded, cancelWait := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancelWait()
	l.wait(bounded)
	if bounded.Err() != nil || len(l.running()) != 0 {
		t.Error("the hook still runs")
	}
}

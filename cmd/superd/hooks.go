package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"superd/config"
	"superd/release"
	"superd/supervisor"
)

// hooks runs the commands around a switch. They are children of the keeper like
// everything else: a migration is not cut in half because superd died, and the next
// superd waits for it instead of starting it twice. What it may take counts from its
// birth, whoever watches, and no hook of another switch runs beside it.
type hooks struct {
	around   surroundings
	children *supervisor.Children

	mu   sync.Mutex
	left map[string]*begun // by slot: begun under an earlier superd, or to outlive this one
}

// hookPatience is how long a hook that is over its time may take to end.
const hookPatience = 10 * time.Second

// terms is what the next superd must know of a hook: the note of its child.
type terms struct {
	When    string        `json:"when,omitempty"` // "before" or "after"; empty where both are the same command
	Release string        `json:"release"`
	Timeout time.Duration `json:"timeout"` // 0: none
}

// begun is a hook that was started.
type begun struct {
	*supervisor.Child
	terms

	taken chan struct{} // closed when a switch goes on with it
	bury  func() error  // acknowledges it, once
	turn  chan struct{} // held by who waits to stop it
}

// newBegun reads the child's note. One without a note it can read has no timeout,
// but is still seen and still in the way.
func newBegun(c *supervisor.Child) *begun {
	b := &begun{Child: c, taken: make(chan struct{}), bury: sync.OnceValue(c.Acknowledge), turn: make(chan struct{}, 1)}
	if json.Unmarshal(c.Note(), &b.terms) != nil {
		b.terms = terms{}
	}
	return b
}

func (b *begun) runs() bool {
	select {
	case <-b.Exited():
		return false
	default:
		return true
	}
}

// remaining is what is left of its time; a clock set back does not make it longer.
func (b *begun) remaining() time.Duration {
	return min(b.Timeout, b.Timeout-time.Since(b.Born()))
}

// late fires when its time is over, never if it has no timeout.
func (b *begun) late() <-chan time.Time {
	if b.Timeout <= 0 {
		return nil
	}
	return time.After(b.remaining())
}

// String is "the before hook of 01J…".
func (b *begun) String() string {
	_, id, _ := strings.Cut(b.Slot(), "@")
	return "the " + strings.TrimSpace(b.When+" hook") + " of " + id
}

func (b *begun) age() time.Duration { return time.Since(b.Born()).Round(time.Second) }

// stop ends it with what it has started, also when ctx is over.
func (b *begun) stop(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*hookPatience)
	defer cancel()
	if _, _, err := b.Stop(bounded, syscall.SIGTERM, hookPatience, nil); err != nil {
		return fmt.Errorf("stop it: %w", err)
	}
	return nil
}

// await returns when it has ended, which it must in time; when a switch has taken
// it, or when ctx ends. One caller at a time holds it to that.
func (b *begun) await(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-b.Exited():
		return nil
	case <-ctx.Done():
		return nil
	}
	select {
	case <-b.Exited():
	case <-b.taken:
	case <-ctx.Done():
	case <-b.late():
		return b.stop(ctx)
	}
	return nil
}

func (h *hooks) name() string { return h.around.app().Name + "/hook" }

func (h *hooks) slot(switchID string) string { return h.name() + "@" + switchID }

// adopt takes a hook of an earlier superd.
func (h *hooks) adopt(c *supervisor.Child) bool {
	if c.Name() != h.name() {
		return false
	}
	h.leave(c)
	return true
}

// leave leaves a hook to itself.
func (h *hooks) leave(c *supervisor.Child) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left == nil {
		h.left = map[string]*begun{}
	}
	h.left[c.Slot()] = newBegun(c)
}

func (h *hooks) take(slot string) *begun {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.left[slot]
	if b != nil {
		delete(h.left, slot)
		close(b.taken)
	}
	return b
}

// running are the hooks that were left to themselves and have not ended, by slot.
func (h *hooks) running() []*begun {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*begun
	for _, slot := range slices.Sorted(maps.Keys(h.left)) {
		if b := h.left[slot]; b.runs() {
			all = append(all, b)
		}
	}
	return all
}

// problems is what status says of them.
func (h *hooks) problems() []string {
	var all []string
	for _, b := range h.running() {
		all = append(all, fmt.Sprintf("%s still runs (pid %d, %s)", b, b.PID(), b.age()))
	}
	return all
}

// Run buries the hooks of an earlier superd that no switch goes on with, and stops
// those that are over their time. How they ended stays known here, for the switch
// that may yet ask.
func (h *hooks) Run(ctx context.Context) error {
	h.mu.Lock()
	left := slices.Collect(maps.Values(h.left))
	h.mu.Unlock()
	var ended sync.WaitGroup
	for _, b := range left {
		ended.Go(func() {
			_ = b.await(ctx) // one that can't be stopped is in the way, and status says so
			select {
			case <-b.taken: // who took it buries it
			case <-ctx.Done():
			case <-b.Exited():
				_ = b.bury() // the keeper tells again if it did not hear
			}
		})
	}
	ended.Wait()
	<-ctx.Done()
	return nil
}

// wait returns when the hooks that were left to themselves have ended, at the latest
// when their time is over and they were stopped.
func (h *hooks) wait(ctx context.Context) {
	var ended sync.WaitGroup
	for _, b := range h.running() {
		ended.Go(func() { _ = b.await(ctx) }) // the keeper kills what is left when superd is gone
	}
	ended.Wait()
}

// run is release.Tree's RunHook. When ctx ends the hook is stopped, with what it
// has started, unless that is because superd stops: then it is left to the next one.
func (h *hooks) run(ctx context.Context, hook release.Hook, g release.Generation, env []string) error {
	id, _ := release.About(ctx)
	return h.runFor(ctx, id, hook, g, env)
}

func (h *hooks) runFor(ctx context.Context, id string, hook release.Hook, g release.Generation, env []string) error {
	b, err := h.begin(ctx, hook, g, env, h.slot(id))
	if err != nil {
		return err
	}
	cause := h.end(ctx, b)
	if errors.Is(cause, release.ErrStopping) {
		h.leave(b.Child)
		return cause
	}
	if cause != nil {
		if err := b.stop(ctx); err != nil {
			h.leave(b.Child)
			return err
		}
	}
	exit, last := b.Exit(), b.Tail(20)
	if err := b.bury(); err != nil {
		return err
	}
	if cause != nil {
		return explained{cause, last}
	}
	if exit.Code() != 0 {
		return explained{fmt.Errorf("%s", exit), last}
	}
	return nil
}

// end waits for the end of the hook, and is why it must be stopped if it must.
func (h *hooks) end(ctx context.Context, b *begun) error {
	if !b.runs() {
		return nil // how it ended counts, however late it is asked for
	}
	var late <-chan time.Time
	select {
	case <-b.taken: // ctx has a timeout too, but that began with this superd
		late = b.late()
	default:
	}
	select {
	case <-b.Exited():
		return nil
	case <-late:
		return fmt.Errorf("took longer than its timeout of %s", b.Timeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin starts the hook, or goes on with the one that an earlier superd started for
// the same switch. It starts none beside a hook of another switch: two migrations at
// once are what a person would never do.
func (h *hooks) begin(ctx context.Context, hook release.Hook, g release.Generation, env []string, slot string) (*begun, error) {
	if b := h.take(slot); b != nil {
		return b, nil
	}
	for _, b := range h.running() {
		return nil, fmt.Errorf("%s, to release %s, still runs (pid %d, %s): %s, or end it with `kill %d`, then switch again", b, b.Release, b.PID(), b.age(), b.advice(), b.PID())
	}
	spec, err := h.around.spec(h.name(), slot, hook.Command, 0, g, nil)
	if err != nil {
		return nil, err
	}
	spec.Env = override(spec.Env, env)
	if spec.Note, err = json.Marshal(terms{When: h.when(hook), Release: g.Release, Timeout: hook.Timeout}); err != nil {
		return nil, fmt.Errorf("note of %s: %w", h.name(), err)
	}
	c, err := h.children.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return newBegun(c), nil
}

func (b *begun) advice() string {
	if b.Timeout <= 0 {
		return "wait for its end"
	}
	return fmt.Sprintf("wait for its end, in %s at the latest", max(0, b.remaining()+hookPatience).Round(time.Second))
}

// when is which of the app's hooks it is.
func (h *hooks) when(hook release.Hook) string {
	s := h.around.app().Switch
	is := func(c *config.Hook) bool {
		return c != nil && c.Timeout == hook.Timeout && slices.Equal(c.Command, hook.Command)
	}
	switch before, after := is(s.Before), is(s.After); {
	case before && !after:
		return "before"
	case after && !before:
		return "after"
	}
	return ""
}

// override is env with the variables of more, which win.
func override(env, more []string) []string {
	named := map[string]bool{}
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		named[name] = true
	}
	kept := slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return named[name]
	})
	return append(kept, more...)
}

// explained is an error with the last lines of the process to blame.
type explained struct {
	error
	last []string
}

func (e explained) Unwrap() error       { return e.error }
func (e explained) LastLines() []string { return e.last }

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"superd/release"
	"superd/supervisor"
)

// hooks runs the commands around a switch. They are children of the keeper like
// everything else: a migration is not cut in half because superd died, and the next
// superd waits for it instead of starting it twice.
type hooks struct {
	around   surroundings
	children *supervisor.Children

	mu   sync.Mutex
	left map[string]*supervisor.Child // by slot: begun under an earlier superd, or to outlive this one
}

// hookPatience is how long a hook that is over its time may take to end.
const hookPatience = 10 * time.Second

func (h *hooks) name() string { return h.around.app.Name + "/hook" }

func (h *hooks) slot(switchID string) string { return h.name() + "@" + switchID }

// adopt takes a hook of an earlier superd.
func (h *hooks) adopt(c *supervisor.Child) bool {
	if c.Name() != h.name() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left == nil {
		h.left = map[string]*supervisor.Child{}
	}
	h.left[c.Slot()] = c
	return true
}

func (h *hooks) take(slot string) *supervisor.Child {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.left[slot]
	delete(h.left, slot)
	return c
}

// Run buries the hooks of an earlier superd that no switch goes on with. They end
// by themselves: a migration is never killed halfway.
func (h *hooks) Run(ctx context.Context) error {
	h.mu.Lock()
	var ended sync.WaitGroup
	for slot, c := range h.left {
		ended.Go(func() {
			select {
			case <-ctx.Done():
			case <-c.Exited():
				if h.take(slot) != nil {
					_ = c.Acknowledge() // the keeper tells again if it did not hear
				}
			}
		})
	}
	h.mu.Unlock()
	ended.Wait()
	<-ctx.Done()
	return nil
}

// wait returns when the hooks that were left to themselves have ended.
func (h *hooks) wait(ctx context.Context) {
	h.mu.Lock()
	left := maps.Clone(h.left)
	h.mu.Unlock()
	for _, c := range left {
		select {
		case <-c.Exited():
		case <-ctx.Done():
		}
	}
}

// run is release.Tree's RunHook. When ctx ends the hook is stopped, with what it
// has started, unless that is because superd stops: then it is left to the next one.
func (h *hooks) run(ctx context.Context, hook release.Hook, g release.Generation, env []string) error {
	id, _ := release.About(ctx)
	c, err := h.begin(ctx, hook, g, env, h.slot(id))
	if err != nil {
		return err
	}
	select {
	case <-c.Exited():
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), release.ErrStopping) {
			h.adopt(c)
			return context.Cause(ctx)
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*hookPatience)
		defer cancel()
		if _, _, err := c.Stop(bounded, syscall.SIGTERM, hookPatience, nil); err != nil {
			return fmt.Errorf("stop it: %w", err)
		}
	}
	exit, last := c.Exit(), c.Tail(20)
	if err := c.Acknowledge(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return explained{context.Cause(ctx), last}
	}
	if exit.Code() != 0 {
		return explained{fmt.Errorf("%s", exit), last}
	}
	return nil
}

func (h *hooks) begin(ctx context.Context, hook release.Hook, g release.Generation, env []string, slot string) (*supervisor.Child, error) {
	if c := h.take(slot); c != nil {
		return c, nil
	}
	spec, err := h.around.spec(h.name(), slot, hook.Command, 0, g, nil)
	if err != nil {
		return nil, err
	}
	spec.Env = override(spec.Env, env)
	return h.children.Start(ctx, spec)
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

package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/output"
)

// try is a superd with that keeper that comes into the house, if it is let in.
func (h *house) try(t *testing.T, k *keepertest.Keeper, patience time.Duration) (*Children, error) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	return Open(t.Context(), Options{
		Keeper: k.Socket(), State: filepath.Join(h.dir, "state"), Log: log,
		Output: output.Open(output.Options{Dir: filepath.Join(h.dir, "log"), Log: log}), Patience: patience, Refused: 5,
	})
}

func refused(t *testing.T, what string, c *Children, err error) {
	t.Helper()
	if !errors.Is(err, ErrStateInUse) {
		t.Errorf("%s: %v", what, err)
	}
	if err == nil {
		_ = c.Close()
	}
}

// Two superds, each with a keeper of its own, have one state directory in their
// configuration. The second would take the children of the first for what a lost keeper
// has left. It is refused, and told by whom; its keeper leaves with the code for that.
func TestStateDirectoryHasOneOwner(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	child := f.start("w", "well", "")
	second := keepertest.Start(t)
	c, err := h.try(t, second, 0)
	refused(t, "beside a superd that lives", c, err)
	if err != nil && !strings.Contains(err.Error(), h.keeper.Socket()) {
		t.Errorf("it is not told who has it: %v", err)
	}
	wait(t, "the second keeper leaves", second.Gone())
	if second.Code() != 5 {
		t.Errorf("the second keeper ends with %d", second.Code())
	}

	f.leave() // superd dies; its keeper and the child live
	c, err = h.try(t, keepertest.Start(t), 0)
	refused(t, "while there is no superd, but a keeper", c, err)
	if p, err := readStat(child.PID()); err != nil || p.isDead() {
		t.Error("the child of the first was ended")
	}
	if n := len(h.open(t).Adopted()); n != 1 {
		t.Errorf("the next superd of the first keeper adopts %d children", n)
	}
}

// The keeper is lost, and its superd lives on for a while, as one does that hangs: the
// next superd waits until it has gone. If it does not go, nothing is started.
func TestStateDirectoryOfALostKeeper(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	h.keeper.Kill()
	if err := <-f.ran; !errors.Is(err, client.ErrClosed) {
		t.Errorf("superd without a keeper: %v", err)
	}
	f.leave = func() {}
	c, err := h.try(t, keepertest.Start(t), 200*time.Millisecond)
	refused(t, "while the superd of the lost keeper lives", c, err)

	var coming sync.WaitGroup
	coming.Go(func() { c, err = h.try(t, keepertest.Start(t), long) })
	time.Sleep(200 * time.Millisecond)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	coming.Wait()
	if err != nil {
		t.Fatalf("once it is gone: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Of many superds that begin at one moment one gets the directory.
func TestOneOfManySuperds(t *testing.T) {
	h := newHouse(t)
	const many = 6
	var keepers [many]*keepertest.Keeper
	for i := range keepers {
		keepers[i] = keepertest.Start(t)
	}
	var all [many]*Children
	var errs [many]error
	var coming sync.WaitGroup
	for i, k := range keepers {
		coming.Go(func() { all[i], errs[i] = h.try(t, k, 0) })
	}
	coming.Wait()
	in := 0
	for i, err := range errs {
		switch {
		case err == nil:
			in++
			if err := all[i].Close(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, ErrStateInUse):
			t.Error(err)
		}
	}
	if in != 1 {
		t.Errorf("%d of %d got the state directory", in, many)
	}
}

// Somebody cleans up and removes the lock. The next superd of the same keeper makes
// another one, and that one counts.
func TestRemovedStateLock(t *testing.T) {
	h := newHouse(t)
	h.open(t).leave()
	if err := os.Remove(filepath.Join(h.dir, "state", "lock")); err != nil {
		t.Fatal(err)
	}
	h.open(t)
	c, err := h.try(t, keepertest.Start(t), 0)
	refused(t, "after the lock was removed and made anew", c, err)
}

// A link in the place of the lock is not followed: who may write there must not have
// superd write over another file.
func TestStateLockIsNoLink(t *testing.T) {
	h := newHouse(t)
	victim := filepath.Join(h.dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(h.dir, "state", "lock")); err != nil {
		t.Fatal(err)
	}
	c, err := h.try(t, h.keeper, 0)
	if err == nil {
		t.Error("the link was followed")
		_ = c.Close()
	}
	if got := contents(victim); got != "precious" {
		t.Errorf("the file behind the link has %q", got)
	}
}

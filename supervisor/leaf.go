package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
	"superd/supervisor/keeper/client"
)

// Where superd has a cgroup of its own, each child is born in a leaf of it, and whoever
// is in the leaf is of its tree: no session, environment or descent is asked for then.
// The leaf's name has the slot and the mark of the life, so that the next superd finds it
// again, and nobody's else.
//
// A leaf goes when its child is acknowledged, or when the last process in it has gone. One
// that a crash has left behind goes when the next superd comes.

// leafName is the leaf of a life.
func leafName(slot, mark string) string { return slot + "-" + mark }

// leafOf is the leaf of a life, nil if it has none.
func (c *Children) leafOf(slot, mark string) *cgroup.Leaf {
	if c.groups == nil || mark == "" {
		return nil
	}
	return c.groups.Leaf(leafName(slot, mark))
}

// spawn has the keeper make a child, in a leaf if there can be one. Without one it is as
// good a child: what is told of leaves is told once.
//
// A child that is alone gets none: whoever it leaves behind in one would be taken for a
// stray of it by the next superd.
func (c *Children) spawn(ctx context.Context, s client.Spec, mark string, alone bool) (*client.Child, error) {
	if c.groups == nil || alone {
		return c.keeper.Spawn(ctx, s)
	}
	leaf, err := c.groups.Make(leafName(s.Slot, mark))
	if err == nil {
		if s.Group, err = leaf.Open(); err == nil {
			var k *client.Child
			k, err = c.keeper.Spawn(ctx, s)
			_ = s.Group.Close() // it was only shown
			if err == nil {
				return k, nil
			}
		}
		c.trim(leaf)
		if s.Group != nil && !errors.Is(err, client.ErrNoGroup) {
			return nil, err
		}
	}
	if !c.leafless.Swap(true) {
		c.log.Warn("children have no cgroup of their own; they are known by session, descent and mark", "error", err)
	}
	s.Group = nil
	return c.keeper.Spawn(ctx, s)
}

// trim removes a leaf, or has sweep do so once nobody is in it.
func (c *Children) trim(l *cgroup.Leaf) {
	if l == nil || l.Remove() == nil {
		return
	}
	c.mu.Lock()
	c.litter[l.Name()] = l
	c.mu.Unlock()
	select {
	case c.littered <- struct{}{}:
	default:
	}
}

// sweepPause is how often leaves are tried that somebody still lives in after their
// child's end: what a program has left behind on purpose may live for years.
const sweepPause = 5 * time.Second

// sweep removes what trim could not, until ctx ends.
func (c *Children) sweep(ctx context.Context) {
	var next <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.littered:
		case <-next:
		}
		if next = nil; c.sweepOnce() > 0 {
			next = time.After(sweepPause)
		}
	}
}

// sweepOnce tells how many are left.
func (c *Children) sweepOnce() int {
	c.mu.Lock()
	litter := maps.Clone(c.litter)
	c.mu.Unlock()
	for name, l := range litter {
		if l.Remove() == nil {
			c.mu.Lock()
			delete(c.litter, name)
			c.mu.Unlock()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.litter)
}

// tidy looks at all leaves when a superd comes. Those of children that are known stay;
// of the others goes what is empty: superd was killed between the leaf and the birth, or
// the end and the removal. Who lives in one that is nobody's is left over from a keeper
// that is gone, if this one has kept nothing: also then when the ledger does not tell,
// for it was lost or its disk was full.
func (c *Children) tidy(kept []*client.Child) {
	if c.groups == nil {
		return
	}
	leaves, err := c.groups.Leaves()
	if err != nil {
		c.log.Warn("the cgroups of former children are not looked at", "error", err)
		return
	}
	known := map[string]bool{}
	for _, ch := range c.first {
		known[ch.leafName()] = true
	}
	for _, l := range c.leftovers {
		known[l.leafName()] = true
	}
	for _, l := range leaves {
		if known[l.Name()] {
			continue
		}
		if len(kept) == 0 {
			if x := c.inhabited(l); x != nil {
				c.leftovers = append(c.leftovers, x)
				continue
			}
		}
		c.trim(l)
	}
}

// inhabited is who lives in a leaf that nobody knows of, nil if that is nobody. The oldest
// process that leads its session stands for all; without one, the oldest.
func (c *Children) inhabited(l *cgroup.Leaf) *leftover {
	pids, err := l.PIDs()
	if err != nil {
		return nil
	}
	var main stat
	slot, mark := l.Name(), ""
	if i := strings.LastIndexByte(slot, '-'); i > 0 {
		slot, mark = slot[:i], slot[i+1:]
	}
	for _, pid := range pids {
		s, err := readStat(pid)
		if err != nil || s.isDead() {
			continue
		}
		leads, led := s.session == s.pid, main.pid != 0 && main.session == main.pid
		if main.pid == 0 || leads && !led || leads == led && s.start < main.start {
			main = s
		}
	}
	if main.pid == 0 {
		return nil
	}
	pidfd := isChild(identity{main.pid, main.start}, mark, l)
	if pidfd == nil {
		return nil
	}
	return c.leftover(identity{main.pid, main.start}, line{Slot: slot, Mark: mark, At: time.Now()}, pidfd)
}

// leafName is the name of the child's leaf, "" if it has none.
func (c *Child) leafName() string {
	if c.leaf == nil {
		return ""
	}
	return c.leaf.Name()
}

// ofLeaf is the child in whose leaf a process is, nil if that is in none.
func (c *Children) ofLeaf(pid int) *Child {
	if c.groups == nil {
		return nil
	}
	name := c.groups.Of(pid)
	if name == "" {
		return nil
	}
	return c.find(func(ch *Child) bool { return ch.leafName() == name })
}

// isIn tells whether a process is in a leaf, if there is one.
func isIn(leaf *cgroup.Leaf, pid int) bool {
	if leaf == nil {
		return false
	}
	pids, err := leaf.PIDs()
	return err == nil && slices.Contains(pids, pid)
}

// killLeaf ends everything in the leaf. It gives up as KillTree does.
func (c *Child) killLeaf(ctx context.Context) error {
	for {
		if err := c.leaf.Kill(); err != nil {
			return fmt.Errorf("kill %s: %w", c.Name(), err)
		}
		empty, err := c.leaf.Empty(100 * time.Millisecond)
		if err != nil || empty {
			return err
		}
		if ctx.Err() != nil {
			pids, err := c.leaf.PIDs()
			return errors.Join(fmt.Errorf("kill %s: processes %v are left: %w", c.Name(), pids, context.Cause(ctx)), err)
		}
	}
}

// inHand takes every process in the leaf in hand, of which pids were just seen there. The
// second look is after the pidfds are open: a PID that was given to somebody else in between
// is not in the leaf, or who has it now is of the tree as well.
func (c *Child) inHand(pids []int) (family, error) {
	var found family
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // else it is gone
			found = append(found, member{pid, fd})
		}
	}
	pids, err := c.leaf.PIDs()
	if err != nil {
		found.release()
		return nil, err
	}
	return slices.DeleteFunc(found, func(m member) bool {
		if slices.Contains(pids, m.pid) {
			return false
		}
		_ = unix.Close(m.fd) // a handle, nothing is lost
		return true
	}), nil
}

// leafPIDs are the processes of the tree, if it has a leaf that says so. Who is root may
// leave it: while the main process lives elsewhere the leaf says nothing.
func (c *Child) leafPIDs() ([]int, bool) {
	if c.leaf == nil {
		return nil, false
	}
	pids, err := c.leaf.PIDs()
	if err != nil || !slices.Contains(pids, c.proc.PID) && c.isAlive() {
		return nil, false
	}
	return pids, true
}

// isAlive tells whether the main process has not ended.
func (c *Child) isAlive() bool {
	s, err := readStat(c.proc.PID)
	return err == nil && s.start == c.proc.Start && !s.isDead()
}

// endGroups removes what can be of the leaves and of what they are in: superd is ending
// for good.
func (c *Children) endGroups() {
	if c.groups == nil {
		return
	}
	if n := c.sweepOnce(); n > 0 {
		c.log.Warn("cgroups of former children are left, for somebody lives in them", "directory", c.groups.Dir(), "count", n)
	}
	if err := c.groups.Close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("the cgroup of the children is left", "directory", c.groups.Dir(), "error", err)
	}
}

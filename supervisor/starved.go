package supervisor

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// The end of a main process is told with its reason. Of another process of a tree, a worker
// of PHP-FPM for one, only its parent hears, and it takes the next one: somebody has to
// tell people that requests are cut for want of memory. The kernel says when, to who
// watches the count of the delegated cgroup; whose it was tell the counts of the leaves,
// or without them the kernel's log.

// A Starved process was killed by the kernel for want of memory, and is no main process.
type Starved struct {
	Child *Child // of whose tree it was; nil: that is not known
	Kills int64  // how many, where the child is known
	PID   int    // where the child is not known
	Name  string // likewise: of its program, at most 15 bytes
}

// starvedEvery is how often the kernel's count is looked at where nothing tells of it and
// the log does not either: it says what was just now, and what was before.
const starvedEvery = 10 * time.Second

// watchMemory tells of starved processes until ctx ends.
func (c *Children) watchMemory(ctx context.Context) {
	watcher, err := c.watchCount()
	if err != nil {
		c.log.Warn("processes that are killed for want of memory are not told, but those that superd has started itself", "error", err)
	}
	var grown <-chan fsnotify.Event
	var look <-chan time.Time
	switch {
	case watcher != nil:
		defer func() { _ = watcher.Close() }() // a handle, nothing is lost
		grown = watcher.Events
	case !c.shortage.hasLog():
		ticker := time.NewTicker(starvedEvery)
		defer ticker.Stop()
		look = ticker.C
	default:
		return
	}
	seen := c.leafKills()
	told := uptime()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look:
			c.shortage.recently()
		case _, ok := <-grown:
			if !ok {
				return
			}
			if !c.shortage.grew() {
				continue // memory was short, and nobody had to go
			}
			if c.groups.HasMemory() {
				seen = c.tellStarvedTrees(seen)
			} else {
				told = c.tellStarvedProcesses(told)
			}
		}
	}
}

// watchCount watches the count of the delegated cgroup, nil if it is not counted.
func (c *Children) watchCount() (*fsnotify.Watcher, error) {
	if c.shortage.groups == nil {
		return nil, nil //nolint:nilnil // there is nothing to watch, which is no error
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := watcher.Add(c.groups.Events()); err != nil {
		_ = watcher.Close() // it has nothing
		return nil, err
	}
	return watcher, nil
}

// leafKills are the counts of the leaves of living children.
func (c *Children) leafKills() map[*Child]int64 {
	all := map[*Child]int64{}
	for _, ch := range c.Living() {
		if ch.leaf != nil {
			all[ch], _ = ch.leaf.OOMKills() // uncounted it is 0
		}
	}
	return all
}

// tellStarvedTrees tells whose count has grown since, and returns the counts of now. Of
// main processes their own end tells.
func (c *Children) tellStarvedTrees(seen map[*Child]int64) map[*Child]int64 {
	now := c.leafKills()
	for ch, n := range now {
		if more := n - seen[ch]; more > 0 && ch.isAlive() {
			c.starved(Starved{Child: ch, Kills: more})
		}
	}
	return now
}

// tellStarvedProcesses tells of the processes that the kernel's log names, later than that
// since boot, and returns the time of the last of them.
func (c *Children) tellStarvedProcesses(told time.Duration) time.Duration {
	main := map[int]bool{}
	for _, ch := range c.Living() {
		main[ch.PID()], main[ch.FirstPID()] = true, true
	}
	last := told
	_ = c.shortage.victims(func(v victim) bool { // a log that cannot be read says nothing
		if v.at > told && !main[v.pid] && (v.group == "" || c.groups.Has(v.group)) {
			c.starved(Starved{PID: v.pid, Name: v.name})
		}
		last = max(last, v.at)
		return true
	})
	return last
}

// uptime is now by the clock of the kernel's log.
func uptime() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

package keeper

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/pidfd"
)

// A child that was taken back from systemd's store is a child of init now: nobody but
// init is told of its end. Its pidfd tells that it has ended, and since Linux 6.15 how.

// unknownEnd is the reason of an exit whose status nobody can tell.
const unknownEnd = "it has ended, and nobody knows how: its keeper was lost"

// reapPatience is how long init may take to reap: only then the kernel tells the status.
const reapPatience = time.Second

// An orphanEnd is the pidfd of an orphan.
type orphanEnd struct{ *child }

func (o orphanEnd) ready(k *Keeper, events int16) {
	c := o.child
	if c.dead || c.pidfd < 0 {
		return
	}
	now := time.Now()
	if c.ended.IsZero() {
		c.ended = now
	}
	status, known := pidfd.Exit(c.pidfd)
	if !known && events&unix.POLLHUP == 0 && now.Sub(c.ended) < reapPatience {
		c.resting, k.soon = true, now.Add(5*time.Millisecond) // it is a zombie yet
		return
	}
	c.dead, c.at, c.status = true, c.ended.UnixNano(), status
	if !known {
		c.reason = unknownEnd
	}
	if k.table.pids[c.pid] == c {
		delete(k.table.pids, c.pid)
	}
	k.store.dirty = true
}

// ofOrphan tells whether a process is below an orphan that lives.
func (k *Keeper) ofOrphan(procs map[int]stat, pid int) bool {
	for _, c := range k.table.children {
		if c.orphan && !c.dead && descends(procs, pid, c.pid) {
			return true
		}
	}
	return false
}

// killOrphans ends the orphans at the end of the keeper, and tells how many there are.
func (k *Keeper) killOrphans() int {
	left := 0
	for _, c := range k.table.children {
		if !c.orphan || c.dead {
			continue
		}
		left++
		if err := unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			say("kill PID " + itoa(c.pid) + ": " + err.Error())
		}
	}
	return left
}

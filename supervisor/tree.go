package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// The tree of a child is every process in its cgroup, see leaf.go. Where it has none it is
// every process of its session, every process that carries
// the child's mark in its environment, and every descendant of one of those: a
// double fork leaves the family and setsid the session, but neither changes the
// environment a process was born with.

// ErrUnkillable is why KillTree gave up: a process that waits for a dead disk does
// not even hear SIGKILL before the disk answers.
var ErrUnkillable = errors.New("SIGKILL did not end them")

const (
	killPatience = 10 * time.Second
	secondLook   = 5 * time.Millisecond
)

// KillTree ends the child and everything it has started with SIGKILL, and returns
// when nothing of it is left. It gives up with ErrUnkillable after 10 s, or with
// ctx's error.
func (c *Child) KillTree(ctx context.Context) error {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, killPatience, ErrUnkillable)
	defer cancel()
	if c.leaf != nil {
		if err := c.killLeaf(ctx); err != nil || !c.isAlive() {
			return err
		}
	}
	for empty := false; ; {
		left, err := c.reach()
		if err != nil || len(left) == 0 && empty {
			return err
		}
		if empty = len(left) == 0; empty {
			// Look once more: a process that was just becoming another program had no
			// environment to know it by, and /proc is not listed in one instant.
			<-time.After(secondLook)
			continue
		}
		err = left.signal(unix.SIGKILL)
		left.waitGone(100 * time.Millisecond) // then once more: a fork may have slipped by
		pids := left.pids()
		left.release()
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("kill %s: processes %v are left: %w", c.Name(), pids, context.Cause(ctx)), err)
		}
	}
}

// killMain ends the main process with SIGKILL, and nothing else. It gives up as KillTree
// does.
func (c *Child) killMain(ctx context.Context) error {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, killPatience, ErrUnkillable)
	defer cancel()
	if err := errors.Join(c.Signal(unix.SIGKILL), signalTo(c.proc.Pidfd, unix.SIGKILL)); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill %s: %w", c.Name(), context.Cause(ctx))
	}
}

// spare makes the end of the child that of its main process alone.
func (c *Child) spare(alone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alone = alone
}

func (c *Child) isAlone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alone
}

// SignalRest sends sig to all processes of the tree but the main one: the orphans
// of a master that has died. It tells how many there were.
func (c *Child) SignalRest(sig syscall.Signal) (int, error) {
	rest, err := c.rest()
	if err != nil {
		return 0, err
	}
	defer rest.release()
	return len(rest), rest.signal(sig)
}

// rest is what lives of the tree without its main process. The caller releases it.
func (c *Child) rest() (family, error) {
	all, err := c.reach()
	if err != nil {
		return nil, err
	}
	var rest family
	main := c.PID()
	for _, m := range all {
		if m.pid == main {
			_ = unix.Close(m.fd) // a handle, nothing is lost
			continue
		}
		rest = append(rest, m)
	}
	return rest, nil
}

// A family is processes in hand: a pidfd names one process and never its successor.
type family []member

type member struct{ pid, fd int }

// reach takes every living process of the tree in hand. Each is looked at again
// after its pidfd is open, so that a PID that was given to somebody else in between
// is left alone.
func (c *Child) reach() (family, error) {
	if pids, ok := c.leafPIDs(); ok {
		return c.inHand(pids)
	}
	now, err := c.children.censuses.take()
	if err != nil {
		return nil, err
	}
	var found family
	for _, p := range c.tree(now) {
		fd, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			continue // gone
		}
		again, err := readStat(p.pid)
		if err != nil || again.start != p.start || again.isDead() {
			_ = unix.Close(fd) // of nobody we want
			continue
		}
		found = append(found, member{p.pid, fd})
	}
	return found, nil
}

func (f family) signal(sig syscall.Signal) error {
	var errs []error
	for _, m := range f {
		if err := unix.PidfdSendSignal(m.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("signal %s to process %d: %w", unix.SignalName(sig), m.pid, err))
		}
	}
	return errors.Join(errs...)
}

// waitGone returns when all are gone, or after d.
func (f family) waitGone(d time.Duration) bool {
	end := time.Now().Add(d)
	for _, m := range f {
		p := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}} // readable: it has ended
		for {
			n, err := unix.Poll(p, int(max(0, time.Until(end).Milliseconds())))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n == 0 || err != nil {
				return false
			}
			break
		}
	}
	return true
}

func (f family) pids() []int {
	var pids []int
	for _, m := range f {
		pids = append(pids, m.pid)
	}
	return pids
}

func (f family) release() {
	for _, m := range f {
		_ = unix.Close(m.fd) // a handle, nothing is lost
	}
}

// tree are the living members among those of a census.
func (c *Child) tree(now *census) []stat {
	main, there := now.procs[c.proc.PID]
	t := tree{
		census: now, pid: c.proc.PID, start: c.proc.Start, mark: c.note.Mark,
		// The number of a session is not given away while it has members: when the
		// PID has a new owner, nobody of our session is left.
		session: !there || main.start == c.proc.Start,
		seen:    map[int]bool{},
	}
	var members []stat
	for _, p := range now.procs {
		if !p.isDead() && t.has(p, 0) {
			members = append(members, p)
		}
	}
	return members
}

type tree struct {
	*census
	pid     int
	start   uint64
	mark    string
	session bool
	seen    map[int]bool
}

// has tells whether p belongs to the tree. Deeper than 64 is a loop of a table
// that was read while it changed.
func (t *tree) has(p stat, depth int) bool {
	if p.start < t.start || depth > 64 {
		return false // older than the child
	}
	if is, known := t.seen[p.pid]; known {
		return is
	}
	parent, ok := t.procs[p.parent]
	var is bool
	switch {
	case p.pid == t.pid:
		is = p.start == t.start
	case t.session && p.session == t.pid:
		is = true
	case ok && parent.start >= t.start && t.has(parent, depth+1):
		is = true
	default: // its parent is init, the keeper, or a stranger. The clock of /proc has 100
		// ticks a second: a keeper can be as young as its first child.
		is = t.carries(p.pid, t.mark)
	}
	t.seen[p.pid] = is
	return is
}

// markOf is the mark in the environment of a process, of whichever child it is.
func markOf(pid int) string {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for entry := range strings.SplitSeq(string(env), "\x00") {
		if mark, ok := strings.CutPrefix(entry, markName); ok {
			return mark
		}
	}
	return ""
}

// stat is what we read of /proc/PID/stat, see proc(5).
type stat struct {
	pid, parent, session int
	state                byte
	start                uint64 // clock ticks since boot
}

// isDead is true of what only waits for its parent to take note.
func (s stat) isDead() bool { return s.state == 'Z' || s.state == 'X' }

func processes() (map[int]stat, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make(map[int]stat, len(names))
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil {
			all[pid] = s
		}
	}
	return all, nil
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(pid, string(b))
}

// parseStat starts after the last ')': the name before it may hold anything.
func parseStat(pid int, line string) (stat, error) {
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(f) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	if len(f[0]) != 1 || !unicode.IsLetter(rune(f[0][0])) {
		return stat{}, fmt.Errorf("/proc/%d/stat has the state %q", pid, f[0])
	}
	s := stat{pid: pid, state: f[0][0]}
	var errs [3]error
	s.parent, errs[0] = strconv.Atoi(f[1])
	s.session, errs[1] = strconv.Atoi(f[3])
	s.start, errs[2] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

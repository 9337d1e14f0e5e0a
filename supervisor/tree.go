package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The tree of a child is every process of its session, every descendant, and
// every process that carries the child's slot in its environment: a double fork
// leaves the family and setsid the session, but neither changes the environment.

// KillTree ends the child and everything it has started with SIGKILL, and returns
// when nothing of it is left, or with ctx's error.
func (c *Child) KillTree(ctx context.Context) error {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	for {
		left, err := c.signalTree(unix.SIGKILL)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill %s: %d processes are left: %w", c.Name(), left, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond): // the dead need a moment to go, and a fork may have slipped by
		}
	}
}

// SignalRest sends sig to all processes of the tree but the main one: the orphans
// of a master that has died.
func (c *Child) SignalRest(sig syscall.Signal) (int, error) { return c.signalTree(sig) }

// signalTree sends sig to each process of the tree, by pidfd, and tells how many
// there were. Each is looked at again after its pidfd is open, so that a PID that
// was given to somebody else in between is left alone.
func (c *Child) signalTree(sig syscall.Signal) (int, error) {
	procs, err := processes()
	if err != nil {
		return 0, err
	}
	count := 0
	for _, p := range c.tree(procs) {
		fd, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			continue // gone
		}
		again, err := readStat(p.pid)
		if err == nil && again.start == p.start && again.state != 'Z' {
			count++
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
				count--
			}
		}
		_ = unix.Close(fd) // a read-only handle
	}
	return count, nil
}

func (c *Child) tree(procs map[int]stat) []stat {
	var members []stat
	mark := []byte(slotMark + c.proc.Slot + "\x00")
	for _, p := range procs {
		if p.start < c.proc.Start || p.state == 'Z' {
			continue
		}
		if p.pid == c.proc.PID && p.start != c.proc.Start {
			continue // the PID has a new owner
		}
		if p.session == c.proc.PID || descends(procs, p, c.proc.PID, c.proc.Start) || carries(p.pid, mark) {
			members = append(members, p)
		}
	}
	return members
}

func descends(procs map[int]stat, p stat, pid int, start uint64) bool {
	for range 64 { // deeper is a loop of a table that was read while it changed
		if p.pid == pid {
			return p.start == start
		}
		parent, ok := procs[p.parent]
		if !ok || p.parent <= 1 {
			return false
		}
		p = parent
	}
	return false
}

func carries(pid int, mark []byte) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && (bytes.HasPrefix(env, mark) || bytes.Contains(env, append([]byte{0}, mark...)))
}

// stat is what we read of /proc/PID/stat, see proc(5).
type stat struct {
	pid, parent, session int
	state                byte
	start                uint64 // clock ticks since boot
}

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
	_, rest, ok := cutLast(line, ')')
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	s := stat{pid: pid, state: f[0][0]}
	var errs [3]error
	s.parent, errs[0] = strconv.Atoi(f[1])
	s.session, errs[1] = strconv.Atoi(f[3])
	s.start, errs[2] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

package supervisor

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
	"superd/supervisor/keeper/client"
)

// A keeper that was killed leaves its children to whoever adopts orphans, and the next
// keeper knows nothing of them. The ledger does: it has every birth. What of it still
// lives is ended, in its own manner and time, before anything is started, so that there
// are never two of anything.
//
// A process is a leftover only if it is the one that the ledger means: born in this boot,
// with that PID, at that moment by the kernel's clock, and with the mark of that life in
// its environment, or in the name of its cgroup. PHP-FPM writes its title over its environment; then a blank one does,
// of a process that leads the session that it was born with. Everybody else is a
// stranger, and is not touched.

// How a leftover is ended of which the ledger says nothing.
const (
	leftoverSignal   = syscall.SIGTERM
	leftoverPatience = 90 * time.Second
)

// leftovers are the children of a keeper that is gone, in hand.
func (c *Children) findLeftovers(kept []*client.Child) []*leftover {
	known := map[identity]bool{}
	for _, k := range kept {
		known[identity{k.PID, k.Start}] = true
	}
	var all []*leftover
	for id, x := range c.ledger.living() {
		if known[id] {
			continue
		}
		if pidfd := isChild(id, x.Mark, c.leafOf(x.Slot, x.Mark)); pidfd != nil {
			all = append(all, c.leftover(id, x, pidfd))
		}
	}
	return all
}

// isChild takes the process in hand if it is the one that was born so. It is looked at
// after its pidfd is open: what is in hand is then what was looked at. leaf is that of the
// life, or nil.
func isChild(id identity, mark string, leaf *cgroup.Leaf) *os.File {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	s, err := readStat(id.PID)
	if err != nil || s.start != id.Start || s.isDead() || mark == "" || !isIn(leaf, s.pid) && !bears(s, mark) {
		_ = pidfd.Close() // a handle, nothing is lost
		return nil
	}
	return pidfd
}

// bears tells whether a process has the mark, or has written over it.
func bears(s stat, mark string) bool {
	if markOf(s.pid) == mark {
		return true
	}
	env, err := os.ReadFile("/proc/" + strconv.Itoa(s.pid) + "/environ")
	if err != nil || len(env) == 0 || s.session != s.pid {
		return false
	}
	for _, b := range env {
		if b != 0 {
			return false
		}
	}
	return true
}

// A leftover is a child without a keeper. Its exit status goes to whoever has adopted
// it, and is not known here.
type leftover struct {
	*Child
	signal  syscall.Signal
	timeout time.Duration
}

func (c *Children) leftover(id identity, x line, pidfd *os.File) *leftover {
	ch := &Child{
		children: c, note: note{Name: x.Slot, Mark: x.Mark}, exited: make(chan struct{}), words: newWords(0), made: x.At,
		proc: &client.Child{Slot: x.Slot, PID: id.PID, Start: id.Start, Born: x.At, Pidfd: pidfd},
		told: c.ledger.told(id.PID, id.Start), leaf: c.leafOf(x.Slot, x.Mark),
	}
	l := &leftover{Child: ch, signal: leftoverSignal, timeout: leftoverPatience}
	if x.Signal != 0 {
		l.signal, l.timeout = syscall.Signal(x.Signal), time.Duration(x.Timeout)
	}
	return l
}

// clear ends all leftovers, side by side, and then lets children be started.
func (c *Children) clear(ctx context.Context) {
	var ending sync.WaitGroup
	for _, l := range c.leftovers {
		c.log.Error("the keeper was lost, and this process of it is ended before anything is started", "slot", l.Slot(), "pid", l.PID(), "signal", unix.SignalName(l.signal), "timeout", l.timeout)
		ending.Go(func() {
			if err := l.end(ctx); err != nil && ctx.Err() == nil {
				c.log.Error("a process of a lost keeper does not end", "slot", l.Slot(), "pid", l.PID(), "error", err)
			}
		})
	}
	ending.Wait()
	if ctx.Err() == nil {
		close(c.cleared)
	}
}

// end tells the leftover to go, once in its life, waits, and kills what is left of its
// tree. An error that is not ctx's means that something of it lives on.
func (l *leftover) end(ctx context.Context) error {
	if l.told.IsZero() {
		l.told = time.Now()
		l.children.ledger.tell(l.proc.PID, l.proc.Start, l.told)
		if err := l.Signal(l.signal); err != nil {
			l.children.log.Warn("a process of a lost keeper cannot be told to go", "pid", l.PID(), "error", err)
		}
	}
	end := l.deadline(l.timeout)
	var watching sync.WaitGroup
	defer watching.Wait()
	watched, stop := context.WithCancel(ctx)
	defer stop()
	watching.Go(func() { l.watch(watched) })
	inTime, err := l.leaves(ctx, l.signal, &end, nil)
	switch {
	case err != nil:
		return err
	case inTime:
		err = l.endRest(ctx, l.signal, end, nil)
	default:
		err = l.KillTree(ctx)
	}
	if err == nil {
		l.children.ledger.gone(l.proc.PID, l.proc.Start)
		l.children.trim(l.leaf)
	}
	return errors.Join(err, l.proc.Pidfd.Close())
}

// watch closes exited when the process has ended. Whoever has adopted it may be slow to
// take note, so a pidfd that is readable is enough: a zombie harms nobody.
func (l *leftover) watch(ctx context.Context) {
	conn, err := l.proc.Pidfd.SyscallConn()
	if err != nil {
		return // closed: nobody waits any more
	}
	for ctx.Err() == nil {
		ended := false
		_ = conn.Control(func(fd uintptr) { // only fails once closed
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, _ := unix.Poll(p, 100)
			ended = n > 0
		})
		if ended {
			close(l.exited)
			return
		}
	}
}

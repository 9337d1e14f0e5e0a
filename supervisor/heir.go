package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/pidfd"
)

// A child may name another process of its tree its main one (MAINPID=), as a program does
// that renews itself, or goes into the background. From then on that one is signalled,
// and the life lasts as long as it does: the end of the process that was started is then
// no end, and the keeper, whose child the other has become by it, keeps it for us. Only
// the slot is still the first one's, and so is the tree.

// An heir is a main process that was named.
type heir struct {
	pid   int
	start uint64
	fd    *os.File      // pidfd; nil when it was gone before we came
	gone  chan struct{} // closed when it has ended

	// Valid once gone is closed.
	status syscall.WaitStatus
	known  bool // status is
	at     time.Time
}

const (
	// How long its parent may take to reap it: only then the kernel tells how it ended.
	reapPatience = time.Second
	// How long the process that was started may take to follow its heir.
	followPatience = time.Second
)

// name makes another process of the child's tree its main one. What is of no such is
// passed over: a child can claim to be anybody.
func (c *Child) name(pid int) {
	if pid == c.PID() {
		return
	}
	if pid == c.proc.PID { // back
		c.inherit(nil)
		return
	}
	s, err := readStat(pid)
	if err != nil || c.children.sender(pid) != c {
		return
	}
	h, err := newHeir(pid, s.start)
	if err != nil {
		return
	}
	if c.children.sender(pid) != c { // it is another one by now
		_ = h.fd.Close() // of nobody we want
		return
	}
	c.inherit(h)
}

// newHeir takes hold of a process; an error: there is no such.
func newHeir(pid int, start uint64) (*heir, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if s, err := readStat(pid); err != nil || s.start != start || s.isDead() {
		return nil, errors.Join(os.ErrProcessDone, unix.Close(fd))
	}
	return &heir{pid: pid, start: start, fd: os.NewFile(uintptr(fd), "pidfd of an heir"), gone: make(chan struct{})}, nil
}

func (c *Child) inherit(h *heir) {
	if h != nil && !c.children.tend(func() { h.watch(c) }) {
		_ = h.fd.Close() // superd lets go
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heir, c.said.Main, c.said.MainStart = h, 0, 0
	if h != nil {
		c.said.Main, c.said.MainStart = h.pid, h.start
	}
	c.unwritten = true
	c.rouse()
}

// recallHeir takes the main process that was named to an earlier superd.
func (c *Child) recallHeir() {
	if c.said.Main == 0 {
		return
	}
	h, err := newHeir(c.said.Main, c.said.MainStart)
	if err != nil {
		h = &heir{pid: c.said.Main, start: c.said.MainStart, gone: make(chan struct{}), at: time.Now()}
		close(h.gone)
	}
	c.heir = h
	if !c.told.IsZero() {
		c.toldHeir = h
	}
}

// main is the heir, nil if the process that was started is the main one itself.
func (c *Child) main() *heir {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heir
}

// watch waits for its end, and then for that of the process that was started.
func (h *heir) watch(c *Child) {
	defer func() { _ = h.fd.Close() }() // a handle, nothing is lost
	var waiting sync.WaitGroup
	defer waiting.Wait()
	over, end := context.WithCancel(context.Background()) //nolint:forbidigo // lives as long as the process, not as a request
	defer end()
	waiting.Go(func() {
		select {
		case <-c.children.stopped:
			_ = h.fd.SetReadDeadline(time.Unix(1, 0)) // fails only once closed
		case <-over.Done():
		}
	})
	if h.hasEnded() != nil {
		return
	}
	h.at = time.Now()
	for !h.known && time.Since(h.at) < reapPatience {
		h.look()
		select {
		case <-c.children.stopped:
			return // the next superd finds out
		case <-time.After(5 * time.Millisecond):
		}
	}
	close(h.gone)
	select {
	case <-c.children.stopped:
	case <-c.exited:
	case <-time.After(followPatience):
		c.mu.Lock()
		c.headless = c.heir == h
		c.mu.Unlock()
		c.rouse()
	}
}

// look asks the kernel how it has ended.
func (h *heir) look() {
	if conn, err := h.fd.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { // fails only once closed
			var status uint32
			status, h.known = pidfd.Exit(int(fd))
			h.status = syscall.WaitStatus(status)
		})
	}
}

// hasEnded returns when it has, or with the error of a deadline.
func (h *heir) hasEnded() error {
	conn, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(p, 0)
		}
		return err == nil && n > 0
	})
}

func (h *heir) signal(sig syscall.Signal) error {
	if h.fd == nil {
		return nil
	}
	return signalTo(h.fd, sig)
}

// signalTo signals by pidfd. A process that is gone is no error.
func signalTo(pidfd *os.File, sig syscall.Signal) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return nil // acknowledged: long gone
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err != nil || sent == nil || errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("signal %s: %w", unix.SignalName(sig), sent)
}

// tellHeir tells one that was named when the others had been told to go, and returns what
// is closed when the main process that was named has ended; nil: there is none to wait for.
func (c *Child) tellHeir(sig syscall.Signal) (<-chan struct{}, error) {
	c.mu.Lock()
	h, late := c.heir, !c.told.IsZero() && c.heir != c.toldHeir
	c.toldHeir = h
	followed := c.followedBy == h
	c.mu.Unlock()
	if h == nil || followed {
		return nil, nil //nolint:nilnil // a nil channel is never closed
	}
	if late {
		if err := errors.Join(h.signal(sig), h.signal(syscall.SIGCONT)); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	return h.gone, nil
}

// followed takes note that the process that was started is told, after its heir.
func (c *Child) followed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.followedBy = c.heir
}

// lastOf waits for the end of the main process that was named, whichever that is in the
// end; nil: none was. False: superd lets go before.
func (c *Child) lastOf() (*heir, bool) {
	for {
		h := c.main()
		if h == nil {
			return nil, true
		}
		select {
		case <-h.gone:
		case <-c.children.stopped:
			return nil, false
		}
		if c.main() == h {
			return h, true
		}
	}
}

// lost tells that the main process has ended and the one that was started lives on.
func (c *Child) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.headless {
		return nil
	}
	return fmt.Errorf("%s: its main process %d has ended, and %d, which named it, lives on", c.Name(), c.heir.pid, c.proc.PID)
}

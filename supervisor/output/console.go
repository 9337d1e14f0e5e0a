package output

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A console is superd's own standard output, for containers: what children write is
// shown there line by line, and still kept in memory for people. A runtime that does
// not read costs lines like a disk that is full; it holds no child up.
type console struct {
	mu   sync.Mutex
	own  *os.File
	out  int    // a descriptor that does not block, -1 until it is opened
	sock bool   // out is a socket
	owed []byte // the rest of a line that went out in part
	b    []byte
}

// pipeBuf is what a pipe takes whole or not at all (pipe(7)).
const pipeBuf = 4096

// errBusy tells that nobody reads what superd writes.
var errBusy = errors.New("nobody reads superd's standard output")

// A formattedConsole is the console with something around each line.
type formattedConsole struct {
	*console
	format Format
}

func (c formattedConsole) most() int { return longest }

// keep writes whole lines, as many at once as a pipe takes whole.
func (c formattedConsole) keep(p *port, pieces []piece) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return 0, err
	}
	if err := c.pay(); err != nil {
		return 0, err
	}
	now, kept := time.Now(), 0
	c.b = c.b[:0]
	for i, part := range pieces {
		before := len(c.b)
		c.b = c.format.append(c.b, p, part, now)
		if before == 0 || len(c.b) <= pipeBuf {
			continue
		}
		if err := c.write(c.b[:before]); err != nil {
			return kept, err
		}
		kept = i
		c.b = append(c.b[:0], c.b[before:]...)
	}
	if err := c.write(c.b); err != nil {
		return kept, err
	}
	return len(pieces), nil
}

// write writes b, or nothing of it, or owes the rest.
func (c *console) write(b []byte) error {
	n, err := c.some(b)
	if n > 0 && n < len(b) {
		c.owed = append(c.owed, b[n:]...)
		_ = c.pay() // else the next one does
		return nil
	}
	return err
}

// pay writes what is owed, as much as can be.
func (c *console) pay() error {
	for len(c.owed) > 0 {
		n, err := c.some(c.owed)
		if err != nil {
			return err
		}
		c.owed = append(c.owed[:0], c.owed[n:]...)
	}
	return nil
}

// some writes as much as there is room for within sendTime.
func (c *console) some(b []byte) (int, error) {
	for range 2 {
		n, err := ignoringEINTR(func() (int, error) {
			if c.sock {
				return unix.SendmsgN(c.out, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			}
			return unix.Write(c.out, b)
		})
		if !errors.Is(err, unix.EAGAIN) {
			return max(n, 0), err
		}
		fds := []unix.PollFd{{Fd: int32(c.out), Events: unix.POLLOUT}}
		_, _ = unix.Poll(fds, int(sendTime.Milliseconds())) // the write tells
	}
	return 0, errBusy
}

// open makes a descriptor of our own that does not block, without changing the one
// that superd and the keeper share.
func (c *console) open() error {
	if c.out >= 0 {
		return nil
	}
	raw, err := c.own.SyscallConn()
	if err != nil {
		return fmt.Errorf("open superd's standard output: %w", err)
	}
	controlled := raw.Control(func(fd uintptr) { c.out, c.sock, err = again(int(fd)) })
	return errors.Join(controlled, err)
}

func again(fd int) (out int, sock bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, false, err
	}
	kind := st.Mode & unix.S_IFMT
	// A file does not block, and whoever else writes there shares the place. A socket
	// can be told for each message.
	if kind == unix.S_IFREG || kind == unix.S_IFSOCK {
		out, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		return out, kind == unix.S_IFSOCK, err
	}
	out, err = unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("open superd's standard output again: %w", err)
	}
	return out, false, nil
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out >= 0 {
		_ = unix.Close(c.out) // nothing is buffered
	}
	c.out = -1
}

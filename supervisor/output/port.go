package output

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A port is one pipe of a life: its output, or its standard error where that is apart.
// What belongs to the moving of bytes is touched by the goroutine in run only.
type port struct {
	life   *Stream
	stream string // Stdout or Stderr, "" when both come through it
	pipe   *os.File
	room   int // how many bytes the pipe takes

	to    sink // nil: the last lines are all that is kept
	where string
	stale atomic.Bool // the settings have changed: look again before the next move

	ahead  int  // bytes that are in the pipe still and were seen already, see lineSink
	inLine bool // the line sink has stored a piece of a line that goes on

	partial []byte // the line that has no end yet, as much of it as is kept; under tail.mu
}

// A sink is where a port's bytes are kept. It never waits for long, and what it can't
// take stays in the pipe.
type sink interface {
	// take moves at most limit bytes from the pipe. The error is EAGAIN when there is
	// nothing it takes yet, EOF when there will be none, else why they can't be kept.
	// last says that the child has ended: what has no end of line is taken too.
	take(p *port, fd, limit int, last bool) (int, error)
	// failedFor is for how long nothing could be kept, 0 if the last take went well.
	failedFor() time.Duration
	// lose counts bytes that were thrown away.
	lose(n int)
	// leave is told when the port is done with it.
	leave()
}

const (
	mostAtOnce = 1 << 20 // the largest pipe superd makes
	patience   = 5 * time.Second
	retry      = 200 * time.Millisecond
)

func newPort(s *Stream, stream string, pipe *os.File) *port {
	p := &port{life: s, stream: stream, pipe: pipe, room: 64 << 10}
	p.stale.Store(true)
	p.control(func(fd int) {
		if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil {
			p.room = n
		}
	})
	return p
}

// run moves output as Stream.Run says.
func (p *port) run(ctx context.Context) {
	defer p.retarget(nil, "")
	raw, err := p.pipe.SyscallConn()
	if err != nil {
		p.life.store.Log.Error("output cannot be read", "name", p.life.tail.name, "error", err)
		return
	}
	stop := context.AfterFunc(ctx, p.interrupt)
	defer stop()
	for ctx.Err() == nil {
		var moved error
		err := raw.Read(func(fd uintptr) bool {
			_, moved = p.move(int(fd), mostAtOnce, false)
			return !errors.Is(moved, unix.EAGAIN)
		})
		switch {
		case errors.Is(moved, io.EOF):
			p.life.tail.flush(p)
			return
		case p.life.isFinished():
			p.drain()
			p.life.tail.flush(p)
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			p.life.store.Log.Error("output cannot be read", "name", p.life.tail.name, "error", err)
			return
		case moved != nil && !errors.Is(moved, unix.EAGAIN):
			p.wait(ctx)
		}
	}
}

// interrupt makes a Read that waits return. It fails only when the pipe is closed,
// which does the same.
func (p *port) interrupt() { _ = p.pipe.SetReadDeadline(time.Unix(1, 0)) }

// drain takes as many bytes as there are now, and no more: what is left of the
// tree may go on writing for ever. On a disk that is full they are lost.
func (p *port) drain() {
	p.control(func(fd int) {
		for left := pending(fd); left > 0; {
			n, err := p.move(fd, left, true)
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, io.EOF) {
				n, err = p.discard(fd, left)
			}
			if err != nil {
				return
			}
			left -= n
		}
	})
}

// move takes at most limit bytes from the pipe. The error is EAGAIN when there is
// none, EOF when there will be none, else what the sink said: then the bytes are
// in the pipe still.
func (p *port) move(fd, limit int, last bool) (int, error) {
	closed, err := readable(fd)
	if err != nil {
		return 0, err
	}
	if p.stale.CompareAndSwap(true, false) {
		p.retarget(p.life.store.sinkOf(p))
	}
	if p.to == nil {
		return p.read(fd, limit)
	}
	n, err := p.to.take(p, fd, limit, last || closed)
	if err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, io.EOF) {
		return n, err
	}
	if p.to.failedFor() >= patience || pending(fd) >= p.room/4 {
		return p.discard(fd, limit)
	}
	return 0, err
}

// retarget makes to the sink.
func (p *port) retarget(to sink, where string) {
	if p.to != nil {
		p.to.leave()
	}
	p.to, p.where, p.inLine = to, where, false
}

// wait passes the time until the sink is asked again.
func (p *port) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-p.life.ended:
	case <-time.After(retry):
	}
}

// discard takes bytes that the sink has no room for. People still see the lines.
func (p *port) discard(fd, limit int) (int, error) {
	n, err := p.read(fd, limit)
	p.to.lose(n)
	return n, err
}

func (p *port) read(fd, limit int) (int, error) {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, b[:min(limit, chunk)]) })
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	p.saw(b[:n])
	return n, nil
}

// saw shows people bytes that have left the pipe, but for those they saw before.
func (p *port) saw(b []byte) {
	known := min(p.ahead, len(b))
	p.ahead -= known
	if known < len(b) {
		p.life.tail.wrote(p, b[known:], time.Now())
	}
}

// sees shows people what is at the front of the pipe and stays there.
func (p *port) sees(b []byte) {
	if len(b) > p.ahead {
		p.life.tail.wrote(p, b[p.ahead:], time.Now())
		p.ahead = len(b)
	}
}

// skip takes n bytes that were seen off the pipe.
func (p *port) skip(fd, n int) {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	for n > 0 {
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, b[:min(n, chunk)]) })
		if err != nil || got == 0 {
			return // nobody else reads it: does not happen, and would store them twice
		}
		n, p.ahead = n-got, max(0, p.ahead-got)
	}
}

func (p *port) control(f func(fd int)) {
	raw, err := p.pipe.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // fails once the pipe is closed: nothing to do then
	}
}

const chunk = 64 << 10

// buffers are shared by all ports: thousands of children that are silent need
// none.
var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// readable has no error when the pipe holds something, EAGAIN when it does not, EOF
// when it never will again; closed when nobody can add to it. The kernel looks at the
// bytes first and at the writers then, so a last line may come between: after the last
// writer is gone we look again.
func readable(fd int) (closed bool, err error) {
	state, err := poll(fd)
	if err == nil && state&unix.POLLIN == 0 && state != 0 {
		state, err = poll(fd)
	}
	switch {
	case err != nil:
		return false, err
	case state&unix.POLLIN != 0:
		return state&unix.POLLHUP != 0, nil
	case state != 0:
		return true, io.EOF
	}
	return false, unix.EAGAIN
}

func poll(fd int) (int16, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := ignoringEINTR(func() (int, error) { return unix.Poll(p, 0) })
	return p[0].Revents, err
}

func pending(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

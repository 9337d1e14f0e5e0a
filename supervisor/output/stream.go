package output

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Stream is the output of one life of a child.
type Stream struct {
	store *Store
	tail  *tail
	file  *file // nil: the last lines are all that is kept
	pipe  *os.File
	room  int // how many bytes the pipe takes

	finish sync.Once
	ended  chan struct{} // closed by Finish

	// Under tail.mu:
	lines    ring
	partial  []byte // the line that has no end yet, as much of it as is kept
	watchers map[*watcher]struct{}
}

const (
	mostAtOnce = 1 << 20 // the largest pipe superd makes
	patience   = 5 * time.Second
	retry      = 200 * time.Millisecond
)

func newStream(s *Store, t *tail, f *file, pipe *os.File) *Stream {
	st := &Stream{
		store: s, tail: t, file: f, pipe: pipe, room: 64 << 10,
		ended: make(chan struct{}), watchers: map[*watcher]struct{}{},
	}
	st.control(func(fd int) {
		if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil {
			st.room = n
		}
	})
	return st
}

// Run moves output until nobody can write any more, until Finish, or until ctx
// ends; in that last case what is in the pipe stays there for the next superd.
// It is called once.
func (s *Stream) Run(ctx context.Context) {
	defer s.store.detach(s)
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		s.store.Log.Error("output cannot be read", "name", s.tail.name, "error", err)
		return
	}
	stop := context.AfterFunc(ctx, s.interrupt)
	defer stop()
	for ctx.Err() == nil {
		var moved error
		err := raw.Read(func(fd uintptr) bool {
			_, moved = s.move(int(fd), mostAtOnce)
			return !errors.Is(moved, unix.EAGAIN)
		})
		switch {
		case errors.Is(moved, io.EOF):
			s.tail.flush(s)
			return
		case s.isFinished():
			s.drain()
			s.tail.flush(s)
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			s.store.Log.Error("output cannot be read", "name", s.tail.name, "error", err)
			return
		case moved != nil && !errors.Is(moved, unix.EAGAIN):
			s.wait(ctx)
		}
	}
}

// Recall takes the end of the file as if this life had written it just now: a
// superd that adopts a child so knows what the child said last, and whether it has
// said what Wrote waits for. Call it before Run.
func (s *Stream) Recall() {
	if s.file != nil {
		b, at := s.file.end()
		s.tail.wrote(s, b, at)
	}
}

// Finish says that the process has ended: Run takes what is in the pipe now and
// returns, also when something that the process left behind keeps the pipe open.
func (s *Stream) Finish() {
	s.finish.Do(func() { close(s.ended) })
	s.interrupt()
}

// interrupt makes a Read that waits return. It fails only when the pipe is closed,
// which does the same.
func (s *Stream) interrupt() { _ = s.pipe.SetReadDeadline(time.Unix(1, 0)) }

func (s *Stream) isFinished() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// drain takes as many bytes as there are now, and no more: what is left of the
// tree may go on writing for ever. On a disk that is full they are lost.
func (s *Stream) drain() {
	s.control(func(fd int) {
		for left := pending(fd); left > 0; {
			n, err := s.move(fd, left)
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, io.EOF) {
				n, err = s.discard(fd, left)
			}
			if err != nil {
				return
			}
			left -= n
		}
	})
}

// move takes at most limit bytes from the pipe. The error is EAGAIN when there is
// none, EOF when there will be none, else what the disk said: then the bytes are
// in the pipe still.
func (s *Stream) move(fd, limit int) (int, error) {
	if err := readable(fd); err != nil {
		return 0, err
	}
	if s.file == nil {
		return s.read(fd, limit)
	}
	n, err := s.file.take(fd, limit, func(b []byte) { s.tail.wrote(s, b, time.Now()) })
	if err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, io.EOF) {
		return n, err
	}
	if s.file.failedFor() >= patience || pending(fd) >= s.room/4 {
		return s.discard(fd, limit)
	}
	return 0, err
}

// wait passes the time until the disk is asked again.
func (s *Stream) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.ended:
	case <-time.After(retry):
	}
}

// discard takes bytes that the file has no room for. People still see the lines.
func (s *Stream) discard(fd, limit int) (int, error) {
	n, err := s.read(fd, limit)
	s.file.lose(n)
	return n, err
}

func (s *Stream) read(fd, limit int) (int, error) {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, b[:min(limit, chunk)]) })
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	s.tail.wrote(s, b[:n], time.Now())
	return n, nil
}

func (s *Stream) control(f func(fd int)) {
	raw, err := s.pipe.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // fails once the pipe is closed: nothing to do then
	}
}

const chunk = 64 << 10

// buffers are shared by all streams: thousands of children that are silent need
// none.
var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// readable is nil when the pipe holds something, EAGAIN when it does not, EOF when
// it never will again. The kernel looks at the bytes first and at the writers then,
// so a last line may come between: after the last writer is gone we look again.
func readable(fd int) error {
	state, err := poll(fd)
	if err == nil && state&unix.POLLIN == 0 && state != 0 {
		state, err = poll(fd)
	}
	switch {
	case err != nil:
		return err
	case state&unix.POLLIN != 0:
		return nil
	case state != 0:
		return io.EOF
	}
	return unix.EAGAIN
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

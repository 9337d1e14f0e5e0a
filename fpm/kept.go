package fpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A web server may keep its connections to PHP (nginx: keepalive in the upstream and
// fastcgi_keep_conn on). It goes on asking where it was connected, so after a promotion
// its users would go on meeting the old release, and a request that comes just when an
// idle worker is told to go would be lost.
//
// So the kept connections of a generation that no longer serves are ended one by one,
// each at a moment when its worker waits for the next request, nothing is on the way,
// and the web server waits for something to happen: by a duplicate of the socket, which
// superd takes from the worker. The web server hears at once and connects anew. See
// docs/decisions/0021-kept-connections.md for what may still go wrong.

const (
	keptLook  = 3 * time.Millisecond  // how often the workers are looked at, at first
	keptLater = 50 * time.Millisecond // and after keptSoon: what is left then takes long
	keptSoon  = 5 * time.Second
	keptIdle  = time.Second            // a new connection, whose request is under way, is not silent for that long
	keptQuiet = 300 * time.Millisecond // without anyone at work there is no kept connection
)

// sight is a connection as it was first seen.
type sight struct {
	at       time.Time
	requests int // that its worker had begun
}

// waiting is a worker that reads from a connection.
type waiting struct {
	pid, fd int
	inode   uint64
}

// endKept ends the connections that are kept to s, until there is none, s serves
// again, its drain is over, or ctx ends.
func (s *server) endKept(ctx context.Context) {
	if !s.mayEndKept() {
		return
	}
	defer s.endedKept()
	seen := map[waiting]sight{}
	began := time.Now()
	busy := began
	over := time.After(s.owner.drain())
	next := time.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.left:
			return
		case <-over:
			return
		case <-next:
		}
		if s.owner.serving() == s {
			return
		}
		at, err := s.shutWaiting(ctx, seen)
		switch {
		case err != nil:
			s.tell(Note, fmt.Errorf("kept connections cannot be ended, and the web server goes on asking this release on them: %w", err))
			return
		case at > 0:
			busy = time.Now()
		case time.Since(busy) > keptQuiet:
			return
		}
		next = time.After(keptLook)
		if time.Since(began) > keptSoon {
			next = time.After(keptLater)
		}
	}
}

// mayEndKept is false while another does it.
func (s *server) mayEndKept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endsKept {
		return false
	}
	s.endsKept = true
	return true
}

func (s *server) endedKept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endsKept = false
}

// shutWaiting looks once, ends the connections of workers that wait on one they have had
// for a while, and tells how many workers have something to do.
//
// That a worker has begun another request on the same connection proves that it is a
// kept one. One that is just being made looks the same as one that is kept and not used.
func (s *server) shutWaiting(ctx context.Context, seen map[waiting]sight) (busy int, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	w, err := s.workers(ctx)
	if err != nil {
		return 1, nil // nobody knows: look again
	}
	for _, worker := range w.reading {
		on, ok := readsFrom(worker.PID)
		if !ok {
			continue
		}
		first, known := seen[on]
		switch {
		case !known:
			seen[on] = sight{time.Now(), worker.Requests}
		case worker.Requests > first.requests || time.Since(first.at) >= keptIdle:
			if err := s.shut(on); err != nil {
				return w.busy(), err
			}
		}
	}
	return w.busy(), nil
}

// readsFrom is the socket that a worker is blocked on in read(2) this very moment;
// false: it is at something else, or gone.
func readsFrom(pid int) (waiting, bool) {
	call, fd := blockedIn(pid)
	if call != unix.SYS_READ {
		return waiting{}, false
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return waiting{}, false
	}
	inode, ok := strings.CutPrefix(link, "socket:[")
	n, err := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 64)
	return waiting{pid, fd, n}, ok && err == nil
}

// blockedIn is the system call that a process is blocked in, with its first argument
// (proc_pid_syscall(5)); -1 while it runs, or when nobody may know.
func blockedIn(pid int) (call, first int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return -1, 0
	}
	if n, _ := fmt.Sscanf(string(text), "%d 0x%x", &call, &first); n != 2 {
		return -1, 0
	}
	return call, first
}

// shut ends one connection if it came by the listener of s and its worker still waits
// on it. The error is that superd is not allowed to.
func (s *server) shut(on waiting) error {
	process, err := unix.PidfdOpen(on.pid, 0)
	if err != nil {
		return nil //nolint:nilerr // it is gone, and its connection with it
	}
	defer unix.Close(process) //nolint:errcheck // nothing was written that could be lost
	fd, err := unix.PidfdGetfd(process, on.fd, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("take a worker's connection (pidfd_getfd): %w", err)
	case err != nil:
		return nil
	}
	defer unix.Close(fd) //nolint:errcheck // likewise
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Ino == on.inode && s.web.accepted(fd) {
		on.end(fd, s.web.tcp)
	}
	return nil
}

// end ends the connection fd if it is at rest on both sides. What comes between the
// last look and the end, some microseconds, is lost.
func (on waiting) end(fd int, tcp bool) {
	if !peerAtRest(fd) {
		return
	}
	if now, ok := readsFrom(on.pid); !ok || now != on {
		return
	}
	if n, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || n > 0 {
		return
	}
	if tcp {
		// A reset: nginx looks for one before it sends, and then may even repeat a POST
		// (ngx_http_upstream_test_connect).
		nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere)) //nolint:gosec // x/sys has no name for it
		return
	}
	_ = unix.Shutdown(fd, unix.SHUT_RDWR) // it only fails when the other side has ended it
}

// peerAtRest tells whether the web server's process waits for something, so that it
// hears of the end before it does anything else. Over TCP nobody knows who it is.
func peerAtRest(fd int) bool {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || peer.Pid <= 0 {
		return true
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/syscall", peer.Pid)); err != nil {
		return true // it has ended since, or is out of sight
	}
	call, _ := blockedIn(int(peer.Pid))
	return call >= 0
}

// accepted tells whether fd is a connection that came by l: it has the same name, and
// of an address of TCP that stands for many the same port.
func (l *Listener) accepted(fd int) bool {
	theirs, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	same := false
	err = l.control(func(own int) error {
		ours, err := unix.Getsockname(own)
		same = sameName(ours, theirs)
		return err
	})
	return err == nil && same
}

func sameName(listener, connection unix.Sockaddr) bool {
	switch l := listener.(type) {
	case *unix.SockaddrUnix:
		c, ok := connection.(*unix.SockaddrUnix)
		return ok && l.Name == c.Name
	case *unix.SockaddrInet4:
		c, ok := connection.(*unix.SockaddrInet4)
		return ok && l.Port == c.Port
	case *unix.SockaddrInet6:
		c, ok := connection.(*unix.SockaddrInet6)
		return ok && l.Port == c.Port
	}
	return false
}

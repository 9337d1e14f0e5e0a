package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where systemd listens for superd (superd.socket), connecting is what starts superd, and
// who connects while there is none waits. The socket is then systemd's: superd accepts.

// ErrElsewhere tells that the socket of systemd is not the one at superd's path.
var ErrElsewhere = errors.New("it is not the one at that path")

// Activated is the socket at path that systemd listens on and has passed as f, which is
// the caller's still. ErrElsewhere tells that people who come to path do not come there.
func Activated(ctx context.Context, path string, mode fs.FileMode, f *os.File) (*Socket, error) {
	s, err := activated(ctx, path, mode, f)
	if err != nil {
		return nil, fmt.Errorf("use the socket %s of systemd: %w", path, err)
	}
	return s, nil
}

func activated(ctx context.Context, path string, mode fs.FileMode, f *os.File) (*Socket, error) {
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("it is a %T", listener), listener.Close())
	}
	if err := leadsTo(ctx, path, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return Inherit(ctx, path, mode, l, lock)
}

// leadsTo tells why people who come to path would not come to l. A socket file may have
// been replaced, by a superd too; then l waits at a name that nobody finds. The kernel
// tells who listens where a connection ends, and who has made l.
func leadsTo(ctx context.Context, path string, l *net.UnixListener) error {
	if l.Addr().String() != path {
		return fmt.Errorf("%w, but at %s", ErrElsewhere, l.Addr())
	}
	maker, err := listenerOf(l)
	if err != nil {
		return err
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrElsewhere, err)
	}
	defer func() { _ = c.Close() }() // nothing was asked
	conn, _ := c.(syscall.Conn)      // as all of package net
	at, err := listenerOf(conn)
	if err == nil && at != maker {
		err = fmt.Errorf("%w: PID %d listens there", ErrElsewhere, at)
	}
	return err
}

// listenerOf is the process that has called listen(2), of a listener and of a connection
// to it (unix(7), SO_PEERCRED). It is 0 if that is of no namespace of ours.
func listenerOf(c syscall.Conn) (pid int32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var who *unix.Ucred
		if who, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed == nil {
			pid = who.Pid
		}
	})
	return pid, errors.Join(err, failed)
}

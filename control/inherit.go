package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
)

// A superd that gives way to its successor leaves it the very socket: who connects
// meanwhile waits in the socket's queue and is served by whoever accepts next. Nobody
// is refused, and there is no moment without a socket at the path.

// Hand gives the listener and the lock of the socket to who passes them on. It may
// not keep them: they stay the socket's.
func (s *Socket) Hand(to func(listener *net.UnixListener, lock *os.File) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return to(s.listener, s.lock)
}

// Path is where the socket is.
func (s *Socket) Path() string { return s.path }

// Inherit is the socket at path with what its last superd has handed on: a lock that
// two processes hold by one descriptor each is free only when both are gone. What is
// missing at the path is put back.
func Inherit(ctx context.Context, path string, mode fs.FileMode, listener net.Listener, lock *os.File) (*Socket, error) {
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("inherit socket %s: it is a %T", path, listener)
	}
	l.SetUnlinkOnClose(false)
	s := &Socket{path: path, mode: mode, lock: lock, listener: l}
	err := errors.Join(lock.Truncate(0), writeAt(lock, fmt.Sprintf("%d\n", os.Getpid())))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inherit socket %s: %w", path, err), s.Close())
	}
	s.file, err = os.Lstat(path)
	if err == nil && s.file.Mode().Type() == fs.ModeSocket {
		err = os.Chmod(path, mode)
	}
	if err != nil || !s.inPlace() {
		err = s.restore(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("inherit socket %s: %w", path, err), s.Close())
	}
	return s, nil
}

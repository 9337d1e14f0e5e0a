package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Socket is the path on which superd is spoken to. A lock beside it says whether
// a superd lives, which a socket cannot: it outlives its maker. It is bound under
// another name and renamed into place, so that there is no moment at which it is
// missing or has the wrong mode. It is never removed, not even at the end: nobody
// could tell whether it is still one's own.
type Socket struct {
	path string
	lock *os.File

	mu       sync.Mutex // guards what may change while it is kept: mode, lock, listener and file
	mode     fs.FileMode
	listener *net.UnixListener
	file     fs.FileInfo // what is at path while it is ours
}

// maxSocketPath is what the kernel takes, less the mark of the name it is bound under.
const maxSocketPath = 106

// Listen takes the socket at path, unless its superd lives, or someone else's
// program does.
func Listen(ctx context.Context, path string, mode fs.FileMode) (*Socket, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: a socket's path has at most %d bytes", path, maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	s := &Socket{path: path, mode: mode}
	var err error
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, fmt.Errorf("take socket %s: %w", path, err)
	}
	if err := s.bind(ctx); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// SetMode lets others connect than could before.
func (s *Socket) SetMode(mode fs.FileMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = mode
	if info, err := os.Lstat(s.path); err != nil || !os.SameFile(info, s.file) {
		return nil // it is missing, and comes back with this mode
	}
	if err := os.Chmod(s.path, mode); err != nil {
		return fmt.Errorf("change mode of socket: %w", err)
	}
	return nil
}

// Close lets another superd take the socket.
func (s *Socket) Close() error {
	err := s.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, s.lock.Close())
}

// lockFile locks a file and writes into it who did. A link is refused: a socket may be
// where others write, what their link leads to is none of superd's, and it is never what
// is at the path, so that this would not end.
func lockFile(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(inUse(file, err), file.Close())
		}
		if isAt(path, file) {
			return file, errors.Join(file.Truncate(0), writeAt(file, fmt.Sprintf("%d\n", os.Getpid())))
		}
		_ = file.Close() // it was removed before it was locked, and says nothing
	}
}

func inUse(file *os.File, err error) error {
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	return fmt.Errorf("it belongs to a running superd, pid %s", strings.TrimSpace(string(text[:n])))
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

// isAt tells whether path still leads to the file.
func isAt(path string, file *os.File) bool {
	here, err := os.Lstat(path)
	ours, err2 := file.Stat()
	return err == nil && err2 == nil && os.SameFile(here, ours)
}

// bind makes a socket and puts it at path. The lock is ours, so that a socket which
// nobody listens on was left by a superd that has died.
func (s *Socket) bind(ctx context.Context) error {
	if err := s.free(ctx); err != nil {
		return err
	}
	aside := s.path + "~"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make room for socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := s.place(aside); err != nil {
		return errors.Join(fmt.Errorf("put socket in place: %w", err), l.Close())
	}
	s.listener = l
	return nil
}

func (s *Socket) place(aside string) error {
	if err := os.Chmod(aside, s.mode); err != nil {
		return err
	}
	info, err := os.Lstat(aside)
	if err != nil {
		return err
	}
	s.file = info
	return os.Rename(aside, s.path)
}

// free tells what at the path must not be replaced.
func (s *Socket) free(ctx context.Context) error {
	info, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket, and is left alone", s.path)
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", s.path)
	switch {
	case err == nil:
		peer, _ := peerOf(c)
		_ = c.Close()
		return fmt.Errorf("socket %s belongs to another program that is running, pid %d", s.path, peer.PID)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("try socket: %w", err)
}

// keep puts the socket back when someone removes it, or the directory with it. What
// waits to be accepted on the old one is still served.
func (s *Socket) keep(ctx context.Context, log *slog.Logger, serve func(net.Listener)) {
	look := time.NewTicker(time.Second) // a stat, and one look at the lock
	defer look.Stop()
	var old *net.UnixListener
	complained := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if old != nil {
			_ = old.Close() // for a second nobody could find it
			old = nil
		}
		if s.inPlace() {
			complained = false
			continue
		}
		was := s.listener
		if err := s.restore(ctx); err != nil {
			if !complained {
				log.Warn("control socket is gone and cannot be put back", "path", s.path, "error", err)
			}
			complained = true
			continue
		}
		log.Warn("control socket was gone, and is back", "path", s.path)
		old = was
		serve(s.listener)
	}
}

func (s *Socket) inPlace() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.file) && isAt(s.path+".lock", s.lock)
}

func (s *Socket) restore(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	if !isAt(s.path+".lock", s.lock) {
		lock, err := lockFile(s.path + ".lock")
		if err != nil {
			return err
		}
		_ = s.lock.Close() // nobody can find it
		s.lock = lock
	}
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.file) {
		return nil
	}
	return s.bind(ctx)
}

package fpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Listener is the socket of one generation. superd makes it, PHP-FPM only
// accepts on it; so a connection that waits in its queue outlives every master.
//
// It is never wrapped in package net: that would set O_NONBLOCK on the
// description that the workers share, and a worker whose accept says EAGAIN ends,
// at full speed, for ever (main/fastcgi.c fcgi_accept_request).
type Listener struct {
	path string // or address
	file *os.File
	tcp  bool
}

// Access says who may connect to a Listener.
type Access struct {
	Mode     fs.FileMode
	UID, GID int // -1: superd's own
}

// Allow is the Access of a user and a group by name; an empty name is superd's own.
// Only root can give a socket away, anyone else lets in who the mode lets in.
func Allow(owner, group string, mode fs.FileMode) (Access, error) {
	a := Access{Mode: mode, UID: -1, GID: -1}
	if os.Geteuid() != 0 {
		return a, nil
	}
	if owner != "" {
		u, err := user.Lookup(owner)
		if err != nil {
			return a, fmt.Errorf("look up user %q: %w", owner, err)
		}
		if a.UID, err = strconv.Atoi(u.Uid); err != nil {
			return a, fmt.Errorf("user id %q: %w", u.Uid, err)
		}
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return a, fmt.Errorf("look up group %q: %w", group, err)
		}
		if a.GID, err = strconv.Atoi(g.Gid); err != nil {
			return a, fmt.Errorf("group id %q: %w", g.Gid, err)
		}
	}
	return a, nil
}

// private is for sockets that only superd connects to.
var private = Access{Mode: 0o600, UID: -1, GID: -1}

// maxSocketPath is sockaddr_un's, without the closing NUL.
const maxSocketPath = 107

// Listen makes a listening unix socket at path, in a directory that exists.
// Nobody can connect before its owner and mode are as asked for.
func Listen(path string, a Access, backlog int) (*Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path is longer than %d bytes", path, maxSocketPath)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l := &Listener{path: path, file: os.NewFile(uintptr(fd), path)}
	if err := l.open(fd, a, backlog); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

func (l *Listener) open(fd int, a Access, backlog int) error {
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.path}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := os.Lchown(l.path, a.UID, a.GID); err != nil {
		return err
	}
	if err := os.Chmod(l.path, a.Mode.Perm()); err != nil {
		return err
	}
	return os.NewSyscallError("listen", unix.Listen(fd, backlog)) // until here connect is refused
}

// inherit goes on with a listening socket that was left with the keeper.
func inherit(path string, f *os.File) *Listener { return &Listener{path: path, file: f} }

// Path is what it is bound to: a private path, or the public address.
func (l *Listener) Path() string { return l.path }

// File is the socket. It is for handing on only; it stays the Listener's.
func (l *Listener) File() *os.File { return l.file }

// Publish makes every connect to public from now on reach l, by one rename. A
// stale socket or any other file of that name is replaced; a directory is refused.
func (l *Listener) Publish(public string) error {
	if at, err := os.Lstat(public); err == nil && at.IsDir() {
		return fmt.Errorf("publish %s: it is a directory", public)
	}
	next := filepath.Join(filepath.Dir(public), "."+filepath.Base(public)+".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("publish %s: %w", public, err)
	}
	if err := os.Symlink(target(public, l.path), next); err != nil {
		return fmt.Errorf("publish %s: %w", public, err)
	}
	if err := os.Rename(next, public); err != nil {
		return fmt.Errorf("publish %s: %w", public, errors.Join(err, os.Remove(next)))
	}
	return nil
}

// target is what the link at public says. Below public's own directory it is
// relative, so that the directory can be mounted elsewhere (into a container).
func target(public, path string) string {
	rel, err := filepath.Rel(filepath.Dir(public), path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}

// publishes reports whether public is a link to path.
func publishes(public, path string) bool {
	to, err := os.Readlink(public)
	if err != nil {
		return false
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(public), to)
	}
	return filepath.Clean(to) == filepath.Clean(path)
}

// Pending reports whether a connection waits to be accepted.
func (l *Listener) Pending() (bool, error) {
	var pending bool
	err := l.control(func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(p, 0)
		}
		pending = n > 0 && p[0].Revents&unix.POLLIN != 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("poll %s: %w", l.path, err)
	}
	return pending, nil
}

// Close gives up superd's own descriptor. The socket lives on in its master and
// with the keeper; its path stays.
func (l *Listener) Close() error { return l.file.Close() }

// control runs do with the descriptor, without touching its flags.
func (l *Listener) control(do func(fd int) error) error {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

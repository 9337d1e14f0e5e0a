package keeper

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A listener is the socket and the lock that proves whose it is. A socket file
// proves nothing: it stays behind when its owner is killed.
type listener struct {
	path  string
	fd    int
	lock  int
	file  uint64    // inode of path
	pause time.Time // accept nothing before: there were no descriptors left
}

// open takes the lock and puts the socket in its place. It is bound aside, so that
// path is never a socket of the wrong mode, and never one that nobody serves
// while a keeper lives.
func (l *listener) open(path string) error {
	l.path = path
	lock, err := unix.Open(path+".lock", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return failed("open "+path+".lock", err)
	}
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer unix.Close(lock) //nolint:errcheck // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return errors.New("another keeper" + ownerOf(lock) + " serves " + path + " and holds its lock")
		}
		return failed("lock "+path+".lock", err)
	}
	l.lock = lock
	if err := errors.Join(unix.Ftruncate(lock, 0), writeAll(lock, []byte(strconv.Itoa(os.Getpid())+"\n"))); err != nil {
		return failed("write "+path+".lock", err)
	}
	return l.bind()
}

func (l *listener) bind() error {
	fresh := l.path + ".new"
	if err := unix.Unlink(fresh); err != nil && !errors.Is(err, unix.ENOENT) {
		return failed("remove "+fresh, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return failed("make a socket", err)
	}
	var st unix.Stat_t
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: fresh})
	if err == nil {
		err = unix.Chmod(fresh, 0o600) // nobody can connect before Listen
	}
	if err == nil {
		err = unix.Listen(fd, maxConns)
	}
	if err == nil {
		err = unix.Stat(fresh, &st)
	}
	if err == nil {
		err = unix.Rename(fresh, l.path)
	}
	if err != nil {
		closeFD(&fd)
		return failed("serve "+l.path, err)
	}
	if l.file != 0 {
		closeFD(&l.fd)
	}
	l.fd, l.file = fd, st.Ino
	return nil
}

// restore puts the socket back when somebody has removed it: the next superd
// would not find the keeper.
func (l *listener) restore() {
	var st unix.Stat_t
	if err := unix.Lstat(l.path, &st); err == nil && st.Ino == l.file {
		return
	}
	say("somebody has removed " + l.path + "; it is put back")
	if err := l.bind(); err != nil {
		say(err.Error())
	}
}

// close removes the socket. The lock stays: two keepers that remove it could each
// hold one.
func (l *listener) close() {
	_ = unix.Unlink(l.path) // the lock is ours, so the socket is, if it is there
	closeFD(&l.fd)
	closeFD(&l.lock)
}

// ready accepts connections. Who is on the other side is asked of the kernel: only
// the user the keeper runs as may speak with it.
func (l *listener) ready(k *Keeper, _ int16) {
	for len(k.conns) < maxConns { // the others wait in the kernel until one leaves
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			say("accept: " + err.Error())
			l.pause = time.Now().Add(time.Second)
			return
		}
		k.admit(fd)
	}
}

func (k *Keeper) admit(fd int) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || peer.Uid != uint32(os.Geteuid()) || peer.Pid <= 0 {
		closeFD(&fd)
		return
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil { // before Linux 6.5; the peer has just connected
		pidfd, err = unix.PidfdOpen(int(peer.Pid), 0)
	}
	if err != nil {
		closeFD(&fd)
		return
	}
	k.conns = append(k.conns, &conn{fd: fd, pid: int(peer.Pid), pidfd: pidfd})
}

// ownerOf reads who holds the lock, for the message.
func ownerOf(lock int) string {
	b := make([]byte, 20)
	n, err := unix.Pread(lock, b, 0)
	if err != nil || n <= 0 {
		return ""
	}
	return " (PID " + strings.TrimSpace(string(b[:n])) + ")"
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

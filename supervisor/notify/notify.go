// Package notify is the socket on which children tell how they are, in the
// language of sd_notify(3): READY=1, STATUS=, WATCHDOG=1 and their like. The
// kernel vouches for who sent a message; what is in it is only a claim.
package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxMessage is the longest message taken; systemd's limit is the same.
const maxMessage = 4096

// A Server is the socket of NOTIFY_SOCKET.
type Server struct {
	path   string
	conn   *net.UnixConn
	before *net.UnixConn // the socket of an earlier superd, with what it has not read; nil: none
	most   int           // messages that wait at it

	mu      sync.Mutex
	waiting []chan struct{} // of Settled
	lost    bool            // nobody reads any more
}

// Listen makes the socket at path, in the place of one that an earlier superd
// left there. Everyone who can reach its directory may write to it: children run
// as many users, and each message brings its sender's PID. The change is one
// rename, so that a child which lives finds the old socket or the new one.
func Listen(path string) (*Server, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make notify socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // FilePacketConn has its own
	if err := bind(fd, path); err != nil {
		return nil, fmt.Errorf("make notify socket %s: %w", path, err)
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("make notify socket %s: %w", path, err)
	}
	return &Server{path: path, conn: conn.(*net.UnixConn), most: queue()}, nil
}

// queue is how many messages wait at most at a socket that is made now: whoever speaks
// then has to wait (unix_recvq_full in the kernel's net/unix/af_unix.c).
func queue() int {
	text, err := os.ReadFile("/proc/sys/net/unix/max_dgram_qlen")
	if n, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return n + 1
	}
	return 513 // as systemd sets it
}

// bind asks for credentials before the socket has a name: no message arrives
// without them.
func bind(fd int, path string) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return err
	}
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: aside}); err != nil {
		return err
	}
	if err := os.Chmod(aside, 0o666); err != nil {
		return err
	}
	return os.Rename(aside, path)
}

// File is a duplicate of the socket, for who keeps it while superd is replaced: then
// nobody who speaks meanwhile is refused.
func (s *Server) File() (*os.File, error) { return s.conn.File() }

// Inherit takes the socket of an earlier superd, which was at the same path. Run begins
// with what was said to it and nobody has read.
func (s *Server) Inherit(f *os.File) error {
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("inherit notify socket: %w", err)
	}
	before, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.Join(fmt.Errorf("inherit notify socket: it is a %T", conn), conn.Close())
	}
	s.before = before
	return nil
}

// readBefore reads what an earlier superd has left. Nobody finds that socket any more.
func (s *Server) readBefore(hear func(Message)) {
	if s.before == nil {
		return
	}
	defer func() { _ = s.before.Close(); s.before = nil }() // it is empty
	drain(s.before, s.most, hear)
}

// drain reads what has been said, no more than so many messages, and waits for none: where
// somebody speaks without a pause it would not end.
func drain(conn *net.UnixConn, most int, hear func(Message)) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := room()
	for more := true; more && most > 0; most-- {
		err := raw.Control(func(fd uintptr) {
			n, rights, _, _, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT)
			if more = err == nil; more {
				if m := message(buf[:n], oob[:rights]); m.PID > 0 {
					hear(m)
				}
			}
		})
		more = more && err == nil
	}
}

// Path is the value of NOTIFY_SOCKET.
func (s *Server) Path() string { return s.path }

// Settled is closed when Run has given all to hear that was said before, or the socket is
// lost; not when Run was told to end. A process speaks here and ends elsewhere: who learns
// of its end waits for this, and knows its last words.
func (s *Server) Settled() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	settled := make(chan struct{})
	if s.lost {
		close(settled)
		return settled
	}
	s.waiting = append(s.waiting, settled)
	s.wake()
	return settled
}

// wake has Run look up from its reading.
func (s *Server) wake() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) } // only fails once closed

// settle hears what has been said, for those who wait for it.
func (s *Server) settle(hear func(Message)) {
	s.mu.Lock()
	settled := s.waiting
	s.waiting = nil
	_ = s.conn.SetReadDeadline(time.Time{}) // only fails once closed
	s.mu.Unlock()
	drain(s.conn, s.most, hear)
	for _, one := range settled {
		close(one)
	}
}

// lose lets go those who wait.
func (s *Server) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	for _, one := range s.waiting {
		close(one)
	}
}

// Run gives each message to hear, one at a time, until ctx ends. hear must not
// block. What is no message of sd_notify, or is too long, is dropped; descriptors
// that come along are closed.
func (s *Server) Run(ctx context.Context, hear func(Message)) error {
	s.readBefore(hear)
	stop := context.AfterFunc(ctx, s.wake)
	defer stop()
	buf, oob := room()
	for {
		m, err := receive(s.conn, buf, oob)
		switch {
		case err == nil:
			if m.PID > 0 {
				hear(m)
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.settle(hear)
			if ctx.Err() != nil { // only now: its word to wake may have been undone
				return nil
			}
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			s.lose()
			return fmt.Errorf("read notify socket: %w", err)
		default: // the kernel is short of memory; the next may be well
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func room() (buf, oob []byte) {
	return make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxRights))
}

// receive waits for what is said next.
func receive(conn *net.UnixConn, buf, oob []byte) (Message, error) {
	n, rights, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return Message{}, err
	}
	return message(buf[:n], oob[:rights]), nil
}

// message is what was said, and by whom. Its PID is 0 when it is no message.
func message(said, rights []byte) Message {
	pid := sender(rights)
	if pid <= 0 || len(said) > maxMessage {
		return Message{}
	}
	m := parse(said)
	m.PID = pid
	return m
}

// maxRights is how many descriptors one datagram can bring (SCM_MAX_FD).
const maxRights = 253

// sender takes the PID the kernel wrote beside the message, 0 if there is none,
// and closes what was sent along: a sender of BARRIER=1 waits for just that.
func sender(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	pid := 0
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, fd := range fds {
				_ = unix.Close(fd) // nobody reads or writes it
			}
		}
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(cred.Pid)
		}
	}
	return pid
}

// Close ends Run. The name stays in the directory: it may be another superd's by
// now, and Listen replaces what is there.
func (s *Server) Close() error { return s.conn.Close() }

// SessionOf is the session that process pid belongs to: children have one each.
func SessionOf(pid int) (int, error) {
	sid, err := unix.Getsid(pid)
	if err != nil {
		return 0, fmt.Errorf("session of process %d: %w", pid, err)
	}
	return sid, nil
}

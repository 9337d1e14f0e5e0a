package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"superd/release"
)

// A Peer is who is at the other end of a connection, as the kernel knows it: who it
// was when it connected, with the groups it had then. It is asked once for each
// connection, and nothing that a client sends can change it.
type Peer struct {
	PID    int
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

// errForeign: such a peer is in another PID namespace, or none of ours knows it.
var errForeign = errors.New("the peer has no process that can be named here")

func peerOf(c net.Conn) (Peer, error) {
	raw, ok := c.(syscall.Conn)
	if !ok {
		return Peer{}, fmt.Errorf("ask who connected: %T is not a socket", c)
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask who connected: %w", err)
	}
	var p Peer
	var failed error
	err = control.Control(func(fd uintptr) { p, failed = credentials(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		return Peer{}, fmt.Errorf("ask who connected: %w", err)
	}
	return p, nil
}

func credentials(fd int) (Peer, error) {
	ucred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, err
	}
	if ucred.Pid <= 0 {
		return Peer{}, errForeign
	}
	groups, err := peerGroups(fd)
	return Peer{PID: int(ucred.Pid), UID: ucred.Uid, GID: ucred.Gid, Groups: groups}, err
}

// peerGroups asks for SO_PEERGROUPS, with more room when there is not enough.
func peerGroups(fd int) ([]uint32, error) {
	for room := uint32(32); ; {
		groups := make([]uint32, room)
		size := room * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno != unix.ERANGE || size/4 <= room:
			return nil, errno
		}
		room = size / 4
	}
}

// by is how messages, the journal and the log name a peer.
func (p Peer) by() release.By {
	id := strconv.FormatUint(uint64(p.UID), 10)
	name := "uid " + id
	if u, err := user.LookupId(id); err == nil {
		name = u.Username
	}
	return release.By{UID: p.UID, User: name, PID: p.PID}
}

type peerKey struct{}

// remember puts who connected where every request of the connection finds it.
func remember(ctx context.Context, c net.Conn) context.Context {
	if known, ok := c.(*admitted); ok {
		return context.WithValue(ctx, peerKey{}, known.peer)
	}
	return ctx
}

func whoAsks(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

package keeper

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// A conn is one superd. What it is to be sent and does not fit into the socket
// waits here. While anything waits nothing is read from it: so no order can take
// away what a waiting frame refers to, and a superd that does not read can't
// make the keeper's memory grow.
type conn struct {
	fd    int
	pid   int
	pidfd int
	epoch uint64 // 0: has never commanded
	claim uint64 // ID of its claim while that is undecided
	knows uint32 // the pipes it may be sent, see wire.PipeErr

	pulse pulse

	waiting []message
	full    bool // an exit did not fit
	resting bool // the kernel was short of something: room in the socket says nothing
}

// A message is a frame with the descriptors beside it.
type message struct {
	frame wire.Frame
	fds   []int
	gate  int // the one of fds to be closed once it is sent, or -1
}

// framesAtOnce is how many frames of one connection are read before the others
// have their turn.
const framesAtOnce = 64

func (c *conn) events(k *Keeper) int16 {
	switch {
	case c.resting:
		c.resting, k.soon = false, time.Now().Add(20*time.Millisecond)
		return 0
	case len(c.waiting) > 0:
		return unix.POLLOUT
	case c.full && c == k.commander:
		return unix.POLLIN | unix.POLLOUT
	}
	return unix.POLLIN
}

func (c *conn) ready(k *Keeper, events int16) {
	if c.fd >= 0 && events&unix.POLLOUT != 0 {
		c.full = false // tellExits tries again
		k.flush(c)
	}
	for range framesAtOnce {
		if c.fd < 0 || len(c.waiting) > 0 {
			break
		}
		if !k.receive(c) {
			break
		}
	}
	if c.fd >= 0 && len(c.waiting) > 0 && events&(unix.POLLHUP|unix.POLLERR) != 0 {
		k.drop(c, "")
	}
}

// receive takes one frame and carries it out. It reports whether there may be more.
func (k *Keeper) receive(c *conn) bool {
	n, oobn, flags, _, err := unix.Recvmsg(c.fd, k.buffer[:], k.rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false
	case errors.Is(err, unix.EINTR):
		return true
	case err != nil:
		k.drop(c, "")
		return false
	}
	fds, err := wire.Rights(k.rights[:oobn])
	if err == nil && n == 0 {
		wire.CloseAll(fds)
		k.drop(c, "")
		return false
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = wire.ErrLimit
	}
	var f wire.Frame
	if err == nil {
		f, err = wire.Decode(k.buffer[:n])
	}
	if err != nil {
		wire.CloseAll(fds)
		k.drop(c, err.Error())
		return false
	}
	k.obey(c, f, fds)
	return c.fd >= 0
}

// send gives a message to a connection, now or when it has room.
func (k *Keeper) send(c *conn, m message) {
	c.waiting = append(c.waiting, m)
	if len(c.waiting) == 1 {
		k.flush(c)
	}
}

func (k *Keeper) flush(c *conn) {
	for len(c.waiting) > 0 {
		m := &c.waiting[0]
		switch k.transmit(c, m.frame, m.fds) {
		case later:
			return
		case lost:
			k.drop(c, "")
			return
		case sent:
		}
		closeFD(&m.gate)
		c.waiting[0] = message{}
		c.waiting = c.waiting[1:]
	}
	c.waiting = nil
}

// outcome is what became of a send.
type outcome int

const (
	sent outcome = iota
	later
	lost
)

// transmit is the only place where the keeper sends, and it never waits.
func (k *Keeper) transmit(c *conn, f wire.Frame, fds []int) outcome {
	b, err := f.Append(make([]byte, 0, 512))
	if err != nil {
		say(err.Error()) // every frame of ours is made of frames that were read
		return lost
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		_, err = unix.SendmsgN(c.fd, b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return sent
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return later
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ETOOMANYREFS):
			c.resting = true
			return later
		default:
			return lost
		}
	}
}

// drop ends a connection. A reason is given when it is the other side's fault.
func (k *Keeper) drop(c *conn, reason string) {
	if c.fd < 0 {
		return
	}
	if reason != "" {
		say("connection of PID " + itoa(c.pid) + " is dropped: " + reason)
	}
	closeFD(&c.fd)
	closeFD(&c.pidfd)
	for i := range c.waiting {
		closeFD(&c.waiting[i].gate) // the child behind it leaves
	}
	c.waiting = nil
	k.conns = slices.DeleteFunc(k.conns, func(o *conn) bool { return o == c })
	if c == k.claimant {
		k.claimant, k.patience = nil, time.Time{}
	}
	if c == k.commander {
		k.commander = nil
		k.succeed()
	}
}

package fpm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Queue is how many connections wait to be accepted. The kernel tells it by
// socket diagnosis (unix_diag, what `ss -xl` shows as Recv-Q); PHP-FPM's own
// figure is always 0 on a unix socket. Of a TCP socket the kernel tells by itself.
func (l *Listener) Queue() (int, error) {
	if l.tcp {
		return l.tcpQueue()
	}
	inode, err := l.inode()
	if err != nil {
		return 0, err
	}
	answer, err := diagnose(inode)
	if err != nil {
		return 0, fmt.Errorf("queue of %s: %w", l.path, err)
	}
	n, err := queueIn(answer)
	if err != nil {
		return 0, fmt.Errorf("queue of %s: %w", l.path, err)
	}
	return n, nil
}

func (l *Listener) tcpQueue() (n int, err error) {
	err = l.control(func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = int(info.Unacked) // of a listener that is its queue
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("queue of %s: %w", l.path, err)
	}
	return n, nil
}

const (
	sockDiagByFamily = 20 // linux/sock_diag.h
	showQueue        = 16 // linux/unix_diag.h UDIAG_SHOW_RQLEN
	attributeQueue   = 4  // UNIX_DIAG_RQLEN: two 32-bit numbers, of a listener the first is its queue
	diagMessage      = 16 // struct unix_diag_msg, before the attributes
)

// diagnose asks the kernel for the queue of the unix socket with that inode.
func diagnose(inode uint32) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open socket diagnosis: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written that could be lost
	var req bytes.Buffer
	order := binary.NativeEndian
	req.Write(order.AppendUint32(nil, unix.SizeofNlMsghdr+24))
	req.Write(order.AppendUint16(nil, sockDiagByFamily))
	req.Write(order.AppendUint16(nil, unix.NLM_F_REQUEST))
	req.Write(make([]byte, 8)) // sequence, port
	req.Write([]byte{unix.AF_UNIX, 0, 0, 0})
	for _, word := range []uint32{^uint32(0), inode, showQueue, ^uint32(0), ^uint32(0)} { // states, …, cookie: any
		req.Write(order.AppendUint32(nil, word))
	}
	if err := unix.Sendto(fd, req.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return answer[:n], nil
}

func queueIn(answer []byte) (int, error) {
	order := binary.NativeEndian
	if len(answer) < unix.SizeofNlMsghdr {
		return 0, fmt.Errorf("answer of %d bytes", len(answer))
	}
	if order.Uint16(answer[4:]) != sockDiagByFamily {
		return 0, fmt.Errorf("the kernel has no answer (message %d)", order.Uint16(answer[4:]))
	}
	for rest := answer[min(len(answer), unix.SizeofNlMsghdr+diagMessage):]; len(rest) >= 4; {
		size, kind := int(order.Uint16(rest)), order.Uint16(rest[2:])
		if kind == attributeQueue && size >= 8 && len(rest) >= 8 {
			return int(order.Uint32(rest[4:])), nil
		}
		if size < 4 {
			break
		}
		rest = rest[min(len(rest), (size+3)&^3):]
	}
	return 0, fmt.Errorf("the answer names no queue")
}

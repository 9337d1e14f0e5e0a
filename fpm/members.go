package fpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Who listens at a TCP address, as the kernel has it. It lists the listeners of an
// address by when they began to listen, the youngest first, or with IPv6 the oldest;
// so it proves that the number of a seat is its index. Were one missing or a stranger
// among them, connections would go to the wrong seat.

// whole tells why the seats are not exactly the listeners of the address, in order.
func (p *port) whole() error {
	var ours []uint32
	for _, l := range p.seats {
		inode, err := l.inode()
		if err != nil {
			return err
		}
		ours = append(ours, inode)
	}
	theirs, err := listening(p.at)
	if err != nil {
		return err
	}
	if slices.Equal(ours, theirs) {
		return nil
	}
	slices.Reverse(theirs)
	if slices.Equal(ours, theirs) {
		return nil
	}
	for _, inode := range theirs {
		if !slices.Contains(ours, inode) {
			return fmt.Errorf("%s listens there too", owner(inode))
		}
	}
	return fmt.Errorf("%d listeners are there, not the %d that there should be in their order", len(theirs), len(ours))
}

func (l *Listener) inode() (uint32, error) {
	var st unix.Stat_t
	if err := l.control(func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return 0, fmt.Errorf("stat socket %s: %w", l.path, err)
	}
	return uint32(st.Ino), nil //nolint:gosec // the inodes of sockets are that long
}

const (
	inetRequest = 56 // struct inet_diag_req_v2
	inetAnswer  = 72 // struct inet_diag_msg
	inetSource  = 8  // in both its address, behind the port
	inetInode   = 68
	listenState = 10 // TCP_LISTEN
)

// listening are the inodes of the sockets that listen at exactly that address.
func listening(at netip.AddrPort) ([]uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open socket diagnosis: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written that could be lost
	if err := unix.Sendto(fd, listRequest(at), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for listeners: %w", err)
	}
	var inodes []uint32
	answer := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read listeners: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return nil, fmt.Errorf("read listeners: %w", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return inodes, nil
			case m.Header.Type != sockDiagByFamily || len(m.Data) < inetAnswer:
				return nil, fmt.Errorf("read listeners: the kernel has no answer (message %d)", m.Header.Type)
			case bytes.HasPrefix(m.Data[inetSource:], at.Addr().AsSlice()):
				inodes = append(inodes, binary.NativeEndian.Uint32(m.Data[inetInode:]))
			}
		}
	}
}

// listRequest asks for all that listens at the port, of the family.
func listRequest(at netip.AddrPort) []byte {
	order := binary.NativeEndian
	req := order.AppendUint32(nil, unix.SizeofNlMsghdr+inetRequest)
	req = order.AppendUint16(req, sockDiagByFamily)
	req = order.AppendUint16(req, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req = append(req, make([]byte, 8)...) // sequence, port
	family := byte(unix.AF_INET)
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	req = append(req, family, unix.IPPROTO_TCP, 0, 0)
	req = order.AppendUint32(req, 1<<listenState)
	req = binary.BigEndian.AppendUint16(req, at.Port())
	return append(req, make([]byte, unix.SizeofNlMsghdr+inetRequest-len(req))...)
}

// owner is the process that has a socket, for people.
func owner(inode uint32) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != want {
			continue
		}
		pid := strings.Split(link, "/")[2]
		if n, err := strconv.Atoi(pid); err != nil || n == os.Getpid() {
			continue
		}
		name, _ := os.ReadFile("/proc/" + pid + "/comm") // it may have ended meanwhile
		return fmt.Sprintf("%s (PID %s)", strings.TrimSpace(string(name)), pid)
	}
	return "another program"
}

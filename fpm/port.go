package fpm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"superd/supervisor"
)

// A port is the public TCP address of an app. Every server has a listener of its own
// there, its seat. The kernel keeps the listeners of one address (SO_REUSEPORT) in an
// array, and a program of one instruction returns the index of the one that each new
// connection goes to.
//
// When a listener is closed the last one of the array moves into the hole. So no seat
// is closed while a server has one: seats are numbered in the order in which they
// began to listen, that is the index for good, and who leaves leaves the seat to a
// later server. There is nothing to write down, and nothing to be wrong after a crash:
// the keeper knows the seats by number, each from before it listens.
//
// Seat 0 is the door, which no server has. New connections are sent there when they
// are to reach nobody; it drops their first packet, and TCP asks again a second later.
type port struct {
	address  string
	at       netip.AddrPort
	backlog  int
	name     string // what the keeper's names of its seats begin with
	children *supervisor.Children

	mu    sync.Mutex
	seats []*Listener
	taken []bool
}

const door = 0

// tcp tells whether listen is an address rather than a path, and which.
func tcp(listen string) (netip.AddrPort, bool) {
	at, err := netip.ParseAddrPort(listen)
	return at, err == nil
}

func newPort(app string, at netip.AddrPort, backlog int, children *supervisor.Children) *port {
	return &port{address: at.String(), at: at, backlog: backlog, name: portNames(app) + at.String() + "/", children: children}
}

func portNames(app string) string { return "fpm/" + app + "/tcp/" }

func (p *port) held(seat int) string { return p.name + strconv.Itoa(seat) }

// take is a seat for a server. It may still have connections in its queue, of clients
// far away that began before a flip; they are answered by who takes it.
func (p *port) take() (int, *Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := door + 1; n < len(p.seats); n++ {
		if p.taken[n] {
			continue
		}
		if err := p.seats[n].control(func(fd int) error { return unix.SetNonblock(fd, false) }); err != nil { // see Forward
			return 0, nil, fmt.Errorf("listen on %s: %w", p.address, err)
		}
		p.taken[n] = true
		return n, p.seats[n], nil
	}
	n, err := p.grow()
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("listen on %s: %w", p.address, err), p.clear())
	}
	p.taken[n] = true
	return n, p.seats[n], nil
}

// grow adds a seat at the end, and before the first one the door.
func (p *port) grow() (int, error) {
	if len(p.seats) == 0 {
		if err := p.vacant(); err != nil {
			return 0, err
		}
		if err := p.add(); err != nil {
			return 0, err
		}
	}
	if err := p.whole(); err != nil {
		return 0, err
	}
	return len(p.seats), p.add()
}

// add makes the next seat. The program that keeps connections away from it is there
// before it listens.
func (p *port) add() error {
	n := len(p.seats)
	l, err := p.bind(unix.SO_REUSEPORT)
	if err != nil {
		return err
	}
	if err := p.children.Hold(p.held(n), l.File()); err != nil {
		return errors.Join(fmt.Errorf("leave seat %d with the keeper: %w", n, err), l.Close())
	}
	if err := p.open(n, l); err != nil {
		return errors.Join(err, p.children.Drop(p.held(n)), l.Close())
	}
	p.seats, p.taken = append(p.seats, l), append(p.taken, false)
	return nil
}

// open has a seat listen. Of one that does already it sets the backlog.
func (p *port) open(n int, l *Listener) error {
	return l.control(func(fd int) error {
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if n == door && err == nil && listens == 0 {
			if err = program(fd, unix.SO_ATTACH_FILTER, 0); errors.Is(err, unix.EPERM) { // passes no byte of any packet
				err = fmt.Errorf("%w; this kernel wants the capability NET_ADMIN for an address of TCP: listen on a unix socket", err)
			}
			if err == nil {
				err = program(fd, unix.SO_ATTACH_REUSEPORT_CBPF, door)
			}
		}
		if err == nil {
			err = os.NewSyscallError("listen", unix.Listen(fd, p.backlog))
		}
		return err
	})
}

// bind makes a socket at the address, by raw system calls: see Listener. What package
// net makes is Multipath TCP besides, which takes no program.
func (p *port) bind(options ...int) (*Listener, error) {
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(p.at.Port()), Addr: as4(p.at.Addr())})
	if p.at.Addr().Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.at.Port()), Addr: p.at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l := &Listener{path: p.address, file: os.NewFile(uintptr(fd), p.address), tcp: true}
	for _, option := range append(options, unix.SO_REUSEADDR) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1))
		}
	}
	if err == nil && family == unix.AF_INET6 {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, to))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func as4(a netip.Addr) (four [4]byte) {
	if a.Is4() {
		four = a.As4()
	}
	return four
}

// vacant makes sure that nobody else listens there. A stranger of our own user who
// asked for SO_REUSEPORT too would share our connections.
func (p *port) vacant() error {
	l, err := p.bind()
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w%s", err, p.stranger())
	}
	if err != nil {
		return err
	}
	return l.Close()
}

// program attaches one of one instruction, which returns k.
func program(fd, option int, k uint32) error { return attach(fd, option, ret(k)) }

func ret(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

func attach(fd, option int, all ...unix.SockFilter) error {
	p := &unix.SockFprog{Len: uint16(len(all)), Filter: unsafe.SliceData(all)} //nolint:gosec // a few
	return os.NewSyscallError("attach program", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, p))
}

// point makes every new connection go to a seat, by one system call.
func (p *port) point(seat int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seat < 0 || seat >= len(p.seats) {
		return fmt.Errorf("point %s at seat %d: there are %d", p.address, seat, len(p.seats))
	}
	err := p.seats[door].control(func(fd int) error {
		return program(fd, unix.SO_ATTACH_REUSEPORT_CBPF, uint32(seat)) //nolint:gosec // it is not negative
	})
	if err != nil {
		return fmt.Errorf("point %s at seat %d: %w", p.address, seat, err)
	}
	return nil
}

// random is where a program finds 32 bits that the kernel has just thrown:
// SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h.
const random = 1<<32 - 0x1000 + 56

// split makes every new connection go to one of two seats, with a chance of part to
// the second.
func (p *port) split(main, second int, part float64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seat := range []int{main, second} {
		if seat <= door || seat >= len(p.seats) {
			return fmt.Errorf("split %s: there is no seat %d", p.address, seat)
		}
	}
	err := p.seats[door].control(func(fd int) error {
		return attach(fd, unix.SO_ATTACH_REUSEPORT_CBPF,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: random},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: uint32(part * (1 << 32)), Jf: 1},
			ret(uint32(main)), ret(uint32(second))) //nolint:gosec // neither is negative
	})
	if err != nil {
		return fmt.Errorf("split %s between seats %d and %d: %w", p.address, main, second, err)
	}
	return nil
}

// adopt takes over what an earlier superd has left. One that it had no time to have
// listen does from now on. The error is that the seats are not what they should be.
func (p *port) adopt() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; ; n++ {
		f, ok := p.children.Held(p.held(n))
		if !ok {
			break
		}
		l := &Listener{path: p.address, file: f, tcp: true}
		p.seats, p.taken = append(p.seats, l), append(p.taken, false)
		if err := p.open(n, l); err != nil {
			return fmt.Errorf("take back %s: %w", p.address, err)
		}
	}
	if err := errors.Join(p.beyond(), p.whole()); err != nil {
		return fmt.Errorf("take back %s: %w", p.address, err)
	}
	return nil
}

// beyond closes the seats that the keeper has behind a missing one, and tells of it.
func (p *port) beyond() error {
	var errs []error
	for _, name := range p.children.HeldNames() {
		if !strings.HasPrefix(name, p.name) {
			continue
		}
		f, _ := p.children.Held(name)
		errs = append(errs, fmt.Errorf("the keeper has lost seat %d", len(p.seats)), f.Close(), p.children.Drop(name))
	}
	return errors.Join(errs...)
}

// claim is the seat that an adopted server has.
func (p *port) claim(seat int) (*Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seat <= door || seat >= len(p.seats) || p.taken[seat] {
		return nil, fmt.Errorf("take back %s: there is no seat %d to be had", p.address, seat)
	}
	p.taken[seat] = true
	return p.seats[seat], nil
}

// free gives a seat back. With the last one the address is closed.
func (p *port) free(seat int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seat > door && seat < len(p.taken) {
		p.taken[seat] = false
	}
	return p.clear()
}

// clear closes the address when nobody has a seat: the last seat first, so that at no
// moment one of them moves.
func (p *port) clear() error {
	for _, taken := range p.taken {
		if taken {
			return nil
		}
	}
	var errs []error
	for n, l := range slices.Backward(p.seats) {
		errs = append(errs, l.Close(), p.children.Drop(p.held(n)))
	}
	p.seats, p.taken = nil, nil
	return errors.Join(errs...)
}

// abandon closes the address whoever has a seat.
func (p *port) abandon() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.taken)
	return p.clear()
}

// late takes a seat of nobody in whose queue somebody waits: one whose handshake began
// before a flip and has taken longer than the server stayed.
func (p *port) late() (int, *Listener, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := door + 1; n < len(p.seats); n++ {
		if pending, err := p.seats[n].Pending(); !p.taken[n] && err == nil && pending {
			p.taken[n] = true
			return n, p.seats[n], true
		}
	}
	return 0, nil, false
}

// stranger is who listens there, as far as we may see.
func (p *port) stranger() string {
	inodes, err := listening(p.at)
	if err != nil || len(inodes) == 0 {
		return " by another program"
	}
	return " by " + owner(inodes[0])
}

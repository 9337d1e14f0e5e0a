package fpm

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor"
)

var lastPort atomic.Int32

// freeAddress is one of loopback that nobody listened at a moment ago. Its port is not
// one of those that the kernel gives to clients.
func freeAddress(t testing.TB, host string) string {
	t.Helper()
	syscall.ForkLock.RLock() // a child of another test would keep it open until its exec
	defer syscall.ForkLock.RUnlock()
	for range 1000 {
		number := 12000 + (os.Getpid()*31+int(lastPort.Add(1)))%20000
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(number)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// refuses waits until nobody listens there any more: a child that another test forks has
// copies of what is closed until its exec.
func refuses(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" is closed", func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED)
	})
}

func portAt(t *testing.T, l *life, address string) *port {
	t.Helper()
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p := newPort("shop", at, 64, l.children)
	t.Cleanup(func() { _ = p.abandon() })
	return p
}

func (l *life) seat(p *port) (int, *Listener) {
	l.shop.t.Helper()
	n, s, err := p.take()
	l.must("take a seat", err)
	return n, s
}

// Whoever comes and goes, every connection reaches the seat that was pointed at.
func TestPointIsAtomic(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		l := newShop(t).superd()
		p := portAt(t, l, freeAddress(t, host))
		var live atomic.Int32
		seats := []int{}
		for i := range 2 {
			n, s := l.seat(p)
			answer(t, s, byte('0'+i))
			seats = append(seats, n)
		}
		l.must("point", p.point(seats[0]))
		stop, failed := make(chan struct{}), make(chan error, 4)
		for range cap(failed) {
			go func() { failed <- askAt("tcp", p.address, &live, stop) }()
		}
		extra := []int{}
		for i := range 100 {
			live.Store(-1)
			l.must("point", p.point(seats[(i+1)%2]))
			live.Store(int32(i + 1))
			// Others sit down and get up meanwhile, as generations do.
			if n, _ := l.seat(p); i%3 > 0 {
				extra = append(extra, n)
			} else {
				l.must("free", p.free(n))
			}
			if len(extra) == 4 {
				for _, n := range extra {
					l.must("free", p.free(n))
				}
				extra = nil
			}
			time.Sleep(time.Millisecond)
		}
		close(stop)
		for range cap(failed) {
			if err := <-failed; err != nil {
				t.Error(host, err)
			}
		}
		if inodes, err := listening(p.at); err != nil || len(inodes) > 8 {
			t.Errorf("%d listeners, %v", len(inodes), err)
		}
	}
}

func TestPortIsClosedBehindTheLast(t *testing.T) {
	t.Parallel()
	l := newShop(t).superd()
	p := portAt(t, l, freeAddress(t, "127.0.0.1"))
	a, sa := l.seat(p)
	b, _ := l.seat(p)
	err := sa.control(func(fd int) error {
		status, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if status&unix.O_NONBLOCK != 0 || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("status flags %#x, descriptor flags %#x", status, flags)
		}
		return nil
	})
	l.must("look", err)
	// Nobody serves: clients wait, and are let in when somebody does.
	got := make(chan error, 8)
	for range cap(got) {
		go func() {
			c, err := net.DialTimeout("tcp", p.address, 20*time.Second)
			if err == nil {
				err = c.Close()
			}
			got <- err
		}()
	}
	select {
	case err := <-got:
		t.Fatalf("somebody got in although the door is shut: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	l.must("point", p.point(b))
	for range cap(got) {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	l.must("free", p.free(a))
	if inodes, _ := listening(p.at); len(inodes) != 3 {
		t.Errorf("%d listeners, want the door, a free seat and one that is taken", len(inodes))
	}
	if again, _ := l.seat(p); again != a {
		t.Errorf("seat %d, although %d is free", again, a)
	}
	l.must("free", errors.Join(p.free(a), p.free(b)))
	refuses(t, p.address)
	l.end()
	if names := l.shop.held(); len(names) > 0 {
		t.Errorf("the keeper still has %v", names)
	}
}

func TestQueueOfAPort(t *testing.T) {
	t.Parallel()
	l := newShop(t).superd()
	p := portAt(t, l, freeAddress(t, "127.0.0.1"))
	n, s := l.seat(p)
	l.must("point", p.point(n))
	for want := range 4 {
		eventually(t, fmt.Sprintf("%d wait", want), func() bool { got, err := s.Queue(); return err == nil && got == want })
		if pending, err := s.Pending(); err != nil || pending != (want > 0) {
			t.Errorf("pending %v, %v; %d came", pending, err, want)
		}
		c, err := net.Dial("tcp", p.address)
		l.must("dial", err)
		defer c.Close()
	}
}

// superd is killed between any two steps that make a seat: the next one finds every
// seat where its number says.
func TestNextSuperdFindsTheSeats(t *testing.T) {
	t.Parallel()
	address := freeAddress(t, "127.0.0.1")
	for _, c := range []struct {
		name string
		die  func(p *port, l *life) // after two seats were made, and the second pointed at
		want int
	}{
		{"after all", func(*port, *life) {}, 3},
		{"bound", func(p *port, l *life) {
			s, err := p.bind(unix.SO_REUSEPORT)
			l.must("bind", errors.Join(err, s.Close()))
		}, 3},
		{"left with the keeper", func(p *port, l *life) {
			s, err := p.bind(unix.SO_REUSEPORT)
			l.must("hold", errors.Join(err, l.children.Hold(p.held(3), s.File()), s.Close()))
		}, 4},
		{"listening", func(p *port, _ *life) { p.mu.Lock(); _ = p.add(); p.mu.Unlock() }, 4},
		{"freed", func(p *port, _ *life) { p.taken[1] = false }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShop(t)
			first := s.superd()
			p := portAt(t, first, address)
			first.seat(p)
			n, _ := first.seat(p)
			first.must("point", p.point(n))
			c.die(p, first)
			for _, l := range p.seats {
				_ = l.Close() // as the end of its process would
			}
			first.end()
			s.between(func(children *supervisor.Children) {
				l := &life{shop: s, children: children}
				next := portAt(t, l, address)
				l.must("adopt", next.adopt())
				if len(next.seats) != c.want {
					t.Errorf("%d seats, want %d", len(next.seats), c.want)
				}
				for seat := 1; seat < len(next.seats); seat++ {
					l.must("point", next.point(seat))
					conn, err := net.Dial("tcp", address)
					l.must("dial", err)
					for other, listener := range next.seats {
						eventually(t, fmt.Sprintf("pointed at seat %d: as is right at seat %d", seat, other), func() bool {
							n, err := listener.Queue()
							return err == nil && (n > 0) == (other <= seat && other > 0)
						})
					}
					defer conn.Close()
				}
				l.must("close", next.abandon())
			})
		})
	}
}

// Who does not belong there is found out before users are sent astray.
func TestSeatsAreProved(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	address := freeAddress(t, "127.0.0.1")
	p := portAt(t, l, address)
	l.seat(p)
	l.seat(p)
	other := portAt(t, l, address)
	foreign, err := other.bind(unix.SO_REUSEPORT)
	l.must("bind", err)
	l.must("listen", foreign.control(func(fd int) error { return unix.Listen(fd, 1) }))
	if _, _, err := p.take(); err == nil || !strings.Contains(err.Error(), "listens there too") {
		t.Errorf("with a stranger among them: %v", err)
	}
	l.must("close", foreign.Close())
	eventually(t, "the stranger has gone", func() bool { return p.whole() == nil }) // see refuses
	// One was closed and made again: the kernel has moved the last into the hole.
	first := p.seats[1]
	l.must("close", errors.Join(l.children.Drop(p.held(1)), first.Close()))
	if err := p.whole(); err == nil {
		t.Error("a seat is missing, and nobody noticed")
	}
	p.seats = slices.Delete(p.seats, 1, 2)
	p.taken = slices.Delete(p.taken, 1, 2)
	l.must("add", p.add())
	p.seats[1], p.seats[2] = p.seats[2], p.seats[1]
	if err := p.whole(); err == nil {
		t.Error("the seats are in another order, and nobody noticed")
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l := newShop(t).superd()
	address := freeAddress(t, "127.0.0.1")
	at := netip.MustParseAddrPort(address)
	script := fmt.Sprintf(`$c = stream_context_create(["socket" => ["so_reuseport" => true]]); $s = stream_socket_server("tcp://%s", $n, $e, STREAM_SERVER_BIND|STREAM_SERVER_LISTEN, $c); echo "up"; sleep(600);`, address)
	cmd := exec.Command("php8.2", "-n", "-r", script)
	out, err := cmd.StdoutPipe()
	l.must("start", errors.Join(err, cmd.Start()))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	_, _, err = portAt(t, l, at.String()).take()
	want := fmt.Sprintf("in use by php8.2 (PID %d)", cmd.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

// The kernel throws the dice for each connection: of thousands the share is as asked
// for, within three points, which is four times what chance makes of it; and one that
// is pointed again goes to one seat only.
func TestPortIsSplit(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		l := newShop(t).superd()
		p := portAt(t, l, freeAddress(t, host))
		seats := []int{}
		for i := range 2 {
			n, s := l.seat(p)
			answer(t, s, byte('0'+i))
			seats = append(seats, n)
		}
		for _, part := range []float64{0.05, 0.50} {
			l.must("split", p.split(seats[0], seats[1], part))
			const n = 5000
			second := 0
			for range n {
				second += answeredBy(t, p.address)
			}
			t.Logf("%s: asked for %2.0f %%, measured %4.1f %%", host, part*100, float64(second)*100/n)
			if got := float64(second) / n; math.Abs(got-part) > 0.03 {
				t.Errorf("%s: asked for %v, measured %v", host, part, got)
			}
		}
		l.must("point", p.point(seats[0]))
		for range 200 {
			if answeredBy(t, p.address) != 0 {
				t.Fatal("a connection went to the second seat")
			}
		}
		if p.split(door, seats[1], 0.5) == nil || p.split(seats[0], 9, 0.5) == nil {
			t.Error("it was split with a seat that is none")
		}
	}
}

func answeredBy(t *testing.T, address string) int {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetLinger(0) // thousands are not to wait in TIME_WAIT
	var one [1]byte
	if _, err := io.ReadFull(c, one[:]); err != nil {
		t.Fatal(err)
	}
	return int(one[0] - '0')
}

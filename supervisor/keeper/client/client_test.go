package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// A real keeper never does what these tests need: the other end is the test's own.

type peer struct {
	t    *testing.T
	conn *net.UnixConn
}

// serve accepts one superd, in a goroutine that ends before the test does.
func serve(t *testing.T, talk func(p peer)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		talk(peer{t, conn})
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return path
}

func (p peer) send(f wire.Frame, fds ...int) {
	b, err := f.Append(nil)
	if err == nil {
		_, _, err = p.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	}
	if err != nil {
		p.t.Errorf("send: %v", err)
	}
}

func (p peer) receive() wire.Frame {
	b, oob := make([]byte, wire.MaxFrame), make([]byte, wire.RightsSpace())
	n, oobn, _, _, err := p.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return wire.Frame{} // it has gone
	}
	fds, _ := wire.Rights(oob[:oobn])
	wire.CloseAll(fds)
	f, _ := wire.Decode(b[:n])
	return f
}

// grant answers the claim with an empty fleet.
func (p peer) grant() {
	p.receive()
	p.send(wire.Frame{Op: wire.Granted, Epoch: 4})
	p.send(wire.Frame{Op: wire.End})
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	hang := make(chan struct{})
	path := serve(t, func(p peer) { p.receive(); <-hang })
	defer close(hang)
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func TestDialThatFailsLeavesNothingOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what is forgotten
	for name, last := range map[string]func(peer){
		"ends":              func(p peer) { _ = p.conn.Close() },
		"garbage":           func(p peer) { _, _ = p.conn.Write([]byte("garbage")) },
		"no descriptors":    func(p peer) { p.send(wire.Frame{Op: wire.Child, Slot: "t"}) },
		"too many":          func(p peer) { p.send(wire.Frame{Op: wire.Held, Slot: "t"}, 0, 0) },
		"another operation": func(p peer) { p.send(wire.Frame{Op: wire.Spawned, Slot: "t"}, 0, 0, 0) },
		"busy":              func(p peer) { p.send(wire.Frame{Op: wire.Done, Code: wire.Busy}) },
	} {
		path := serve(t, func(p peer) {
			p.receive()
			p.send(wire.Frame{Op: wire.Granted, Epoch: 1})
			p.send(wire.Frame{Op: wire.Child, Slot: "s"}, 0, 0)
			p.send(wire.Frame{Op: wire.Held, Slot: "h"}, 0)
			last(p)
			p.receive()
		})
		_, _ = Dial(t.Context(), "/nowhere") // whatever Go opens for itself is open now
		before := descriptors(t)
		c, err := Dial(t.Context(), path)
		if err == nil {
			t.Errorf("%s: claimed %v", name, c.Children())
			continue
		}
		if name == "busy" && !errors.Is(err, ErrBusy) {
			t.Errorf("busy: %v", err)
		}
		for deadline := time.Now().Add(5 * time.Second); descriptors(t) > before && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond) // the peer's end is ours too
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: descriptors went from %d to %d", name, before, after)
		}
	}
}

func TestEverythingEndsWithTheConnection(t *testing.T) {
	path := serve(t, func(p peer) {
		p.grant()
		p.send(wire.Frame{Op: wire.Exit, Slot: "s", PID: 1})
		p.send(wire.Frame{Op: wire.Exit, Slot: "t", PID: 2, Data: []byte("why")})
		p.receive() // an order; it is never answered
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Drop("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("under way: %v", err)
	}
	if err := c.Drop("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
	var heard []string
	for e := range c.Exits() { // what was read before the end is delivered, then it is closed
		heard = append(heard, e.Slot+e.Failure)
	}
	if got := strings.Join(heard, " "); got != "s twhy" {
		t.Errorf("heard %q", got)
	}
}

func TestCloseWhileNobodyReadsExits(t *testing.T) {
	path := serve(t, func(p peer) {
		p.grant()
		for range 50 {
			p.send(wire.Frame{Op: wire.Exit, Slot: "s", PID: 1})
		}
		p.send(wire.Frame{Op: wire.Done, ID: p.receive().ID})
		p.receive()
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Drop("x"); err != nil { // exits that nobody reads hold no answer up
		t.Error(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Close waits for somebody to read the exits")
	}
}

// An answer that comes after its time must be undone, not forgotten.
func TestLateChildIsDroppedAndBuried(t *testing.T) {
	gate := make(chan bool, 1)
	buried := make(chan wire.Frame, 1)
	late := make(chan struct{})
	path := serve(t, func(p peer) {
		p.grant()
		f := p.receive()
		<-late
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			t.Error(err)
			return
		}
		p.send(wire.Frame{Op: wire.Spawned, ID: f.ID, Slot: "s", PID: 77}, 0, 0, ends[1])
		_ = unix.Close(ends[1])
		n, err := unix.Read(ends[0], make([]byte, 1)) // until the client has closed it
		gate <- n == 0 && err == nil
		_ = unix.Close(ends[0])
		p.send(wire.Frame{Op: wire.Exit, Slot: "s", PID: 77, Status: 111 << 8})
		buried <- p.receive()
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Spawn(ctx, Spec{Slot: "s", Argv: []string{"x"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(late)
	if !<-gate {
		t.Error("something came through the gate")
	}
	if f := <-buried; f.Op != wire.Ack || f.Slot != "s" || f.PID != 77 || f.Epoch != 4 {
		t.Errorf("got %+v", f)
	}
	select {
	case e, ok := <-c.Exits():
		if ok {
			t.Errorf("the exit of a child nobody knows was delivered: %+v", e)
		}
	default:
	}
}

func TestRefusals(t *testing.T) {
	path := serve(t, func(p peer) {
		p.grant()
		for _, f := range []wire.Frame{
			{Code: wire.SlotTaken}, {Code: wire.Stale}, {Code: wire.Full, Data: []byte("no room")}, {Code: wire.Failed}, {Code: 99},
			{Code: wire.Failed, Data: []byte("make a pipe: too many open files")}, {Code: wire.Failed, Data: []byte("fork: cannot allocate memory")},
		} {
			f.Op, f.ID = wire.Done, p.receive().ID
			p.send(f)
		}
		p.receive()
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, want := range []string{ErrSlotTaken.Error(), ErrStale.Error(), "no room", "the keeper refuses with code 6", "the keeper refuses with code 99"} {
		if err := c.Drop("x"); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	for _, want := range []error{unix.EMFILE, unix.ENOMEM} {
		if err := c.Drop("x"); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// A keeper that is older than the pipes makes none, whatever it is asked for.
func TestOlderKeeperMakesNoPipes(t *testing.T) {
	path := serve(t, func(p peer) {
		p.grant()
		f := p.receive()
		if f.Status != wire.AllPipes {
			p.t.Errorf("it asks for pipes %b", f.Status)
		}
		p.send(wire.Frame{Op: wire.Spawned, ID: f.ID, Slot: "s", PID: 7}, 0, 0, 0)
		f = p.receive()
		p.send(wire.Frame{Op: wire.Spawned, ID: f.ID, Slot: "t", PID: 8, Code: 4}, 0, 0, 0, 0) // of a later version
		p.receive()
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Spawn(t.Context(), Spec{Slot: "s", Argv: []string{"x"}, Err: true, In: true})
	if err != nil {
		t.Fatal(err)
	}
	if ch.Err != nil || ch.In != nil || ch.Out == nil {
		t.Errorf("got %+v", ch)
	}
	ch.Drop()
	if err := ch.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Spawn(t.Context(), Spec{Slot: "t", Argv: []string{"x"}, Err: true}); err == nil {
		t.Error("pipes that are not known are taken for others")
	}
}

// A keeper that is older than cgroups knows no such order: that is told apart from a
// failure, so that the child can be made without.
func TestOlderKeeperKnowsNoCgroups(t *testing.T) {
	path := serve(t, func(p peer) {
		p.grant()
		f := p.receive()
		if f.Op != wire.SpawnIn {
			p.t.Errorf("it asks for operation %d", f.Op)
		}
		p.send(wire.Frame{Op: wire.Done, ID: f.ID, Code: wire.Unknown, Data: []byte("never heard of it")})
		f = p.receive()
		p.send(wire.Frame{Op: wire.Done, ID: f.ID, Code: wire.Unknown, Data: []byte("of this neither")})
		p.receive()
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Spawn(t.Context(), Spec{Slot: "s", Argv: []string{"x"}, Group: os.Stdin}); !errors.Is(err, ErrNoGroup) || !strings.Contains(err.Error(), "never heard") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Spawn(t.Context(), Spec{Slot: "s", Argv: []string{"x"}}); err == nil || errors.Is(err, ErrNoGroup) {
		t.Errorf("got %v", err)
	}
}

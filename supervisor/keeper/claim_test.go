package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

// killedAt runs a superd that kills itself at a step of its work.
func killedAt(t *testing.T, k *keepertest.Keeper, step string) {
	t.Helper()
	argv := mood("victim", k.Socket(), step)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("it did not die at %s: %v %s", step, err, out)
	}
}

// superd is killed between every two steps; the next one finds everything as the
// step before has left it.
func TestKilledBetweenTwoSteps(t *testing.T) {
	for _, tt := range []struct {
		step               string
		held               bool
		long, short, opens bool // the children that exist, and whether the gate of long was opened
	}{
		{step: "start"},
		{step: "claimed"},
		{step: "put", held: true},
		{step: "spawned", held: true, long: true},
		{step: "opened", held: true, long: true, opens: true},
		{step: "second", held: true, long: true, opens: true, short: true},
		{step: "heard", held: true, long: true, opens: true, short: true},
		{step: "acknowledged", held: true, long: true, opens: true},
		{step: "dropped", long: true, opens: true},
	} {
		t.Run(tt.step, func(t *testing.T) {
			t.Parallel()
			k := keepertest.Start(t)
			killedAt(t, k, tt.step)
			c := dial(t, k)
			if _, ok := c.Held()["thing"]; ok != tt.held {
				t.Errorf("held: %v", c.Held())
			}
			found := map[string]*client.Child{}
			for _, ch := range c.Children() {
				found[ch.Slot] = ch
			}
			if (found["long"] != nil) != tt.long || (found["short"] != nil) != tt.short || len(found) != len(c.Children()) {
				t.Fatalf("children: %v", found)
			}
			if ch := found["long"]; ch != nil && tt.opens {
				adopted(t, ch)
				if err := unix.Kill(ch.PID, unix.SIGUSR2); err != nil {
					t.Errorf("PID %d of long: %v", ch.PID, err)
				}
			}
			want := map[string]syscall.WaitStatus{}
			if tt.long {
				want["long"] = 111 << 8
			}
			if tt.opens {
				want["long"] = syscall.WaitStatus(unix.SIGUSR2)
			}
			if tt.short {
				want["short"] = 7 << 8
			}
			for range len(want) {
				e := exit(t, c)
				if e.Status != want[e.Slot] || found[e.Slot].PID != e.PID || found[e.Slot].Start != e.Start {
					t.Errorf("got %+v, want status %d", e, want[e.Slot])
				}
				delete(want, e.Slot)
				acknowledge(t, c, e)
			}
			run(t, c, shell("long", "exit 0")) // every slot is free again
			run(t, c, shell("short", "exit 0"))
		})
	}
}

// adopted looks whether the child is what it was.
func adopted(t *testing.T, ch *client.Child) {
	t.Helper()
	if string(ch.Note) != "n" || time.Since(ch.Born) > time.Hour || time.Since(ch.Born) < 0 {
		t.Errorf("note %q, born %s", ch.Note, ch.Born)
	}
	out := ""
	eventually(t, "its output is there", func() bool { out += output(t, ch); return out == "out\n" })
	conn, err := ch.Pidfd.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), 0, nil, 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Errorf("pidfd of PID %d: %v", ch.PID, err)
	}
}

func TestExitsAreKeptUntilAcknowledged(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	ch := spawn(t, c, shell("s", "echo last words; exit 9"))
	for life := range 3 {
		if e := exit(t, c); e.PID != ch.PID || e.Status != 9<<8 {
			t.Fatalf("life %d: %+v", life, e)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if c = dial(t, k); len(c.Children()) != 1 || c.Epoch() != uint64(life+2) {
			t.Fatalf("life %d: epoch %d, %v", life, c.Epoch(), c.Children())
		}
	}
	if out := output(t, c.Children()[0]); out != "last words\n" {
		t.Errorf("output is %q", out)
	}
}

func TestHeldDescriptorsAreTheSame(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := c.Put(fmt.Sprintf("other %d", i), os.Stdin); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Put("pipe", os.Stdin), c.Put("pipe", r), r.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("there"); err != nil { // the read end lives in the keeper alone
		t.Fatal(err)
	}
	c = dial(t, k)
	if len(c.Held()) != 41 {
		t.Errorf("held: %d", len(c.Held()))
	}
	b := make([]byte, 10)
	n, err := c.Held()["pipe"].Read(b)
	if err != nil || string(b[:n]) != "there" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if err := errors.Join(c.Held()["pipe"].Close(), c.Drop("pipe"), c.Drop("never there")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("x"); !errors.Is(err, unix.EPIPE) {
		t.Errorf("somebody still holds what was dropped: %v", err)
	}
}

// A living commander hears of the claim and yields; then its orders are stale.
func TestFenceOfTheLiving(t *testing.T) {
	for name, yield := range map[string]func(*client.Client) error{"yields": (*client.Client).Yield, "closes": (*client.Client).Close} {
		t.Run(name, func(t *testing.T) {
			k := keepertest.Start(t)
			old := dial(t, k)
			ch := spawn(t, old, shell("s", "exec sleep 1000"))
			yielded := make(chan error, 1)
			go func() {
				<-old.Fenced()
				yielded <- yield(old)
			}()
			began := time.Now()
			c := dial(t, k)
			if err := <-yielded; err != nil {
				t.Fatal(err)
			}
			t.Logf("taken over in %s", time.Since(began))
			if len(c.Children()) != 1 || c.Children()[0].PID != ch.PID || c.Epoch() != 2 {
				t.Errorf("epoch %d: %v", c.Epoch(), c.Children())
			}
			if name == "yields" {
				for what, err := range map[string]error{
					"put": old.Put("x", os.Stdin), "drop": old.Drop("x"), "shutdown": old.Shutdown(0), "ack": old.Acknowledge("s", ch.PID),
				} {
					if !errors.Is(err, client.ErrStale) {
						t.Errorf("%s of the old one: %v", what, err)
					}
				}
				if _, err := old.Spawn(t.Context(), shell("t", "exit 0")); !errors.Is(err, client.ErrStale) {
					t.Errorf("spawn of the old one: %v", err)
				}
			}
			run(t, c, shell("t", "exit 0"))
		})
	}
}

// A commander that does not answer keeps the fleet: it may still be moving output.
func TestFenceOfTheHung(t *testing.T) {
	t.Parallel()
	k := keepertest.Start(t)
	hung := dialRaw(t, k)
	epoch := hung.claim()
	began := time.Now()
	_, err := client.Dial(t.Context(), k.Socket())
	took := time.Since(began)
	if !errors.Is(err, client.ErrBusy) || took < 1900*time.Millisecond || took > patience/2 {
		t.Fatalf("got %v after %s", err, took)
	}
	hung.expect(wire.Fence, wire.OK)
	hung.send(wire.Frame{Op: wire.Drop, ID: 9, Epoch: epoch, Slot: "x"})
	hung.expect(wire.Done, wire.OK) // it commands still
	// Dead, it is succeeded at once, also by one that waits already.
	claimed := make(chan error, 1)
	go func() {
		c, err := client.Dial(t.Context(), k.Socket())
		if err == nil {
			err = c.Close()
		}
		claimed <- err
	}()
	hung.expect(wire.Fence, wire.OK)
	hung.close()
	if err := <-claimed; err != nil {
		t.Fatal(err)
	}
}

// The keeper, not the client, refuses what an old epoch orders.
func TestOrdersOfAnOldEpochAreRefused(t *testing.T) {
	k := keepertest.Start(t)
	old := dialRaw(t, k)
	epoch := old.claim()
	yielded := make(chan error, 1)
	go func() {
		f, err := old.receive()
		if err == nil && f.Op != wire.Fence {
			err = fmt.Errorf("got %+v", f)
		}
		if err == nil {
			var b []byte
			b, err = (&wire.Frame{Op: wire.Fenced}).Append(nil)
			err = errors.Join(err, old.bytes(b))
		}
		yielded <- err
	}()
	c := dial(t, k)
	if err := <-yielded; err != nil {
		t.Fatal(err)
	}
	ch := spawn(t, c, shell("s", "exit 4"))
	exit(t, c)
	spec, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer spec.Close()
	for _, e := range []uint64{epoch, epoch + 1, 0} {
		for _, op := range []wire.Op{wire.Spawn, wire.Put, wire.Drop, wire.Shutdown} {
			old.send(wire.Frame{Op: op, ID: 5, Epoch: e, Slot: "x"}, int(spec.Fd()))
			old.expect(wire.Done, wire.Stale)
		}
		old.send(wire.Frame{Op: wire.Ack, Epoch: e, Slot: "s", PID: uint32(ch.PID)})
	}
	old.send(wire.Frame{Op: wire.Drop, ID: 6})
	old.expect(wire.Done, wire.Stale) // so the acknowledgements were read, and
	stranger := dialRaw(t, k)
	stranger.send(wire.Frame{Op: wire.Spawn, ID: 5, Slot: "x"})
	stranger.expect(wire.Done, wire.Stale)
	// the exit is there all the same.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c = dial(t, k); len(c.Children()) != 1 || exit(t, c).PID != ch.PID {
		t.Errorf("an old epoch has acknowledged: %v", c.Children())
	}
}

func TestOneClaimAtATime(t *testing.T) {
	t.Parallel()
	k := keepertest.Start(t)
	hung := dialRaw(t, k)
	hung.claim()
	first, second := dialRaw(t, k), dialRaw(t, k)
	first.send(wire.Frame{Op: wire.Claim, ID: 7})
	hung.expect(wire.Fence, wire.OK) // the first claim is being decided
	second.send(wire.Frame{Op: wire.Claim, ID: 8})
	if f := second.expect(wire.Done, wire.Busy); f.ID != 8 {
		t.Errorf("answered %d", f.ID)
	}
	if f := first.expect(wire.Done, wire.Busy); f.ID != 7 {
		t.Errorf("answered %d", f.ID)
	}
}

// The picture of a large fleet does not fit into a socket. Who does not read it
// holds nobody up and loses nothing.
func TestPictureForASlowReader(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	const n = 150
	s := program("", "sleep", "1000")
	s.Note = make([]byte, 4096)
	for i := range n {
		s.Slot = fmt.Sprintf("s%d", i)
		spawn(t, c, s)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	slow := dialRaw(t, k)
	slow.send(wire.Frame{Op: wire.Claim, ID: 1})
	other := dialRaw(t, k)
	other.send(wire.Frame{Op: wire.Drop, ID: 2})
	other.expect(wire.Done, wire.Stale) // the keeper lives and answers others
	epoch := slow.expect(wire.Granted, wire.OK).Epoch
	slow.send(wire.Frame{Op: wire.Drop, ID: 3, Epoch: epoch})
	seen := map[string]bool{}
	for {
		f, err := slow.receive()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wire.End {
			break
		}
		seen[f.Slot] = true
	}
	if len(seen) != n {
		t.Errorf("saw %d of %d", len(seen), n)
	}
	if f := slow.expect(wire.Done, wire.OK); f.ID != 3 {
		t.Errorf("answered %d", f.ID)
	}
}

// The stop signal is sent once in a child's life, whoever asks for it.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	k := keepertest.Start(t)
	c := dial(t, k)
	heard := t.TempDir() + "/heard"
	ch := spawn(t, c, shell("s", "trap 'echo term >> "+heard+"' TERM; echo > "+heard+".up; while :; do sleep 0.05; done"))
	eventually(t, "it listens", func() bool { _, err := os.Stat(heard + ".up"); return err == nil })
	for range 2 {
		if err := c.Tell(nil, "s", ch.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = dial(t, k)
	if all := c.Children(); len(all) != 1 || !all[0].Told {
		t.Fatalf("the next superd does not know: %+v", all)
	}
	if err := c.Tell(nil, "s", ch.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has heard", func() bool { b, _ := os.ReadFile(heard); return len(b) > 0 })
	time.Sleep(300 * time.Millisecond) // a second one would be here by now
	if b, err := os.ReadFile(heard); err != nil || string(b) != "term\n" {
		t.Errorf("it heard %q, %v", b, err)
	}
	if err := c.Tell(nil, "nobody", 1, syscall.SIGTERM); err != nil {
		t.Errorf("a child that is gone: %v", err)
	}
}

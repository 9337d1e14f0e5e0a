package keeper_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

func TestSecondKeeperIsRefused(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	second := keepertest.LaunchAt(t, k.Socket(), nil, "sleep", "infinity")
	if code := gone(t, second); code != 1 || !strings.Contains(second.Said(), fmt.Sprintf("another keeper (PID %d) serves %s", k.PID(), k.Socket())) {
		t.Errorf("left with %d and said %q", code, second.Said())
	}
	run(t, c, shell("s", "exit 0")) // the first one has not noticed
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	dial(t, k)
}

func TestSocketOfADeadKeeperIsTakenOver(t *testing.T) {
	k := keepertest.Start(t)
	k.Kill()
	if _, err := client.Dial(t.Context(), k.Socket()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
	// What a kill in the middle of bind leaves must not matter either.
	if err := os.WriteFile(k.Socket()+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next := keepertest.LaunchAt(t, k.Socket(), nil, "sleep", "infinity")
	eventually(t, "the next one serves", func() bool {
		c, err := client.Dial(t.Context(), next.Socket())
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	info, err := os.Stat(next.Socket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestRemovedSocketIsPutBack(t *testing.T) {
	d := newDiary(t)
	k := keepertest.StartFor(t, mood("superd", d.file, "shutdown", "0s")...)
	pid := d.claimed(1)
	if err := errors.Join(os.Remove(k.Socket()), unix.Kill(pid, unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	d.claimed(2)
}

func TestKeeperThatCannotServe(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ socket, want string }{
		"no directory": {filepath.Join(dir, "no", "k.sock"), "no such file or directory"},
		"too long":     {filepath.Join(dir, strings.Repeat("x", 150)), "serve "},
	} {
		k := keepertest.LaunchAt(t, tt.socket, nil, "sleep", "infinity")
		if code := gone(t, k); code != 1 || !strings.Contains(k.Said(), tt.want) {
			t.Errorf("%s: left with %d and said %q", name, code, k.Said())
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"fly"}, {"run"}, {"run", "--socket", "/x"}, {"run", "--socket", "/x", "--"}, {"run", "--", "x"}, {"stage"},
	} {
		cmd := exec.Command(keepertest.Binary(t), args...)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "usage: superd-keeper run --socket PATH -- PROGRAM ARGS…") {
			t.Errorf("%q: %v %s", args, err, out)
		}
	}
	out, err := exec.Command(keepertest.Binary(t), "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "superd-keeper ") {
		t.Errorf("version: %v %s", err, out)
	}
}

// The mode of the socket keeps others out; if it is opened by mistake, the kernel's
// word about who they are does.
func TestOtherUsersAreKeptOut(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root to be somebody else")
	}
	k := keepertest.Start(t)
	dir := filepath.Dir(k.Socket())
	dialer := filepath.Join(dir, "dialer")
	copyFile(t, mood("")[0], dialer)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(k.Socket(), 0o777)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", dialer, "mood:dial", k.Socket()).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "refused:") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = exec.Command(dialer, "mood:dial", k.Socket()).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "let in") {
		t.Errorf("%v: %s", err, out)
	}
}

// Whatever comes through the socket: the connection is dropped, nothing leaks, and
// the commander's order beside it is carried out.
func TestFloodOfBadFrames(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	run(t, c, shell("s", "exit 0"))
	if err := c.Drop("x"); err != nil { // an answer: the acknowledgement before it was read
		t.Fatal(err)
	}
	before := descriptors(t, k.PID())
	good, err := (&wire.Frame{Op: wire.Put, ID: 1, Epoch: 1, Slot: "x"}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	mutate := func(change func([]byte)) []byte {
		b := append([]byte(nil), good...)
		change(b)
		return b
	}
	for name, b := range map[string][]byte{
		"empty": {}, "one byte": {1}, "short": good[:len(good)-1], "long": append(append([]byte(nil), good...), 0),
		"another version": mutate(func(b []byte) { b[0] = 2 }), "length of data": mutate(func(b []byte) { b[7] = 255 }),
		"length of slot": mutate(func(b []byte) { b[3] = 255 }), "too big": make([]byte, wire.MaxFrame+1000),
	} {
		r := dialRaw(t, k)
		fds := []int{0, 0, 0}
		if name == "empty" {
			fds = nil
		}
		if err := r.bytes(b, fds...); err != nil {
			t.Fatal(err)
		}
		if f, err := r.receive(); err == nil {
			t.Errorf("%s: answered %+v", name, f)
		}
		r.close()
	}
	crowd := dialRaw(t, k) // more descriptors than a frame may bring
	if err := crowd.bytes(good, make([]int, 200)...); err != nil {
		t.Fatal(err)
	}
	if f, err := crowd.receive(); err == nil {
		t.Errorf("too many descriptors: answered %+v", f)
	}
	crowd.close()
	twice := dialRaw(t, k)
	twice.send(wire.Frame{Op: wire.Claim, ID: 1})
	twice.send(wire.Frame{Op: wire.Claim, ID: 2})
	if f, err := twice.receive(); err == nil {
		t.Errorf("claims twice: answered %+v", f)
	}
	twice.close()
	unknown := dialRaw(t, k)
	unknown.send(wire.Frame{Op: 31, ID: 4, Data: []byte("of a later version")}, 0, 0)
	if f := unknown.expect(wire.Done, wire.Unknown); f.ID != 4 {
		t.Errorf("answered %d", f.ID)
	}
	unknown.close()
	flood(t, k)
	select {
	case <-c.Fenced():
		_ = c.Close() // some noise was a claim
		c = dial(t, k)
	default:
	}
	run(t, c, shell("s", "exit 0"))
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		after := descriptors(t, k.PID())
		if after == before {
			break
		}
		if time.Now().After(deadline) {
			out, _ := exec.Command("ls", "-l", fmt.Sprintf("/proc/%d/fd", k.PID())).Output()
			t.Fatalf("descriptors went from %d to %d:\n%s", before, after, out)
		}
	}
}

// flood sends noise over many connections at once, more than are allowed.
func flood(t *testing.T, k *keepertest.Keeper) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		var all []*raw
		for range 30 {
			r := dialRaw(t, k)
			all = append(all, r)
			for range random.IntN(20) {
				f := wire.Frame{
					Op: wire.Op(3 + random.IntN(40)), ID: random.Uint64(), Epoch: random.Uint64N(4), PID: random.Uint32(),
					Slot: "noise"[:random.IntN(6)], Data: make([]byte, random.IntN(4096)),
				}
				b, err := f.Append(nil)
				if err != nil {
					t.Fatal(err)
				}
				if random.IntN(5) == 0 {
					b[random.IntN(len(b))] ^= 1 << random.IntN(8)
				}
				_ = r.bytes(b, make([]int, random.IntN(5))...) // it may be dropped already
			}
		}
		for _, r := range all {
			r.close()
		}
	}
}

// The specification must be a memfd that nobody can change any more.
func TestSpecificationMustBeSealed(t *testing.T) {
	k := keepertest.Start(t)
	r := dialRaw(t, k)
	epoch := r.claim()
	ask := func(name string, code wire.Code, fds ...int) {
		t.Helper()
		r.send(wire.Frame{Op: wire.Spawn, ID: 1, Epoch: epoch, Slot: "s"}, fds...)
		if f, err := r.receive(); err != nil || f.Code != code || f.Op != wire.Done {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	memfd, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(memfd) }()
	if err := unix.Ftruncate(memfd, wire.MaxSpec+1); err != nil {
		t.Fatal(err)
	}
	ask("nothing", wire.Invalid)
	ask("a file", wire.Invalid, 0)
	open, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(open) }()
	ask("not sealed", wire.Invalid, open)
	if _, err := unix.FcntlInt(uintptr(memfd), unix.F_ADD_SEALS, wire.Seals); err != nil {
		t.Fatal(err)
	}
	ask("too long", wire.Invalid, memfd)
	r.send(wire.Frame{Op: wire.Spawn, ID: 1, Epoch: epoch}, memfd)
	r.expect(wire.Done, wire.Invalid) // no slot
	for _, fds := range [][]int{nil, {0, 0}} {
		r.send(wire.Frame{Op: wire.Put, ID: 1, Epoch: epoch, Slot: "x"}, fds...)
		r.expect(wire.Done, wire.Invalid)
	}
	bad, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(bad) }()
	if _, err := unix.Write(bad, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(bad), unix.F_ADD_SEALS, wire.Seals); err != nil {
		t.Fatal(err)
	}
	ask("nonsense", wire.Invalid, bad)
}

// The limit of descriptors is told before anything is begun, and everything else
// goes on.
func TestLimitOfDescriptors(t *testing.T) {
	k := keepertest.Launch(t, []string{"prlimit", "--nofile=300:300"}, "sleep", "infinity")
	eventually(t, "the keeper serves", func() bool { _, err := os.Stat(k.Socket()); return err == nil })
	c := dial(t, k)
	for i := range 3 {
		if err := c.Put(fmt.Sprintf("h%d", i), os.Stdin); err != nil {
			t.Fatal(err)
		}
	}
	var full error
	n := 0
	for ; n < 200 && full == nil; n++ {
		var ch *client.Child
		if ch, full = c.Spawn(t.Context(), program(fmt.Sprintf("s%d", n), "sleep", "1000")); full == nil {
			if err := ch.Open(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if full == nil || !strings.Contains(full.Error(), "limit of 300 open files") || n < 20 {
		t.Fatalf("after %d: %v", n, full)
	}
	var err error
	for i := 3; i < 200 && err == nil; i++ {
		err = c.Put(fmt.Sprintf("h%d", i), os.Stdin)
	}
	if err == nil || !strings.Contains(err.Error(), "limit of 300 open files") {
		t.Fatalf("held without limit: %v", err)
	}
	for i := range 3 {
		if err := c.Drop(fmt.Sprintf("h%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	s := program("files", "true")
	for range 128 {
		s.Files = append(s.Files, os.Stdin)
	}
	ch, err := c.Spawn(t.Context(), s) // a frame full of descriptors still fits
	if err == nil {
		err = ch.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Slot != "files" || e.Status != 0 || e.Failure != "" {
		t.Errorf("%+v", e)
	}
}

// A system that lets nobody fork is no reason to die.
func TestForkThatFails(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root to be somebody else")
	}
	dir := shortDir(t)
	keeper, superd := filepath.Join(dir, "keeper"), filepath.Join(dir, "superd")
	copyFile(t, keepertest.Binary(t), keeper)
	copyFile(t, mood("")[0], superd)
	if err := os.Chown(dir, 54322, 54322); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=54322", "--regid=54322", "--clear-groups", "prlimit", "--nproc=60:60",
		keeper, "run", "--socket", dir+"/k.sock", "--", superd, "mood:breeder", dir+"/report")
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	report, err := os.ReadFile(dir + "/report")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", report)
	if !strings.Contains(string(report), "refused: ") || !strings.Contains(string(report), "afterwards: exit 7") {
		t.Errorf("report: %s", report)
	}
}

package keeper_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup/cgrouptest"
	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

// A child is in its cgroup before its gate is open, and is given nothing of it.
func TestBornInACgroup(t *testing.T) {
	dir := cgrouptest.Dir(t)
	k := keepertest.Start(t)
	c := dial(t, k)
	run(t, c, program("first", "true"))
	if err := c.Drop("x"); err != nil { // an answer: the acknowledgement before it was read
		t.Fatal(err)
	}
	before := descriptors(t, k.PID())
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s := shell("s", "ls -l /proc/$$/fd; exit 3")
	s.Group, s.Files = group, []*os.File{null}
	ch, err := c.Spawn(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(ch.PID) {
		t.Errorf("at its gate PID %d is not in the cgroup: %q, %v", ch.PID, b, err)
	}
	if err := ch.Open(); err != nil {
		t.Fatal(err)
	}
	e := exit(t, c)
	if e.Status.ExitStatus() != 3 {
		t.Errorf("exit %v, %s", e.Status, e.Failure)
	}
	out := output(t, ch)
	if n := strings.Count(out, " -> "); n != 4 || !strings.Contains(out, "3 -> /dev/null") || strings.Contains(out, dir) {
		t.Errorf("it has the descriptors:\n%s", out)
	}
	acknowledge(t, c, e)
	eventually(t, "the keeper has closed what came with the order", func() bool { return descriptors(t, k.PID()) == before })
}

// Where nothing can be born, that is told, nothing is made, and the slot is free.
func TestCgroupThatTakesNobody(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	for name, dir := range map[string]string{"no cgroup": t.TempDir(), "removed": cgrouptest.Dir(t)} {
		group, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer group.Close()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		s := program("s", "true")
		s.Group = group
		if _, err := c.Spawn(t.Context(), s); !errors.Is(err, client.ErrNoGroup) || !strings.Contains(err.Error(), "fork") {
			t.Errorf("%s: %v", name, err)
		}
		if pids, _ := children(t, k.PID()); len(pids) > 1 { // who is in superd's place
			t.Errorf("%s: something was made: %v", name, pids)
		}
	}
	s := program("s", "true")
	s.Files = make([]*os.File, wire.MaxFiles)
	s.Group = os.Stdin
	if _, err := c.Spawn(t.Context(), s); err == nil || !strings.Contains(err.Error(), "127") {
		t.Errorf("more files than fit: %v", err)
	}
	if _, e := run(t, c, program("s", "true")); e.Status.ExitStatus() != 0 {
		t.Errorf("without a cgroup: %+v", e)
	}
}

// The order needs the directory.
func TestSpawnInNeedsACgroup(t *testing.T) {
	k := keepertest.Start(t)
	r := dialRaw(t, k)
	epoch := r.claim()
	spec, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(spec) }()
	text, err := (&wire.Spec{Argv: []string{"true"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(spec, text); err != nil {
		t.Fatal(err)
	}
	r.send(wire.Frame{Op: wire.Spawn, ID: 1, Epoch: epoch, Slot: "s"}, spec)
	r.expect(wire.Done, wire.Invalid) // it is not sealed
	if _, err := unix.FcntlInt(uintptr(spec), unix.F_ADD_SEALS, wire.Seals); err != nil {
		t.Fatal(err)
	}
	r.send(wire.Frame{Op: wire.SpawnIn, ID: 1, Epoch: epoch, Slot: "s"}, spec)
	r.expect(wire.Done, wire.Invalid)
	r.send(wire.Frame{Op: wire.SpawnIn, ID: 1, Epoch: epoch + 1, Slot: "s"}, spec, 0)
	r.expect(wire.Done, wire.Stale)
	r.send(wire.Frame{Op: wire.SpawnIn, ID: 1, Epoch: epoch, Slot: "s"}, spec, 0)
	r.expect(wire.Done, wire.NoGroup)
}

// What a cgroup costs: compare with BenchmarkSpawn.
func BenchmarkSpawnIn(b *testing.B) {
	c := dial(b, keepertest.Start(b))
	base := cgrouptest.Dir(b)
	for b.Loop() {
		dir := filepath.Join(base, "s")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		group, err := os.OpenFile(dir, unix.O_PATH, 0)
		if err != nil {
			b.Fatal(err)
		}
		s := program("s", "true")
		s.Group = group
		ch := spawn(b, c, s)
		acknowledge(b, c, exit(b, c))
		_, _, _ = ch.Out.Close(), ch.Pidfd.Close(), group.Close()
		if err := os.Remove(dir); err != nil {
			b.Fatal(err)
		}
	}
}

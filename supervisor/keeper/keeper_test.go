package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

// patience is for a machine that is busy with other things; nothing waits for it
// when all is well.
const patience = 60 * time.Second

func dial(t testing.TB, k *keepertest.Keeper) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, k.Socket())
	if err != nil {
		t.Fatalf("dial: %v\n%s", err, k.Said())
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func program(slot string, argv ...string) client.Spec {
	return client.Spec{
		Slot: slot, Argv: argv, Env: []string{"PATH=/usr/bin:/bin"},
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
	}
}

func shell(slot, script string) client.Spec { return program(slot, "sh", "-c", script) }

func spawn(t testing.TB, c *client.Client, s client.Spec) *client.Child {
	t.Helper()
	ch, err := c.Spawn(t.Context(), s)
	if err != nil {
		t.Fatalf("spawn %s: %v", s.Slot, err)
	}
	if err := ch.Open(); err != nil {
		t.Fatalf("open the gate of %s: %v", s.Slot, err)
	}
	return ch
}

func exit(t testing.TB, c *client.Client) client.Exit {
	t.Helper()
	select {
	case e, ok := <-c.Exits():
		if !ok {
			t.Fatal("the connection ended while an exit was waited for")
		}
		return e
	case <-time.After(patience):
		t.Fatal("no exit came")
	}
	panic("unreachable")
}

func acknowledge(t testing.TB, c *client.Client, e client.Exit) {
	t.Helper()
	if err := c.Acknowledge(e.Slot, e.PID); err != nil {
		t.Fatalf("acknowledge %s: %v", e.Slot, err)
	}
}

// run is one whole life: its output and its exit, acknowledged.
func run(t testing.TB, c *client.Client, s client.Spec) (string, client.Exit) {
	t.Helper()
	ch := spawn(t, c, s)
	e := exit(t, c)
	acknowledge(t, c, e)
	if e.Slot != s.Slot || e.PID != ch.PID || e.Start != ch.Start {
		t.Fatalf("exit %+v is not that of child %+v", e, ch)
	}
	return output(t, ch), e
}

// output is what the child's pipe holds now.
func output(t testing.TB, ch *client.Child) string {
	t.Helper()
	var b []byte
	chunk := make([]byte, 1<<16)
	if err := ch.Out.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := ch.Out.Read(chunk)
		b = append(b, chunk[:n]...)
		if err != nil {
			return string(b)
		}
	}
}

// eventually polls for something that takes a moment.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	return string(f[0]) != "Z"
}

// children are the PIDs below a process; zombies tells how many are dead.
func children(t testing.TB, parent int) (pids []int, zombies int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[1-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[1] != strconv.Itoa(parent) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
		pids = append(pids, pid)
		if f[0] == "Z" {
			zombies++
		}
	}
	return pids, zombies
}

// descriptors is how many a keeper has, without the two that Go's runtime opens for itself
// with its first timer, such as that of a collection of garbage: the keeper has no such.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(names, func(n os.DirEntry) bool {
		to, err := os.Readlink(filepath.Join(dir, n.Name()))
		return err == nil && (to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]")
	}))
}

// raw is a superd that keeps to no rule.
type raw struct {
	t  testing.TB
	fd int
}

func dialRaw(t testing.TB, k *keepertest.Keeper) *raw {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &raw{t, fd}
	t.Cleanup(r.close)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: k.Socket()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *raw) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
	r.fd = -1
}

func (r *raw) bytes(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(r.fd, b, oob, nil, unix.MSG_NOSIGNAL)
}

func (r *raw) send(f wire.Frame, fds ...int) {
	r.t.Helper()
	b, err := f.Append(nil)
	if err == nil {
		err = r.bytes(b, fds...)
	}
	if err != nil {
		r.t.Fatalf("send %+v: %v", f, err)
	}
}

func (r *raw) receive() (wire.Frame, error) {
	f, _, err := r.receiveRights()
	return f, err
}

// receiveRights closes the descriptors that come along and tells how many they were.
func (r *raw) receiveRights() (wire.Frame, int, error) {
	b, oob := make([]byte, wire.MaxFrame), make([]byte, wire.RightsSpace())
	n, oobn, _, _, err := unix.Recvmsg(r.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) { // with a timeout the kernel does not restart it: signal(7)
		n, oobn, _, _, err = unix.Recvmsg(r.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return wire.Frame{}, 0, err
	}
	if n == 0 {
		return wire.Frame{}, 0, errEnded
	}
	fds, err := wire.Rights(oob[:oobn])
	if err != nil {
		return wire.Frame{}, 0, err
	}
	wire.CloseAll(fds)
	f, err := wire.Decode(b[:n])
	return f, len(fds), err
}

var errEnded = errors.New("the connection ended")

func (r *raw) expect(op wire.Op, code wire.Code) wire.Frame {
	r.t.Helper()
	f, err := r.receive()
	if err != nil || f.Op != op || f.Code != code {
		r.t.Fatalf("got %+v, %v; want operation %d with code %d", f, err, op, code)
	}
	return f
}

// claim returns the epoch and skips the picture.
func (r *raw) claim() uint64 {
	r.t.Helper()
	r.send(wire.Frame{Op: wire.Claim, ID: 1})
	epoch := r.expect(wire.Granted, wire.OK).Epoch
	for {
		f, err := r.receive()
		if err != nil {
			r.t.Fatal(err)
		}
		if f.Op == wire.End {
			return epoch
		}
	}
}

// What the keeper is made of is what can be wrong with it.
func TestKeeperIsMadeOfLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "superd/cmd/superd-keeper").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "superd/supervisor/keeper") {
		t.Fatalf("this is not the list: %v", deps)
	}
	for _, d := range deps {
		switch {
		case slices.Contains([]string{"fmt", "net", "os/exec", "os/user", "encoding/json", "net/http", "log", "log/slog", "runtime/cgo"}, d):
			t.Errorf("the keeper imports %s", d)
		case strings.Contains(d, ".") && d != "golang.org/x/sys/unix" && !strings.HasPrefix(d, "vendor/"):
			t.Errorf("the keeper imports %s", d)
		case strings.HasPrefix(d, "superd/") && !strings.HasPrefix(d, "superd/supervisor/keeper") && d != "superd/cmd/superd-keeper":
			t.Errorf("the keeper imports %s", d)
		}
	}
}

// Each processor has assembly of its own, and the linker proves for each that the stage has
// stack enough.
func TestKeeperLinksForBothProcessors(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), arch), "superd/cmd/superd-keeper")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", arch, err, out)
		}
	}
}

// A keeper that is linked with libc has memory that the kernel writes to in every child.
func TestKeeperWithLibc(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "superd-keeper")
	cmd := exec.Command("go", "build", "-ldflags=-linkmode=external", "-o", file, "superd/cmd/superd-keeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := dial(t, keepertest.StartProgram(t, file, "sleep", "infinity"))
	for range 10 {
		if out, e := run(t, c, shell("s", "echo on")); out != "on\n" || e.Status != 0 {
			t.Fatalf("%q, %+v", out, e)
		}
	}
}

func TestKeeperIsSmall(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	for i := range 100 {
		spawn(t, c, program(fmt.Sprintf("s%d", i), "sleep", "1000"))
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.Atoi(strings.Fields(rest)[0])
			t.Logf("resident with 100 children: %d kB", kB)
			if err != nil || kB > 12<<10 {
				t.Errorf("the keeper has grown to %d kB", kB)
			}
			return
		}
	}
	t.Fatal("no VmRSS")
}

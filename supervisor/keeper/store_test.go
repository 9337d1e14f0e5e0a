package keeper_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/storetest"
)

// A manager is a service manager with a store. It is also who adopts orphans: it reaps
// those it is asked to reap.
type manager struct {
	*storetest.Store
	t *testing.T
}

func newManager(t *testing.T) *manager {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "manager") //nolint:usetesting // a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	store, err := storetest.Open(filepath.Join(dir, "n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		store.Close()
		_ = os.RemoveAll(dir)
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
	return &manager{store, t}
}

func (m *manager) stored(prefix string) (n int) {
	for _, name := range m.Names() {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

func (m *manager) ofChild(ch *client.Child) string {
	return fmt.Sprintf("superd-c%d.%d.", ch.PID, ch.Start)
}

// start starts a keeper as systemd starts a service with what is stored.
func (m *manager) start(dir string, more ...*os.File) (k *keepertest.Keeper) {
	m.t.Helper()
	err := m.Hand(func(files []*os.File, env []string) error {
		prefix := append(append([]string{"env", "WATCHDOG_USEC=200000"}, env...), storetest.Prefix()...)
		k = keepertest.StartWith(m.t, filepath.Join(dir, "k.sock"), files, prefix...)
		return nil
	}, more...)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

// reap does what init does with an orphan that has ended.
func (m *manager) reap(pid int) {
	m.t.Helper()
	var st unix.WaitStatus
	if _, err := unix.Wait4(pid, &st, 0, nil); err != nil {
		m.t.Errorf("reap %d: %v", pid, err)
	}
}

// kernelTells: since Linux 6.15 a pidfd tells how its process has ended.
func kernelTells(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

// The keeper is killed; all that it kept is with the service manager, and the next
// keeper goes on with it: children, their output, exits nobody has acknowledged, whom it
// has told to stop, what it held, and how those end that are not its own children.
func TestKilledKeeperIsFollowedByOneThatGoesOn(t *testing.T) {
	m := newManager(t)
	k := m.start(t.TempDir())
	c := dial(t, k)
	lives := spawn(t, c, shell("lives", "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"))
	dies := spawn(t, c, shell("dies", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done"))
	deaf := spawn(t, c, shell("deaf", "trap '' TERM; echo ready; while :; do sleep 0.01; done"))
	ended := spawn(t, c, shell("ended", "exit 3"))
	done := spawn(t, c, shell("done", "exit 0"))
	for range 2 {
		if e := exit(t, c); e.Slot == "done" {
			acknowledge(t, c, e)
		}
	}
	for _, ch := range []*client.Child{lives, dies, deaf} {
		if _, err := ch.Out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Tell(nil, "deaf", deaf.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second takes the place of the first, in the store too
		if err := c.Put("held", read); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "everything is stored, and what is not kept is not", func() bool {
		return m.stored("superd-state") == 1 && m.stored("superd-h") == 1 && m.stored(m.ofChild(done)) == 0 &&
			m.stored(m.ofChild(lives)) == 2 && m.stored(m.ofChild(dies)) == 2 && m.stored(m.ofChild(deaf)) == 2 && m.stored(m.ofChild(ended)) == 2
	})
	epoch := c.Epoch()
	k.Kill()
	_ = c.Close()
	if err := unix.Kill(dies.PID, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	m.reap(dies.PID) // the next keeper does not wait long for that
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	listening := os.NewFile(uintptr(fd), "superd.socket")
	next := m.start(t.TempDir(), listening)
	d := dial(t, next)
	found := map[string]*client.Child{}
	for _, ch := range d.Children() {
		found[ch.Slot] = ch
	}
	if len(found) != 4 || !found["deaf"].Told || found["lives"].Told || found["lives"].PID != lives.PID || d.Epoch() != epoch+1 {
		t.Fatalf("the next superd finds %v, epoch %d after %d\n%s", found, d.Epoch(), epoch, next.Said())
	}
	if d.Held()["held"] == nil || d.Held()["listen:superd.socket"] == nil {
		t.Errorf("held: %v", d.Held())
	}
	_, _ = io.WriteString(write, "x")
	if n, err := d.Held()["held"].Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("what is held is another thing: %v", err)
	}
	ends := map[string]client.Exit{}
	for range 2 {
		e := exit(t, d)
		ends[e.Slot] = e
	}
	if e := ends["ended"]; e.Status.ExitStatus() != 3 || e.Failure != "" {
		t.Errorf("the exit that nobody had acknowledged: %+v", e)
	}
	if e := ends["dies"]; kernelTells(t) && (e.Status.ExitStatus() != 9 || e.Failure != "") || !kernelTells(t) && !strings.Contains(e.Failure, "nobody knows") {
		t.Errorf("the end while there was no keeper: %+v", e)
	}
	if err := d.Tell(nil, "lives", lives.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.reap(lives.PID)
	if e := exit(t, d); e.Slot != "lives" || kernelTells(t) && e.Status.ExitStatus() != 7 {
		t.Errorf("the end of an orphan: %+v", e)
	} else {
		acknowledge(t, d, e)
	}
	text, err := io.ReadAll(found["lives"].Out)
	lines := strings.Fields(string(text))
	for i, l := range lines { // the first was read at the beginning
		if l != fmt.Sprint(i+2) {
			t.Fatalf("line %d of the output is %q: %v", i+2, l, err)
		}
	}
	another := spawn(t, d, shell("another", "sleep 1000"))
	eventually(t, "the store follows", func() bool {
		return m.stored(m.ofChild(lives)) == 0 && m.stored(m.ofChild(another)) == 2 && m.stored("superd-state") == 1
	})
	eventually(t, "systemd hears that the keeper lives", func() bool {
		return m.Alive() > 2
	})
	if err := d.Shutdown(0); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	go m.reap(deaf.PID)
	select {
	case <-next.Gone():
	case <-time.After(patience):
		t.Fatal("the keeper does not leave")
	}
	if alive(deaf.PID) || alive(another.PID) {
		t.Error("a child lives on after the end that was meant")
	}
}

// An orphan that init does not reap has an end all the same, only nobody knows how.
func TestOrphanThatNobodyReaps(t *testing.T) {
	m := newManager(t)
	k := m.start(t.TempDir())
	c := dial(t, k)
	ch := spawn(t, c, shell("dies", "exec sleep 1000"))
	eventually(t, "it is stored", func() bool { return m.stored(m.ofChild(ch)) == 2 && m.stored("superd-state") == 1 })
	if err := c.Drop("nothing"); err != nil { // its answer comes after the state was stored that names the child
		t.Fatal(err)
	}
	k.Kill()
	_ = c.Close()
	d := dial(t, m.start(t.TempDir()))
	if err := unix.Kill(ch.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, d); !strings.Contains(e.Failure, "nobody knows") {
		t.Errorf("%+v", e)
	}
	m.reap(ch.PID)
}

// An end that was meant ends the children; what is held stays with the service manager,
// which gives it to the next keeper if there is to be one.
func TestEndLeavesWhatIsHeld(t *testing.T) {
	m := newManager(t)
	k := m.start(t.TempDir())
	c := dial(t, k)
	lives := spawn(t, c, shell("lives", "exec sleep 1000"))
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Put("held", read); err != nil {
		t.Fatal(err)
	}
	if err := c.Shutdown(0); err != nil { // at once: that all of it is stored is for the keeper to see to
		t.Fatal(err)
	}
	_ = c.Close()
	select {
	case <-k.Gone():
	case <-time.After(patience):
		t.Fatalf("the keeper does not leave\n%s", k.Said())
	}
	eventually(t, "what is held is stored, and the child is not", func() bool {
		return m.stored(m.ofChild(lives)) == 0 && m.stored("superd-h") == 1 && m.stored("superd-state") == 1
	})
	next := m.start(t.TempDir())
	d := dial(t, next)
	if len(d.Children()) != 0 || d.Held()["held"] == nil {
		t.Fatalf("the next superd finds %v and %v\n%s", d.Children(), d.Held(), next.Said())
	}
	_, _ = io.WriteString(write, "x")
	if n, err := d.Held()["held"].Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("what is held is another thing: %v", err)
	}
}

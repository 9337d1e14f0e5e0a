package keeper_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
)

// Keepers of three builds: a and b read each other, newer writes what a cannot read.
type builds struct{ a, b, newer string }

var buildOnce = sync.OnceValues(func() (builds, error) {
	dir, err := os.MkdirTemp("", "builds")
	if err != nil {
		return builds{}, err
	}
	all := builds{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "newer")}
	const p = "superd/supervisor/keeper."
	for file, flags := range map[string]string{
		all.a: "-X main.version=a", all.b: "-X main.version=b -X " + p + "stateFormat=2",
		all.newer: "-X main.version=newer -X " + p + "stateFormat=3 -X " + p + "stateReader=3",
	} {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w "+flags, "-o", file, "superd/cmd/superd-keeper")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			return builds{}, fmt.Errorf("build: %w: %s", err, said)
		}
	}
	return all, nil
})

// renewable is a keeper of one build at a path where others can be put.
type renewable struct {
	*keepertest.Keeper
	t    *testing.T
	path string
	builds
}

func startRenewable(t *testing.T) *renewable {
	t.Helper()
	all, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	r := &renewable{t: t, path: filepath.Join(t.TempDir(), "superd-keeper"), builds: all}
	r.install(all.a)
	r.Keeper = keepertest.StartProgram(t, r.path, "sleep", "infinity")
	return r
}

// install puts a copy of a program at the keeper's path, as a package does.
func (r *renewable) install(program string) {
	r.t.Helper()
	b, err := os.ReadFile(program)
	if err == nil {
		r.installText(b)
		return
	}
	r.t.Fatal(err)
}

func (r *renewable) installText(b []byte) {
	r.t.Helper()
	if err := writeProgram(r.path+".new", b); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		r.t.Fatal(err)
	}
}

// program is the inode of what the keeper runs.
func (r *renewable) program() uint64 {
	r.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", r.PID()), &st); err != nil {
		r.t.Fatal(err)
	}
	return st.Ino
}

func (r *renewable) descriptors() int {
	r.t.Helper()
	return descriptors(r.t, r.PID())
}

func (r *renewable) renew(c *client.Client, before, after string) {
	r.t.Helper()
	got, err := c.Renew(r.t.Context())
	if want := (client.Renewal{Before: before, After: after, Changed: before != after, PID: r.PID()}); err != nil || got != want {
		r.t.Fatalf("renewed: %+v, %v, want %+v\n%s", got, err, want, r.Said())
	}
}

// A child may end at any moment of a renewal, also when nobody is there to catch its signal.
func TestExitDuringRenewalIsSeen(t *testing.T) {
	t.Parallel()
	r := startRenewable(t)
	c := dial(t, r.Keeper)
	began := time.Now()
	r.renew(c, "a", "a")
	r.install(r.b)
	r.renew(c, "a", "b")
	took := time.Since(began)
	for round := range 20 {
		before, after, build := "b", "a", r.a
		if round%2 == 1 {
			before, after, build = "a", "b", r.b
		}
		r.install(build)
		ends := took * time.Duration(round) / 20
		spawn(t, c, program("s"+strconv.Itoa(round), "sleep", strconv.FormatFloat(ends.Seconds(), 'f', 4, 64)))
		r.renew(c, before, after)
		select {
		case e := <-c.Exits():
			acknowledge(t, c, e)
		case <-time.After(ends + patience):
			t.Fatalf("round %d: the end of a child %s after the beginning of a renewal is not seen", round, ends)
		}
	}
}

// A keeper becomes another build and that becomes the first again, both of different
// formats. Nothing of what it keeps is lost: children, one that waits at its gate, exits
// that nobody has acknowledged, whom it has told to stop, what it holds, who commands.
func TestRenewalKeepsEverything(t *testing.T) {
	t.Parallel()
	r := startRenewable(t)
	c := dial(t, r.Keeper)
	lives := spawn(t, c, shell("lives", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"))
	spawn(t, c, shell("ended", "exit 3"))
	if e := exit(t, c); e.Slot != "ended" {
		t.Fatal(e)
	}
	asked := spawn(t, c, shell("asked", "trap '' TERM; echo ready; while :; do sleep 0.02; done"))
	for _, ch := range []*client.Child{lives, asked} {
		if _, err := ch.Out.Read(make([]byte, 6)); err != nil { // until it says that it is ready
			t.Fatal(err)
		}
	}
	if err := c.Tell(nil, "asked", asked.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gated, err := c.Spawn(t.Context(), shell("gated", "exit 5"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Put("held", os.Stdin); err != nil {
		t.Fatal(err)
	}
	r.renew(c, "a", "a") // nothing else is there
	ran, fds := r.program(), r.descriptors()
	for _, to := range []struct{ name, program, before string }{{"b", r.b, "a"}, {"a", r.a, "b"}, {"b", r.b, "a"}} {
		r.install(to.program)
		r.renew(c, to.before, to.name)
		if now := r.program(); now == ran {
			t.Errorf("it runs the same program as before")
		} else {
			ran = now
		}
		if now := r.descriptors(); now > fds {
			t.Errorf("it has %d descriptors and had %d", now, fds)
		}
	}
	if err := gated.Open(); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Slot != "gated" || e.Status.ExitStatus() != 5 || e.Failure != "" {
		t.Errorf("the gated child: %+v", e)
	}
	if err := c.Tell(nil, "lives", lives.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := exit(t, c); e.Slot != "lives" || e.Status.ExitStatus() != 7 {
		t.Errorf("the child that lived: %+v", e)
	}
	epoch := c.Epoch()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	d := dial(t, r.Keeper)
	told := map[string]bool{}
	for _, ch := range d.Children() {
		told[ch.Slot] = ch.Told
	}
	if len(told) != 4 || !told["asked"] || d.Epoch() != epoch+1 || d.Held()["held"] == nil {
		t.Errorf("the next superd finds %v, epoch %d after %d, held %v", told, d.Epoch(), epoch, d.Held())
	}
	codes := map[string]int{}
	for range 3 {
		e := exit(t, d)
		codes[e.Slot] = e.Status.ExitStatus()
	}
	if codes["ended"] != 3 || codes["gated"] != 5 || codes["lives"] != 7 {
		t.Errorf("the next superd hears of %v", codes)
	}
	// A child that the new program starts has its own descriptors and no others.
	another := spawn(t, d, shell("another", "echo /proc/$$/fd/*; exit 0"))
	if e := exit(t, d); e.Slot != "another" {
		t.Fatal(e)
	}
	said := make([]byte, 4096)
	n, err := another.Out.Read(said)
	if err != nil || len(strings.Fields(string(said[:n]))) > 4 { // 0, 1, 2, and what the shell reads the directory with
		t.Errorf("it has %s: %v", said[:n], err)
	}
}

// Children that end while the keeper is being replaced end with their own status, and
// signals that come meanwhile neither kill it nor get lost for good.
func TestRenewalLosesNoExit(t *testing.T) {
	usr1 := make(chan os.Signal, 64)
	signal.Notify(usr1, unix.SIGUSR1) // the keeper passes it on to who commands
	defer signal.Stop(usr1)
	r := startRenewable(t)
	c := dial(t, r.Keeper)
	const rounds, each = 12, 10
	for i := range rounds {
		for j := range each {
			spawn(t, c, shell(fmt.Sprintf("%d.%d", i, j), fmt.Sprintf("sleep 0.0%d; exit %d", j, j+1)))
		}
		to, before := r.b, "a"
		if i%2 == 1 {
			to, before = r.a, "b"
		}
		r.install(to)
		if err := r.Signal(unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		r.renew(c, before, filepath.Base(to))
		_ = r.Signal(unix.SIGUSR1)
	}
	for range rounds * each {
		e := exit(t, c)
		var i, j int
		if _, err := fmt.Sscanf(e.Slot, "%d.%d", &i, &j); err != nil || e.Status.ExitStatus() != j+1 || e.Failure != "" {
			t.Errorf("%+v", e)
		}
	}
	select {
	case <-usr1:
	case <-time.After(patience):
		t.Error("no signal arrived")
	}
}

// A program that cannot take the keeper's place is refused before anything is changed.
func TestRenewalRefused(t *testing.T) {
	t.Parallel()
	r := startRenewable(t)
	c := dial(t, r.Keeper)
	ch := spawn(t, c, shell("lives", "sleep 1000"))
	ran, fds := r.program(), r.descriptors()
	for name, bad := range map[string]struct{ text, words string }{
		"ends":    {"#!/bin/sh\necho boom >&2\nexit 3\n", "exit 3: boom"},
		"hangs":   {"#!/bin/sh\nexec sleep 1000\n", "did not answer within 5 s"},
		"foreign": {"\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 200), "exec format error"},
	} {
		r.installText([]byte(bad.text))
		if _, err := c.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), bad.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing: %v", err)
	}
	if r.program() != ran || r.descriptors() > fds || !alive(ch.PID) {
		t.Errorf("something has changed: descriptors %d, were %d; child alive %t", r.descriptors(), fds, alive(ch.PID))
	}
	// A keeper that is newer than the program at its path says so.
	r.install(r.newer)
	r.renew(c, "a", "newer")
	r.install(r.a)
	if _, err := c.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "newer keeper") {
		t.Errorf("older: %v", err)
	}
	if !alive(ch.PID) {
		t.Error("the child has ended")
	}
	spawn(t, c, shell("another", "exit 0"))
	if e := exit(t, c); e.Slot != "another" || e.Status.ExitStatus() != 0 {
		t.Errorf("after all that: %+v", e)
	}
}

package main

import (
	"os"
	"strings"
	"testing"

	"superd/config"
	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

// A worker that finishes its job in a release that somebody has deleted is shown as
// stranded; one whose release is there is draining, and one of the live release is not
// touched by what is seen of a directory.
func TestStrandedWorkerIsShown(t *testing.T) {
	old, gone := release.Generation{Number: 1, Dir: t.TempDir()}, release.Generation{Number: 1, Dir: t.TempDir()}
	if err := os.Remove(gone.Dir); err != nil {
		t.Fatal(err)
	}
	for _, is := range []struct {
		at   release.Generation
		live uint64
		want string
	}{{old, 2, "draining"}, {gone, 2, "stranded"}, {gone, 1, "draining"}} {
		w := workers.WorkerStatus{State: supervisor.Draining, PID: 7, Generation: is.at}
		if got := workerStatus("shop", "emails", w, release.Snapshot{Live: release.Generation{Number: is.live}}); got.State != is.want {
			t.Errorf("of generation %d in %s, live %d: %s, want %s", is.at.Number, is.at.Dir, is.live, got.State, is.want)
		}
	}
}

// A worker that cannot be made says why.
func TestWorkerThatIsNotSaysWhy(t *testing.T) {
	w := workers.WorkerStatus{State: supervisor.Backing, Reason: "could not be started: env_file: no such file", Last: "exit 0 after 1s"}
	if s := workerStatus("shop", "emails", w, release.Snapshot{}); s.Reason != w.Reason || s.Last != w.Last {
		t.Errorf("%+v", s)
	}
}

// A group means its apps and programs, and nothing that is not called so.
func TestMembersOfAGroup(t *testing.T) {
	cfg := &config.Config{Groups: []config.Group{
		{Name: "front", Members: []string{"app.shop", "program.nginx", "app.blog"}}, {Name: "back", Members: []string{"app.mail"}},
	}}
	for name, want := range map[string]string{"front": "shop nginx blog", "front:*": "shop nginx blog", "back": "mail", "fro": "", "*": "", "shop": "", "": ""} {
		if got := strings.Join(membersOf(cfg, name), " "); got != want {
			t.Errorf("%q means %q, want %q", name, got, want)
		}
	}
}

// A pool that a person has stopped is not one of no workers.
func TestPoolStateCountsWhatIsStopped(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]workers.PoolStatus{
		"2 of 2 running, 1 draining":            {Wanted: 2, Running: 2, Draining: 1},
		"0 of 2 running, 2 stopped, 0 draining": {Stopped: 2},
		"1 of 3 running, 1 stopped, 1 draining": {Wanted: 2, Running: 1, Stopped: 1, Draining: 1},
	} {
		if got := poolState(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// The keeper, or the keeper and superd at once, die by SIGKILL at every failpoint of a
// switch and of a rollback, with a service manager that starts them again and has kept
// their descriptors. No request fails, no job is lost or done twice, no child doubles, and
// the app is wholly on one release. If both die it is the one that the journal's rules
// name; superd that has lost its keeper may go on for a moment, so then it may be either.
//
// At each point the keeper dies in a switch and both die in a rollback, or the other way
// round; with SUPERD_FAILPOINTS=all each of them in each.
func TestKeeperKilledAtEveryFailpoint(t *testing.T) {
	var all []loss
	for i, d := range deeds() {
		both := []loss{{d, "keeper"}, {d, "both"}}
		if os.Getenv("SUPERD_FAILPOINTS") != "all" {
			both = both[i%2 : i%2+1]
		}
		all = append(all, both...)
	}
	for i, group := range slices.Collect(slices.Chunk(all, 12)) {
		t.Run(fmt.Sprintf("%d-%s-%s", i, group[0].kind, group[0].point), func(t *testing.T) {
			t.Parallel()
			keeperKilledAt(t, group)
		})
	}
}

// A loss is a deed in which the keeper, or the keeper and superd, are killed.
type loss struct {
	deed
	who string // keeper, both
}

func keeperKilledAt(t *testing.T, group []loss) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 8, Workers: 2, Watch: "400ms", Canary: 1, Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	manager, err := l.ManageSuperd("SUPERD_FAILPOINT=" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := manager.Stop(); err != nil {
			t.Error(err)
		}
	}()
	nginx, err := l.StartNginx(l.FPMSocket(), "$document_root")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis, superd: manager.Superd(), nginx: nginx}
	addRelease(t, l, "sick", shop.SickOnceLive())
	s.ctl(0, "switch", "r2") // so that there is something to roll back to
	run := load.Start(load.Plan{URL: nginx.URL, Rate: 60, Mix: []load.Route{
		{Name: "5 ms", Path: "/", Share: 95}, {Name: "300 ms sleep", Path: "/slow?ms=300", Share: 5},
	}})
	jobs := s.pushJobs()
	for _, d := range group {
		s.keeperKillAt(manager, d, file)
	}
	s.allDoneOnce(jobs())
	unharmed(t, run.Stop())
}

func (s *site) keeperKillAt(manager *lab.Manager, d loss, file string) {
	s.t.Helper()
	from, to, args := s.about(d.kind)
	keeper, starts := manager.Superd(), manager.Starts.Load()
	if err := os.WriteFile(file, []byte(d.point+" "+d.who), 0o644); err != nil {
		s.t.Fatal(err)
	}
	o := s.Ctl(args...)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatalf("%s: superd did not come past %s: %s", d.kind, d.point, o)
	}
	select {
	case <-keeper.Done():
	case <-time.After(20 * time.Second):
		s.t.Fatalf("%s: at %s the keeper was not killed", d.kind, d.point)
	}
	eventually(s.t, 20*time.Second, "superd is started again", func() bool { return manager.Starts.Load() > starts })
	want := from
	if d.onNew {
		want = to
	}
	began := time.Now()
	if d.who == "keeper" {
		want = s.settles(from, to)
	}
	s.wholly(want, 15*time.Second)
	if n := manager.Starts.Load(); n != starts+1 {
		s.t.Errorf("%s, %s killed at %s: superd was started %d times", d.kind, d.who, d.point, n-starts)
	}
	s.t.Logf("%s, %s killed at %s: wholly on %s %s after superctl ended with %d", d.kind, d.who, d.point, want, time.Since(began).Round(time.Millisecond), o.Code)
}

// settles waits until no switch is going on, and tells which release is live: one of two.
func (s *site) settles(from, to string) (live string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "the switch is over", func() bool {
		status, err := s.Status()
		if err != nil || status.Apps[0].Switch != nil || !status.Healthy {
			return false
		}
		live = status.Apps[0].Live.Release
		return true
	})
	if live != from && live != to {
		s.t.Fatalf("live is %s, neither %s nor %s", live, from, to)
	}
	return live
}

// pushJobs pushes one job after the other until the function that it returns is called,
// which tells them.
func (s *site) pushJobs() func() []string {
	s.t.Helper()
	var pushing sync.WaitGroup
	var pushed []string
	stop := make(chan struct{})
	pushing.Go(func() {
		for i := 0; ; i++ {
			id := fmt.Sprintf("job-%d", i)
			if err := s.redis.Push(id, 20+i*37%200); err != nil {
				s.t.Error(err)
				return
			}
			pushed = append(pushed, id)
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
			}
		}
	})
	return sync.OnceValue(func() []string {
		close(stop)
		pushing.Wait()
		return pushed
	})
}

// allDoneOnce holds the workers to what jobs were promised.
func (s *site) allDoneOnce(pushed []string) {
	s.t.Helper()
	var account shop.Account
	eventually(s.t, time.Minute, "every job is done", func() bool {
		account = s.account(pushed)
		return len(account.Waiting) == 0 && len(account.Lost) == 0
	})
	if account.Done != len(pushed) || len(account.Doubled) > 0 || len(account.Unknown) > 0 {
		s.t.Errorf("%s; doubled %v, unknown %v", account, account.Doubled, account.Unknown)
	}
	if len(pushed) < 10 {
		s.t.Errorf("only %s were pushed", strings.Join(pushed, ", "))
	}
}

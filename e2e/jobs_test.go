//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/e2e/lab"
	"superd/e2e/shop"
)

// The shop's worker is what later tests take for granted: told to go it finishes
// the job in its hand and takes no other one.
func TestWorkerFinishesTheJobInItsHand(t *testing.T) {
	l, redis := newLab(t)
	for i := range 3 {
		if err := redis.Push(strconv.Itoa(i), 3000); err != nil {
			t.Fatal(err)
		}
	}
	worker := exec.Command("php8.2", "bin/worker.php", l.Shop.Ledger())
	worker.Dir = l.Shop.Release("r1")
	worker.Env = append(worker.Environ(), "REDIS_SOCKET="+redis.Socket, "SUPERD_SLOT=7", "SUPERD_GENERATION=3")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the first job begins", func() bool {
		jobs, err := l.Shop.Jobs()
		return err == nil && jobs["0"] != nil
	})
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	jobs, err := l.Shop.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	first := jobs["0"]
	if len(first.Ended) != 1 || first.Ended[0].Release != "r1" || first.Ended[0].Slot != "7@3" {
		t.Errorf("the job in hand: %+v", first)
	} else if took := first.Ended[0].At - first.Started[0].At; took < 3*time.Second {
		t.Errorf("the job was cut short: it took %s", took)
	}
	if left, err := redis.Waiting(); err != nil || left != 2 {
		t.Errorf("%d jobs are left on the queue, %v; want 2", left, err)
	}
}

// 5,000 jobs of 10 ms to 10 s while the workers are moved ten times: each job is
// done once, and none begins in an old worker that was told to go.
func TestJobsOverSwitches(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 24, Watch: "500ms"}, "$realpath_root")
	var pushing sync.WaitGroup
	pushed := make([]string, 5000)
	pushing.Go(func() {
		for i := range pushed {
			pushed[i] = fmt.Sprintf("job-%d", i)
			if err := s.redis.Push(pushed[i], duration(i)); err != nil {
				t.Error(err)
			}
			if i%20 == 19 {
				time.Sleep(100 * time.Millisecond) // 200 a second
			}
		}
	})
	s.thereAndBack(5)
	pushing.Wait()
	var account shop.Account
	eventually(t, 3*time.Minute, "every job is done", func() bool {
		account = s.account(pushed)
		return len(account.Waiting) == 0 && len(account.Lost) == 0
	})
	t.Log(account)
	if account.Done != len(pushed) || len(account.Unknown) > 0 {
		t.Errorf("%s; doubled %v, unknown %v", account, account.Doubled, account.Unknown)
	}
	s.noneBeganLate(time.Second)
	for _, e := range s.events() {
		if e.Kind == "worker.killed" {
			t.Errorf("a worker was killed: %+v", e)
		}
	}
	s.wholly("r1", 40*time.Second)
}

// duration spreads the lengths: most are short, a few outlast a whole switch.
func duration(i int) int {
	switch {
	case i%100 == 0:
		return 3_000 + i*7%7_001
	case i%25 == 0:
		return 500 + i*13%1_500
	}
	return 10 + i*7%91
}

func (s *site) account(pushed []string) shop.Account {
	s.t.Helper()
	jobs, err := s.Shop.Jobs()
	if err != nil {
		s.t.Fatal(err)
	}
	return shop.Settle(pushed, jobs)
}

// noneBeganLate: by the time a switch watches, every older worker has been told. It
// may have a job in its hand, and take none after that.
func (s *site) noneBeganLate(grace time.Duration) {
	s.t.Helper()
	boot := s.boot()
	type told struct {
		at         time.Duration
		generation uint64
	}
	var tellings []told
	for _, e := range s.events() {
		if e.Kind == "switch.phase" && e.Phase == "watching" {
			tellings = append(tellings, told{e.At.Sub(boot), e.To.Number})
		}
	}
	if len(tellings) < 10 {
		s.t.Errorf("%d switches were watched", len(tellings))
	}
	jobs, err := s.Shop.Jobs()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, job := range jobs {
		for _, m := range job.Started {
			_, number, _ := strings.Cut(m.Slot, "@")
			generation, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				s.t.Fatalf("slot %q has no generation: %v", m.Slot, err)
			}
			for _, told := range tellings {
				if generation < told.generation && m.At > told.at+grace {
					s.t.Errorf("job %s began in %s, %s after its worker was told to go", job.ID, m.Slot, m.At-told.at)
				}
			}
		}
	}
}

// boot is when the monotonic clock, by which jobs are written down, began.
func (s *site) boot() time.Time {
	s.t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.t.Fatal(err)
	}
	return time.Now().Add(-time.Duration(now.Nano()))
}

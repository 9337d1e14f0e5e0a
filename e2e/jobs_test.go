//go:build e2e

package e2e

import (
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The shop's worker is what later tests take for granted: told to go it finishes
// the job in its hand and takes no other one.
func TestWorkerFinishesTheJobInItsHand(t *testing.T) {
	l, redis := newLab(t)
	for i := range 3 {
		if err := redis.Push(strconv.Itoa(i), 1000); err != nil {
			t.Fatal(err)
		}
	}
	worker := exec.Command("php8.2", "bin/worker.php", l.Shop.Ledger())
	worker.Dir = l.Shop.Release("r1")
	worker.Env = append(worker.Environ(), "REDIS_SOCKET="+redis.Socket, "SUPERD_SLOT=by-hand")
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
	if len(first.Ended) != 1 || first.Ended[0].Release != "r1" || first.Ended[0].Slot != "by-hand" {
		t.Errorf("the job in hand: %+v", first)
	} else if took := first.Ended[0].At - first.Started[0].At; took < time.Second {
		t.Errorf("the job was cut short: it took %s", took)
	}
	if left, err := redis.Waiting(); err != nil || left != 2 {
		t.Errorf("%d jobs are left on the queue, %v; want 2", left, err)
	}
}

// eventually waits for what must become true.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

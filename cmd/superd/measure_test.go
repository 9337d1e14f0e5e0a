package main

import (
	"os"
	"os/exec"
	"runtime/debug"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"superd/control"
	"superd/supervisor"
)

func TestMeasureAddsUpATree(t *testing.T) {
	t.Parallel()
	stats := map[int]procfs.ProcStat{10: {PPID: 1}, 11: {PPID: 10}, 12: {PPID: 11}, 20: {PPID: 1}, 30: {PPID: 30}}
	roots := map[int]bool{10: true, 20: true}
	for pid, want := range map[int]int{10: 10, 12: 10, 20: 20, 30: 0, 99: 0} {
		if got, _ := rootOf(pid, stats, roots); got != want {
			t.Errorf("process %d counts for %d, want %d", pid, got, want)
		}
	}
	used := measure(map[int]bool{os.Getpid(): true})
	if used[os.Getpid()].memory < 1<<20 {
		t.Errorf("this test takes %d bytes", used[os.Getpid()].memory)
	}
}

// A process that does nothing but work takes a whole processor, or what it gets of one;
// of a process that is a moment old that is no thousand percent.
func TestMeasureTellsHowBusy(t *testing.T) {
	t.Parallel()
	c := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	pid := c.Process.Pid
	var is consumption
	for deadline := time.Now().Add(20 * time.Second); is.busy < 0.2; time.Sleep(10 * time.Millisecond) {
		if is = measure(map[int]bool{pid: true})[pid]; time.Now().After(deadline) {
			t.Fatalf("it has worked for %.2f s", is.busy)
		}
		if is.cpu > 400 {
			t.Fatalf("%.0f %% of one processor after %.2f s", is.cpu, is.busy)
		}
	}
	if is.cpu < 1 {
		t.Errorf("%.2f %% of one processor", is.cpu)
	}
}

// However often somebody asks, and however many processes there are, nothing is left
// open until the collector comes by: superd has descriptors for better things.
func TestMeasureLeavesNothingOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	for range 20 {
		measure(map[int]bool{os.Getpid(): true})
	}
	if now := open(); now > before+3 {
		t.Errorf("%d descriptors became %d", before, now)
	}
}

// What is charged to a cgroup counts instead of what was measured, memory only if it is
// counted there.
func TestChargedConsumption(t *testing.T) {
	t.Parallel()
	measured := consumption{memory: 7, cpu: 1, busy: 1}
	charge := supervisor.Charge{CPU: 3 * time.Second, Age: 10 * time.Second, Memory: 5 << 20}
	if is := measured.charged(charge); is != (consumption{memory: 7, cpu: 30, busy: 3}) {
		t.Errorf("%+v", is)
	}
	charge.Whole = true
	if is := measured.charged(charge); is != (consumption{memory: 5 << 20, cpu: 30, busy: 3}) {
		t.Errorf("%+v", is)
	}
	pid := os.Getpid()
	s := control.Status{Apps: []control.AppStatus{{Pools: []control.PoolStatus{{Workers: []control.ProcessStatus{{PID: pid}, {PID: 1 << 30}}}}}}}
	addUsage(&s, map[int]supervisor.Charge{pid: charge, 1 << 30: {CPU: time.Second, Age: time.Second}})
	w := s.Apps[0].Pools[0].Workers
	if w[0].Memory != 5<<20 || w[0].CPUSeconds != 3 || w[1].Memory != 0 || w[1].CPU != 100 {
		t.Errorf("%+v, %+v", w[0].Consumption, w[1].Consumption)
	}
}

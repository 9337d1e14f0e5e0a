package main

import (
	"time"

	"github.com/prometheus/procfs"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"

	"superd/supervisor"
)

// consumption is what a process and everything below it takes.
type consumption struct {
	memory uint64  // resident, in bytes
	cpu    float64 // percent of one processor since the process began
	busy   float64 // seconds of processors
}

// measure asks /proc once for all processes, when somebody wants to know, and adds up
// each of roots with its descendants. A process that ends meanwhile counts nothing. It
// opens one file at a time, however many processes the machine has.
func measure(roots map[int]bool) map[int]consumption {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil
	}
	stats := make(map[int]procfs.ProcStat, len(all))
	for _, p := range all {
		if stat, err := p.Stat(); err == nil {
			stats[p.PID] = stat
		}
	}
	now := uptime().Seconds()
	sums := make(map[int]consumption, len(roots))
	for pid, stat := range stats {
		root, ok := rootOf(pid, stats, roots)
		if !ok {
			continue
		}
		sum := sums[root]
		busy := worked(stat)
		sum.memory += resident(pid)
		sum.busy += busy
		sum.cpu += 100 * busy / max(now-float64(stat.Starttime)/ticksPerSecond, 0.01)
		sums[root] = sum
	}
	return sums
}

// resident is the memory that a process has now, 0 if it has ended. A process.Process that
// process.NewProcess makes would hold a pidfd until the collector comes by.
func resident(pid int) uint64 {
	p := process.Process{Pid: int32(pid)} //nolint:gosec // a PID
	memory, err := p.MemoryInfo()
	if err != nil {
		return 0
	}
	return memory.RSS
}

// charged is what was measured with what the kernel has charged to the cgroup instead:
// that has also those in it who are not below the process, and who have ended.
func (is consumption) charged(c supervisor.Charge) consumption {
	is.busy = c.CPU.Seconds()
	is.cpu = 100 * is.busy / max(c.Age.Seconds(), 0.01)
	if c.Whole {
		is.memory = uint64(c.Memory) //nolint:gosec // is not negative
	}
	return is
}

// uptime is the clock that the starts of processes are told by: it goes on while the
// machine sleeps, and nobody sets it.
func uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// worked is how many seconds of processors a process has used, with those of its
// children that it has waited for: what a tree has used does not fall when one of it
// ends (proc_pid_stat(5): utime, stime, cutime, cstime).
func worked(s procfs.ProcStat) float64 {
	return (float64(s.UTime) + float64(s.STime) + float64(s.CUTime) + float64(s.CSTime)) / ticksPerSecond
}

// ticksPerSecond is USER_HZ, the same on every machine that Go runs on.
const ticksPerSecond = 100

// rootOf is the one of roots that pid is or descends from.
func rootOf(pid int, stats map[int]procfs.ProcStat, roots map[int]bool) (int, bool) {
	for range 64 { // deeper is a loop of a table that was read while it changed
		if roots[pid] {
			return pid, true
		}
		stat, ok := stats[pid]
		if !ok || stat.PPID <= 1 {
			return 0, false
		}
		pid = stat.PPID
	}
	return 0, false
}

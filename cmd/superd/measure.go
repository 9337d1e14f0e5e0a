package main

import (
	"context"
	"time"

	"github.com/prometheus/procfs"
	"github.com/shirou/gopsutil/v3/process"
)

// consumption is what a process and everything below it takes.
type consumption struct {
	memory uint64  // resident, in bytes
	cpu    float64 // percent of one processor since the process began
	busy   float64 // seconds of processors
}

// measure asks /proc once for all processes, when somebody wants to know, and adds up
// each of roots with its descendants. A process that ends meanwhile counts nothing.
func measure(ctx context.Context, roots map[int]bool) map[int]consumption {
	all, err := process.ProcessesWithContext(ctx)
	if err != nil {
		return nil
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	parents := make(map[int32]int32, len(all))
	for _, p := range all {
		if parent, err := p.PpidWithContext(ctx); err == nil {
			parents[p.Pid] = parent
		}
	}
	sums := make(map[int]consumption, len(roots))
	for _, p := range all {
		root, ok := rootOf(p.Pid, parents, roots)
		if !ok {
			continue
		}
		sum := sums[root]
		if memory, err := p.MemoryInfoWithContext(ctx); err == nil {
			sum.memory += memory.RSS
		}
		if busy, err := worked(fs, int(p.Pid)); err == nil {
			sum.busy += busy
			sum.cpu += percent(ctx, p, busy)
		}
		sums[root] = sum
	}
	return sums
}

// worked is how many seconds of processors a process has used, with those of its
// children that it has waited for: what a tree has used does not fall when one of it
// ends (proc_pid_stat(5): utime, stime, cutime, cstime).
func worked(fs procfs.FS, pid int) (float64, error) {
	p, err := fs.Proc(pid)
	if err != nil {
		return 0, err
	}
	s, err := p.Stat()
	if err != nil {
		return 0, err
	}
	return (float64(s.UTime) + float64(s.STime) + float64(s.CUTime) + float64(s.CSTime)) / ticksPerSecond, nil
}

// percent is how much of one processor that is over the life of p.
func percent(ctx context.Context, p *process.Process, busy float64) float64 {
	born, err := p.CreateTimeWithContext(ctx) // in milliseconds
	if err != nil {
		return 0
	}
	return 100 * busy / max(time.Since(time.UnixMilli(born)).Seconds(), 0.01)
}

// ticksPerSecond is USER_HZ, the same on every machine that Go runs on.
const ticksPerSecond = 100

// rootOf is the one of roots that pid is or descends from.
func rootOf(pid int32, parents map[int32]int32, roots map[int]bool) (int, bool) {
	for range 64 { // deeper is a loop of a table that was read while it changed
		if roots[int(pid)] {
			return int(pid), true
		}
		parent, ok := parents[pid]
		if !ok || parent <= 1 {
			return 0, false
		}
		pid = parent
	}
	return 0, false
}

package main

import (
	"context"

	"github.com/shirou/gopsutil/v3/process"
)

// consumption is what a process and everything below it takes.
type consumption struct {
	memory uint64  // resident, in bytes
	cpu    float64 // percent of one processor since the process began
}

// measure asks /proc once for all processes, when somebody wants to know, and adds up
// each of roots with its descendants. A process that ends meanwhile counts nothing.
func measure(ctx context.Context, roots map[int]bool) map[int]consumption {
	all, err := process.ProcessesWithContext(ctx)
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
		if cpu, err := p.CPUPercentWithContext(ctx); err == nil {
			sum.cpu += cpu
		}
		sums[root] = sum
	}
	return sums
}

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

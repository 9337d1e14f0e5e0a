package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Footprints is how much memory each child takes with all of its tree, in bytes: what the
// kernel has charged to its cgroup, where it counts that, but for files that are only kept
// at hand. Else the sum of what each process has to itself and its part of what it shares
// (Pss of proc_pid_smaps_rollup(5)), so that workers that were forked of one another are
// not counted twice. It reads all of /proc once, if a child has no cgroup of its own. Who
// ends meanwhile counts nothing.
func Footprints(children []*Child) (map[*Child]int64, error) {
	sums := make(map[*Child]int64, len(children))
	var others []*Child
	for _, c := range children {
		pids, ok := c.leafPIDs()
		if !ok {
			others = append(others, c)
			continue
		}
		if sums[c], ok = c.leaf.Memory(); ok {
			continue
		}
		for _, pid := range pids {
			sums[c] += proportional(pid)
		}
	}
	if len(others) == 0 {
		return sums, nil
	}
	now, err := others[0].children.censuses.take()
	if err != nil {
		return nil, fmt.Errorf("measure the memory of children: %w", err)
	}
	for _, c := range others {
		for _, p := range c.tree(now) {
			sums[c] += proportional(p.pid)
		}
	}
	return sums, nil
}

// proportional is the Pss of a process, 0 if it is gone.
func proportional(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "Pss:" {
			kib, _ := strconv.ParseInt(string(f[1]), 10, 64) // 0 of what the kernel does not say
			return kib << 10
		}
	}
	return 0
}

// A Charge is what the kernel has charged to the cgroup of a child.
type Charge struct {
	CPU    time.Duration // of all that ever were in it
	Age    time.Duration // of the child
	Memory int64         // in bytes, as of Footprints
	Whole  bool          // Memory is counted; else it is to be measured otherwise
}

// Charges are those of the living children that have a cgroup, by the PID of the child.
func (c *Children) Charges() map[int]Charge {
	all := map[int]Charge{}
	for _, ch := range c.Living() {
		if _, ok := ch.leafPIDs(); !ok {
			continue
		}
		busy, ok := ch.leaf.CPU()
		if !ok {
			continue
		}
		charge := Charge{CPU: busy, Age: time.Since(ch.made)}
		charge.Memory, charge.Whole = ch.leaf.Memory()
		all[ch.PID()] = charge
	}
	return all
}

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"github.com/shirou/gopsutil/v3/process"

	"superd/control"
)

// own are the supervisor's processes: all below the one that was started, but the
// programs.
func (r *running) own(b *births) ([]*process.Process, error) {
	b.drain()
	everyone, err := process.Processes()
	if err != nil {
		return nil, err
	}
	below := map[int32][]*process.Process{}
	var all []*process.Process
	for _, p := range everyone {
		if int(p.Pid) == r.cmd.Process.Pid {
			all = append(all, p)
		}
		if parent, err := p.Ppid(); err == nil && !b.has(int(p.Pid)) { // one that has just ended has none
			below[parent] = append(below[parent], p)
		}
	}
	for i := 0; i < len(all); i++ {
		all = append(all, below[all[i].Pid]...)
	}
	return all, nil
}

// costs are the memory of the supervisor and the processor time that it takes when
// nothing happens.
func (r *running) costs(ctx context.Context, b *births, idle time.Duration) (memory uint64, percent float64, err error) {
	before := r.busy(b)
	if err := pause(ctx, idle); err != nil {
		return 0, 0, err
	}
	percent = 100 * (r.busy(b) - before) / idle.Seconds()
	all, err := r.own(b)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range all {
		proc, err := procfs.NewProc(int(p.Pid))
		if err != nil {
			return 0, 0, err
		}
		maps, err := proc.ProcSMapsRollup()
		if err != nil {
			return 0, 0, err
		}
		memory += maps.Pss
	}
	return memory, percent, nil
}

// busy is the processor time, in seconds, of the supervisor's processes.
func (r *running) busy(b *births) float64 {
	all, err := r.own(b)
	if err != nil {
		return 0
	}
	sum := 0.0
	for _, p := range all {
		if t, err := p.Times(); err == nil {
			sum += t.User + t.System
		}
	}
	return sum
}

// superdAsked is what only superd can be asked: how long its status takes, and how
// long it is away when it is killed.
func superdAsked(ctx context.Context, dir string) (string, error) {
	began := time.Now()
	if out, err := exec.CommandContext(ctx, binary("superctl"), "--socket", socket(dir), "status").CombinedOutput(); err != nil {
		return "", fmt.Errorf("superctl status: %w: %s", err, strings.TrimSpace(string(out)))
	}
	took := time.Since(began)
	client := control.NewClient(socket(dir))
	status, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	began = time.Now()
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		return "", err
	}
	for {
		next, err := client.Status(ctx)
		if err == nil && next.PID != status.PID {
			break
		}
		if time.Since(began) > 30*time.Second {
			return "", fmt.Errorf("no superd 30s after SIGKILL: %w", err)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("`superctl status` takes %s; after SIGKILL of superd the next one has adopted all and answers within %s", milliseconds(took), milliseconds(time.Since(began))), nil
}

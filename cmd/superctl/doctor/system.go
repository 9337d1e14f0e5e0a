package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"superd/config"
)

// backlog: the kernel silently cuts what is over its own limit.
func (e *examination) backlog(app *config.App) {
	limit, err := e.number("sys/net/core/somaxconn")
	if err != nil {
		e.unseen("somaxconn", app.Name+"/fpm", err, "sysctl net.core.somaxconn")
		return
	}
	if app.FPM.Backlog <= limit {
		return
	}
	e.tell(Finding{
		ID: "backlog", Severity: Warning, Subject: app.Name + "/fpm",
		What: fmt.Sprintf("backlog is %d, and net.core.somaxconn is %d", app.FPM.Backlog, limit),
		Why:  "The kernel takes the smaller of both without a word: in a burst, connections beyond it are refused at once and nginx answers 502.",
		Do:   fmt.Sprintf("sysctl -w net.core.somaxconn=%d, and the same line in /etc/sysctl.d/superd.conf", app.FPM.Backlog),
	})
}

// available is the memory that an app's PHP could have: what is free, and what it has.
func (e *examination) available(app *config.App) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(e.Proc, "meminfo"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "MemAvailable:")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, errors.New("there is no MemAvailable in meminfo")
	}
	kib, err := strconv.ParseUint(fields[0], 10, 54)
	if err != nil {
		return 0, err
	}
	sum := kib << 10
	if e.status == nil {
		return sum, nil
	}
	for _, a := range e.status.Apps {
		if a.Name != app.Name || a.FPM == nil {
			continue
		}
		for _, g := range a.FPM.Generations {
			sum += g.Memory
		}
	}
	return sum, nil
}

// Below these superd refuses a switch.
const (
	minFreeBytes  = 64 << 20
	minFreeInodes = 1000
)

func (e *examination) disk() {
	e.floor("state_dir", e.cfg.StateDir, Warning, "superd cannot write down what a switch has done and no history; its journal has its room already.")
	e.floor("log_dir", e.cfg.LogDir, Warning, "What PHP and the workers write is lost.")
	for _, app := range e.cfg.Apps {
		e.floor(app.Name, app.Releases, Problem, "superd refuses to switch below 64 MiB and 1000 inodes, for a new release writes caches and logs when it starts.")
	}
}

func (e *examination) floor(subject, path string, severity Severity, why string) {
	left, err := e.Free(existing(path))
	if err != nil {
		e.unseen("disk", subject, err, "df -h "+path)
		return
	}
	what := ""
	switch {
	case left.Bytes < minFreeBytes:
		what = fmt.Sprintf("%s has %s left", path, size(left.Bytes))
	case left.Fixed && left.Inodes < minFreeInodes:
		what = fmt.Sprintf("%s has %d inodes left", path, left.Inodes)
	default:
		return
	}
	e.tell(Finding{
		ID: "disk", Severity: severity, Subject: subject, What: what, Why: why,
		Do: "df -h " + path + "; df -i " + path + "; then remove what nobody needs, or lower keep_releases",
	})
}

// descriptors: the keeper has some for each process, and a table that ends at
// maxProcesses.
const (
	descriptorsEach = 4
	descriptorsBase = 256
	maxProcesses    = 4096
)

func (e *examination) descriptors() {
	processes := 0
	for _, app := range e.cfg.Apps {
		if app.FPM != nil {
			processes += 3 // live, parked, draining
		}
		for _, w := range app.Workers {
			processes += w.Processes + max(w.MaxDraining, w.Processes)
		}
	}
	if processes > maxProcesses {
		e.tell(Finding{
			ID: "processes", Severity: Problem, Subject: "superd",
			What: fmt.Sprintf("in a switch there may be %d processes, and superd's keeper holds at most %d", processes, maxProcesses),
			Why:  "The next ones are not started: a pool stays short of workers, and the switch fails.",
			Do:   "lower processes or max_draining",
		})
		return
	}
	need := uint64(descriptorsBase + descriptorsEach*processes) //nolint:gosec // small
	have, err := e.openFiles()
	if err != nil {
		e.unseen("nofile", "superd", err, "grep 'open files' /proc/PID/limits, with the PID of superd")
		return
	}
	if have >= need {
		return
	}
	e.tell(Finding{
		ID: "nofile", Severity: Problem, Subject: "superd",
		What: fmt.Sprintf("superd may have %d open files, and in a switch needs about %d for %d processes", have, need, processes),
		Why:  "Each process takes a few for its output and its life. Without them the new workers are not started in the middle of a switch.",
		Do:   e.do(fmt.Sprintf("LimitNOFILE=%d", max(65536, need))) + "; without systemd: ulimit -Hn",
	})
}

// openFiles is the limit of the superd that runs, of its unit, or of who asks, which
// is what it would get if it was started here.
func (e *examination) openFiles() (uint64, error) {
	if text := e.unit["LimitNOFILE"]; e.status == nil && text != "" {
		if text == "infinity" {
			return 1 << 30, nil
		}
		return strconv.ParseUint(text, 10, 64)
	}
	pid := "self"
	if e.status != nil {
		pid = strconv.Itoa(e.status.PID)
	}
	b, err := os.ReadFile(filepath.Join(e.Proc, pid, "limits"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "Max open files")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, errors.New("no limit of open files in /proc/" + pid + "/limits")
	}
	if fields[1] == "unlimited" {
		return 1 << 30, nil
	}
	return strconv.ParseUint(fields[1], 10, 64) // the hard one: Go takes it all
}

package main

import (
	"fmt"
	"math"
	"slices"
	"syscall"

	"superd/config"
	"superd/control"
)

// Keeper and superd have descriptors for every process: its life, its output and,
// in superd, its log. A limit that is too low for that is met in the middle of a
// start or a switch, where nothing good can be done about it. So it is told before.
//
// What is counted here is what a start and a switch are sure to take. Rotations that
// drain for long may take more; superctl doctor counts these too, and some to spare.
const (
	descriptorsEach = 3   // at most, measured: two in the keeper, three in superd, and three in the keeper until it runs
	descriptorsBase = 256 // sockets, people who ask, one frame full of descriptors
	switchedFPM     = 3   // live, parked, draining
)

// mostOf is how many processes of a pool a switch has at once.
func mostOf(w *config.Worker, processes int) int {
	if w.Order == "stop-first" {
		return processes
	}
	return 2 * processes
}

// mostProcesses is how many processes there are at once when all apps are switched.
// size tells the size of a pool; people may have scaled it.
func mostProcesses(cfg *config.Config, size func(app *config.App, w *config.Worker) int) int {
	n := 0
	for i := range cfg.Apps {
		app := &cfg.Apps[i]
		if app.FPM != nil {
			n += switchedFPM
		}
		for j := range app.Workers {
			n += mostOf(&app.Workers[j], size(app, &app.Workers[j]))
		}
	}
	for i := range cfg.Programs {
		n += cfg.Programs[i].Processes
	}
	return n
}

func configuredSize(_ *config.App, w *config.Worker) int { return w.Processes }

// tooFewDescriptors says what is missing for so many processes; nil: nothing. It
// looks at the hard limit, to which Go raises the soft one when a program starts,
// keeper and superd alike.
func tooFewDescriptors(processes int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	return compareDescriptors(processes, limit.Max)
}

func compareDescriptors(processes int, limit uint64) error {
	need := descriptorsBase + descriptorsEach*processes
	if limit > math.MaxInt || need <= int(limit) {
		return nil
	}
	return fmt.Errorf("superd needs %d open files for the %d processes that a switch may have at once, and its limit is %d; set LimitNOFILE=%d in the unit, without systemd: ulimit -n %d",
		need, processes, limit, max(65536, need), max(65536, need))
}

// roomToScale refuses, before anything is spawned, a size that the limit can't bear.
func (d *daemon) roomToScale(all []target, processes int) error {
	sizes, grows := map[string]int{}, false
	for _, a := range d.allApps() {
		for _, p := range a.fleet.Status() {
			sizes[a.name+"/"+p.Name] = p.Wanted
		}
	}
	for _, t := range all {
		if was, isPool := sizes[t.name]; isPool {
			grows = grows || processes > was
			sizes[t.name] = processes
		}
	}
	n := mostProcesses(d.config(), func(app *config.App, w *config.Worker) int { return sizes[app.Name+"/"+w.Name] })
	for i := range d.config().Programs {
		p := &d.config().Programs[i]
		if slices.ContainsFunc(all, func(t target) bool { return t.app == nil && t.name == p.Name }) {
			grows = grows || processes > p.Processes
			n += processes - p.Processes
		}
	}
	if !grows {
		return nil
	}
	err := tooFewDescriptors(n)
	if err != nil {
		return &control.Error{Kind: control.Rejected, Message: err.Error(), Hint: "nothing was changed; the limit counts from the next start of superd on"}
	}
	return nil
}

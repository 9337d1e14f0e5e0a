package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/config"
	"superd/control"
	"superd/release/check"
	"superd/supervisor"
	"superd/supervisor/program"
	"superd/supervisor/schedule"
)

// newPrograms makes the set of programs of the configuration.
func (d *daemon) newPrograms() {
	d.programs = program.New(program.Options{
		Programs: d.programsOf(d.cfg), Children: d.children, State: filepath.Join(d.cfg.StateDir, "programs.json"),
		Log: d.log, Tell: d.heardProgram, Up: d.isUp,
	})
}

// programsOf are the programs of a configuration, as package program takes them.
func (d *daemon) programsOf(cfg *config.Config) []program.Program {
	var all []program.Program
	for i := range cfg.Programs {
		all = append(all, d.programOf(&cfg.Programs[i]))
	}
	return all
}

func (d *daemon) programOf(p *config.Program) program.Program {
	one := program.Program{
		Name: p.Name, Processes: p.Processes, After: p.After, Requires: p.Requires, Autostart: p.Autostart,
		Restart: supervisor.Restart(p.Restart), Planned: p.PlannedExits, MaxRestarts: p.MaxRestarts, RestartWindow: p.RestartWindow,
		Backoff:    supervisor.Backoff{First: p.Backoff.First, Max: p.Backoff.Max, Factor: p.Backoff.Factor, Jitter: p.Backoff.Jitter, ResetAfter: p.Backoff.ResetAfter},
		StopSignal: p.StopSignal, StopTimeout: stopTimeout(p.StopTimeout), Alone: p.KillScope == "process",
		Limits: supervisor.Limits{MaxAge: p.MaxAge, MaxMemory: p.MaxMemory},
		Proof:  func(n int) func(context.Context, *supervisor.Child) error { return d.proofOf(p, n) },
		Spec:   func(n int) (supervisor.Spec, error) { return d.specOf(p, n) },
	}
	if times, err := p.Times(); err == nil && times != nil { // else it was refused when it was read
		one.Plan = &schedule.Plan{Times: times, Overlap: schedule.Overlap(p.Overlap), Missed: schedule.Missed(p.Missed)}
	}
	if p.Reload != nil {
		one.Reload = func(ctx context.Context, n int, c *supervisor.Child) error { return d.reloadProgram(ctx, p, n, c) }
	}
	return one
}

// programPatience is how long a program may take to say that it is ready, and its reload
// command to end. It is systemd's for a start.
const programPatience = 90 * time.Second

// proofOf is what a process of a program must show to count as up.
func (d *daemon) proofOf(p *config.Program, n int) func(context.Context, *supervisor.Child) error {
	switch p.Ready {
	case "notify":
		return supervisor.Notified(programPatience)
	case "log":
		return supervisor.Wrote(p.ReadyLog, programPatience)
	case "exit":
		return supervisor.Ended
	case "command":
		return answering(programPatience, func(c *supervisor.Child) (check.Process, error) { return d.besideProgram(p, p.ReadyCommand, n, c) })
	}
	return supervisor.Alive(p.MinHealthyTime)
}

// reloadProgram has a process of a program read its own configuration.
func (d *daemon) reloadProgram(ctx context.Context, p *config.Program, n int, c *supervisor.Child) error {
	if len(p.Reload.Command) == 0 {
		return c.Signal(p.Reload.Signal)
	}
	ctx, cancel := context.WithTimeout(ctx, programPatience)
	defer cancel()
	process, err := d.besideProgram(p, p.Reload.Command, n, c)
	if err != nil {
		return err
	}
	return check.Run(ctx, process)
}

// besideProgram is a command that is run for a process of a program, and not kept up.
func (d *daemon) besideProgram(p *config.Program, command []string, n int, c *supervisor.Child) (check.Process, error) {
	s, err := d.specOf(p, n)
	if err != nil {
		return check.Process{}, err
	}
	v, err := programVars(p, n)
	if err != nil {
		return check.Process{}, err
	}
	argv, err := expandAll(command, v)
	if err != nil {
		return check.Process{}, err
	}
	one := check.Process{Argv: argv, Env: override(s.Env, []string{"SUPERD_PID=" + strconv.Itoa(c.PID())}), Dir: s.Dir}
	if p.User != "" && os.Geteuid() == 0 {
		one.Credential = &syscall.Credential{Uid: s.User.UID, Gid: s.User.GID, Groups: s.User.Groups}
	}
	return one, nil
}

// specOf is process n of a program.
func (d *daemon) specOf(p *config.Program, n int) (supervisor.Spec, error) {
	who, err := programUser(p)
	if err != nil {
		return supervisor.Spec{}, err
	}
	v, err := programVars(p, n)
	if err != nil {
		return supervisor.Spec{}, err
	}
	argv, err := expandAll(p.Command, v)
	if err != nil {
		return supervisor.Spec{}, err
	}
	dir, err := config.Expand(p.Directory, v)
	if err != nil {
		return supervisor.Spec{}, fmt.Errorf("directory: %w", err)
	}
	env, err := d.programEnv(p, v, who)
	if err != nil {
		return supervisor.Spec{}, err
	}
	return supervisor.Spec{
		Argv: argv, Env: env, Dir: dir, User: who, Umask: int(p.Umask), Nice: p.Nice, Limits: limitsOf(p.Limits),
		Watchdog: p.Watchdog, Stdin: p.Stdin == "pipe", Labels: map[string]string{"program": p.Name, "slot": strconv.Itoa(n)},
	}, nil
}

// programUser is who a program runs as: superd's own user when none is named.
func programUser(p *config.Program) (supervisor.Credential, error) {
	return credentialOf(p.User, p.Group)
}

// programVars is what templates stand for in process n of a program.
func programVars(p *config.Program, n int) (config.Vars, error) {
	v := config.Vars{Slot: n, Env: ownEnvironment()}
	file, err := programEnvFile(p, v)
	if err != nil || len(file) == 0 {
		return v, err
	}
	v.Env = maps.Clone(v.Env)
	maps.Copy(v.Env, file)
	return v, nil
}

// ownEnvironment is superd's, which nobody changes: it is the same for each of a thousand
// lives.
var ownEnvironment = sync.OnceValue(environment)

func programEnvFile(p *config.Program, v config.Vars) (map[string]string, error) {
	if p.EnvFile == "" {
		return nil, nil //nolint:nilnil // no file, no variables
	}
	path, err := config.Expand(p.EnvFile, v)
	if err != nil {
		return nil, fmt.Errorf("env_file: %w", err)
	}
	return config.EnvFile(path)
}

// programEnv is the whole environment of a process of a program. What is given later
// wins: the account's, PATH and the language unless they are cleared too, env_file, env,
// and at last what superd itself says.
func (d *daemon) programEnv(p *config.Program, v config.Vars, who supervisor.Credential) ([]string, error) {
	env := map[string]string{"HOME": who.Home, "USER": who.Name, "LOGNAME": who.Name}
	if !p.ClearEnv {
		inherit(env, v.Env)
	}
	file, err := programEnvFile(p, v)
	if err != nil {
		return nil, err
	}
	maps.Copy(env, file)
	for name, value := range p.Env {
		if env[name], err = config.Expand(value, v); err != nil {
			return nil, fmt.Errorf("env %s: %w", name, err)
		}
	}
	env["SUPERD_PROGRAM"], env["SUPERD_SLOT"] = p.Name, strconv.Itoa(v.Slot)
	if p.Ready == "notify" {
		env["NOTIFY_SOCKET"] = d.children.NotifySocket()
	}
	return lines(env), nil
}

// isUp tells whether what a program comes after, and is no program, is ready.
func (d *daemon) isUp(name string) bool {
	own, isApp := strings.CutPrefix(name, "app.")
	a, err := d.app(own)
	if !isApp || err != nil {
		return true // it is not configured any more
	}
	shot := a.switcher.Snapshot()
	return !shot.Live.IsZero() && !shot.Settling
}

// heardProgram passes on what happened to programs.
func (d *daemon) heardProgram(e program.Event) {
	on := control.Event{Kind: e.Kind, Process: e.Process, PID: e.PID, Reason: e.Reason, Lines: e.Lines, Slot: &e.Number}
	if e.Exit != nil {
		on.Took = e.Exit.Ran.Seconds()
	}
	d.event(on)
}

// programStatus is every process of every program.
func (d *daemon) programStatus() []control.ProcessStatus {
	var all []control.ProcessStatus
	for _, s := range d.programs.Status() {
		all = append(all, control.ProcessStatus{
			Name: s.Name, Program: s.Program, State: string(s.State), Reason: s.Reason, PID: s.PID, Since: s.Since,
			Restarts: s.Restarts, Last: s.Last, StatusText: s.Text, Reloading: s.Reloading, NextRun: s.Next, Problem: s.Problem,
		})
	}
	return all
}

// programNames are the programs, and the single processes of others, that a pattern
// means.
func (d *daemon) programNames(pattern string) []string {
	var names []string
	for _, s := range d.programs.Status() {
		name := s.Name
		if control.Match(pattern, s.Program) {
			name = s.Program
		}
		if control.Match(pattern, s.Name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range d.config().Programs { // of which no process is there
		if control.Match(pattern, p.Name) && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// orderPrograms carries out an order for programs, all in one, for their order counts.
func (d *daemon) orderPrograms(ctx context.Context, o control.ProcessOrder, names []string) []control.ProcessResult {
	done, err := d.carryOutPrograms(ctx, o, names)
	var all []control.ProcessResult
	for _, name := range names {
		all = append(all, resultOf(name, d.programState(name), errors.Join(err, done[name])))
	}
	return all
}

func (d *daemon) carryOutPrograms(ctx context.Context, o control.ProcessOrder, names []string) (program.Results, error) {
	switch o.Verb {
	case control.VerbStart:
		return d.programs.Start(ctx, names...)
	case control.VerbStop:
		return d.programs.Stop(ctx, o.Now, names...)
	case control.VerbRestart:
		return d.programs.Restart(ctx, names...)
	case control.VerbReload:
		return d.programs.Reload(ctx, names...)
	case control.VerbSignal:
		return d.programs.Signal(unix.SignalNum("SIG"+o.Signal), names...)
	case control.VerbScale:
		results := program.Results{}
		for _, name := range names {
			results[name] = d.programs.Scale(ctx, name, o.Processes)
		}
		return results, nil
	}
	return nil, fmt.Errorf("order %q is unknown", o.Verb)
}

// programState is what a program, or one process of it, is in now.
func (d *daemon) programState(name string) string {
	var states []string
	running := 0
	for _, s := range d.programs.Status() {
		if s.Name == name {
			return string(s.State)
		}
		if s.Program == name {
			states = append(states, string(s.State))
			if s.State == supervisor.Running {
				running++
			}
		}
	}
	if slices.Sort(states); len(slices.Compact(states)) == 1 {
		return states[0]
	}
	return fmt.Sprintf("%d of %d running", running, len(states))
}

const year = 365 * 24 * time.Hour

// slowestPrograms is how long it may take to end all programs: each waits for those that
// come after it. A year is for ever.
func slowestPrograms(cfg *config.Config) time.Duration {
	after := map[string]time.Duration{}
	var until func(name string) time.Duration
	until = func(name string) time.Duration {
		if d, known := after[name]; known {
			return d
		}
		longest, own := time.Duration(0), time.Duration(0)
		for i := range cfg.Programs {
			p := &cfg.Programs[i]
			if p.Name == name {
				own = p.StopTimeout
			}
			if slices.Contains(p.After, "program."+name) {
				longest = max(longest, until(p.Name))
			}
		}
		after[name] = min(longest+min(own, year), year)
		return after[name]
	}
	longest := time.Duration(0)
	for i := range cfg.Programs {
		longest = max(longest, until(cfg.Programs[i].Name))
	}
	return longest
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/output"
)

// logRules say how the output of each process is kept, by its name, from the
// configuration of now.
type logRules struct{ cfg atomic.Pointer[config.Config] }

// obey takes a configuration, for what is asked from now on: see output.Store.Refresh.
func (r *logRules) obey(cfg *config.Config) { r.cfg.Store(cfg) }

// settings is output.Options.Settings. What no part of the configuration names, a hook
// for one, has a file of its own with the usual limits.
func (r *logRules) settings(name string, labels map[string]string) output.Settings {
	cfg := r.cfg.Load()
	log, file := outputOf(cfg, name)
	s := output.Settings{
		Stdout: r.target(log.Stdout, name, labels), Stderr: r.target(log.Stderr, name, labels), Log: file,
		Rules: output.Rules{MaxSize: log.MaxSize, MaxAge: log.MaxAge, MaxTotal: log.MaxTotal, Keep: log.Keep, Compress: log.Compress},
	}
	switch {
	case log.Format == "json":
		s.Format = output.JSON
	case log.Timestamps:
		s.Format = output.Timestamps
	}
	return s
}

// usualOutput is what is not configured: as the defaults of the configuration are.
var usualOutput = config.Output{Stdout: "file", Stderr: "stdout", MaxSize: 50 << 20, Keep: 10, Compress: true, Format: "raw"}

// outputOf is the log table of a process, and its file where that says "file".
func outputOf(cfg *config.Config, name string) (config.Output, string) {
	whole, _, _ := strings.Cut(name, ":")
	app, own, isApp := strings.Cut(whole, "/")
	if !isApp {
		file := "programs/" + strings.ReplaceAll(name, ":", "-") + ".log"
		for i := range cfg.Programs {
			if cfg.Programs[i].Name == whole {
				return cfg.Programs[i].Log, file
			}
		}
		return usualOutput, file
	}
	file := filepath.Join(app, logName(name))
	for i := range cfg.Apps {
		a := &cfg.Apps[i]
		if a.Name != app {
			continue
		}
		if own == "fpm" && a.FPM != nil {
			return a.FPM.Log, file
		}
		for w := range a.Workers {
			if a.Workers[w].Name == own {
				return a.Workers[w].Log, file
			}
		}
	}
	return usualOutput, file
}

// target is a place as package output takes it, with its templates expanded by what is
// known of the life.
func (r *logRules) target(place, name string, labels map[string]string) output.Target {
	if !strings.ContainsRune(place, '{') {
		return output.Target(place)
	}
	vars := config.Vars{App: labels["app"], Release: labels["release"], Env: environment()}
	if app, _, ok := strings.Cut(name, "/"); ok {
		vars.App = app
		for _, a := range r.cfg.Load().Apps {
			if a.Name == app {
				vars.Root, vars.ReleaseDir = a.Root, filepath.Join(a.Root, a.Releases, vars.Release)
			}
		}
	}
	if _, slot, ok := strings.Cut(name, ":"); ok {
		vars.Slot, _ = strconv.Atoi(slot) // no number: the first
	}
	if n, err := strconv.ParseUint(labels["generation"], 10, 64); err == nil {
		vars.Generation = n
	}
	path, err := config.Expand(place, vars)
	if err != nil {
		return output.ToNone // told when the configuration is read, which knows the same names
	}
	return output.Target(path)
}

// Logs are the last lines, and those to come, of what a name means.
func (d *daemon) Logs(ctx context.Context, q control.LogQuery, emit func(control.LogLine) error) error {
	if q.Follow {
		return d.followLogs(ctx, q, emit)
	}
	names, err := d.logNames(append([]string{q.Name}, q.More...)...)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.pastLogs(ctx, name, q, emit); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) pastLogs(ctx context.Context, name string, q control.LogQuery, emit func(control.LogLine) error) error {
	past, err := d.output.History(ctx, output.Question{Name: name, Stream: q.Stream, Lines: q.Lines, Since: q.Since, Until: q.Until})
	if err != nil {
		return err
	}
	if past.Note != "" {
		if err := emit(control.LogLine{Process: name, Note: past.Note}); err != nil {
			return err
		}
	}
	for _, l := range past.Lines {
		if err := emit(logLine(l)); err != nil {
			return err
		}
	}
	return nil
}

// logLine is a line for those who asked.
func logLine(l output.Line) control.LogLine {
	if n := l.Missed(); n > 0 {
		return control.LogLine{Process: l.Name, At: l.At, Missed: n, Line: fmt.Sprintf("(%d lines are missing here: they came faster than they were read)", n)}
	}
	return control.LogLine{Process: l.Name, Stream: l.Stream, Line: l.Text, At: l.At}
}

// logNames are the processes that names mean: those that there are, whether they have
// written yet or not, and those that were and have written. A program may have none.
func (d *daemon) logNames(patterns ...string) ([]string, error) {
	var names []string
	all := append(d.processNames(), d.output.Names()...)
	for _, pattern := range patterns {
		meaning := d.Meaning(pattern)
		own := matching(all, append(slices.Clone(meaning), pattern))
		if len(own)+len(meaning) == 0 {
			return nil, unknownName(pattern)
		}
		names = append(names, own...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func matching(all, patterns []string) (names []string) {
	for _, name := range all {
		if slices.ContainsFunc(patterns, func(p string) bool { return control.Match(p, name) }) {
			names = append(names, name)
		}
	}
	return names
}

// processNames are all processes that there are, or are to be.
func (d *daemon) processNames() (names []string) {
	for _, a := range d.allApps() {
		if a.fpm != nil {
			names = append(names, a.name+"/fpm")
		}
		for _, p := range a.fleet.Status() {
			for _, w := range p.Workers {
				names = append(names, w.Name)
			}
		}
	}
	for _, s := range d.programs.Status() {
		names = append(names, s.Name)
	}
	return names
}

// lookForMore is how often those who follow a name look for processes that it means since.
const lookForMore = time.Second

// followLogs joins those that begin later when it sees them, with what they wrote since it
// looked last: nothing of them is missed.
func (d *daemon) followLogs(ctx context.Context, q control.LogQuery, emit func(control.LogLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	merged := make(chan control.LogLine)
	look := time.NewTicker(lookForMore)
	defer look.Stop()
	followed := map[string]bool{}
	join := func() error {
		at := time.Now()
		names, err := d.logNames(append([]string{q.Name}, q.More...)...)
		for _, name := range names {
			if !followed[name] {
				followed[name] = true
				own := q
				following.Go(func() { d.followLog(ctx, name, own, merged) })
			}
		}
		if q.Lines = max(q.Lines, memory); q.Since.Before(at) {
			q.Since = at
		}
		return err
	}
	if err := join(); err != nil {
		return err
	}
	for {
		select {
		case l := <-merged:
			if err := emit(l); err != nil {
				return err
			}
		case <-look.C:
			_ = join() // what is called so no more may come back
		case <-ctx.Done():
			return nil
		}
	}
}

// memory is how many lines package output remembers of each name.
const memory = 1000

// followLog sends the lines of one process to those who asked: first as many of the past
// as are in memory or, for one who comes back and wants to know where the past ends, are
// in files too. What was written while those were read is behind them in memory.
func (d *daemon) followLog(ctx context.Context, name string, q control.LogQuery, to chan<- control.LogLine) {
	send := func(l control.LogLine) {
		select {
		case to <- l:
		case <-ctx.Done():
		}
	}
	var known []control.LogLine
	n := q.Lines
	if q.Mark {
		past, err := d.output.History(ctx, output.Question{Name: name, Stream: q.Stream, Lines: q.Lines, Whole: true})
		if err != nil && ctx.Err() == nil {
			send(control.LogLine{Process: name, Note: err.Error()}) // the lines in memory are left
		}
		for _, l := range past.Lines {
			known = append(known, logLine(l))
			send(logLine(l))
		}
		n = memory
	}
	lines := d.output.Follow(ctx, name, n, q.Stream)
	if q.Mark {
		var between []control.LogLine
		for range len(lines) {
			if l, ok := <-lines; ok {
				between = append(between, logLine(l))
			}
		}
		for _, l := range control.Unseen(known, between) {
			send(l)
		}
		send(control.LogLine{Process: name, CaughtUp: true})
	}
	for l := range lines {
		if !l.At.Before(q.Since) {
			send(logLine(l))
		}
	}
}

// ClearLog empties the logs of what a name means.
func (d *daemon) ClearLog(_ context.Context, name string, by release.By) ([]control.ProcessResult, error) {
	names, err := d.logNames(name)
	if err != nil {
		return nil, err
	}
	var results []control.ProcessResult
	for _, name := range names {
		r := control.ProcessResult{Name: name, OK: true}
		if err := d.output.Clear(name); err != nil {
			r.OK, r.Message = false, err.Error()
		}
		results = append(results, r)
		d.event(control.Event{Kind: "log.cleared", Process: name, By: &by})
	}
	return results, nil
}

// Attach passes on what one process writes.
func (d *daemon) Attach(ctx context.Context, name string, emit func([]byte) error) error {
	names, err := d.logNames(name)
	if err != nil {
		return err
	}
	one, err := oneName(name, names)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := d.output.Overhear(ctx, one)
	if err := emit(nil); err != nil {
		return err
	}
	for l := range heard {
		text := []byte(l.Text)
		if n := l.Missed(); n > 0 {
			text = fmt.Appendf(nil, "\r\n[superd: %d pieces are missing here: they came faster than they were read]\r\n", n)
		}
		if err := emit(text); err != nil {
			return err
		}
	}
	return nil
}

// Input gives text to the standard input of the one process that a name means.
func (d *daemon) Input(ctx context.Context, name, text string, _ release.By) error {
	living := map[string]*supervisor.Child{}
	for _, c := range d.children.Living() {
		select {
		case <-c.Exited():
			continue
		default:
		}
		if have := living[c.Name()]; control.Match(name, c.Name()) && (have == nil || have.Born().Before(c.Born())) {
			living[c.Name()] = c // of one slot two may be there: the newer one
		}
	}
	one, err := oneName(name, slices.Collect(maps.Keys(living)))
	if err != nil {
		return err
	}
	err = living[one].Write(ctx, []byte(text))
	if errors.Is(err, supervisor.ErrNoStdin) {
		return &control.Error{Kind: control.Rejected, Message: one + " has no standard input that could be written to", Hint: `stdin = "pipe" in its table gives it one, from its next start on`}
	}
	return err
}

// oneName refuses a name that means none of these, or several.
func oneName(name string, means []string) (string, error) {
	switch len(means) {
	case 0:
		return "", unknownName(name)
	case 1:
		return means[0], nil
	}
	return "", &control.Error{
		Kind: control.Usage, Message: fmt.Sprintf("%s means %d processes, and this is for one", name, len(means)),
		Hint: "name one, such as " + slices.Min(means),
	}
}

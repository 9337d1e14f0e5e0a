// Command fleet puts the same programs under superd, supervisord, runit and s6, in the
// same run, and prints tables for docs/benchmarks.md: how long until all are started,
// what the supervisor costs, how soon a program that was killed is there again, how
// long a clean stop takes, and what it costs to store what programs write.
//
// The programs tell of their births through one FIFO, so that all supervisors are
// measured by the same clock and none by what it says of itself.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{}
	sizes := flag.String("programs", "300,1000", "how many programs, one table for each number")
	only := flag.String("only", "", "measure only the supervisors with these names, separated by commas")
	flag.IntVar(&b.kills, "kills", 100, "programs that are killed, one after the other")
	flag.DurationVar(&b.idle, "idle", 30*time.Second, "how long the idle processor time is measured")
	flag.IntVar(&b.lines, "lines", 8_000_000, "lines that one program writes; 0 leaves that out")
	flag.Parse()
	if err := b.run(ctx, *sizes, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

type bench struct {
	kills, lines int
	idle         time.Duration
}

func (b *bench) run(ctx context.Context, sizes, only string) error {
	all := supervisors()
	if only != "" {
		all = slices.DeleteFunc(all, func(s supervisor) bool { return !slices.Contains(strings.Split(only, ","), s.name) })
	}
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-programs: %w", err)
		}
		var rows []row
		for _, s := range all {
			r, err := b.measure(ctx, s, n)
			if err != nil {
				return fmt.Errorf("%s with %d programs: %w", s.name, n, err)
			}
			rows = append(rows, r)
		}
		printRows(n, b.idle, rows)
	}
	if b.lines == 0 {
		return nil
	}
	fmt.Printf("\n| %d lines of one program | lines lost | lines a second | processor seconds per GiB |\n|---|---|---|---|\n", b.lines)
	for _, s := range all {
		if err := b.flood(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// A row is one supervisor with so many programs.
type row struct {
	name             string
	started, stopped time.Duration
	memory           uint64  // PSS of the supervisor's own processes
	idle             float64 // percent of one processor
	respawns         []time.Duration
	more             string // what only superd is asked
}

func (b *bench) measure(ctx context.Context, s supervisor, n int) (r row, err error) {
	fmt.Fprintf(os.Stderr, "%s, %d programs\n", s.name, n)
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	births, err := listen(filepath.Join(dir, "births"))
	if err != nil {
		return r, err
	}
	defer births.close()
	run, err := s.prepare(dir, programs(births.path, n))
	if err != nil {
		return r, err
	}
	began := time.Now()
	if err := run.start(); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, run.end(births)) }()
	r.name = s.name
	if err := births.all(ctx, n); err != nil {
		return r, fmt.Errorf("%w\n%s", err, run.said())
	}
	r.started = births.last.Sub(began)
	if err := pause(ctx, 5*time.Second); err != nil {
		return r, err
	}
	if r.memory, r.idle, err = run.costs(ctx, births, b.idle); err != nil {
		return r, err
	}
	if r.respawns, err = births.kill(ctx, min(b.kills, n)); err != nil {
		return r, err
	}
	if s.more != nil {
		if r.more, err = s.more(ctx, dir); err != nil {
			return r, err
		}
	}
	began = time.Now()
	err = run.stop(births)
	r.stopped = time.Since(began)
	return r, err
}

// programs are what each supervisor is to run: the text of a shell script each.
func programs(births string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("#!/bin/sh\necho %d $$ > %s\nexec sleep 1000000\n", i, births)
	}
	return all
}

func printRows(n int, idle time.Duration, rows []row) {
	fmt.Printf("\n| %d programs | all started | memory (PSS) | idle processor over %s | killed, there again: median | 95 %% | longest | clean stop |\n|---|---|---|---|---|---|---|---|\n", n, idle)
	for _, r := range rows {
		slices.Sort(r.respawns)
		at := func(part float64) string {
			if len(r.respawns) == 0 {
				return "–"
			}
			return milliseconds(r.respawns[int(part*float64(len(r.respawns)-1))])
		}
		fmt.Printf("| %s | %s | %.1f MiB | %.2f %% | %s | %s | %s | %s |\n", r.name, milliseconds(r.started), float64(r.memory)/(1<<20), r.idle, at(0.5), at(0.95), at(1), milliseconds(r.stopped))
	}
	for _, r := range rows {
		if r.more != "" {
			fmt.Printf("\n%s: %s\n", r.name, r.more)
		}
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.*f ms", cmp.Compare(10*time.Millisecond, d)+1, float64(d)/float64(time.Millisecond))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// flood lets one program write, and waits until all of it is stored.
func (b *bench) flood(ctx context.Context, s supervisor) (err error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	births, err := listen(filepath.Join(dir, "births"))
	if err != nil {
		return err
	}
	defer births.close()
	const line = "the quick brown fox jumps over the lazy dog, and writes it down "
	script := fmt.Sprintf("#!/bin/sh\necho 0 $$ > %s\nsleep 2\nseq -f '%s%%.0f' 1 %d\nexec sleep 1000000\n", births.path, line, b.lines)
	run, err := s.prepare(dir, []string{script})
	if err != nil {
		return err
	}
	if err := run.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.end(births)) }()
	if err := births.all(ctx, 1); err != nil {
		return err
	}
	before := run.busy(births)
	began := time.Now().Add(2 * time.Second)
	stored, size, err := stored(ctx, run.log, fmt.Sprintf("%s%d\n", line, b.lines))
	if err != nil {
		return err
	}
	took, busy := time.Since(began), run.busy(births)-before
	fmt.Printf("| %s | %d | %.0f | %.2f |\n", s.name, b.lines-stored, float64(stored)/took.Seconds(), busy/(float64(size)/(1<<30)))
	return run.stop(births)
}

// storedIn counts what is in a log and in those that were put aside: s6-log begins a new one
// after 256 MiB at the latest.
func storedIn(log string) (lines int, size int64, err error) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(log), "@*"))
	if err != nil {
		return 0, 0, err
	}
	for _, file := range append(files, log) {
		info, err := os.Stat(file)
		if err != nil {
			return 0, 0, err
		}
		n, err := countLines(file)
		if err != nil {
			return 0, 0, err
		}
		lines, size = lines+n, size+info.Size()
	}
	return lines, size, nil
}

// stored waits until the end of the log is last, and counts its lines.
func stored(ctx context.Context, log, last string) (lines int, size int64, err error) {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		f, err := os.Open(log)
		if err == nil {
			tail := make([]byte, len(last))
			info, statErr := f.Stat()
			if statErr == nil && info.Size() >= int64(len(last)) {
				_, _ = f.ReadAt(tail, info.Size()-int64(len(last))) // what was not read is not last
			}
			done := strings.HasSuffix(string(tail), last)
			err = errors.Join(statErr, f.Close())
			if err == nil && done {
				return storedIn(log)
			}
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("%s does not end with the last line after 5m: %w", log, cmp.Or(err, errors.New("it has other ends")))
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
}

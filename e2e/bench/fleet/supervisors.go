package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A supervisor can be told to run programs, each the text of a shell script.
type supervisor struct {
	name    string
	prepare func(dir string, programs []string) (*running, error)
	more    func(ctx context.Context, dir string) (string, error)
}

// running is a supervisor and all below it.
type running struct {
	cmd   *exec.Cmd
	bye   syscall.Signal
	log   string // where what the first program writes ends up
	out   bytes.Buffer
	ended chan error

	waiting sync.WaitGroup
}

func supervisors() []supervisor {
	return []supervisor{
		{name: "superd", prepare: superd, more: superdAsked},
		{name: "supervisord", prepare: supervisord},
		{name: "runit", prepare: runit},
		{name: "s6", prepare: s6},
	}
}

func (r *running) start() error {
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r.cmd.WaitDelay = time.Second // programs may keep its output open
	if err := r.cmd.Start(); err != nil {
		return err
	}
	r.ended = make(chan error, 1)
	r.waiting.Go(func() { r.ended <- r.cmd.Wait() })
	return nil
}

func (r *running) said() string { return r.out.String() }

// patience is for the slowest of them on a slow machine.
const patience = 15 * time.Minute

// stop tells the supervisor to end and waits until it and every program is gone.
func (r *running) stop(b *births) error {
	if err := r.cmd.Process.Signal(r.bye); err != nil {
		return err
	}
	select {
	case err := <-r.ended:
		r.ended <- err
	case <-time.After(patience):
		return fmt.Errorf("it has not ended after %s", patience)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		left := 0
		for _, pid := range b.pids {
			if alive(pid) {
				left++
			}
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%d programs outlive it", left)
		}
	}
}

// end leaves nothing behind, whatever went wrong before.
func (r *running) end(b *births) error {
	defer r.waiting.Wait()
	select {
	case <-r.ended:
	default:
		_ = r.cmd.Process.Signal(r.bye)
		select {
		case <-r.ended:
		case <-time.After(20 * time.Second):
			_ = r.cmd.Process.Kill()
			<-r.ended
		}
	}
	b.drain()
	for _, pid := range b.pids {
		if pid != 0 && alive(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return nil
}

// alive tells whether pid is one of our programs: a PID that was given to another
// process since is not.
func alive(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte("1000000"))
}

// scripts writes each program into a directory of its own, as file.
func scripts(dir, file string, programs []string) error {
	for i, text := range programs {
		at := filepath.Join(dir, fmt.Sprintf("p%d", i))
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, file), []byte(text), 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// superd runs them as the processes of one program.
func superd(dir string, programs []string) (*running, error) {
	svc := filepath.Join(dir, "svc")
	if err := scripts(svc, "run", programs); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`
socket    = %q
run_dir   = "%[2]s/run"
state_dir = "%[2]s/state"
log_dir   = "%[2]s/log"
[program.p]
command = ["%[3]s/p{slot}/run"]
processes = %[4]d
min_healthy_time = "0s"
log = { max_size = "4GiB" }
`, socket(dir), dir, svc, len(programs))
	file := filepath.Join(dir, "superd.toml")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	return &running{
		cmd: exec.CommandContext(context.Background(), binary("superd"), "run", "--config", file),
		bye: syscall.SIGTERM, log: filepath.Join(dir, "log", "programs", "p-0.log"),
	}, nil
}

func socket(dir string) string { return filepath.Join(dir, "superd.sock") }

func binary(name string) string {
	here, err := os.Getwd()
	if err != nil {
		return name
	}
	return filepath.Join(here, "bin", name)
}

func supervisord(dir string, programs []string) (*running, error) {
	svc := filepath.Join(dir, "svc")
	if err := scripts(svc, "run", programs); err != nil {
		return nil, err
	}
	var c strings.Builder
	fmt.Fprintf(&c, "[supervisord]\nnodaemon=true\nlogfile=%s\npidfile=%s\nchildlogdir=%s\nminfds=8192\nuser=root\n", dir+"/main.log", dir+"/pid", dir)
	for i := range programs {
		fmt.Fprintf(&c, "[program:p%d]\ncommand=%s/p%d/run\nstdout_logfile=%s/p%d.log\nredirect_stderr=true\nstdout_logfile_maxbytes=0\n", i, svc, i, dir, i)
	}
	file := filepath.Join(dir, "supervisord.conf")
	if err := os.WriteFile(file, []byte(c.String()), 0o644); err != nil {
		return nil, err
	}
	return &running{
		cmd: exec.CommandContext(context.Background(), "supervisord", "-c", file),
		bye: syscall.SIGTERM, log: filepath.Join(dir, "p0.log"),
	}, nil
}

// runit has one runsv for each program. For a program that writes, svlogd.
func runit(dir string, programs []string) (*running, error) {
	log := logOf(dir)
	err := errors.Join(os.MkdirAll(log, 0o755), os.WriteFile(filepath.Join(log, "config"), []byte("s4294967295\n"), 0o644))
	if err != nil {
		return nil, err
	}
	return scanned(dir, programs, syscall.SIGHUP, "svlogd "+log, "runsvdir")
}

// s6 has one s6-supervise for each program. For a program that writes, s6-log.
func s6(dir string, programs []string) (*running, error) {
	return scanned(dir, programs, syscall.SIGTERM, "s6-log s268435455 n100 "+logOf(dir), "s6-svscan", "-c", "4000")
}

func logOf(dir string) string { return filepath.Join(dir, "log0") }

// scanned runs them under one that supervises whatever it finds in a directory, and gives
// what a single one writes to logger.
func scanned(dir string, programs []string, bye syscall.Signal, logger string, argv ...string) (*running, error) {
	svc := filepath.Join(dir, "svc")
	if err := scripts(svc, "run", programs); err != nil {
		return nil, err
	}
	if len(programs) == 1 {
		at := filepath.Join(svc, "p0", "log")
		script := "#!/bin/sh\nexec " + logger + "\n"
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "run"), []byte(script), 0o755)); err != nil {
			return nil, err
		}
	}
	return &running{
		cmd: exec.CommandContext(context.Background(), argv[0], append(argv[1:], svc)...),
		bye: bye, log: filepath.Join(logOf(dir), "current"),
	}, nil
}

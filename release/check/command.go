package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"superd/release"
)

const (
	// maxOutput is how much of a command's output is kept: its end.
	maxOutput = 16 << 10
	maxLines  = 20
	// patience is for a process that was killed and does not go: it hangs in the
	// kernel, on a dead network disk, say.
	patience = 10 * time.Second
)

// runCommand runs the command of a check in the directory of g.
func (p *prober) runCommand(ctx context.Context, c Check, g release.Generation) error {
	process, err := p.Process(g, c.Command)
	if err != nil {
		return err
	}
	process.Dir = cmp.Or(process.Dir, g.Dir)
	return Run(ctx, process)
}

// Run runs a process to its end, which is an error unless it exits with 0; what it
// wrote last is in the error, a release.Explained. Nothing of its process group is
// left behind when it ends, by itself or with ctx.
func Run(ctx context.Context, p Process) error {
	cmd, err := command(p)
	if err != nil {
		return err
	}
	output, err := run(ctx, cmd)
	if err != nil {
		return &explained{
			fmt.Errorf("%s: %w", strings.Join(p.Argv, " "), because(ctx, err)),
			lastLines(output, maxLines),
		}
	}
	return nil
}

func command(p Process) (*exec.Cmd, error) {
	if len(p.Argv) == 0 {
		return nil, errors.New("command is empty")
	}
	path, err := lookPath(p.Argv[0], p.Env)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: path, Args: p.Argv, Env: p.Env, Dir: p.Dir,
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:    true,
			Credential: p.Credential,
			Pdeathsig:  syscall.SIGKILL, // superd may be killed: see started
		},
	}, nil
}

// lookPath finds a program in the PATH of the process, not in superd's. With a
// slash in it, it is meant from the directory of the process.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		found := filepath.Join(dir, name)
		if info, err := os.Stat(found); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH=%s", name, path)
}

// run runs cmd to its end, or until ctx ends, and returns the end of its output.
func run(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	cmd.Stdout, cmd.Stderr = w, w
	out := &tail{}
	var all sync.WaitGroup
	all.Go(func() { _, _ = io.Copy(out, r) }) // ends with the last writer, or below

	begun, ended := make(chan error, 1), make(chan error, 1)
	var life sync.WaitGroup
	life.Go(func() { started(cmd, w, begun, ended) }) // ends with the process, or when the kernel lets go of it
	err = <-begun
	if err == nil {
		err = end(ctx, cmd, ended)
	}
	// What left the group with setsid may still hold the pipe; nobody waits for it.
	_ = r.SetReadDeadline(time.Now().Add(time.Second))
	all.Wait()
	return out.kept, err
}

// started starts cmd and waits for it on one thread, which is what Pdeathsig goes
// by: the thread that forked, not superd, must live for as long as the child.
func started(cmd *exec.Cmd, w *os.File, begun, ended chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	_ = w.Close() // the child has its own
	begun <- err
	if err == nil {
		ended <- cmd.Wait()
	}
}

// end waits for a process that was started, and kills its group when ctx ends and
// in any case once its leader is gone.
func end(ctx context.Context, cmd *exec.Cmd, ended <-chan error) error {
	group := -cmd.Process.Pid
	select {
	case err := <-ended:
		// As long as the group has a member its number is not given to another one;
		// an error means that it has none.
		_ = syscall.Kill(group, syscall.SIGKILL)
		return err
	case <-ctx.Done():
	}
	_ = syscall.Kill(group, syscall.SIGKILL) // likewise
	select {
	case err := <-ended:
		if err == nil {
			return nil // it was done before the signal came
		}
		return context.Cause(ctx)
	case <-time.After(patience):
		return fmt.Errorf("process %d was killed and does not end: %w", cmd.Process.Pid, context.Cause(ctx))
	}
}

// A tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b[max(0, len(b)-maxOutput):]...)
	if extra := len(t.kept) - maxOutput; extra > 0 {
		t.kept = slices.Delete(t.kept, 0, extra)
	}
	return len(b), nil
}

// lines are those of a text that have something on them.
func lines(text []byte) []string {
	var all []string
	for line := range bytes.Lines(text) {
		if line := strings.TrimSpace(string(line)); line != "" {
			all = append(all, line)
		}
	}
	return all
}

func lastLines(text []byte, n int) []string {
	all := lines(text)
	return all[max(0, len(all)-n):]
}

func clip(text string) string {
	if len(text) > maxClip {
		text = text[:maxClip] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Server is a process that the lab started and will end.
type Server struct {
	Name string
	Log  string // the file it writes to

	cmd  *exec.Cmd
	stop syscall.Signal
	wait time.Duration
	done chan struct{} // closed when it has ended
	err  error         // how, once done
}

// run starts a server in a process group of its own: a Ctrl-C on the terminal is
// for whoever runs the lab, who then ends it in order.
func (l *Lab) run(s *Server, env []string, argv ...string) (*Server, error) {
	return l.runCommand(s, env, exec.Command(argv[0], argv[1:]...))
}

func (l *Lab) runCommand(s *Server, env []string, c *exec.Cmd) (*Server, error) {
	s.Log = l.Path("log", s.Name+".log")
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	s.cmd = c
	s.cmd.Dir = l.Dir
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.done = make(chan struct{})
	if s.wait == 0 {
		s.wait = 20 * time.Second
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, fmt.Errorf("start %s: the lab has ended", s.Name)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	l.servers = append(l.servers, s)
	l.waiting.Go(func() {
		s.err = s.cmd.Wait()
		close(s.done)
	})
	return s, nil
}

// PID of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Done is closed when it has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Code is the exit code, once Done; -1 for a signal.
func (s *Server) Code() int { return s.cmd.ProcessState.ExitCode() }

// Signal sends it a signal.
func (s *Server) Signal(sig syscall.Signal) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", s.Name, err)
	}
	return nil
}

// Stop ends it and returns when it is gone. One that does not go when it is told
// to is killed, which is an error.
func (s *Server) Stop() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(s.stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.Name, err)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(s.wait):
	}
	_ = s.cmd.Process.Kill() // it may have ended by now
	<-s.done
	return fmt.Errorf("stop %s: it was still there %s after %s", s.Name, s.wait, s.stop)
}

// ready waits until is says yes. A server that ends instead is an error, with what
// it wrote.
func (s *Server) ready(is func() bool) error {
	deadline := time.After(30 * time.Second)
	for !is() {
		select {
		case <-s.done:
			return fmt.Errorf("start %s: it ended: %w\n%s", s.Name, s.err, s.Tail(2000))
		case <-deadline:
			return fmt.Errorf("start %s: not ready after 30s\n%s", s.Name, s.Tail(2000))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// listens waits until it can be connected to.
func (s *Server) listens(network, address string) error {
	return s.ready(func() bool {
		c, err := net.Dial(network, address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// Tail is the end of what it wrote.
func (s *Server) Tail(bytes int) string {
	text, err := os.ReadFile(s.Log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}

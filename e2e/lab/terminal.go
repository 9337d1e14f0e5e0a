package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CtlOnTerminal runs superctl as a person does, on a terminal of its own. Out is
// what stands there in the end; seen, if given, gets every byte as it comes.
func (l *Lab) CtlOnTerminal(seen io.Writer, args ...string) Outcome {
	o := Outcome{Args: args, Began: time.Now()}
	ours, theirs, err := openTerminal()
	if err != nil {
		o.Failed, o.Code = err, -1
		return o
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := l.Superctl(ctx, args...)
	c.Stdin, c.Stdout, c.Stderr = theirs, theirs, theirs
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	var said bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() {
		to := io.Writer(&said)
		if seen != nil {
			to = io.MultiWriter(&said, seen)
		}
		_, _ = io.Copy(to, ours) // ends with EIO once nobody has the other end
	})
	err = c.Run()
	o.Ended = time.Now()
	_ = theirs.Close() // the last one that has it
	reading.Wait()
	_ = ours.Close()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.Failed = err
	}
	o.Code, o.Out = c.ProcessState.ExitCode(), onScreen(said.String())
	return o
}

// openTerminal makes a pseudo-terminal, wide enough that nothing wraps.
func openTerminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	fd := int(ours.Fd())
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	var number uint32
	if err == nil {
		number, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 250})
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open terminal: %w", err), ours.Close())
	}
	return ours, theirs, nil
}

var control = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// onScreen is what is left of text that redraws its last line.
func onScreen(text string) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		ended := strings.HasSuffix(line, "\n")
		if i := strings.LastIndex(line, "\r\x1b[K"); i >= 0 {
			line = line[i:]
		}
		line = strings.TrimRight(strings.ReplaceAll(control.ReplaceAllString(line, ""), "\r", ""), " \n")
		if line != "" || ended {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

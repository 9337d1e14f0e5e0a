package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/output"
)

// ErrNoStdin is what Write answers for a child that reads nothing.
var ErrNoStdin = errors.New(`its standard input is /dev/null; stdin = "pipe" in the configuration makes it one that can be written to`)

// inputPatience is how long a child may leave its standard input full.
const inputPatience = 10 * time.Second

// Write sends b to the standard input of the child, which Spec.Stdin asked for. A child
// that does not read is given some seconds, or until ctx ends.
func (c *Child) Write(ctx context.Context, b []byte) error {
	in := c.proc.In
	if in == nil {
		return fmt.Errorf("write to %s: %w", c.Name(), ErrNoStdin)
	}
	c.writing.Lock() // what two people type is not mixed within a line
	defer c.writing.Unlock()
	if err := in.SetWriteDeadline(time.Now().Add(inputPatience)); err != nil {
		return fmt.Errorf("write to %s: %w", c.Name(), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = in.SetWriteDeadline(time.Unix(1, 0)) }) // fails only once closed
	defer stop()
	switch _, err := in.Write(b); {
	case errors.Is(err, unix.EPIPE), errors.Is(err, os.ErrClosed):
		return fmt.Errorf("write to %s: it reads no more", c.Name())
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("write to %s: it has read nothing for %s", c.Name(), inputPatience)
	case err != nil:
		return fmt.Errorf("write to %s: %w", c.Name(), err)
	}
	return nil
}

// marksName is what the keeper calls the marks of the output, see output.Store.KeepMarks.
const marksName = "output.marks"

// keepMarks gives the output the marks of the superd before, or new ones to leave to the
// next. Without them all that is lost is whose the lines in a shared file were.
func (c *Children) keepMarks() {
	marks, ok := c.Held(marksName)
	if !ok {
		fresh, err := output.NewMarks()
		if err == nil {
			err = c.Hold(marksName, fresh) // without it they serve this superd
		}
		if fresh == nil {
			c.log.Warn("which process wrote which line is not known after superd's next restart", "error", err)
			return
		}
		if err != nil {
			c.log.Warn("the keeper does not take the marks of the output", "error", err)
		}
		marks = fresh
	}
	c.output.KeepMarks(marks)
}

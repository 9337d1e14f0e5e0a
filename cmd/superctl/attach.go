package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"superd/control"
)

func (c *cli) clearCommand() *cobra.Command {
	return &cobra.Command{
		Use: "clear NAME…", Short: "empty the logs of processes, those on disk and those in memory",
		Long: named("empty the logs of processes, those on disk and those in memory"),
		Args: arguments(1, -1, names), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []control.ProcessResult
			failed := false
			for _, name := range args {
				results, err := c.client().ClearLog(cmd.Context(), name)
				if err != nil {
					return err
				}
				for _, r := range results {
					failed = failed || !r.OK
				}
				all = append(all, results...)
			}
			if c.json {
				if err := c.print(all); err != nil {
					return err
				}
			} else {
				for _, r := range all {
					fmt.Fprintln(c.talk, r.Name+": "+cleared(r))
				}
			}
			if failed {
				return exit(control.Internal.Exit())
			}
			return nil
		},
	}
}

func cleared(r control.ProcessResult) string {
	if r.OK {
		return "cleared"
	}
	return r.Message
}

func (c *cli) attachCommand() *cobra.Command {
	return &cobra.Command{
		Use: "attach NAME", Short: "be at the terminal of one process: see what it writes, type what it reads",
		Long: "What the process writes from now on is printed byte for byte. Lines that are typed go to its\nstandard input where its table says stdin = \"pipe\". Ctrl-C detaches; the process hears nothing of it.",
		Args: arguments(1, 1, "one NAME of a process"), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error { return c.attach(cmd.Context(), args[0], os.Stdin) },
	}
}

// attach ends when superd does, or with ctx. What is typed is sent line by line, as the
// terminal gives it.
func (c *cli) attach(ctx context.Context, name string, typed *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var typing sync.WaitGroup
	defer typing.Wait()
	defer cancel(nil)
	err := c.client().Attach(ctx, name, c.out, func() {
		fmt.Fprintf(c.talk, "superctl: attached to %s; Ctrl-C detaches\n", name)
		typing.Go(func() {
			send := func(text string) error { return c.client().Input(ctx, name, text) }
			if err := eachTyped(ctx, typed, send); err != nil {
				cancel(err)
			}
		})
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if ctx.Err() != nil {
		return nil // Ctrl-C is how people end it
	}
	return err
}

// eachTyped sends what is typed until there is no more of it. A read of a terminal can't be
// cut short, so it is not begun before there is something.
func eachTyped(ctx context.Context, typed *os.File, send func(text string) error) error {
	b := make([]byte, 4096)
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(typed.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for what is typed: %w", err)
		}
		got, err := typed.Read(b)
		if got > 0 {
			if err := send(string(b[:got])); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // the end: what the process writes is still to be seen
		}
	}
	return nil
}

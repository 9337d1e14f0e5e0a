package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"superd/control"
)

func (c *cli) logsCommand() *cobra.Command {
	var q control.LogQuery
	cmd := &cobra.Command{
		Use: "logs [-f] [-n N] NAME", Short: "print what a process wrote",
		Args: arguments(1, 1, "one "+names), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name = args[0]
			if q.Lines < 0 {
				return usage("-n must not be negative")
			}
			several, last := false, ""
			for l, err := range c.client().Logs(cmd.Context(), q) {
				if err != nil {
					if cmd.Context().Err() != nil {
						return nil // Ctrl-C is how people end it
					}
					return err
				}
				several = several || last != "" && last != l.Process
				last = l.Process
				if err := c.logLine(l, several || q.Name != l.Process); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "and what it writes from now on")
	cmd.Flags().IntVarP(&q.Lines, "lines", "n", 100, "as many `LINES` of the past")
	cmd.Flags().StringVar(&q.Stream, "stream", "", "stdout or stderr, where they are kept apart")
	return cmd
}

func (c *cli) logLine(l control.LogLine, named bool) error {
	if c.json {
		return c.line(l)
	}
	text := l.Line
	if c.terminal {
		text = printable(text)
	}
	if named {
		text = c.colour(faint, l.Process+" | ") + text
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

func (c *cli) eventsCommand() *cobra.Command {
	var since uint64
	var follow bool
	cmd := &cobra.Command{
		Use: "events [-f] [--since SEQ]", Short: "print what happened",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for e, err := range c.client().Events(cmd.Context(), since, follow) {
				if err != nil {
					if cmd.Context().Err() != nil {
						return nil // Ctrl-C is how people end it
					}
					return err
				}
				if err := c.event(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "and what happens from now on")
	cmd.Flags().Uint64Var(&since, "since", 0, "only what came after the event of number `SEQ`")
	return cmd
}

// event is one line for a person, or one of JSON for a pipe.
func (c *cli) event(e control.Event) error {
	if c.json || !c.terminal {
		return c.line(e)
	}
	parts := []string{e.App, e.Process, string(e.Phase), string(e.Verdict), e.State, e.Message, e.Reason}
	if e.By != nil {
		parts = append(parts, "by "+e.By.String())
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return part == "" })
	at := c.colour(faint, fmt.Sprintf("%s %6d ", e.At.Local().Format("15:04:05.000"), e.Seq))
	_, err := fmt.Fprintf(c.out, "%s %-16s %s\n", at, e.Kind, printable(strings.Join(parts, " ")))
	return err
}

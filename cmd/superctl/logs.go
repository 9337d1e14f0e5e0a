package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"superd/control"
)

func (c *cli) logsCommand() *cobra.Command {
	var q control.LogQuery
	var since, until string
	cmd := &cobra.Command{
		Use: "logs [-f] [-n N] NAME…", Short: "print what processes wrote",
		Long: named("print what processes wrote"),
		Args: arguments(1, -1, names), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Lines < 0 {
				return usage("-n must not be negative")
			}
			if q.Since, err = moment("--since", since); err != nil {
				return err
			}
			if q.Until, err = moment("--until", until); err != nil {
				return err
			}
			if since != "" && !cmd.Flags().Changed("lines") {
				q.Lines = mostLines
			}
			return c.logs(cmd.Context(), q, args)
		},
	}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "and what they write from now on")
	cmd.Flags().IntVarP(&q.Lines, "lines", "n", 100, "as many `LINES` of the past")
	cmd.Flags().StringVar(&q.Stream, "stream", "", "stdout or stderr, where they are kept apart")
	cmd.Flags().StringVar(&since, "since", "", "only what was written since `TIME`: 15m (ago), 14:30, \"2026-11-25 14:30\"")
	cmd.Flags().StringVar(&until, "until", "", "only what was written until `TIME`")
	return cmd
}

// mostLines is as many as superd gives at once.
const mostLines = 100_000

func moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := control.Moment(text, time.Now())
	if err != nil {
		return at, usage("%s %q %v", flag, text, err)
	}
	return at, nil
}

// logs prints what each of the names means, one after the other, or with -f all as it
// comes.
func (c *cli) logs(ctx context.Context, q control.LogQuery, names []string) error {
	show := &shower{cli: c, named: len(names) > 1}
	if !q.Follow {
		for _, name := range names {
			q.Name = name
			if err := show.all(ctx, q); err != nil {
				return err
			}
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make([]error, len(names))
	var following sync.WaitGroup
	for i, name := range names {
		q.Name = name
		following.Go(func() {
			if ends[i] = show.all(ctx, q); ends[i] != nil {
				cancel() // one that is not there is told at once, not at the end of the others
			}
		})
	}
	following.Wait()
	return errors.Join(ends...)
}

// A shower prints lines of several processes. A name is before a line as soon as there
// is more than one.
type shower struct {
	*cli
	mu    sync.Mutex
	named bool
	last  string
}

func (s *shower) all(ctx context.Context, q control.LogQuery) error {
	for l, err := range s.client().Logs(ctx, q) {
		if err != nil {
			if ctx.Err() != nil {
				return nil // Ctrl-C is how people end it
			}
			return err
		}
		if err := s.show(q, l); err != nil {
			return err
		}
	}
	return nil
}

func (s *shower) show(q control.LogQuery, l control.LogLine) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named = s.named || s.last != "" && s.last != l.Process || q.Name != l.Process
	s.last = l.Process
	if s.json {
		return s.line(l)
	}
	if l.Note != "" {
		fmt.Fprintf(s.talk, "superctl: %s: %s\n", l.Process, l.Note)
		return nil
	}
	text := l.Line
	if s.terminal {
		text = printable(text)
	}
	switch {
	case l.Missed > 0:
		text = s.colour(yellow, text)
	case l.Stream == "stderr":
		text = s.colour(red, text)
	}
	if s.named {
		text = s.colour(colourOf(l.Process), l.Process+" | ") + text
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}

// colourOf is always the same for a process, and seldom that of its neighbour.
func colourOf(process string) string {
	colours := [...]string{"36", "35", "34", "32", "96", "95", "94", "92"}
	sum := 0
	for _, b := range []byte(process) {
		sum = sum*31 + int(b)
	}
	return colours[uint(sum)%uint(len(colours))]
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

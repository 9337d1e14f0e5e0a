package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"superd/cmd/superctl/top"
	"superd/control"
)

func (c *cli) topCommand() *cobra.Command {
	every := time.Second
	cmd := &cobra.Command{
		Use: "top", Short: "a live view of what runs; with --json one status a line",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case every < 100*time.Millisecond:
				return usage("--every %s is too often: 100ms is the least", every)
			case c.json:
				return c.topLines(cmd, every)
			case !c.terminal || !term.IsTerminal(int(os.Stdin.Fd())):
				return &control.Error{Kind: control.Usage, Message: "top needs a terminal", Hint: "superctl status, or superctl top --json"}
			}
			if _, err := c.client().Status(cmd.Context()); err != nil {
				return err // before the screen is taken
			}
			return top.Run(cmd.Context(), top.Options{Ask: c.harmlessStatus, Every: every, In: os.Stdin, Out: c.out, Colour: os.Getenv("NO_COLOR") == ""})
		},
	}
	cmd.Flags().DurationVar(&every, "every", every, "how often it looks")
	return cmd
}

func (c *cli) harmlessStatus(ctx context.Context) (control.Status, error) {
	status, err := c.client().Status(ctx)
	return harmless(status), err
}

// topLines writes a status a line until it is interrupted.
func (c *cli) topLines(cmd *cobra.Command, every time.Duration) error {
	ctx := cmd.Context()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		status, err := c.client().Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.line(status); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"superd/control"
	"superd/release"
)

// switching is what the flags of switch and rollback say about waiting.
type switching struct {
	wait     string
	lockWait time.Duration
	timeout  time.Duration
}

func (s *switching) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.wait, "wait", "healthy", "until `WHAT`: healthy, drained (also the last old worker has ended), no")
	cmd.Flags().DurationVar(&s.lockWait, "lock-wait", 0, "wait as long as `D` for another switch to end")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 0, "stop waiting after `D` with exit code 7; the switch goes on")
}

func (s *switching) check() error {
	if !slices.Contains([]string{"healthy", "drained", "no"}, s.wait) {
		return usage("--wait must be healthy, drained or no, is %q", s.wait)
	}
	if s.lockWait < 0 || s.timeout < 0 {
		return usage("a duration cannot be negative")
	}
	return nil
}

func (c *cli) switchCommand() *cobra.Command {
	var s switching
	var q control.SwitchRequest
	cmd := c.withApp(&cobra.Command{
		Use: "switch RELEASE | --adopt [RELEASE]", Short: "move an app to a release, and back by itself if it is not well",
		Long: "switch moves an app to RELEASE: a name, a path inside releases, latest or previous.\n" +
			"With --adopt the link leads there already, for a tool has moved it: superctl begins\n" +
			"that switch, or joins it, and tells how it ended. Name the RELEASE there too: should it\n" +
			"have been taken back meanwhile, that is no success then.\n" +
			"Ctrl-C stops watching, never the switch; superctl abort takes it back.",
		Args: func(cmd *cobra.Command, args []string) error {
			if q.Adopt {
				return arguments(0, 1, "at most one RELEASE")(cmd, args)
			}
			return arguments(1, 1, "one RELEASE: a name, latest or previous")(cmd, args)
		},
		ValidArgsFunction: c.completeReleases,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Release = args[0]
			}
			q.LockWait = control.Duration(s.lockWait)
			return c.begin(cmd.Context(), s, func(ctx context.Context, app string) (control.SwitchAnswer, error) {
				return c.client().Switch(ctx, app, q)
			})
		},
	})
	s.flags(cmd)
	cmd.Flags().BoolVar(&q.Adopt, "adopt", false, "the link leads to the release already: begin that switch, or join it")
	cmd.Flags().BoolVar(&q.Restart, "restart", false, "also if the release is live: roll all processes on it")
	cmd.Flags().BoolVar(&q.AllowBad, "allow-bad", false, "also if the release is marked bad")
	cmd.Flags().BoolVar(&q.DryRun, "dry-run", false, "only tell whether it could be switched to")
	return cmd
}

func (c *cli) rollbackCommand() *cobra.Command {
	var s switching
	var q control.RollbackRequest
	cmd := c.withApp(&cobra.Command{
		Use: "rollback [RELEASE]", Short: "move an app back to the release before, or to one by name",
		Args: arguments(0, 1, "at most one RELEASE"), ValidArgsFunction: c.completeReleases,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.Release = args[0]
			}
			q.LockWait = control.Duration(s.lockWait)
			return c.begin(cmd.Context(), s, func(ctx context.Context, app string) (control.SwitchAnswer, error) {
				return c.client().Rollback(ctx, app, q)
			})
		},
	})
	s.flags(cmd)
	cmd.Flags().BoolVar(&q.AllowBad, "allow-bad", false, "also if the release is marked bad")
	return cmd
}

// begin asks for a switch and follows it as far as was asked for.
func (c *cli) begin(ctx context.Context, s switching, ask func(context.Context, string) (control.SwitchAnswer, error)) error {
	if err := s.check(); err != nil {
		return err
	}
	app, err := c.theApp(ctx)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, app)
	if err != nil {
		return err
	}
	if answer.Switch == "" || s.wait == "no" {
		return c.accepted(answer)
	}
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	code, err := c.follow(ctx, app, answer)
	if err != nil {
		return c.detached(ctx, app, answer, err)
	}
	if back := code == control.RolledBack.Exit() || code == control.Rejected.Exit(); answer.TakenBack && back {
		code = 0 // that is what was asked for
	}
	if code != 0 {
		return exit(code)
	}
	if s.wait == "drained" {
		return c.drained(ctx, app, answer)
	}
	return nil
}

func (c *cli) accepted(a control.SwitchAnswer) error {
	if c.json || !c.terminal && a.Switch != "" {
		return c.line(a)
	}
	_, err := fmt.Fprintln(c.out, a.Message)
	return err
}

// follow prints the events of a switch to its end and returns its exit code.
func (c *cli) follow(ctx context.Context, app string, a control.SwitchAnswer) (int, error) {
	events := c.client().FollowSwitch(ctx, app, a.Switch, a.Seq)
	if c.terminal && !c.json {
		return newProgress(c).show(events)
	}
	return c.lines(events)
}

// lines prints each event as a line of JSON, for a pipe.
func (c *cli) lines(events iter.Seq2[control.Event, error]) (int, error) {
	for e, err := range events {
		if err != nil {
			return 0, err
		}
		if err := c.line(e); err != nil {
			return 0, err
		}
		if e.Exit != nil {
			return *e.Exit, nil
		}
	}
	return 0, errors.New("superd stopped telling before the switch had ended")
}

// detached tells how to go on when nobody waits any longer, and the switch does.
func (c *cli) detached(ctx context.Context, app string, a control.SwitchAnswer, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return &control.Error{
		Kind:    control.StillGoing,
		Message: fmt.Sprintf("stopped watching; the switch to %s goes on (%s)", a.Release, a.Switch),
		Hint:    fmt.Sprintf("follow it: superctl events -f --since %d; take it back: superctl abort --app %s", a.Seq, app),
	}
}

// drained waits until nothing of an earlier release is left.
func (c *cli) drained(ctx context.Context, app string, a control.SwitchAnswer) error {
	for {
		status, err := c.client().Status(ctx)
		if err == nil && !drains(status, app) {
			return nil
		}
		if err != nil && control.KindOf(err) != control.Unreachable {
			return c.detached(ctx, app, a, err)
		}
		select {
		case <-ctx.Done():
			return c.detached(ctx, app, a, context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func drains(s control.Status, app string) bool {
	for _, a := range s.Apps {
		if a.Name != app {
			continue
		}
		for _, p := range a.Pools {
			if p.Draining > 0 {
				return true
			}
		}
		return a.FPM != nil && len(a.FPM.Generations) > 1
	}
	return false
}

// verdictColour is how well a switch ended.
func verdictColour(v release.Verdict) string {
	switch v {
	case release.Live:
		return green
	case release.Rejected, release.RolledBack, release.Conflict:
		return yellow
	case release.Degraded:
		return red
	}
	return red
}

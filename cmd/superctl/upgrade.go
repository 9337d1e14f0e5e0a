package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"superd/control"
)

// takeover is how long a successor that was ready may take until it answers.
const takeover = 30 * time.Second

func (c *cli) upgradeCommand() *cobra.Command {
	var lockWait time.Duration
	cmd := &cobra.Command{
		Use: "upgrade", Short: "replace superd and its keeper by the programs that are on disk now; nothing else stops",
		Long: "upgrade starts the superd that is on disk now beside the one that runs. When it is ready it\n" +
			"takes over; no process that superd runs is touched, and nobody is refused. If it does not get\n" +
			"ready, its last lines are told and nothing has changed. In the middle of a switch it is\n" +
			"refused with exit code 6. Then the keeper becomes the one that is on disk, in place.",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lockWait < 0 {
				return usage("a duration cannot be negative")
			}
			return c.upgrade(cmd.Context(), lockWait)
		},
	}
	cmd.Flags().DurationVar(&lockWait, "lock-wait", 0, "wait as long as `D` for a switch to end")
	return cmd
}

func (c *cli) upgrade(ctx context.Context, lockWait time.Duration) error {
	answer, err := c.askForUpgrade(ctx, control.UpgradeRequest{}, time.Now().Add(lockWait))
	if err != nil {
		return err
	}
	if err := c.awaitSuccessor(ctx, &answer); err != nil {
		return err
	}
	// superd first: the new one may have to do with the old keeper after any crash, and
	// the new keeper never has to do with the old superd.
	keeper, err := c.askForUpgrade(ctx, control.UpgradeRequest{Keeper: true}, time.Time{})
	if err != nil {
		return &control.Error{
			Kind: control.Degraded, Message: fmt.Sprintf("superd %s (pid %d) has taken over, and %v", answer.After.Version, answer.After.PID, err),
			Hint: "everything works; superctl upgrade tries again",
		}
	}
	if c.json {
		return c.line(upgraded{answer, keeper})
	}
	fmt.Fprintf(c.out, "superd %s (pid %d) has taken over from %s (pid %d)\n",
		answer.After.Version, answer.After.PID, answer.Before.Version, answer.Before.PID)
	if keeper.Changed {
		fmt.Fprintln(c.out, keeper.Message)
	}
	return nil
}

// upgraded is what superctl upgrade --json prints.
type upgraded struct {
	control.UpgradeAnswer
	Keeper control.UpgradeAnswer `json:"keeper"`
}

// askForUpgrade asks until nothing is in the way any longer, or until the deadline.
func (c *cli) askForUpgrade(ctx context.Context, r control.UpgradeRequest, deadline time.Time) (control.UpgradeAnswer, error) {
	for {
		answer, err := c.client().Upgrade(ctx, r)
		if err == nil || control.KindOf(err) != control.Conflict || !time.Now().Before(deadline) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// awaitSuccessor waits until the successor answers, and learns its version.
func (c *cli) awaitSuccessor(ctx context.Context, a *control.UpgradeAnswer) error {
	deadline := time.Now().Add(takeover)
	for {
		status, err := c.client().Status(ctx)
		switch {
		case err == nil && status.PID == a.After.PID:
			a.After.Version = status.Version
			return nil
		case err == nil && status.PID != a.Before.PID:
			return &control.Error{
				Kind: control.Degraded, Message: fmt.Sprintf("the successor (pid %d) ended after it had taken over, and superd %s (pid %d) is there instead", a.After.PID, status.Version, status.PID),
				Hint: "superd's log tells why; nothing that it runs was touched",
			}
		case time.Now().After(deadline):
			return errors.Join(&control.Error{
				Kind: control.Degraded, Message: fmt.Sprintf("the successor (pid %d) does not answer after %s", a.After.PID, takeover), Hint: "superd's log tells more",
			}, err)
		}
		select {
		case <-ctx.Done():
			return &control.Error{Kind: control.StillGoing, Message: "stopped waiting for the successor; it goes on"}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

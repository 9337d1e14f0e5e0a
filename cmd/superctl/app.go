package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"superd/control"
)

// withApp gives a command the flag --app.
func (c *cli) withApp(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&c.app, "app", "a", "", "the `APP`; may be left out when there is only one")
	if err := cmd.RegisterFlagCompletionFunc("app", c.completeApps); err != nil {
		panic(err) // the flag was made a line above
	}
	return cmd
}

// theApp is the app that is meant: the one named, or the only one.
func (c *cli) theApp(ctx context.Context) (string, error) {
	if c.app != "" {
		return c.app, nil
	}
	names, err := c.apps(ctx)
	switch {
	case err != nil:
		return "", err
	case len(names) == 1:
		return names[0], nil
	case len(names) == 0:
		return "", &control.Error{Kind: control.NotFound, Message: "superd has no app that you may see", Hint: "apps are sections [app.NAME] of the configuration"}
	}
	return "", &control.Error{Kind: control.Usage, Message: "there are several apps", Hint: "name one: --app " + strings.Join(names, ", --app ")}
}

func (c *cli) apps(ctx context.Context) ([]string, error) {
	status, err := c.client().Status(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range status.Apps {
		names = append(names, a.Name)
	}
	return names, nil
}

// Completion asks the superd that runs; without one there is nothing to complete.

func (c *cli) completeApps(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	names, err := c.apps(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) completeReleases(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	app, err := c.theApp(cmd.Context())
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	releases, err := c.client().Releases(cmd.Context(), app)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{"latest", "previous"}
	for _, r := range releases {
		names = append(names, fmt.Sprintf("%s\t%s", r.Name, r.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) completeProcesses(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	status, err := c.client().Status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{"all"}
	for _, a := range status.Apps {
		names = append(names, a.Name)
	}
	return append(names, processNames(status)...), cobra.ShellCompDirectiveNoFileComp
}

// processNames are the names of all processes and pools that the user may see.
func processNames(status control.Status) []string {
	var names []string
	for _, a := range status.Apps {
		if a.FPM != nil {
			names = append(names, a.FPM.Name)
		}
		for _, p := range a.Pools {
			names = append(names, p.Name)
			for _, w := range p.Workers {
				names = append(names, w.Name)
			}
		}
	}
	for _, p := range status.Programs {
		if len(names) == 0 || !slices.Contains(names, p.Program) {
			names = append(names, p.Program)
		}
		names = append(names, p.Name)
	}
	return names
}

// change is a command that only asks for something and prints what superd says.
func (c *cli) change(use, short string, ask func(context.Context, string) (control.Done, error)) *cobra.Command {
	return c.withApp(&cobra.Command{
		Use: use, Short: short, Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := c.theApp(cmd.Context())
			if err != nil {
				return err
			}
			return c.done(ask(cmd.Context(), app))
		},
	})
}

func (c *cli) done(d control.Done, err error) error {
	switch {
	case err != nil:
		return err
	case c.json:
		return c.line(d)
	}
	_, err = fmt.Fprintln(c.out, d.Message)
	return err
}

func (c *cli) abortCommand() *cobra.Command {
	return c.change("abort", "take back the switch that is going on", func(ctx context.Context, app string) (control.Done, error) {
		return c.client().Abort(ctx, app)
	})
}

func (c *cli) holdCommand() *cobra.Command {
	var reason string
	cmd := c.change("hold", "keep an app as it is: only a rollback is possible until resume", func(ctx context.Context, app string) (control.Done, error) {
		return c.client().Hold(ctx, app, reason)
	})
	cmd.Flags().StringVarP(&reason, "reason", "m", "", "why, for those who find it held")
	return cmd
}

func (c *cli) resumeCommand() *cobra.Command {
	return c.change("resume", "end a hold, or let a paused switch try again", func(ctx context.Context, app string) (control.Done, error) {
		return c.client().Resume(ctx, app)
	})
}

func (c *cli) shutdownCommand() *cobra.Command {
	return &cobra.Command{
		Use: "shutdown", Short: "stop superd and everything it runs, in order",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.done(c.client().Shutdown(cmd.Context()))
		},
	}
}

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"superd/control"
)

func (c *cli) reloadCommand() *cobra.Command {
	var plan bool
	cmd := &cobra.Command{
		Use: "reload [NAME…]", Short: "read the configuration and make it hold; with NAME have these programs read theirs",
		Args: arguments(0, -1, "names of programs"), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			if plan && len(args) > 0 {
				return usage("--plan is for the configuration of superd, and goes without names")
			}
			if len(args) > 0 {
				return c.order(cmd.Context(), each(args, control.ProcessOrder{Verb: control.VerbReload}))
			}
			r, err := c.client().Reload(cmd.Context(), plan)
			if err != nil {
				return err
			}
			return c.showReload(r)
		},
	}
	cmd.Flags().BoolVar(&plan, "plan", false, "only tell what that would change")
	return cmd
}

// showReload prints what is touched, and each key that is a reason for it.
func (c *cli) showReload(r control.Reload) error {
	if c.json {
		return c.print(r)
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(c.talk, "warning:", w)
	}
	var rows [][]string
	for _, change := range r.Changes {
		if change.Action != "nothing" {
			rows = append(rows, []string{change.Name, change.Action, reasons(change)})
		}
	}
	if err := c.table("NAME\tWHAT\tWHY", rows); err != nil {
		return err
	}
	for _, s := range r.Switches {
		fmt.Fprintf(c.talk, "%s is on its way to a new generation, as switch %s: superctl events -f\n", s.App, s.Switch)
	}
	for _, change := range r.Changes {
		if change.Action == "later" || hasClass(change, "later") {
			fmt.Fprintf(c.talk, "%s: what is later counts when superd itself starts again\n", change.Name)
		}
	}
	done := "reloaded: "
	if r.Plan {
		done = "nothing was changed; a reload would be: "
	}
	_, err := fmt.Fprintf(c.out, "%s%s, %d untouched\n", done, r.Message, len(r.Changes)-r.Touched())
	return err
}

func hasClass(change control.Change, class string) bool {
	for _, r := range change.Reasons {
		if r.Class == class {
			return true
		}
	}
	return false
}

// reasons are the keys, those of another class than the action with it.
func reasons(change control.Change) string {
	var all []string
	for _, r := range change.Reasons {
		if r.Class == change.Action || change.Action == "start" || change.Action == "stop" {
			all = append(all, r.Key)
		} else {
			all = append(all, r.Key+" ("+r.Class+")")
		}
	}
	return strings.Join(all, ", ")
}

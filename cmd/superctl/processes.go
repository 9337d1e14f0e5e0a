package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"superd/control"
)

const names = "NAME: an app, shop/fpm, shop/emails, shop/emails:3; a program, nginx:0; a group; a pattern such as shop/*; or all"

func (c *cli) startCommand() *cobra.Command {
	return c.verb("start NAME…", "start what was stopped", 1, names, func(args []string) ([]control.ProcessOrder, error) {
		return each(args, control.ProcessOrder{Verb: control.VerbStart}), nil
	})
}

func (c *cli) stopCommand() *cobra.Command {
	now := false
	cmd := c.verb("stop NAME…", "stop and keep stopped; jobs in hand are finished", 1, names, func(args []string) ([]control.ProcessOrder, error) {
		return each(args, control.ProcessOrder{Verb: control.VerbStop, Now: now}), nil
	})
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for the job in hand: kill")
	return cmd
}

func (c *cli) restartCommand() *cobra.Command {
	return c.verb("restart NAME…", "end and begin anew, on the same release", 1, names, func(args []string) ([]control.ProcessOrder, error) {
		return each(args, control.ProcessOrder{Verb: control.VerbRestart}), nil
	})
}

func (c *cli) signalCommand() *cobra.Command {
	return c.verb("signal SIGNAL NAME…", "send a signal to main processes", 2, "SIGNAL and NAME", func(args []string) ([]control.ProcessOrder, error) {
		return each(args[1:], control.ProcessOrder{Verb: control.VerbSignal, Signal: args[0]}), nil
	})
}

func (c *cli) scaleCommand() *cobra.Command {
	cmd := c.verb("scale NAME NUMBER", "change how many processes a pool or a program has", 2, "NAME and NUMBER", func(args []string) ([]control.ProcessOrder, error) {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 || len(args) > 2 {
			return nil, usage("scale takes one NAME and a NUMBER of processes, such as: superctl scale shop/emails 10")
		}
		return each(args[:1], control.ProcessOrder{Verb: control.VerbScale, Processes: n}), nil
	})
	cmd.Long = "scale changes how many processes a pool or a program has, until all is stopped (a reboot, a\nshutdown) or the configuration has another number.\n\n" +
		"NAME: shop/emails, a program, or a group, for each of its members"
	return cmd
}

// doubtfulFirst puts orders for names that are not in the status ahead of the others,
// and counts them. superd itself says what is wrong with them (there is none, or it is
// not for this user), at a moment when nothing is done yet.
func (c *cli) doubtfulFirst(ctx context.Context, orders []control.ProcessOrder) (sorted []control.ProcessOrder, doubtful int, err error) {
	if len(orders) < 2 {
		return orders, 0, nil
	}
	status, err := c.client().Status(ctx)
	if err != nil {
		return nil, 0, err
	}
	known := processNames(status)
	var clear []control.ProcessOrder
	for _, o := range orders {
		if slices.ContainsFunc(known, func(name string) bool { return control.Match(o.Name, name) }) {
			clear = append(clear, o)
			continue
		}
		sorted = append(sorted, o)
	}
	return append(sorted, clear...), len(sorted), nil
}

func each(names []string, like control.ProcessOrder) []control.ProcessOrder {
	var orders []control.ProcessOrder
	for _, name := range names {
		like.Name = name
		orders = append(orders, like)
	}
	return orders
}

// named is what the help of a command says that takes names.
func named(short string) string { return short + "\n\n" + names }

// verb is a command that does one thing to processes and prints what came of it.
func (c *cli) verb(use, short string, least int, what string, orders func([]string) ([]control.ProcessOrder, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: named(short), Args: arguments(least, -1, what), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := orders(args)
			if err != nil {
				return err
			}
			return c.order(cmd.Context(), all)
		},
	}
}

// order does one after the other, and goes on past one that fails. A name that means
// nothing is a mistake of who typed it, and found before anything is done.
func (c *cli) order(ctx context.Context, orders []control.ProcessOrder) error {
	orders, doubtful, err := c.doubtfulFirst(ctx, orders)
	if err != nil {
		return err
	}
	var first error
	all := []control.ProcessResult{}
	for n, o := range orders {
		results, err := c.client().Process(ctx, o)
		if err != nil && first == nil {
			first = err
		}
		if err != nil && n < doubtful {
			break
		}
		for _, r := range results {
			if !r.OK && first == nil {
				first = &control.Error{Kind: cmp.Or(r.Kind, control.Internal), Message: fmt.Sprintf("%s %s: %s", o.Verb, r.Name, r.Message)}
			}
		}
		all = append(all, results...)
	}
	if c.json {
		if err := c.print(all); err != nil {
			return err
		}
		return first
	}
	c.results(all)
	return first
}

// results are what came of orders, for a person.
func (c *cli) results(all []control.ProcessResult) {
	for _, r := range all {
		fmt.Fprintf(c.out, "%s: %s", r.Name, r.State)
		if r.Message != "" {
			fmt.Fprintf(c.out, " (%s)", r.Message)
		}
		fmt.Fprintln(c.out)
		for _, l := range r.Lines {
			fmt.Fprintln(c.out, c.colour(faint, "  │ ")+printable(l))
		}
	}
}

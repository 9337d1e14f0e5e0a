package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"superd/control"
	"superd/release"
)

func (c *cli) statusCommand() *cobra.Command {
	var stale bool
	cmd := &cobra.Command{
		Use: "status [NAME…]", Short: "show what runs; exits 4 when something is not as desired",
		Args: arguments(0, -1, "names"), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 && !anyMatches(status, args) {
				return &control.Error{Kind: control.NotFound, Message: fmt.Sprintf("nothing is called %s", args[0]), Hint: "superctl status lists all names"}
			}
			return c.showStatus(narrow(status, args, stale))
		},
	}
	cmd.Flags().BoolVar(&stale, "stale", false, "only processes of another release than the live one")
	return cmd
}

func (c *cli) showStatus(s control.Status) error {
	if c.json {
		if err := c.print(s); err != nil {
			return err
		}
	} else if err := c.statusText(s); err != nil {
		return err
	}
	if !s.Healthy {
		return exit(control.Degraded.Exit())
	}
	return nil
}

func (c *cli) statusText(s control.Status) error {
	s = harmless(s)
	for _, a := range s.Apps {
		c.appLine(a)
	}
	if len(s.Apps) > 0 {
		fmt.Fprintln(c.out)
	}
	var rows [][]string
	for _, a := range s.Apps {
		rows = append(rows, rowsOf(a)...)
	}
	for _, p := range s.Programs {
		rows = append(rows, []string{
			p.Name, programState(p), "-", pid(p.PID), ago(p.Since), strconv.Itoa(p.Restarts), size(p.Memory), percent(p.CPU),
		})
	}
	if err := c.table("NAME\tSTATE\tRELEASE\tPID\tSINCE\tRESTARTS\tMEMORY\tCPU\t", rows); err != nil {
		return err
	}
	for _, p := range s.Problems {
		fmt.Fprintln(c.out, c.colour(red, "!"), p)
	}
	return nil
}

func (c *cli) appLine(a control.AppStatus) {
	code := yellow
	switch a.State {
	case control.AppOK:
		code = green
	case control.AppDegraded:
		code = red
	case control.AppSettling, control.AppWaiting, control.AppSwitching, control.AppPaused, control.AppHeld:
	}
	line := fmt.Sprintf("%s  %s", a.Name, c.colour(code, string(a.State)))
	if a.Live != nil {
		line += fmt.Sprintf("  %s live", *a.Live)
	}
	if a.Previous != nil {
		line += fmt.Sprintf(", %s before", a.Previous.Release)
	}
	fmt.Fprintln(c.out, line)
	if sw := a.Switch; sw != nil {
		fmt.Fprintf(c.out, "  switch %s to %s by %s: %s for %s\n", sw.ID, sw.To, sw.By, sw.Phase, ago(sw.Since))
		if sw.Sharing != nil && sw.Phase == release.Canary {
			fmt.Fprintf(c.out, "  %s gets %.3g %% of the users: so far %s\n", sw.To.Release, sw.Sharing.Share*100, *sw.Sharing)
		}
		if sw.Paused != "" {
			fmt.Fprintf(c.out, "  paused: %s (superctl resume, or superctl abort)\n", sw.Paused)
		}
	}
	if a.FPM != nil {
		for _, former := range a.FPM.Former {
			fmt.Fprintf(c.out, "  also listens on %s, as before: nobody has come there for %s; closed after 15m\n", former.Listen, ago(former.Used))
		}
	}
	if a.Hold != nil {
		fmt.Fprintf(c.out, "  held by %s for %s: %s (superctl resume)\n", a.Hold.By, ago(a.Hold.Since), or(a.Hold.Reason))
	}
}

func rowsOf(a control.AppStatus) [][]string {
	var rows [][]string
	if a.FPM != nil && len(a.FPM.Generations) == 0 {
		rows = append(rows, []string{a.FPM.Name, "stopped", "-", "-", "-", "-", "-", "-"})
	}
	if a.FPM != nil {
		for _, g := range a.FPM.Generations {
			rows = append(rows, []string{
				a.FPM.Name, fmt.Sprintf("%s %d/%d busy", g.State, g.Active, g.Active+g.Idle), g.Release,
				pid(g.PID), ago(g.Since), strconv.Itoa(g.Restarts), size(g.Memory), percent(g.CPU),
			})
		}
	}
	for _, p := range a.Pools {
		for _, w := range p.Workers {
			state := w.State
			if why := cmp.Or(w.Reason, w.Last); why != "" && w.PID == 0 {
				state += " (" + why + ")"
			}
			rows = append(rows, []string{
				w.Name, state, or(w.Release), pid(w.PID), ago(w.Since), strconv.Itoa(w.Restarts), size(w.Memory), percent(w.CPU),
			})
		}
	}
	return rows
}

// programState is the state of a program with what a person wants to know of it.
func programState(p control.ProcessStatus) string {
	switch {
	case p.State == "fatal": // why is a sentence, and among the problems
		return p.State
	case p.Reason != "" && p.PID == 0:
		return p.State + " (" + p.Reason + ")"
	case !p.NextRun.IsZero() && p.PID == 0:
		return p.State + " (" + p.NextRun.Local().Format("Jan _2 15:04:05") + ")"
	case p.Last != "" && p.PID == 0:
		return p.State + " (" + p.Last + ")"
	case p.StatusText != "":
		return p.State + " (" + p.StatusText + ")"
	}
	return p.State
}

func pid(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func percent(cpu float64) string { return fmt.Sprintf("%.1f%%", cpu) }

// narrow leaves only what was asked for.
func narrow(s control.Status, names []string, stale bool) control.Status {
	if len(names) == 0 && !stale {
		return s
	}
	wanted := func(name string, old bool) bool { return (len(names) == 0 || matches(names, name)) && (!stale || old) }
	var apps []control.AppStatus
	for _, a := range s.Apps {
		if kept, some := narrowApp(a, wanted); some || matches(names, a.Name) {
			apps = append(apps, kept)
		}
	}
	s.Apps = apps
	s.Programs = slices.DeleteFunc(slices.Clone(s.Programs), func(p control.ProcessStatus) bool { return !wanted(p.Name, false) })
	return s
}

func narrowApp(a control.AppStatus, wanted func(name string, old bool) bool) (control.AppStatus, bool) {
	some := false
	if a.FPM != nil {
		fpm := *a.FPM
		fpm.Generations = nil
		for _, g := range a.FPM.Generations {
			if wanted(fpm.Name, a.Live == nil || g.Number != a.Live.Number) {
				fpm.Generations, some = append(fpm.Generations, g), true
			}
		}
		a.FPM = &fpm
		if !wanted(fpm.Name, false) && len(fpm.Generations) == 0 {
			a.FPM = nil
		}
	}
	pools := a.Pools
	a.Pools = nil
	for _, p := range pools {
		workers := p.Workers
		p.Workers = nil
		for _, w := range workers {
			if wanted(w.Name, w.Stale) {
				p.Workers, some = append(p.Workers, w), true
			}
		}
		if len(p.Workers) > 0 {
			a.Pools = append(a.Pools, p)
		}
	}
	return a, some
}

func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if control.Match(p, name) {
			return true
		}
	}
	return false
}

func anyMatches(s control.Status, patterns []string) bool {
	for _, a := range s.Apps {
		_, some := narrowApp(a, func(name string, _ bool) bool { return matches(patterns, name) })
		if some || matches(patterns, a.Name) {
			return true
		}
	}
	return slices.ContainsFunc(s.Programs, func(p control.ProcessStatus) bool { return matches(patterns, p.Name) })
}

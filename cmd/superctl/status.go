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
		Use: "status [NAME…]", Short: "show what runs; exits 4 when something of it is not as desired",
		Long: named("show what runs, all or what is named; exits 4 when something of that, or superd itself, is not as desired"),
		Args: arguments(0, -1, "names"), ValidArgsFunction: c.completeProcesses,
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := c.client().StatusOf(cmd.Context(), args...)
			if err != nil {
				return err
			}
			if stale {
				status = onlyStale(status)
			}
			return c.showStatus(status)
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
	switch {
	case len(s.Unknown) > 0:
		return control.NotCalled(s.Unknown)
	case !s.Healthy:
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
				state += " (" + brief(why) + ")"
			}
			rows = append(rows, []string{
				w.Name, state, or(w.Release), pid(w.PID), ago(w.Since), strconv.Itoa(w.Restarts), size(w.Memory), percent(w.CPU),
			})
		}
	}
	return rows
}

// brief is a reason that leaves room for the rest of a table. All of it is among the problems.
func brief(why string) string {
	const room = 48
	if text := []rune(why); len(text) > room {
		return string(text[:room-1]) + "…"
	}
	return why
}

// programState is the state of a program with what a person wants to know of it.
func programState(p control.ProcessStatus) string {
	switch {
	case p.State == "fatal": // why is a sentence, and among the problems
		return p.State
	case p.Reason != "" && p.PID == 0:
		return p.State + " (" + brief(p.Reason) + ")"
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

// onlyStale leaves what runs another release than the live one.
func onlyStale(s control.Status) control.Status {
	var apps []control.AppStatus
	for _, a := range s.Apps {
		if stale := staleOf(a); stale.FPM != nil || len(stale.Pools) > 0 {
			apps = append(apps, stale)
		}
	}
	s.Apps, s.Programs = apps, nil
	return s
}

func staleOf(a control.AppStatus) control.AppStatus {
	if a.FPM != nil {
		fpm := *a.FPM
		fpm.Generations = slices.DeleteFunc(slices.Clone(fpm.Generations), func(g control.GenerationStatus) bool { return a.Live != nil && g.Number == a.Live.Number })
		a.FPM = &fpm
		if len(fpm.Generations) == 0 {
			a.FPM = nil
		}
	}
	var pools []control.PoolStatus
	for _, p := range a.Pools {
		p.Workers = slices.DeleteFunc(slices.Clone(p.Workers), func(w control.ProcessStatus) bool { return !w.Stale })
		if len(p.Workers) > 0 {
			pools = append(pools, p)
		}
	}
	a.Pools = pools
	return a
}

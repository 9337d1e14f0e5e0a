package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) releasesCommand() *cobra.Command {
	return c.withApp(&cobra.Command{
		Use: "releases", Short: "list the releases of an app, and which of them is live, bad or in use",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := c.theApp(cmd.Context())
			if err != nil {
				return err
			}
			releases, err := c.client().Releases(cmd.Context(), app)
			if err != nil {
				return err
			}
			if c.json {
				return c.print(releases)
			}
			var rows [][]string
			for _, r := range harmless(releases) {
				note := strings.Join(r.InUse, " ")
				if r.Bad != nil {
					note = r.Bad.Reason
				}
				rows = append(rows, []string{r.Name, or(r.State), ago(r.Modified), note})
			}
			return c.table("RELEASE\tSTATE\tAGE\tUSED BY, OR WHY IT IS BAD", rows)
		},
	})
}

func (c *cli) historyCommand() *cobra.Command {
	var n int
	cmd := c.withApp(&cobra.Command{
		Use: "history", Short: "list the switches of an app, the last first",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := c.theApp(cmd.Context())
			if err != nil {
				return err
			}
			all, err := c.client().History(cmd.Context(), app)
			if err != nil {
				return err
			}
			slices.Reverse(all)
			all = all[:min(len(all), max(n, 0))]
			if c.json {
				return c.print(all)
			}
			var rows [][]string
			for _, h := range harmless(all) {
				rows = append(rows, []string{
					h.Started.Local().Format("2006-01-02 15:04:05"), string(h.Kind), or(h.From.Release), h.To.Release,
					string(h.Verdict), span(h.Ended.Sub(h.Started)), h.By.String(), h.Cause,
				})
			}
			return c.table("STARTED\tKIND\tFROM\tTO\tVERDICT\tTOOK\tBY\tREASON", rows)
		},
	})
	cmd.Flags().IntVarP(&n, "lines", "n", 20, "as many `SWITCHES`")
	return cmd
}

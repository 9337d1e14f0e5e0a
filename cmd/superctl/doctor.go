package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"superd/cmd/superctl/doctor"
	"superd/config"
	"superd/control"
)

const defaultConfig = "/etc/superd/superd.toml"

func (c *cli) doctorCommand() *cobra.Command {
	var file, nginx string
	cmd := &cobra.Command{
		Use: "doctor", Short: "find what would bite: nginx, PHP, systemd, the machine; exits 4 when something would",
		Long: "doctor looks at what superd cannot change and what costs requests or jobs: nginx, PHP, systemd, the\n" +
			"machine. It only looks, and needs no superd. Hints alone exit 0, a warning or a problem 4, a\nconfiguration that is refused 5.",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.LoadAs(file, whose(file))
			if err != nil {
				return c.refused(err)
			}
			client := c.client()
			if os.Getenv("SUPERD_SOCKET") == "" && !cmd.Flags().Changed("socket") {
				client = control.NewClient(cfg.Socket) // nobody has named another
			}
			return c.findings(doctor.New(client.Status, nginx).Examine(cmd.Context(), cfg))
		},
	}
	cmd.Flags().StringVar(&file, "config", defaultConfig, "the configuration `FILE` of superd")
	cmd.Flags().StringVar(&nginx, "nginx-config", "", "the `FILE` that nginx is started with, if not its default")
	return cmd
}

// whose superd a configuration is of: one's own, if one owns the file, else root's.
func whose(file string) int {
	me := os.Geteuid()
	info, err := os.Stat(file)
	if err != nil {
		return me
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == me {
		return me
	}
	return 0
}

// refused tells everything that is wrong with the configuration.
func (c *cli) refused(err error) error {
	if c.json {
		return c.checkJSON(nil, err)
	}
	fmt.Fprintln(c.talk, err)
	return exit(control.Rejected.Exit())
}

func (c *cli) findings(all []doctor.Finding) error {
	if c.json {
		if all == nil {
			all = []doctor.Finding{}
		}
		if err := c.print(all); err != nil {
			return err
		}
	} else {
		c.findingsText(all)
	}
	switch doctor.Worst(all) {
	case doctor.Problem, doctor.Warning:
		return exit(control.Degraded.Exit())
	case doctor.Hint, "":
	}
	return nil
}

func (c *cli) findingsText(all []doctor.Finding) {
	counts := map[doctor.Severity]int{}
	for _, f := range all {
		counts[f.Severity]++
		code := faint
		switch f.Severity {
		case doctor.Problem:
			code = red
		case doctor.Warning:
			code = yellow
		case doctor.Hint:
		}
		fmt.Fprintf(c.out, "%s  %s  %s\n", c.colour(code, string(f.Severity)), f.ID, printable(f.Subject))
		fmt.Fprintf(c.out, "  %s\n  why: %s\n  do:  %s\n\n", printable(f.What), f.Why, printable(f.Do))
	}
	if len(all) == 0 {
		fmt.Fprintln(c.talk, "nothing was found that would bite")
		return
	}
	fmt.Fprintf(c.talk, "problems: %d, warnings: %d, hints: %d\n", counts[doctor.Problem], counts[doctor.Warning], counts[doctor.Hint])
}

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"superd/config"
	"superd/control"
)

func (c *cli) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "tell everything that is wrong with a configuration file; needs no superd",
		Args: arguments(1, 1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if cfg != nil {
				for _, u := range cfg.Unset(os.LookupEnv) {
					cfg.Warnings = append(cfg.Warnings, u.Problem)
				}
			}
			if c.json {
				return c.checkJSON(cfg, err)
			}
			if err != nil {
				fmt.Fprintln(c.talk, err)
				return exit(control.Rejected.Exit())
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintln(c.talk, "warning:", w)
			}
			_, err = fmt.Fprintf(c.out, "%s: fine (%d apps, %d files)\n", args[0], len(cfg.Apps), len(cfg.Files))
			return err
		},
	}
}

// complaint is one problem of a configuration, for programs.
type complaint struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Problem string `json:"problem"`
}

func complaints(all []config.Problem) []complaint {
	out := []complaint{}
	for _, p := range all {
		out = append(out, complaint{p.File, p.Line, p.Column, p.Key, p.Text})
	}
	return out
}

func (c *cli) checkJSON(cfg *config.Config, err error) error {
	answer := struct {
		OK       bool        `json:"ok"`
		Problems []complaint `json:"problems"`
		Warnings []complaint `json:"warnings"`
	}{OK: err == nil, Problems: []complaint{}, Warnings: []complaint{}}
	if problems, ok := errors.AsType[*config.Problems](err); ok {
		answer.Problems = complaints(*problems)
	}
	if cfg != nil {
		answer.Warnings = complaints(cfg.Warnings)
	}
	if err := c.print(answer); err != nil {
		return err
	}
	if err != nil {
		return exit(control.Rejected.Exit())
	}
	return nil
}

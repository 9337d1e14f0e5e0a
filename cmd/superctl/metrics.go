package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) metricsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "metrics", Short: "print the metrics, as OpenMetrics",
		Long: "metrics prints what Prometheus and its like scrape from GET /v1/metrics on the control\nsocket and, with [metrics] listen in the configuration, from http://ADDRESS/metrics.",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := c.client().Metrics(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.out, text)
			return err
		},
	}
}

package main

import (
	"strings"
	"testing"
)

// What is mistyped is told, with what would be right where that is known, and exits with 2.
func TestMistakesOfUsage(t *testing.T) {
	for line, words := range map[string]string{
		"run superd.toml": `superd run takes no argument, got "superd.toml"; a configuration file is told with --config`,
		"version now":     `superd version takes no argument, got "now"`,
		"rnu":             `unknown command "rnu"; see superd --help`,
		"run --confg x":   "unknown flag: --confg",
	} {
		c := command()
		c.SetArgs(strings.Fields(line))
		if err := c.Execute(); err == nil || err.Error() != words || exitCode(err) != exitUsage {
			t.Errorf("superd %s: %v, exit %d", line, err, exitCode(err))
		}
	}
}

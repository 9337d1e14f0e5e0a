package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The man pages and completions of superctl are made of its commands: here, so that
// the program itself carries nothing of it. packaging/package names SUPERD_MANUAL, the
// directory where they are to stay.
func TestManual(t *testing.T) {
	dir := os.Getenv("SUPERD_MANUAL")
	if dir == "" {
		dir = t.TempDir()
	}
	t.Setenv("SUPERD_SOCKET", "") // its value would be told as the default
	root := (&cli{out: io.Discard, talk: io.Discard}).command()
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "superd", Manual: "superd"}, dir); err != nil {
		t.Fatal(err)
	}
	for _, script := range []struct {
		name  string
		write func(string) error
	}{
		{"bash", func(path string) error { return root.GenBashCompletionFileV2(path, true) }},
		{"zsh", root.GenZshCompletionFile},
		{"fish", func(path string) error { return root.GenFishCompletionFile(path, true) }},
	} {
		path := filepath.Join(dir, "superctl."+script.name)
		if err := script.write(path); err != nil {
			t.Fatal(err)
		}
	}
	everyCommand(root, func(c *cobra.Command) {
		page := filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Errorf("%s has no page: %v", c.CommandPath(), err)
			return
		}
		if !strings.Contains(string(text), c.Short) {
			t.Errorf("%s does not say %q", page, c.Short)
		}
	})
	if out, err := exec.CommandContext(t.Context(), "bash", "-n", filepath.Join(dir, "superctl.bash")).CombinedOutput(); err != nil {
		t.Errorf("the completion for bash: %v\n%s", err, out)
	}
}

// everyCommand visits all commands that people are told of.
func everyCommand(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
			everyCommand(sub, visit)
		}
	}
}

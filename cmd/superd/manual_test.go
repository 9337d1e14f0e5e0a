package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra/doc"
)

// The man pages and completions of superd are made of its commands, and superd.toml(5)
// of docs/configuration.md: here, so that the program itself carries nothing of it.
// packaging/package names SUPERD_MANUAL, the directory where they are to stay.
func TestManual(t *testing.T) {
	dir := os.Getenv("SUPERD_MANUAL")
	if dir == "" {
		dir = t.TempDir()
	}
	root := command()
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "superd", Manual: "superd"}, dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range root.Commands() {
		_, err := os.Stat(filepath.Join(dir, "superd-"+c.Name()+".8"))
		if c.IsAvailableCommand() != (err == nil) {
			t.Errorf("superd %s, hidden: %v, page: %v", c.Name(), c.Hidden, err)
		}
	}
	if err := root.GenBashCompletionFileV2(filepath.Join(dir, "superd.bash"), true); err != nil {
		t.Error(err)
	}
	if err := root.GenZshCompletionFile(filepath.Join(dir, "superd.zsh")); err != nil {
		t.Error(err)
	}
	if err := root.GenFishCompletionFile(filepath.Join(dir, "superd.fish"), true); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "superd.toml.5"), configurationPage(t), 0o600); err != nil {
		t.Error(err)
	}
}

// links of the page lead nowhere in a terminal.
var links = regexp.MustCompile(`\[([^\]]+)\]\(([^)]+)\)`)

func configurationPage(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := bytes.Cut(text, []byte("# Configuration\n"))
	if !found {
		t.Fatal("docs/configuration.md does not begin with its heading")
	}
	text = links.ReplaceAllFunc(text, func(link []byte) []byte {
		part := links.FindSubmatch(link)
		if strings.HasPrefix(string(part[2]), "#") {
			return part[1]
		}
		return []byte(string(part[1]) + " (/usr/share/doc/superd/" + string(part[2]) + ")")
	})
	text = []byte(tablesToLists(string(text)))
	head := "% \"SUPERD.TOML\" \"5\" \"\" \"superd\" \"superd\"\n# NAME\n\nsuperd.toml - configuration of superd\n\n# DESCRIPTION\n"
	return md2man.Render(append([]byte(head), text...))
}

// tablesToLists makes a list of definitions of each table, for a terminal is narrow.
func tablesToLists(text string) string {
	var out strings.Builder
	inside := 0 // lines of the table so far
	for line := range strings.Lines(text) {
		row, isRow := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !isRow && !strings.HasPrefix(line, "|---") {
			inside = 0
			out.WriteString(line)
			continue
		}
		if inside++; inside <= 2 { // the heading, and the line below it
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, " |"), " | ")
		out.WriteString("\n" + cells[0])
		if len(cells) > 2 && !strings.Contains("–", cells[1]) {
			out.WriteString(", default " + cells[1])
		}
		out.WriteString("\n:   " + cells[len(cells)-1] + "\n")
	}
	return out.String()
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes a value as indented JSON.
func (c *cli) print(value any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// line writes a value as one line of JSON.
func (c *cli) line(value any) error { return json.NewEncoder(c.out).Encode(value) }

// table writes rows in columns, a heading first.
func (c *cli) table(heading string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	out := bufio.NewWriter(c.out) // each cell is a write
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	for _, r := range rows {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t "))
	}
	return errors.Join(w.Flush(), out.Flush())
}

// Colours mean the same everywhere: green is well, yellow on its way, red not well.
const (
	green  = "32"
	yellow = "33"
	red    = "31"
	faint  = "2"
)

// colour only colours what goes to a terminal, and nothing with NO_COLOR.
func (c *cli) colour(code, text string) string {
	if !c.terminal || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// ago is how long something has been so, as people say it: 4s, 12m, 3h05m, 6d.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(time.Since(t))
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// size is bytes as people say them.
func size(bytes uint64) string {
	switch {
	case bytes == 0:
		return "-"
	case bytes < 10<<20:
		return fmt.Sprintf("%.1fM", float64(bytes)/(1<<20))
	case bytes < 10<<30:
		return fmt.Sprintf("%dM", bytes>>20)
	}
	return fmt.Sprintf("%.1fG", float64(bytes)/(1<<30))
}

// or is text, or a dash for none.
func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

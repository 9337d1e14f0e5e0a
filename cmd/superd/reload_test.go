package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/program"
)

// A reload that would take a program down for want of a variable is refused, with the
// place; one that does not touch it only tells.
func TestReloadWithoutAVariable(t *testing.T) {
	t.Setenv("THERE", "x")
	dir := t.TempDir()
	file := filepath.Join(dir, "superd.toml")
	load := func(web, other string) *config.Config {
		t.Helper()
		text := "[program.web]\ncommand = [\"web\", \"" + web + "\"]\n[program.other]\ncommand = [\"other\", \"" + other + "\"]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	d := &daemon{file: file, programs: program.New(program.Options{
		Children: &supervisor.Children{}, State: filepath.Join(dir, "programs.json"), Log: slog.New(slog.DiscardHandler),
	})}
	plan := func(web, other string) (*reload, error) {
		t.Helper()
		load(web, other)
		return d.planReload(release.By{})
	}
	d.holds.Store(load("{env:THERE}", "1"))
	if r, err := plan("{env:THERE}", "2"); err != nil || len(r.answer.Warnings) != 0 {
		t.Errorf("a variable that is there: %v, %+v", err, r)
	}
	_, err := plan("{env:NOPE}", "2")
	if control.KindOf(err) != control.Rejected || !strings.HasPrefix(err.Error(), file+":2:19: program.web.command[1]: {env:NOPE}") {
		t.Errorf("a variable that is not there: %v", err)
	}
	d.holds.Store(load("{env:NOPE}", "1")) // as superd began
	r, err := plan("{env:NOPE}", "2")
	if err != nil || len(r.answer.Warnings) != 1 || !strings.Contains(r.answer.Warnings[0], "{env:NOPE}") {
		t.Errorf("it lacked it before: %v, %+v", err, r)
	}
}

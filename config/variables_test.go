package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every place that needs a variable which is nowhere is found, and told where it is.
func TestUnset(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := strings.ReplaceAll(`
[program.web]
command = ["web", "{env:SET}", "{env:FILE}", "{env:ARG}"]
env_file = "$DIR/env"
env = { env_file = "{env:FILE}", X = "{env:ENV}" }
directory = "/srv/{env:DIR}"
ready = "command"
ready_command = "ready {env:READY} {{env:BRACE}"
reload = { command = ["reload", "{env:RELOAD}"] }
[program.lost]
command = ["lost", "{env:MAYBE}"]
env_file = "{env:WHERE}/env"
[program."a.b"]
command = ["{env:DOT}"]
[app.shop]
root = "$DIR"
env_file = "{release_dir}/.env"
env = { MAYBE = "{env:MAYBE}" }
[app.shop.worker.jobs]
command = ["php", "{env:MAYBE}"]
[app.blog]
root = "$DIR"
env_file = "{root}/env"
[app.blog.worker.jobs]
command = ["php", "{env:FILE}", "{env:WORKER}"]
env = { Y = "{env:SET}" }
`, "$DIR", dir)
	path := filepath.Join(dir, "superd.toml")
	for name, text := range map[string]string{path: text, filepath.Join(dir, "env"): "FILE=yes\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range c.Unset(func(name string) (string, bool) { return "x", name == "SET" }) {
		_, at, _ := strings.Cut(u.String(), "superd.toml")
		at, _, _ = strings.Cut(at, " is not in the environment; put it into env_file, or")
		got = append(got, u.Owner+at)
	}
	slices.Sort(got)
	want := []string{
		"a.b:14:12: program.\"a.b\".command[0]: {env:DOT}: DOT",
		"blog:25:33: app.blog.worker.jobs.command[2]: {env:WORKER}: WORKER",
		"lost:12:1: program.lost.env_file: {env:WHERE}: WHERE",
		"web:3:46: program.web.command[3]: {env:ARG}: ARG",
		"web:5:34: program.web.env.X: {env:ENV}: ENV",
		"web:6:1: program.web.directory: {env:DIR}: DIR",
		"web:8:1: program.web.ready_command[1]: {env:READY}: READY",
		"web:9:33: program.web.reload.command[1]: {env:RELOAD}: RELOAD",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

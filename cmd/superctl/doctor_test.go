package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"superd/cmd/superctl/doctor"
)

// doctorConfig is a configuration of an app without PHP-FPM: what there is to find
// does not depend on the machine.
func doctorConfig(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "shop")
	if err := os.MkdirAll(filepath.Join(root, "releases", "r1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("releases/r1", filepath.Join(root, "current")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "superd.toml")
	text := fmt.Sprintf("socket = %q\nrun_dir = %q\nstate_dir = %q\nlog_dir = %q\n[app.shop]\nroot = %q\n[app.shop.worker.emails]\n%s\n",
		dir+"/s", dir+"/run", dir+"/state", dir+"/log", root, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDoctor(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"blog"}}) // which does not know the app
	fine, bad := doctorConfig(t, `command = ["sleep", "9"]`), doctorConfig(t, `command = ["php", "artisan", "queue:listen"]`)
	refused := doctorConfig(t, "command = 5\nprocesses = -1")
	for name, tt := range map[string]struct {
		args      []string
		code      int
		out, talk string
	}{
		"hints alone":     {[]string{"--config", fine}, 0, "hint  ", "problems: 0, warnings: 0, hints: "},
		"a warning":       {[]string{"--config", bad}, 4, "warning  queue-listen  shop/emails\n", "warnings: 1"},
		"refused":         {[]string{"--config", refused}, 5, "", "app.shop.worker.emails.processes"},
		"all refused":     {[]string{"--config", refused}, 5, "", "app.shop.worker.emails.command"},
		"no such file":    {[]string{"--config", "/nonexistent/superd.toml"}, 5, "", "cannot be read"},
		"refused, json":   {[]string{"--config", refused, "--json"}, 5, `"key": "app.shop.worker.emails.processes"`, ""},
		"an argument":     {[]string{"--config", fine, "now"}, 2, "", `"now"`},
		"a bad flag":      {[]string{"--fix"}, 2, "", "--fix"},
		"superd is asked": {[]string{"--config", fine, "--socket", socket}, 4, "config-not-loaded  shop", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, false, append([]string{"doctor"}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.out, tt.out) || !strings.Contains(got.talk, tt.talk) {
				t.Errorf("exit %d, want %d\n%s\n%s", got.code, tt.code, got.out, got.talk)
			}
		})
	}
}

func TestDoctorJSON(t *testing.T) {
	got := run(t, false, "doctor", "--json", "--config", doctorConfig(t, `command = ["php", "artisan", "queue:listen"]`))
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(got.out), &all); err != nil {
		t.Fatalf("%v in %s", err, got.out)
	}
	if got.code != 4 || len(all) == 0 || all[0].ID != "queue-listen" || all[0].Severity != "warning" || all[0].Do == "" {
		t.Errorf("exit %d: %s", got.code, got.out)
	}
	var names []map[string]any
	if err := json.Unmarshal([]byte(got.out), &names); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "severity", "subject", "what", "why", "do"} {
		if _, ok := names[0][key]; !ok {
			t.Errorf("no %q in %v", key, names[0])
		}
	}
}

// Nothing found is an empty array for programs, and a word for people.
func TestDoctorFindsNothing(t *testing.T) {
	var out, talk strings.Builder
	c := &cli{out: &out, talk: &talk, json: true}
	if err := c.findings(nil); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("%v, %q", err, out.String())
	}
	c.json = false
	if err := c.findings(nil); err != nil || !strings.Contains(talk.String(), "nothing") {
		t.Errorf("%v, %q", err, talk.String())
	}
}

// What comes from files of others cannot move the cursor.
func TestDoctorPrintsNoControlCharacters(t *testing.T) {
	var out, talk strings.Builder
	c := &cli{out: &out, talk: &talk}
	_ = c.findings([]doctor.Finding{{ID: "x", Severity: doctor.Problem, Subject: "\x1b[2J", What: "\x1b[31m", Why: "y", Do: "\x1b"}})
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}

package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"superd/config"
	"superd/release"
)

func someApp(t *testing.T, env string) *config.App {
	t.Helper()
	file := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(file, []byte(env), 0o600); err != nil {
		t.Fatal(err)
	}
	return &config.App{
		Name: "shop", Root: "/srv/shop", EnvFile: file,
		Env: map[string]string{"FROM_APP": "{release}/{slot}", "BOTH": "app"},
	}
}

var g7 = release.Generation{Number: 7, Release: "r42", Dir: "/srv/shop/releases/r42"}

func TestEnvironmentIsBuiltAndNothingElse(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("SECRET_OF_SUPERD", "x")
	t.Setenv("PATH", "/opt/php/bin:/usr/bin")
	app := someApp(t, "FROM_FILE=yes\nBOTH=file\n")
	s := newSurroundings(func() *config.App { return app })
	spec, err := s.spec("shop/emails:3", "", []string{"php", "{release_dir}/artisan", "--queue={env:FROM_FILE}"}, 3, g7, map[string]string{"OWN": "{generation}"})
	if err != nil {
		t.Fatal(err)
	}
	has := func(v string) bool { return slices.Contains(spec.Env, v) }
	for _, v := range []string{
		"PATH=/opt/php/bin:/usr/bin", "FROM_FILE=yes", "FROM_APP=r42/3", "BOTH=app", "OWN=7",
		"SUPERD_APP=shop", "SUPERD_RELEASE=r42", "SUPERD_RELEASE_DIR=/srv/shop/releases/r42", "SUPERD_GENERATION=7",
	} {
		if !has(v) {
			t.Errorf("%s is missing in %q", v, spec.Env)
		}
	}
	for _, v := range spec.Env {
		if strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "SECRET_OF_SUPERD=") {
			t.Errorf("superd's own %s reached a child", v)
		}
	}
	want := []string{"php", "/srv/shop/releases/r42/artisan", "--queue=yes"}
	if diff := cmp.Diff(want, spec.Argv); diff != "" {
		t.Error(diff)
	}
	if spec.Dir != g7.Dir || spec.Log != "shop/emails-3.log" {
		t.Errorf("directory %q, log %q", spec.Dir, spec.Log)
	}
}

func TestEnvironmentFileIsReadAnew(t *testing.T) {
	app := someApp(t, "A=1\n")
	s := newSurroundings(func() *config.App { return app })
	if err := os.WriteFile(app.EnvFile, []byte("A=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := s.spec("shop/x:0", "", []string{"x"}, 0, g7, nil)
	if err != nil || !slices.Contains(spec.Env, "A=2") {
		t.Errorf("%q, %v", spec.Env, err)
	}
	if err := os.Remove(app.EnvFile); err != nil {
		t.Fatal(err)
	}
	if _, err := s.spec("shop/x:0", "", []string{"x"}, 0, g7, nil); err == nil {
		t.Error("a process started without the environment it was to have")
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	got := override([]string{"A=1", "B=2", "AB=3"}, []string{"A=9", "C=4"})
	if diff := cmp.Diff([]string{"B=2", "AB=3", "A=9", "C=4"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLastGoodConfigurationStandsIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "superd.toml")
	good := "state_dir = \"" + dir + "\"\n[app.shop]\nroot = \"" + dir + "\"\n" +
		"[app.shop.worker.w]\ncommand = [\"sleep\", \"1\"]\nready = \"log:up+\"\nlimits = { nofile = 99 }\nmax_parallel = \"50%\"\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	first, refused, err := loadOrLastGood(file, dir)
	if err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	if err := keepLastGood(first, file); err != nil {
		t.Fatal(err)
	}
	write(good + "[app.shop\n")
	again, refused, err := loadOrLastGood(file, dir)
	if err != nil || refused == nil {
		t.Fatal(refused, err)
	}
	if again.Apps[0].Workers[0].ReadyLog.String() != "up+" {
		t.Error("the pattern is lost")
	}
	again.Apps[0].Workers[0].ReadyLog, first.Apps[0].Workers[0].ReadyLog = nil, nil
	again.Warnings, first.Warnings = nil, nil
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("what was kept is not what was accepted:\n%s", diff)
	}
	if _, _, err := loadOrLastGood(file, t.TempDir()); err == nil {
		t.Error("a broken file was accepted although nothing was kept")
	}
	if info, err := os.Stat(filepath.Join(dir, lastGoodName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: there may be secrets in it", info, err)
	}
}

func TestJournalFieldNames(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{"app": "SUPERD_APP", "client_pid": "SUPERD_CLIENT_PID", "a.b-ç": "SUPERD_A_B__"} {
		if got := fieldName(key); got != want {
			t.Errorf("%q became %q, want %q", key, got, want)
		}
	}
	if p := priority(slog.LevelError); p != 3 {
		t.Errorf("an error has priority %d", p)
	}
}

// Which variables are the deploy user's: those of an env_file below the app's root, which
// he writes, unless the configuration says better.
func TestTheirs(t *testing.T) {
	root := t.TempDir()
	inside, outside := filepath.Join(root, ".env"), filepath.Join(t.TempDir(), "env")
	for _, file := range []string{inside, outside} {
		if err := os.WriteFile(file, []byte("LD_PRELOAD=x\nPATH=/evil\nBOTH=file\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]map[string]bool{inside: {"LD_PRELOAD": true, "PATH": true}, outside: nil, "": nil} {
		app := &config.App{Name: "shop", Root: root, EnvFile: file, Env: map[string]string{"BOTH": "app"}}
		s := newSurroundings(func() *config.App { return app })
		v, err := s.vars(g7, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := s.theirs(v)
		if diff := cmp.Diff(want, theirs); err != nil || diff != "" {
			t.Errorf("%s: %v %s", file, err, diff)
		}
	}
}

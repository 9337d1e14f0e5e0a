package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who deploys links what is read as root to a secret of root's. It is not read, and the
// message tells where the link leads and nothing of what is there. The links of the
// deploy tools are followed.
func TestEnvFileIsNotLedOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give links to others")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, secret := filepath.Join(dir, "shop"), filepath.Join(dir, "secret")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		t.Helper()
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(path, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	write(secret, "TOP=secret\nSECRET LINE=x\n")
	write(filepath.Join(root, "shared", ".env"), "A=1\n")
	write(filepath.Join(root, "releases", "r1", "x"), "")
	link("../.."+"/shared/.env", filepath.Join(root, "releases/r1/.env"))
	link(secret, filepath.Join(root, "shared/evil"))
	app := App{Name: "shop", Root: root}
	if env, err := app.ReadEnvFile(filepath.Join(root, "releases/r1/.env")); err != nil || env["A"] != "1" {
		t.Errorf("the shared file: %v, %v", env, err)
	}
	env, err := app.ReadEnvFile(filepath.Join(root, "shared/evil"))
	if err == nil || len(env) > 0 || !strings.Contains(err.Error(), "leads out of it") || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("root's secret: %v, %v", env, err)
	}
	if env, err := app.ReadEnvFile(secret); err == nil || env != nil || !strings.Contains(err.Error(), "SECRET LINE") {
		t.Errorf("what the configuration itself names is read, and its bad lines are told: %v, %v", env, err)
	}

	file := filepath.Join(dir, "superd.toml")
	write(file, "[app.shop]\nroot = \""+root+"\"\nenv_file = \"{root}/shared/evil\"\n")
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "leads out of it") || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a file with it is accepted: %v", err)
	}
}

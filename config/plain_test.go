package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nobodyHere has no home on any machine that tests run on.
const nobodyHere = 54321

func plainFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "superd.toml")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func directories(c *Config) string {
	return fmt.Sprint(c.Socket, " ", c.RunDir, " ", c.StateDir, " ", c.LogDir)
}

// root's superd is a service of the machine, wherever its environment points.
func TestDirectoriesOfRoot(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c, err := LoadAs(plainFile(t, ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := directories(c); got != "/run/superd/superd.sock /run/superd /var/lib/superd /var/log/superd" {
		t.Error(got)
	}
}

// Anybody else's is his own.
func TestDirectoriesOfAPlainUser(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ session, state, home, file, want string }{
		"a session":         {dir + "/session", "", dir + "/home", "", "R/superd.sock R H/.local/state/superd H/.local/state/superd/log"},
		"no session":        {"", "", dir + "/home", "", "H/.local/state/superd/run/superd.sock H/.local/state/superd/run H/.local/state/superd H/.local/state/superd/log"},
		"his own state":     {dir + "/session", dir + "/state", dir + "/home", "", "R/superd.sock R S/superd S/superd/log"},
		"root's session":    {dir + "/of-root", "", dir + "/home", "", "H/.local/state/superd/run/superd.sock H/.local/state/superd/run H/.local/state/superd H/.local/state/superd/log"},
		"not absolute":      {"session", "state", dir + "/home", "", "H/.local/state/superd/run/superd.sock H/.local/state/superd/run H/.local/state/superd H/.local/state/superd/log"},
		"one is set":        {dir + "/session", "", dir + "/home", `run_dir = "/x"`, "/x/superd.sock /x H/.local/state/superd H/.local/state/superd/log"},
		"state is set":      {"", "", "/nonexistent", `state_dir = "/y"`, "/y/run/superd.sock /y/run /y /y/log"},
		"root's home":       {"", "", dir + "/of-root", "", "! state_dir: must be set"},
		"no home":           {"", "", "/nonexistent", "", "! state_dir: must be set"},
		"too long for ever": {dir + "/" + strings.Repeat("s", 100), "", dir + "/home", "", "! socket: by default"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []string{"session", "home", "of-root", strings.Repeat("s", 100)} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if os.Geteuid() != 0 {
				t.Skip("only root can give directories to others")
			}
			t.Setenv("XDG_RUNTIME_DIR", tt.session)
			t.Setenv("XDG_STATE_HOME", tt.state)
			t.Setenv("HOME", tt.home)
			for _, d := range []string{"session", "home", strings.Repeat("s", 100)} {
				if err := os.Chown(filepath.Join(dir, d), nobodyHere, nobodyHere); err != nil {
					t.Fatal(err)
				}
			}
			got := "! "
			if c, err := asUser(t, nobodyHere, plainFile(t, tt.file)); err != nil {
				got += err.Error()
			} else {
				got = strings.NewReplacer(dir+"/session/superd", "R", dir+"/home", "H", dir+"/state", "S").Replace(directories(c))
			}
			if want, ok := strings.CutPrefix(tt.want, "! "); ok {
				if !strings.HasPrefix(got, "! ") || !strings.Contains(got, want) {
					t.Errorf("%s, want %s", got, tt.want)
				}
			} else if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// asUser reads a file for a user whose environment is this one.
func asUser(t *testing.T, uid int, file string) (*Config, error) {
	t.Helper()
	in := newReading()
	in.who = resident{uid: uid, environ: os.Getenv}
	in.readFile(file, nil)
	return in.finish()
}

// What only root can do is told by its key; nothing of it keeps a plain user from
// running his app.
func TestWhatNeedsRoot(t *testing.T) {
	root := t.TempDir()
	file := plainFile(t, `
socket = "/x/s"
run_dir = "/x"
state_dir = "/x"
log_dir = "/x"
[app.shop]
root = "`+root+`"
[app.shop.fpm]
binary = "/bin/true"
listen_owner = "root"
listen_group = "root"
include = ["{release_dir}/fpm.conf", "{root}/x.conf"]
[app.shop.worker.w]
command = ["true"]
nice = -5
log = { stdout = "`+root+`/shared/w.log" }
[program.p]
command = ["true"]
log = { stdout = "`+root+`/shared/p.log", stderr = "/var/log/p.log" }
[app.port]
root = "`+root+`"
[app.port.fpm]
binary = "/bin/true"
listen = "127.0.0.1:81"`)
	told := func(uid int) string {
		c, err := LoadAs(file, uid)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(c.Warnings)
	}
	plain, asRoot := told(nobodyHere), told(0)
	for _, want := range []string{"listen_owner: counts only", "listen_group: counts only", "nice: -5 needs root", "listen: newer kernels want root"} {
		if !strings.Contains(plain, want) || strings.Contains(asRoot, want) {
			t.Errorf("%q is to be told a plain user, not root:\n%s\n%s", want, plain, asRoot)
		}
	}
	if firstFreePort() > 81 && !strings.Contains(plain, "listen: port 81 needs root") || strings.Contains(asRoot, "port 81") {
		t.Errorf("the port: %s\n%s", plain, asRoot)
	}
	if log := "written by superd, who is root"; strings.Contains(plain, log) || strings.Count(asRoot, log) != 2 {
		t.Errorf("the logs: %s\n%s", plain, asRoot)
	}
	const include = "is read by php-fpm's master, which is root"
	if strings.Contains(plain, include) || strings.Count(asRoot, include) != 2 {
		t.Errorf("the includes: %s\n%s", plain, asRoot)
	}
}

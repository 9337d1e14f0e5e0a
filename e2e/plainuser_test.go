//go:build e2e

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const plainShop = `
[app.shop]
root = "$DIR/shop"
user = "www-data"
env_file = "{root}/shared/.env"

[app.shop.switch]
watch = "300ms"

[app.shop.fpm]
binary = "php-fpm8.2"
max_children = 2
listen_owner = "www-data"

[app.shop.worker.jobs]
command = ["php8.2", "-r", "while (true) sleep(1);"]
min_healthy_time = "200ms"

[program.beside]
command = ["sleep", "1000"]
user = "www-data"

[[app.shop.check]]
name = "up"
interval = "100ms"
healthy_threshold = 2
`

// Somebody who is not root runs superd on a laptop, with a file that says nothing of
// directories: everything is his, superctl finds it, releases are switched there and
// back, a superd that is killed is replaced, and it ends with 0.
func TestPlainUser(t *testing.T) {
	t.Run("with an account", func(t *testing.T) { plainUser(t, nobody) })
	t.Run("without one", func(t *testing.T) { plainUser(t, 54321) })
}

func plainUser(t *testing.T, user int) {
	b := newBare(t, uint32(user), plainShop)
	b.launch(nil)
	b.well()
	socket := b.path("home/.local/state/superd/run/shop/fpm.sock")
	for _, want := range []string{"r1", "r2", "r1"} {
		switch want {
		case "r2":
			b.ctl(0, "switch", "r2")
		case "r1":
			if b.page(socket) != "r1 "+strconv.Itoa(user)+" a secret" {
				b.ctl(0, "rollback")
			}
		}
		if got := b.page(socket); got != want+" "+strconv.Itoa(user)+" a secret" {
			t.Errorf("the page is %q, want that of %s", got, want)
		}
	}
	all := family(b.cmd.Process.Pid)
	for pid, uid := range all {
		if uid != user {
			t.Errorf("process %d runs as user %d", pid, uid)
		}
	}
	if len(all) < 5 { // superd, a master, a child of it, a worker, a program
		t.Errorf("only %v", all)
	}
	status := b.ctl(0, "--json", "status")
	_, pid, _ := strings.Cut(status, `"pid":`)
	b.kill(number(pid), syscall.SIGKILL)
	eventually(t, 30*time.Second, "another superd says that all is well", func() bool {
		code, now := b.run("superctl", "--json", "status")
		_, next, _ := strings.Cut(now, `"pid":`)
		return code == 0 && number(next) != number(pid)
	})
	for _, want := range []string{"app.shop.user: counts only when superd runs as root", "app.shop.fpm.listen_owner: counts only when superd runs as root"} {
		if !strings.Contains(b.said.String(), want) {
			t.Errorf("it is not told: %s", want)
		}
	}
	if code := b.stop(); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	if left := family(b.cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// An address of TCP needs more than a plain user has with newer kernels. Then it is told,
// with what to do; where the kernel does not mind it is served.
func TestPlainUserOnTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b := newBare(t, nobody, strings.Replace(plainShop, `listen_owner = "www-data"`, `listen = "`+address+`"`, 1))
	b.launch(nil)
	eventually(t, 30*time.Second, "it serves, or tells why not", func() bool {
		return strings.HasPrefix(b.pageAt("tcp", address), "r1 65534") || strings.Contains(b.said.String(), "for an address of TCP: listen on a unix socket")
	})
	if !strings.Contains(b.said.String(), "listen: newer kernels want root") {
		t.Error("it is not warned of")
	}
}

// number is the one a text begins with.
func number(text string) (n int) {
	for _, c := range strings.TrimSpace(text) {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// What a plain user cannot have is told before anything is started, with what to do.
func TestPlainUserIsRefused(t *testing.T) {
	for name, tt := range map[string]struct{ file, says string }{
		"a system's directories": {`run_dir = "/run/superd"` + "\n" + `state_dir = "/var/lib/superd"`, "state_dir: "},
		"no home":                {"", "state_dir: must be set"},
		"somebody else's":        {`state_dir = "$DIR/of-root"`, "state_dir: write to "},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBare(t, nobody, tt.file+plainShop)
			b.env = b.env[:1] // nobody's home is not there
			if err := os.Mkdir(b.path("of-root"), 0o755); err != nil {
				t.Fatal(err)
			}
			code, said := b.run("superd", "run", "--config", b.file)
			if code != 5 || !strings.Contains(said, tt.says) || !strings.Contains(said, "nothing was started") || !strings.Contains(said, "set") {
				t.Errorf("exit %d: %s", code, said)
			}
			if made, _ := filepath.Glob(b.path("of-root/*")); len(made) > 0 {
				t.Errorf("it has made %v", made)
			}
		})
	}
}

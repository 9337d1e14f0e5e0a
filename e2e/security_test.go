//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What docs/security.md promises, tried from outside: by another user of the machine, and
// by looking for secrets wherever superd writes or answers.

const guardedShop = `
socket    = "$DIR/run/superd.sock"
run_dir   = "$DIR/run"
state_dir = "$DIR/state"
log_dir   = "$DIR/log"

[compat]
xmlrpc = "$DIR/compat/xmlrpc.sock"

[metrics]
listen = "$METRICS"

[[access]]
user = "nobody"
role = "read"

[program.beside]
command = ["sh", "-c", "exec sleep 1000"]
env = { OF_THE_PROGRAM = "$SECRET-program" }

[app.shop]
root = "$DIR/shop"
user = "www-data"
env_file = "{root}/shared/.env"
env = { OF_THE_APP = "$SECRET-app" }

[app.shop.switch]
watch = "300ms"
before = { command = ["sh", "-c", "id -u > {root}/shared/who; [ $SUPERD_RELEASE != r2 ] || [ -e {root}/shared/go ]"] }

[app.shop.fpm]
binary = "php-fpm8.2"
max_children = 2
ini = { "mysqli.default_pw" = "$SECRET-ini" }

[app.shop.worker.jobs]
command = ["sh", "-c", "exec sleep 1000"]
min_healthy_time = "100ms"
env = { OF_THE_POOL = "$SECRET-pool" }

[app.shop.worker.sick]
command = ["sh", "-c", "echo I am sick; sleep 0.4; exit 3"]
min_healthy_time = "100ms"
env = { OF_THE_POOL = "$SECRET-sick" }
`

// guarded is that shop. Every secret in it has secret in it.
func guarded(t *testing.T, secret string) (b *bare, metrics string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b = newBare(t, 0, strings.NewReplacer("$SECRET", secret, "$METRICS", metrics).Replace(guardedShop))
	b.write("shop/shared/.env", "OF_THE_FILE="+secret+"-file\n")
	b.write("shop/shared/who", "")
	if err := os.Chmod(b.path("shop/shared/who"), 0o666); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "SUPERD_SOCKET="+b.path("run/superd.sock"), "OF_SUPERD="+secret+"-superd")
	b.launch(nil)
	eventually(t, 30*time.Second, "the shop serves", func() bool { return strings.HasPrefix(b.page(b.path("run/shop/fpm.sock")), "r1 ") })
	return b, metrics
}

// post asks a socket for a path, with a body if there is one.
func (b *bare) ask(socket, path, body string) string {
	b.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, "http://superd"+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	if answer.StatusCode == http.StatusNotFound {
		b.t.Fatalf("%s: %s", path, &text)
	}
	return text.String()
}

// Secrets of the environment, of php.ini and of an env_file are in no answer, no event,
// no log, no metric, no verdict, in no command line, and on the disk in files of root
// alone, which are few.
func TestSecretsStayInside(t *testing.T) {
	const secret = "hunter2secret"
	b, metrics := guarded(t, secret)
	b.ctl(5, "switch", "r2") // its hook fails
	b.write("shop/shared/go", "")
	b.ctl(0, "switch", "r2", "--allow-bad")
	b.ctl(0, "rollback")
	said := map[string]string{}
	control := b.path("run/superd.sock")
	for _, path := range []string{
		"/v1/status", "/v1/events?since=0", "/v1/apps/shop/releases", "/v1/apps/shop/history", "/v1/apps/shop/switch",
		"/v1/metrics", "/v1/health", "/v1/logs/shop%2Ffpm?lines=1000", "/v1/logs/shop%2Fsick:0?lines=1000",
	} {
		said[path] = b.ask(control, path, "")
	}
	for _, method := range []string{"supervisor.getAllProcessInfo", "supervisor.getAllConfigInfo", "supervisor.readLog", "system.listMethods"} {
		said["xmlrpc "+method] = b.ask(b.path("compat/xmlrpc.sock"), "/RPC2", "<?xml version='1.0'?><methodCall><methodName>"+method+"</methodName><params/></methodCall>")
	}
	answer, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	_, err = text.ReadFrom(answer.Body)
	if answer.Body.Close(); err != nil || !strings.Contains(text.String(), "superd_") {
		t.Fatalf("metrics: %v: %s", err, &text)
	}
	said["metrics"] = text.String()
	file, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	b.write("superd.toml", strings.ReplaceAll(string(file), secret, secret+"-new"))
	_, said["reload --plan"] = b.run("superctl", "reload", "--plan")
	if !strings.Contains(said["reload --plan"], "OF_THE_APP") && !strings.Contains(said["reload --plan"], "env") {
		t.Errorf("the plan does not tell of the environment: %s", said["reload --plan"])
	}
	_, said["reload"] = b.run("superctl", "reload")
	b.write("shop/shared/.env", "OF THE FILE="+secret+"-new\n"+secret+"\n") // two lines that are none
	_, said["a bad env_file"] = b.run("superctl", "reload")
	if !strings.Contains(said["a bad env_file"], ".env:1") {
		t.Errorf("a bad env_file is not told: %s", said["a bad env_file"])
	}
	_, said["doctor"] = b.run("superctl", "doctor", "--config", b.file)
	said["superd's log"] = b.said.String()
	for pid := range family(b.cmd.Process.Pid) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		said["a command line"] += string(line)
	}
	for what, text := range said {
		if text == "" {
			t.Errorf("%s is empty", what)
		}
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("%s has a secret: …%s…", what, text[max(0, at-80):min(len(text), at+40)])
		}
	}
	b.secretsOnDisk(secret)
}

// secretsOnDisk: a secret is in the files that need it, which only root reads.
func (b *bare) secretsOnDisk(secret string) {
	b.t.Helper()
	var found []string
	for _, dir := range []string{"run", "state", "log", "compat"} {
		err := filepath.WalkDir(b.path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // it may be gone by now
			}
			text, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(text, []byte(secret)) {
				return nil //nolint:nilerr // likewise
			}
			found = append(found, filepath.Base(path))
			if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
				b.t.Errorf("%s has a secret, and the mode %v", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	allowed := []string{"config.good.json", "config.applied.json", "superd.ini", "fpm.conf"}
	for _, name := range found {
		if !slices.Contains(allowed, name) {
			b.t.Errorf("%s has a secret", name)
		}
	}
	if !slices.Contains(found, "config.good.json") {
		b.t.Errorf("no secret was found where there is one: nothing was tried: %v", found)
	}
}

// as runs a command as nobody, who is in no group.
func asNobody(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "setpriv", append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--"}, args...)...)
	out, _ := c.CombinedOutput() // what may not be looked at makes find fail
	return string(out)
}

// Another user of the machine, who may read on the control socket, finds nothing else:
// no file of superd's to read but four that say what everybody may know, none to write,
// and of the sockets only the two that ask who comes.
func TestStrangerFindsNothing(t *testing.T) {
	b, _ := guarded(t, "hunter2secret")
	readable := asNobody(t, "find", b.path("run"), b.path("state"), b.path("log"), "-type", "f", "-readable", "-printf", "%f\n")
	for name := range strings.FieldsSeq(readable) {
		if strings.Contains(name, "find:") || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "‘") {
			continue // what find was not let into
		}
		if !slices.Contains([]string{"pin.php", "place.json", "fronts.json", "superd.pid", "Permission", "denied"}, name) {
			t.Errorf("everybody can read %s", name)
		}
	}
	writable := asNobody(t, "sh", "-c", "find \"$1\" \"$2\" \"$3\" -writable ! -type l -printf '%P\\n' 2>/dev/null", "sh", b.path("run"), b.path("state"), b.path("log"))
	if got := slices.Sorted(strings.FieldsSeq(writable)); !slices.Equal(got, []string{"notify.sock", "superd.sock"}) {
		t.Errorf("everybody can write %q", got)
	}
	sockets, err := filepath.Glob(b.path("run/*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	inner, err := filepath.Glob(b.path("run/shop/*/*.sock"))
	if err != nil || len(inner) < 2 {
		t.Fatalf("sockets of PHP: %v %v", inner, err)
	}
	for _, socket := range append(append(sockets, inner...), b.path("run/shop/fpm.sock"), b.path("compat/xmlrpc.sock")) {
		said := asNobody(t, "php8.2", "-r", connectScript, socket)
		asks := slices.Contains([]string{"superd.sock", "xmlrpc.sock", "notify.sock"}, filepath.Base(socket))
		if asks && strings.Contains(said, "refused by the kernel") || !asks && !strings.Contains(said, "refused by the kernel") {
			t.Errorf("%s: %s", socket, said)
		}
	}
	for _, args := range [][]string{{"switch", "r2"}, {"stop", "all"}, {"reload"}, {"shutdown"}, {"upgrade"}} {
		c := b.command(t.Context(), "superctl", args...)
		c.SysProcAttr.Credential.Uid, c.SysProcAttr.Credential.Gid = nobody, nobody
		said, _ := c.CombinedOutput() // the code is looked at
		if code := c.ProcessState.ExitCode(); code != 9 {
			t.Errorf("superctl %s of nobody: exit %d: %s", strings.Join(args, " "), code, said)
		}
	}
	stop := `<?xml version="1.0"?><methodCall><methodName>supervisor.shutdown</methodName><params/></methodCall>`
	said := asNobody(t, "php8.2", "-n", "-r", rpcScript, b.path("compat/xmlrpc.sock"), stop)
	if !strings.Contains(said, "fault") {
		t.Errorf("supervisor.shutdown of nobody: %s", said)
	}
	if got := b.page(b.path("run/shop/fpm.sock")); !strings.HasPrefix(got, "r1 ") {
		t.Errorf("the page is %q", got)
	}
}

const connectScript = `
$c = null;
foreach ([SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] as $kind) {
    $s = socket_create(AF_UNIX, $kind, 0);
    if (@socket_connect($s, $argv[1])) { echo "connected\n"; exit; }
    if (socket_last_error($s) == SOCKET_EACCES) { echo "refused by the kernel\n"; exit; }
}
echo "neither\n";`

const rpcScript = `
$c = stream_socket_client('unix://' . $argv[1], $e, $m, 5) or exit("$m\n");
fwrite($c, "POST /RPC2 HTTP/1.0\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: " . strlen($argv[2]) . "\r\n\r\n" . $argv[2]);
echo stream_get_contents($c);`

// Who deploys owns the releases, the shared directory and the link, and tries to become
// root by them: superd follows no link of his out of the app's root, deletes nothing
// there, runs nothing of his as root, and the shop goes on.
func TestDeployUserIsNotRoot(t *testing.T) {
	b, _ := guarded(t, "hunter2secret")
	const deploy = 12345
	if err := b.give(b.path("shop"), deploy); err != nil {
		t.Fatal(err)
	}
	link := func(target, path string) {
		t.Helper()
		_ = os.Rename(b.path(path), b.path(path)+".own") // it may not be there
		if err := os.Symlink(target, b.path(path)); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(b.path(path), deploy, deploy); err != nil {
			t.Fatal(err)
		}
	}
	back := func(path string) {
		t.Helper()
		if err := errors.Join(os.Remove(b.path(path)), os.Rename(b.path(path)+".own", b.path(path))); err != nil {
			t.Fatal(err)
		}
	}

	b.write("homes/alice/public/index.php", "<?php echo 'alice';")
	link(b.path("homes"), "shop/releases")
	for _, name := range []string{"alice", "releases/alice", b.path("homes/alice"), "latest"} {
		if said := b.ctl(5, "switch", name); !strings.Contains(said, "leads out of") && !strings.Contains(said, "is not a release") {
			t.Errorf("switch %s: %s", name, said)
		}
	}
	if said := b.ask(b.path("run/superd.sock"), "/v1/apps/shop/releases", ""); strings.Contains(said, "alice") {
		t.Errorf("the homes are told as releases: %s", said)
	}
	back("shop/releases")

	b.write("of-root", "ROOTS_SECRET=1\nROOTS LINE=2\n")
	link(b.path("of-root"), "shop/shared/.env")
	if code, said := b.run("superctl", "reload"); code != 5 || !strings.Contains(said, "leads out of") || strings.Contains(said, "ROOTS") {
		t.Errorf("an env_file that leads out: exit %d: %s", code, said)
	}
	back("shop/shared/.env")

	b.write("shop/shared/.env", "LD_PRELOAD=/nonexistent/of-deploy.so\n")
	b.write("shop/shared/go", "")
	b.ctl(0, "switch", "r2")
	b.ctl(0, "switch", "r1") // twice: the masters of both have started with it
	log, err := os.ReadFile(b.path("log/shop/fpm.log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "of-deploy.so") {
		t.Errorf("php-fpm's master, which is root, has looked for a library of theirs: %s", log)
	}
	if who, err := os.ReadFile(b.path("shop/shared/who")); err != nil || string(who) != "33\n" {
		t.Errorf("the hook has run as %q: %v", who, err)
	}
	if got := b.page(b.path("run/shop/fpm.sock")); !strings.HasPrefix(got, "r1 33 ") {
		t.Errorf("the page is %q, of user www-data it begins with r1 33", got)
	}
}

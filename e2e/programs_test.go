//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/control"
)

// newPrograms is an installation whose superd runs these programs and serves in its own
// directory.
func newPrograms(t *testing.T, programs string) *bare {
	t.Helper()
	b := newBare(t, 0, "socket = \"$DIR/run/superd.sock\"\nrun_dir = \"$DIR/run\"\nstate_dir = \"$DIR/state\"\nlog_dir = \"$DIR/log\"\n"+programs)
	b.env = append(b.env, "SUPERD_SOCKET="+b.path("run/superd.sock"))
	return b
}

func (b *bare) status() control.Status {
	b.t.Helper()
	_, text := b.run("superctl", "status", "--json")
	var s control.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		b.t.Fatalf("status: %v: %s", err, text)
	}
	return s
}

func (b *bare) program(name string) control.ProcessStatus {
	b.t.Helper()
	for _, p := range b.status().Programs {
		if p.Name == name {
			return p
		}
	}
	return control.ProcessStatus{}
}

// pids are those of all programs, by name.
func (b *bare) pids() map[string]int {
	all := map[string]int{}
	for _, p := range b.status().Programs {
		all[p.Name] = p.PID
	}
	return all
}

const nginxAndRedis = `
[program.redis]
command = ["redis-server", "--port", "0", "--unixsocket", "$DIR/redis.sock", "--save", ""]
directory = "$DIR"
ready = "command"
ready_command = ["redis-cli", "-s", "$DIR/redis.sock", "ping"]

[program.nginx]
command = ["nginx", "-c", "$DIR/nginx.conf", "-e", "stderr", "-g", "daemon off;"]
requires = ["redis"]
stop_signal = "QUIT"
reload = { signal = "HUP" }

[program.migrate]
command = ["sh", "-c", "sleep 1; echo migrated"]
after = ["redis"]
restart = "never"
ready = "exit"

[program.queue]
command = ["php", "$DIR/queue.php", "{slot}"]
processes = 3
after = ["migrate"]
ready = "notify"
watchdog = "2s"
stop_timeout = "5s"

[program.tick]
command = ["sh", "-c", "date +%s >>$DIR/ticks"]
schedule = "every 1s"

[group.backend]
members = ["redis", "nginx"]
`

const queueWorker = `<?php
$says = function (string $text) {
	$s = socket_create(AF_UNIX, SOCK_DGRAM, 0);
	socket_sendto($s, $text, strlen($text), 0, getenv('NOTIFY_SOCKET'));
};
pcntl_async_signals(true);
$ends = false;
pcntl_signal(SIGTERM, function () use (&$ends) { $ends = true; });
$says("READY=1\nSTATUS=worker {$argv[1]}");
$hang = __DIR__ . "/hang-{$argv[1]}";
while (!$ends) {
	if (file_exists($hang)) { unlink($hang); while (true); }
	$says('WATCHDOG=1');
	usleep(100000);
}
`

// nginx and Redis, a migration, queue workers and a schedule: all that a supervisord had,
// in order, over the death and the upgrade of superd, and as people order it.
func TestPrograms(t *testing.T) {
	b := newPrograms(t, nginxAndRedis)
	address := freeAddress(t)
	page := func(text string) {
		b.write("nginx.conf", fmt.Sprintf(`pid %s/nginx.pid;
worker_processes 1;
events {}
http { access_log off; server { listen %s; return 200 %q; } }
`, b.dir, address, text))
	}
	page("one")
	b.write("queue.php", queueWorker)
	get := func() string {
		r, err := http.Get("http://" + address + "/")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		text := make([]byte, 100)
		n, _ := r.Body.Read(text)
		return string(text[:n])
	}
	b.launch(nil)
	b.well()
	if got := get(); got != "one" {
		t.Fatalf("nginx says %q", got)
	}
	if p := b.program("queue:1"); p.StatusText != "worker 1" || p.State != "running" {
		t.Errorf("%+v", p)
	}
	if p := b.program("migrate:0"); p.State != "exited" || p.Reason != "" {
		t.Errorf("%+v", p)
	}
	if said := b.ctl(0, "logs", "-n", "5", "migrate"); !strings.Contains(said, "migrated") {
		t.Errorf("its log: %s", said)
	}

	before := b.pids()
	same := func(when string) {
		t.Helper()
		for name, pid := range b.pids() {
			if name != "tick:0" && pid != before[name] {
				t.Errorf("%s: %s is PID %d, was %d", when, name, pid, before[name])
			}
		}
	}
	if err := syscall.Kill(b.status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.well()
	same("after the death of superd")
	b.ctl(0, "upgrade")
	b.well()
	same("after its upgrade")

	page("two")
	b.ctl(0, "reload", "nginx")
	eventually(t, time.Minute, "nginx has read its configuration", func() bool { return get() == "two" })
	same("after a reload of nginx")
	if said := b.ctl(5, "reload", "redis"); !strings.Contains(said, "superctl restart redis") {
		t.Errorf("reload of one that has none: %s", said)
	}

	b.ctl(0, "stop", "backend") // nginx first, for it needs Redis
	if r, n := b.program("redis:0"), b.program("nginx:0"); r.State != "stopped" || n.State != "stopped" || n.Since.After(r.Since) {
		t.Errorf("redis %+v, nginx %+v", r, n)
	}
	b.ctl(0, "start", "backend:*")
	if get() != "two" {
		t.Error("nginx is not back")
	}

	b.ctl(0, "scale", "queue", "5")
	b.ctl(0, "scale", "queue", "3")
	before["nginx:0"], before["redis:0"] = b.pids()["nginx:0"], b.pids()["redis:0"]
	same("after a scale there and back")

	b.write("hang-2", "")
	eventually(t, time.Minute, "the one that hangs is replaced", func() bool {
		p := b.program("queue:2")
		return p.PID != 0 && p.PID != before["queue:2"] && p.State == "running"
	})
	if p := b.program("queue:2"); !strings.Contains(p.Last, "watchdog") {
		t.Errorf("it ended by %q", p.Last)
	}

	eventually(t, time.Minute, "ticks", func() bool {
		text, _ := os.ReadFile(b.path("ticks"))
		return strings.Count(string(text), "\n") > 3
	})
	if p := b.program("tick:0"); p.NextRun.Before(time.Now().Add(-2 * time.Second)) {
		t.Errorf("next run %s", p.NextRun)
	}

	b.ctl(0, "stop", "queue:0")
	if code := b.stop(); code != 0 {
		t.Errorf("superd ends with %d", code)
	}
	b.launch(nil)
	b.well()
	if b.program("queue:0").State != "stopped" || b.program("queue:1").State != "running" {
		t.Errorf("what was stopped by hand: %+v", b.status().Programs)
	}
	b.ctl(10, "start", "nobody")
}

// A reload does for programs what it says, and no more.
func TestReloadOfPrograms(t *testing.T) {
	const head = "socket = \"$DIR/run/superd.sock\"\nrun_dir = \"$DIR/run\"\nstate_dir = \"$DIR/state\"\nlog_dir = \"$DIR/log\"\n"
	b := newPrograms(t, `
[program.web]
command = ["sleep", "1000"]
processes = 8
[program.other]
command = ["sleep", "1001"]
[program.gone]
command = ["sleep", "1002"]
[program.idle]
command = ["sleep", "1005"]
`)
	b.launch(nil)
	b.well()
	b.ctl(0, "stop", "idle")
	before := b.pids()
	b.write("superd.toml", strings.ReplaceAll(head+`
[program.web]
command = ["sleep", "1000"]
processes = 10
stop_timeout = "9s"
log = { max_size = "1MiB" }
[program.other]
command = ["sleep", "1003"]
[program.new]
command = ["sleep", "1004"]
after = ["web"]
[program.idle]
command = ["sleep", "1006"]
`, "$DIR", b.dir))
	plan := b.ctl(0, "reload", "--plan")
	for _, want := range []string{`web +live +program\.web\.processes`, `web:8 +start +program\.web\.processes`, `web:9 +start +program\.web\.processes`, `other +restart +program\.other\.command`, `gone +stop`, `new +start`, `idle +live +program\.idle\.command \(restart\)`} {
		if !regexp.MustCompile(want).MatchString(plan) {
			t.Errorf("no %q in the plan:\n%s", want, plan)
		}
	}
	if now := b.pids(); len(now) != len(before) {
		t.Errorf("a plan changed something: %v", now)
	}
	b.ctl(0, "reload")
	eventually(t, time.Minute, "it holds", func() bool {
		now := b.pids()
		_, gone := now["gone:0"]
		return !gone && now["new:0"] != 0 && now["web:9"] != 0 && now["other:0"] != 0 && now["other:0"] != before["other:0"]
	})
	for name, pid := range b.pids() {
		if strings.HasPrefix(name, "web:") && before[name] != 0 && before[name] != pid {
			t.Errorf("%s was replaced", name)
		}
	}
	if now := b.pids(); now["idle:0"] != 0 {
		t.Errorf("what a person had stopped was started: %v", now)
	}
	b.write("superd.toml", "[program.web]\ncommand = 7\n")
	b.ctl(5, "reload")
	if len(b.pids()) != 13 {
		t.Errorf("a bad file changed something: %v", b.pids())
	}
}

const theirConf = `[unix_http_server]
file=%(here)s/their.sock
[supervisord]
logfile=%(here)s/their.log
pidfile=%(here)s/their.pid
user=root
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%(here)s/their.sock
[program:web]
command=sleep 1000
[program:queue]
command=sleep %(process_num)d00
process_name=%(program_name)s_%(process_num)02d
numprocs=3
numprocs_start=1
[program:idle]
command=sleep 1001
autostart=false
[program:done]
command=sh -c "sleep 2; exit 0"
autorestart=unexpected
[program:jobs]
command=sleep 10%(process_num)d
process_name=%(program_name)s_%(process_num)02d
numprocs=2
[group:front]
programs=web,idle
`

// What supervisord ran superd runs, by the same names, for the same supervisorctl, and
// with the same answers.
func TestImportedProgramsRun(t *testing.T) {
	b := newPrograms(t, "")
	b.write("supervisord.conf", theirConf)
	ctl := func(socket string, args ...string) (string, int) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, "supervisorctl", append([]string{"-c", b.path("supervisord.conf"), "-s", "unix://" + b.path(socket)}, args...)...)
		c.Env = append(os.Environ(), "PYTHONWARNINGS=ignore")
		out, _ := c.CombinedOutput() // its exit code says it
		return string(out), c.ProcessState.ExitCode()
	}
	var theirs []string
	orders := [][]string{
		{"stop", "front:*"}, {"start", "front:*"}, {"restart", "queue:*"}, {"stop", "queue:queue_02"}, {"status", "queue:*"}, {"start", "nobody"},
		{"start", "front:web"}, {"stop", "all"}, {"status"}, {"start", "front:idle"}, {"signal", "TERM", "queue:queue_01"},
	}
	talk := func(socket string) (answers []string) {
		eventually(t, time.Minute, "all has had its say on "+socket, func() bool {
			out, _ := ctl(socket, "status")
			return strings.Count(out, "RUNNING") == 6 && strings.Contains(out, "EXITED")
		})
		for _, order := range orders {
			out, code := ctl(socket, order...)
			answers = append(answers, fmt.Sprintf("%s: exit %d\n%s", strings.Join(order, " "), code, anonymous(out)))
		}
		return answers
	}
	c := exec.Command("supervisord", "-n", "-c", b.path("supervisord.conf"))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	theirs = talk("their.sock")
	_ = c.Process.Signal(syscall.SIGTERM)
	_ = c.Wait()

	code, said := b.run("superctl", "import", b.path("supervisord.conf"), "-o", b.path("imported.toml"))
	if code != 0 {
		t.Fatalf("import: exit %d: %s", code, said)
	}
	text, err := os.ReadFile(b.path("imported.toml"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	// Of the result only where superd itself lives is another place, for this machine is shared.
	imported := regexp.MustCompile(`(?m)^xmlrpc = .*$`).ReplaceAllString(string(text), fmt.Sprintf("xmlrpc = %q", b.path("ours.sock")))
	imported = regexp.MustCompile(`(?m)^(socket|run_dir|state_dir|log_dir) = .*\n`).ReplaceAllString(imported, "")
	b.write("superd.toml", string(own)+imported)
	b.launch(nil)
	ours := talk("ours.sock")
	for i := range theirs {
		if ours[i] != theirs[i] {
			t.Errorf("superd answers\n%s\nand supervisord\n%s", ours[i], theirs[i])
		}
	}
	if matches, _ := filepath.Glob(b.path("log/programs/*.log")); t.Failed() {
		t.Logf("logs: %v\nimported:\n%s", matches, text)
	}
}

// anonymous is an answer of supervisorctl without what differs from run to run.
func anonymous(out string) string {
	out = regexp.MustCompile(`pid \d+, uptime [\d:]+`).ReplaceAllString(out, "pid N, uptime T")
	out = regexp.MustCompile(`(?m)(STOPPED|EXITED) +\w{3} \d\d \d\d:\d\d [AP]M`).ReplaceAllString(out, "$1 DATE")
	lines := strings.Split(out, "\n")
	slices.Sort(lines) // of a group it is told as it comes
	return strings.Join(lines, "\n")
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// startSupervisord runs Debian's with a few programs, until the test ends.
func startSupervisord(t *testing.T) (conf, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sv") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf, socket = filepath.Join(dir, "s.conf"), filepath.Join(dir, "s.sock")
	text := fmt.Sprintf(`[unix_http_server]
file=%[1]s/s.sock
[supervisord]
nodaemon=true
logfile=%[1]s/s.log
pidfile=%[1]s/s.pid
childlogdir=%[1]s
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%[1]s/s.sock
[program:web]
command=/bin/sh -c "echo hello grüße; exec sleep 1000"
startsecs=0
[program:jobs]
command=sleep 1000
process_name=%%(program_name)s_%%(process_num)02d
numprocs=2
startsecs=0
[program:late]
command=sleep 1000
autostart=false
startsecs=0
[program:gone]
command=/nowhere/to/be/found
autostart=false
[group:front]
programs=web
`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("supervisord", "-c", conf)
	cmd.Env = append(os.Environ(), "PYTHONWARNINGS=ignore", "LANG=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	deadline := time.Now().Add(time.Minute)
	for {
		var out bytes.Buffer
		c := &cli{out: &out, talk: &out, socket: socket}
		if code := c.run(t.Context(), []string{"--socket", socket, "--compat", "status", "jobs:*", "front:web"}); code == 0 && strings.Count(out.String(), "RUNNING") == 3 {
			return conf, socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("supervisord does not start: %s", out.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

var volatile = regexp.MustCompile(`pid \d+, uptime \d+:\d\d:\d\d|(?m)^\d+$|/tmp/sv\d+|[A-Z][a-z]{2} \d\d \d\d:\d\d [AP]M`)

// masked has what differs from run to run away: PIDs and times, and the order in which
// processes came to their end.
func masked(text string) string {
	text = volatile.ReplaceAllString(text, "…")
	if strings.Contains(text, ": stopped\n") {
		lines := strings.Split(text, "\n")
		slices.Sort(lines)
		text = strings.Join(lines, "\n")
	}
	return text
}

// oracle is supervisorctl, all lines in one process: starting it takes longer than
// what it does.
const oracle = `
import io, json, sys
from supervisor import supervisorctl as s
from supervisor.options import ClientOptions
options = ClientOptions()
options.realize(["-c", sys.argv[1], "status"])
answers = []
for line in json.load(sys.stdin):
    out = io.StringIO()
    c = s.Controller(options, stdout=out)
    c.output = lambda message: out.write(message + "\n")
    c.onecmd(line)
    answers.append([out.getvalue(), c.exitstatus])
json.dump(answers, sys.stdout)`

// The same verbs, in the same order, by supervisorctl and by superctl --compat, each
// at a supervisord of its own: they print the same and exit the same.
func TestCompatIsSupervisorctl(t *testing.T) {
	t.Parallel()
	theirConf, _ := startSupervisord(t)
	_, ourSocket := startSupervisord(t)
	lines := []string{
		"status", "status front:* late", "status nobody front:web", "status nobody:*", "avail", "avail x", "version", "version x",
		"pid", "pid all", "pid late", "pid front:web nobody",
		"start", "start late", "start late front:web", "start nobody", "start nobody:*", "start gone", "start jobs:*",
		"stop", "stop late", "stop late", "stop jobs:*", "stop jobs:*", "stop nobody nobody:*", "start all", "restart jobs:*", "restart", "restart late jobs:jobs_00",
		"signal", "signal HUP", "signal NOPE front:web", "signal URG front:web", "signal URG jobs:* late", "signal URG nobody", "signal URG nobody:*",
		"tail", "tail front:web", "tail -6 front:web", "tail -x front:web", "tail front:web stderr", "tail front:web nonsense", "tail nobody", "tail -5", "tail a b c d",
		"maintail x", "maintail -x", "maintail 1 2", "clear", "clear front:web", "clear nobody", "clear all",
		"reread", "reread x", "update", "update nobody", "add jobs", "add nobody", "remove jobs", "remove nobody", "stop jobs:*", "remove jobs", "add jobs",
		"open x", "open ftp://x", "fg", "fg a b", "fg nobody", "fg gone", "nonsense", "nonsense and more",
		"help", "help help", "help start", "help nonsense", "? stop", "shutdown x", "reload x", "stop all", "shutdown",
	}
	in, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	theirs := exec.CommandContext(t.Context(), "/usr/bin/python3", "-W", "ignore", "-c", oracle, theirConf)
	theirs.Stdin = bytes.NewReader(in)
	out, err := theirs.Output()
	if err != nil {
		t.Fatalf("supervisorctl: %v %s", err, out)
	}
	var wanted [][2]any
	if err := json.Unmarshal(out, &wanted); err != nil {
		t.Fatal(err)
	}
	for i, line := range lines {
		want, code := fmt.Sprint(wanted[i][0]), fmt.Sprint(wanted[i][1])
		var got bytes.Buffer
		exit := (&cli{out: &got, talk: &got}).run(t.Context(), append([]string{"--socket", ourSocket, "--compat"}, strings.Fields(line)...))
		if fmt.Sprint(exit) != code || masked(got.String()) != masked(want) {
			t.Errorf("%s: exit %d\n%s\nsupervisorctl: exit %s\n%s", line, exit, got.String(), code, want)
		}
	}
}

func TestCompatWithoutSuperd(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "c.conf")
	if err := os.WriteFile(conf, []byte("[supervisorctl]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "not.sock")
	for _, line := range []string{"status", "start x", "version", "pid", "pid x", "tail x", "maintail"} {
		theirs := exec.CommandContext(t.Context(), "supervisorctl", append([]string{"-c", conf, "-s", "unix://" + socket}, strings.Fields(line)...)...)
		theirs.Env = append(os.Environ(), "PYTHONWARNINGS=ignore")
		want, _ := theirs.CombinedOutput() // the exit code is compared
		var got bytes.Buffer
		exit := (&cli{out: &got, talk: &got}).run(t.Context(), append([]string{"--socket", socket, "--compat"}, strings.Fields(line)...))
		if exit != theirs.ProcessState.ExitCode() || got.String() != string(want) {
			t.Errorf("%s: exit %d %q, supervisorctl exit %d %q", line, exit, got.String(), theirs.ProcessState.ExitCode(), want)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	c := completer{func(string) (any, error) {
		return []any{map[string]any{"group": "web", "name": "web"}, map[string]any{"group": "jobs", "name": "jobs_00"}, map[string]any{"group": "jobs", "name": "jobs_01"}}, nil
	}}
	for text, want := range map[string]string{
		"sta": "rt |tus ", "": "", "start j": "obs:* |obs:jobs_00 |obs:jobs_01 ", "update ": "jobs |web ", "signal HUP w": "eb ", "version x": "", "help shut": "down ", "restart web jobs:*": " ",
	} {
		more, _ := c.Do([]rune(text), len([]rune(text)))
		var all []string
		for _, m := range more {
			all = append(all, string(m))
		}
		if got := strings.Join(all, "|"); text != "" && got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if text == "" && len(all) != 22 {
			t.Errorf("nothing: %d verbs", len(all))
		}
	}
}

func TestHistoryFile(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if got := historyFile(); !strings.HasSuffix(got, "/superd/history") || !strings.HasPrefix(got, os.Getenv("XDG_STATE_HOME")) {
		t.Errorf("%q", got)
	}
	if info, err := os.Stat(filepath.Dir(historyFile())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

// The verbs that superctl has from supervisorctl, with its own flags before them.
func TestHabits(t *testing.T) {
	t.Parallel()
	_, socket := startSupervisord(t)
	for line, want := range map[string]string{"pid late": "0\n", "avail": "front:web                        in use    auto      999:999\n", "reread": "No config updates to processes\n", "tail -6 nobody": "nobody: ERROR (no such process name)\n",
		"remove nobody": "no such process/group: nobody", "remove jobs": "still running: jobs", "update nobody": "no such group: nobody", "add nobody": "no such process/group: nobody"} {
		for _, flags := range [][]string{{"--socket", socket}, {"--socket=" + socket}} {
			var got bytes.Buffer
			exit := (&cli{out: &got, talk: &got}).run(t.Context(), append(flags, strings.Fields(line)...))
			if !strings.Contains(got.String(), want) || exit != map[string]int{"pid late": 6, "tail -6 nobody": 10, "remove nobody": 10, "remove jobs": 6, "update nobody": 10, "add nobody": 10}[line] {
				t.Errorf("%s: exit %d, %q", line, exit, got.String())
			}
		}
	}
}

// What superctl has of supervisorctl exits as the rest of superctl does, and with
// --compat as supervisorctl.
func TestHabitsExit(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	for line, want := range map[string]struct {
		code, compat int
		says         string
	}{
		"pid":                    {0, 0, ""},
		"pid shop:emails_00":     {0, 0, ""},
		"pid nobody":             {10, 1, "No such process nobody"},
		"pid nobody shop:fpm":    {10, 1, "nobody"},
		"avail":                  {0, 0, ""},
		"avail x":                {2, 1, `"x"`},
		"maintail":               {10, 1, "journalctl"},
		"maintail -x":            {2, 1, "-x"},
		"tail nobody":            {10, 1, "nobody"},
		"tail -f nobody":         {10, 1, "nobody"},
		"tail":                   {2, 1, "NAME"},
		"tail -5":                {2, 1, "name"},
		"tail -x shop:fpm":       {2, 1, "-x"},
		"tail shop:fpm nonsense": {2, 1, "nonsense"},
		"fg nobody":              {10, 1, "bad process name"},
		"fg shop:emails_01":      {6, 1, "not running"},
		"add":                    {2, 0, "GROUP"},
		"remove":                 {2, 0, "GROUP"},
	} {
		args := append([]string{"--socket", socket}, strings.Fields(line)...)
		if got := run(t, false, args...); got.code != want.code || !strings.Contains(got.talk, want.says) || want.code != 0 && strings.Contains(got.out, "nobody") {
			t.Errorf("%s: exit %d, want %d\n%s%s", line, got.code, want.code, got.out, got.talk)
		}
		if got := run(t, false, append([]string{"--socket", socket, "--compat"}, strings.Fields(line)...)...); got.code != want.compat || got.talk != "" {
			t.Errorf("--compat %s: exit %d, want %d\n%s%s", line, got.code, want.compat, got.out, got.talk)
		}
	}
}

func TestHabitsWithoutSuperd(t *testing.T) {
	for line, compat := range map[string]int{"pid": 7, "pid x": 7, "tail x": 7, "tail -f x": 7, "maintail": 7, "fg x": 7, "avail": 1, "reread": 1, "update": 1, "update x": 1, "add x": 1, "remove x": 1} {
		args := append([]string{"--socket", "/nonexistent/superd.sock"}, strings.Fields(line)...)
		if got := run(t, false, args...); got.code != 8 || got.out != "" || !strings.Contains(got.talk, "/nonexistent/superd.sock") {
			t.Errorf("%s: %+v", line, got)
		}
		args = append([]string{"--socket", "/nonexistent/superd.sock", "--compat"}, strings.Fields(line)...)
		if got := run(t, false, args...); got.code != compat {
			t.Errorf("--compat %s: %+v", line, got)
		}
	}
}

func TestHabitsHaveNoJSON(t *testing.T) {
	for _, h := range habits {
		verb, _, _ := strings.Cut(h.use, " ")
		for _, args := range [][]string{{"--json", verb, "x"}, {verb, "x", "--json"}} {
			got := run(t, false, args...)
			var answer control.ErrorAnswer
			if err := json.Unmarshal([]byte(got.out), &answer); err != nil || got.code != 2 || answer.Error.Kind != control.Usage || !strings.HasPrefix(answer.Error.Hint, "superctl ") {
				t.Errorf("%q: %+v", args, got)
			}
		}
		if got := run(t, false, verb, ""); got.code != 2 || !strings.Contains(got.talk, "empty name") {
			t.Errorf("%s of nothing: %+v", verb, got)
		}
	}
}

// superd's own names are taken where supervisord's are.
func TestHabitsTakeOurNames(t *testing.T) {
	t.Parallel()
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	for line, want := range map[string]string{
		"pid shop/emails:0": "101\n", "pid shop:emails_00": "101\n", "tail shop/emails:0": "one\ntwo\n\n",
		"--compat status shop/emails:0": "shop:emails_00                   RUNNING   pid 101", "--compat clear shop/fpm": "shop/fpm: cleared\n",
	} {
		got := run(t, false, append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.code != 0 || !strings.HasPrefix(got.out, want) {
			t.Errorf("%s: exit %d, %q", line, got.code, got.out)
		}
	}
}

package supervisord

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// told imports a file, and is the TOML and every finding or error, a line each.
func told(t *testing.T, conf string, env map[string]string) (toml, lines string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	opts := here(t, path)
	opts.LookupEnv = func(name string) (string, bool) { value, set := env[name]; return value, set }
	c, err := Read(path, opts)
	if err != nil {
		return "", strings.ReplaceAll(err.Error(), path, "s.conf")
	}
	r := Convert(c, opts)
	if _, err := loaded(t, r.TOML); err != nil {
		t.Errorf("%v\n%s", err, r.TOML)
	}
	var b strings.Builder
	for _, f := range r.Findings {
		b.WriteString(strings.ReplaceAll(f.String(), path, "s.conf") + "\n")
	}
	return r.TOML, b.String()
}

// What public files have in them, and what their owner must be told.
func TestTold(t *testing.T) {
	t.Parallel()
	const words = "[program:web]\ncommand=%(ENV_WEB)s --port 80\n"
	for name, one := range map[string]struct {
		conf string
		env  map[string]string
		toml string // is in the result
		tell string // is in the list
		not  string // is in neither
	}{
		"the standard error of a container": {
			conf: "[program:web]\ncommand=web\nstdout_logfile=/dev/stdout\nstderr_logfile=/dev/stderr\n",
			toml: `log = { stdout = "inherit" }`,
			tell: "s.conf:4: [program:web] stderr_logfile: changed: went to /dev/stderr; superd",
			not:  "stdout_logfile: changed",
		},
		"standard output on a descriptor": {
			conf: "[program:web]\ncommand=web\nstdout_logfile=/proc/self/fd/1\nredirect_stderr=true\n",
			toml: `log = { stdout = "inherit" }`,
			not:  "logfile",
		},
		"two programs, four outputs, one file": {
			conf: "[program:a]\ncommand=a\nstdout_logfile=/l/x.log\nstderr_logfile=/l/x.log\n[program:b]\ncommand=b\nstdout_logfile=/l/x.log\nstderr_logfile=/l/x.log\n",
			toml: `log = { stdout = "/l/x-b.log", compress = false }`,
			tell: "s.conf:7: [program:b] stdout_logfile: changed: several processes wrote to /l/x.log",
			not:  "stderr",
		},
		"output without a file": {
			conf: "[program:a]\ncommand=a\n",
			tell: "changed: every output without a logfile: superd keeps it in /var/log/superd/programs",
		},
		"no output without a file": {
			conf: "[program:a]\ncommand=a\nstdout_logfile=/l/x.log\nredirect_stderr=true\n",
			not:  "every output without",
		},
		"a command in a variable that is one word": {
			conf: words, env: map[string]string{"WEB": "/bin/web"},
			toml: `command = ["{env:WEB}", "--port", "80"]`,
			not:  "[program:web] command",
		},
		"a command in a variable of several words": {
			conf: words, env: map[string]string{"WEB": "/bin/web -d 'a b'"},
			toml: `command = ["/bin/web", "-d", "a b", "--port", "80"]`,
			tell: "s.conf:2: [program:web] command: changed: WEB is written out as it is set here",
		},
		"a variable of several words between quotes": {
			conf: "[program:web]\ncommand=sh -c \"exec %(ENV_WEB)s\"\n", env: map[string]string{"WEB": "web -d x"},
			toml: `command = ["sh", "-c", "exec {env:WEB}"]`,
			not:  "[program:web] command",
		},
		"a variable with nothing in it": {
			conf: "[program:web]\ncommand=web %(ENV_MORE)s --port 80\n", env: map[string]string{"MORE": ""},
			toml: `command = ["web", "--port", "80"]`,
			tell: "s.conf:2: [program:web] command: changed: MORE is written out",
		},
		"a command of nothing": {
			conf: "[program:web]\ncommand=%(ENV_WEB)s\n", env: map[string]string{"WEB": ""},
			tell: "s.conf:1: [program:web]: refused: its command is empty",
		},
		"a command in a variable that is not set": {
			conf: words,
			toml: `command = ["{env:WEB}", "--port", "80"]`,
			tell: "s.conf:2: [program:web] command: changed: {env:WEB} is what the environment of superd will say, as one argument",
		},
		"a user in a variable that is not set": {
			conf: "[program:web]\ncommand=web\nuser=%(ENV_WHO)s\n",
			toml: "# user was WHO from the environment: write who that is and take autostart = false out\nuser = \"nobody\"\nautostart = false\n",
			tell: "s.conf:3: [program:web] user: changed: needs WHO from the environment",
			not:  "taken is what counts without the key",
		},
		"supervisord's user in a variable that is not set": {
			conf: "[supervisord]\nuser=%(ENV_WHO)s\n[program:web]\ncommand=web\n",
			toml: "user = \"nobody\"\nautostart = false\n",
			tell: "s.conf:2: [supervisord] user: changed: needs WHO from the environment",
		},
		"a user in a variable": {
			conf: "[program:web]\ncommand=web\nuser=%(ENV_WHO)s\n", env: map[string]string{"WHO": "www-data"},
			toml: `user = "www-data"`,
			not:  "autostart",
		},
		"a key that is indented": {
			conf: "[program:web]\ncommand=web\n  directory = /srv\n",
			toml: `command = ["web", "directory", "=", "/srv"]`,
			tell: "s.conf:3: [program:web] command: note: goes on in this line, for it is indented",
		},
		"arguments that are indented": {
			conf: "[program:web]\ncommand=web\n  --directory=/srv\n  x=y\n",
			toml: `command = ["web", "--directory=/srv", "x=y"]`,
			not:  "goes on in this line",
		},
		"a command in quotes": {
			conf: "[program:web]\ncommand=\"web --port 80\"\n",
			toml: `command = ["/usr/bin/env", "web --port 80"]`,
			tell: "s.conf:2: [program:web] command: note: is one word with spaces in it",
		},
		"the order of another tool": {
			conf: "[program:web]\ncommand=web\ndependent_startup_wait_for=db:running\n",
			tell: "s.conf:3: [program:web] dependent_startup_wait_for: changed: is for supervisord_dependent_startup",
			not:  "no key that supervisord knows",
		},
		"a key nobody knows": {
			conf: "[program:web]\ncommand=web\nloglevel=info\n",
			tell: "s.conf:3: [program:web] loglevel: unhelpful: is no key that supervisord knows in this section",
		},
		"a template of Jinja": {
			conf: "; {{ managed }}\n[supervisord]\nnodaemon={{ foreground }}\n{% if web %}\n[program:web]\ncommand=web\n{% endif %}\n",
			tell: `s.conf:3: looks like a line of a template, "nodaemon={{ foreground }}"`,
		},
		"a template of ERB": {
			conf: "[supervisord]\n<% if @web -%>\n[program:web]\ncommand=web\n<% end -%>\n",
			tell: `s.conf:2: looks like a line of a template, "<% if @web -%>"`,
		},
		"a template of Blade": {
			conf: "[supervisord]\n@if(env('WEB'))\n[program:web]\ncommand=web\n@endif\n",
			tell: `s.conf:2: looks like a line of a template, "@if(env('WEB'))"`,
		},
		"braces in a file that is fine": {
			conf: "[program:web]\ncommand=docker ps --format '{{.Names}}'\n",
			toml: `"{{{{.Names}}"]`,
			not:  "template",
		},
		"a socket below a variable that is not set": {
			conf: "[unix_http_server]\nfile=%(ENV_RUN)s/s.sock\n[program:web]\ncommand=web\n",
			toml: "[program.web]",
			tell: "s.conf:2: [unix_http_server] file: changed: needs RUN from the environment",
			not:  "must be given",
		},
		"a port in a variable that is not set": {
			conf: "[inet_http_server]\nport=%(ENV_PORT)s\n[program:web]\ncommand=web\n",
			toml: "[program.web]",
			tell: "s.conf:2: [inet_http_server] port: changed: superd serves supervisor's XML-RPC on a unix socket only",
			not:  "must be",
		},
		"a password in a variable that is not set": {
			conf: "[unix_http_server]\nfile=/run/s.sock\nusername=x\npassword=%(ENV_SECRET)s\n[program:web]\ncommand=web\n",
			toml: "[program.web]",
			tell: "s.conf:4: [unix_http_server] password: changed: needs SECRET",
			not:  "must both be given",
		},
		"a socket of an fcgi-program in a variable that is not set": {
			conf: "[fcgi-program:web]\nsocket=%(ENV_AT)s\ncommand=web\n",
			tell: "s.conf:1: [fcgi-program:web]: refused: an fcgi-program is started on a socket",
			not:  "must have a socket",
		},
		"an include below a variable that is not set": {
			conf: "[supervisord]\n[include]\nfiles=%(ENV_CONF)s/*.conf\n",
			tell: "s.conf:3: [include] files: needs CONF from the environment of supervisord",
		},
		"a socket that is relative": {
			conf: "[unix_http_server]\nfile=run/s.sock\n",
			tell: "s.conf:2: [unix_http_server] file: changed: is relative to where supervisord is started",
			not:  `"run/s.sock"`,
		},
		"supervisord's directory in a variable that is not set": {
			conf: "[supervisord]\ndirectory=%(ENV_HOME_OF_IT)s\n[program:web]\ncommand=web\n",
			tell: "s.conf:2: [supervisord] directory: changed: needs HOME_OF_IT",
			not:  "is the directory of programs",
		},
		"a byte order mark": {
			conf: "\ufeff[supervisord]\n",
			tell: "s.conf: begins with a byte order mark in line 1",
		},
		"UTF-16": {
			conf: "\xff\xfe[\x00s\x00",
			tell: "s.conf: is text in UTF-16",
		},
		"Latin-1": {
			conf: "[supervisord]\n; na\xefve\n",
			tell: "s.conf: is not text in UTF-8 in line 2,",
		},
		"processes that become programs and shared a file": {
			conf: "[program:web]\ncommand=web 80%(process_num)02d\nnumprocs=12\nprocess_name=%(process_num)s\nstdout_logfile=/l/x.log\nredirect_stderr=true\n",
			tell: "each has a file of its own now, such as /l/x-1.log\nchanged:",
			not:  "x-2.log, ",
		},
		"a variable of itself, that is not set here": {
			conf: "[program:w]\ncommand=w\nnumprocs=40\nprocess_name=%(process_num)s\nenvironment=A=\"%(ENV_A)s%(ENV_A)s\"\n",
			toml: "processes = 40\n",
			tell: "[program:w] environment: changed: {env:A}",
			not:  "differ by their number",
		},
		"two ways to write one path": {
			conf: "[supervisord]\ndirectory=/srv\n[program:a]\ncommand=a\nstdout_logfile=l/x.log\nstderr_logfile=/srv/l/../l//x.log\n[program:b]\ncommand=b\nstdout_logfile=/srv/./l/x.log\nredirect_stderr=true\n",
			toml: `stdout = "/srv/l/x.log", compress`,
			tell: "[program:b] stdout_logfile: changed: several processes wrote to /srv/./l/x.log",
			not:  "..",
		},
		"one file that is rotated in two ways": {
			conf: "[program:a]\ncommand=a\nstdout_logfile=/l/x.log\nstdout_logfile_maxbytes=20MB\nstderr_logfile=/l/./x.log\n",
			toml: `max_size = "20MiB"`,
			tell: "[program:a] stderr_logfile_maxbytes: changed: both outputs are rotated alike",
		},
		"what only the background does": {
			conf: "[supervisord]\nnodaemon=true\ndirectory=/srv\numask=077\n[program:a]\ncommand=a\nstdout_logfile=x.log\n",
			toml: `stdout = "/x.log"`,
			tell: "s.conf:3: [supervisord] directory: unhelpful: has an effect only when supervisord goes into the background",
			not:  `umask = "077"`,
		},
		"what the background does": {
			conf: "[supervisord]\ndirectory=/srv\numask=077\n[program:a]\ncommand=a\n",
			toml: `umask = "077"`,
			tell: "s.conf:3: [supervisord] umask: note: is the umask of programs that name none, as when",
		},
		"supervisord's directory is relative": {
			conf: "[supervisord]\ndirectory=var\n[program:a]\ncommand=a\n",
			tell: "s.conf:2: [supervisord] directory: changed: is relative to where",
			not:  "is the directory of programs",
		},
		"a watch that nobody starts": {
			conf: "[program:a]\ncommand=a\n[eventlistener:m]\ncommand=memmon -a 250MB\nevents=TICK_60\nautostart=false\n",
			toml: "[program.m]",
			tell: "[eventlistener:m] events: changed: superd sends no events",
			not:  "max_memory",
		},
		"what a watch ran with": {
			conf: "[program:a]\ncommand=a\n[eventlistener:m]\ncommand=memmon -a 250MB\nevents=TICK_60\nenvironment=A=1\nstderr_logfile=/l/m\n",
			toml: `max_memory = "250MiB"`,
			tell: "s.conf:6: [eventlistener:m] environment: ignored: what only memmon itself ran with is not taken over: environment, stderr_logfile",
		},
		"a group with the name of a listener": {
			conf: "[program:a]\ncommand=a\n[group:m]\nprograms=a\n[eventlistener:m]\ncommand=/bin/m\nevents=TICK_60\n",
			tell: "never runs the second, nor what is in it: [program:a]",
		},
		"a NUL byte": {
			conf: "[program:a]\ncommand=a\x00b\n",
			tell: "s.conf: has a NUL byte in line 2",
		},
		"a command that cannot be formatted": {
			conf: "[program:web]\ncommand=%(web)s\n",
			tell: "s.conf:2: [program:web] command: %(web)s stands for nothing",
			not:  "nothing to run",
		},
	} {
		t.Run(name, func(t *testing.T) {
			toml, lines := told(t, one.conf, one.env)
			if !strings.Contains(toml, one.toml) {
				t.Errorf("%q is not in\n%s", one.toml, toml)
			}
			if !strings.Contains(lines, one.tell) {
				t.Errorf("%q is not in\n%s", one.tell, lines)
			}
			if one.not != "" && strings.Contains(toml+lines, one.not) {
				t.Errorf("%q is in\n%s\n%s", one.not, toml, lines)
			}
		})
	}
}

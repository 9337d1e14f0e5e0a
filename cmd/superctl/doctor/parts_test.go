package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"superd/config"
)

// The parser against what the real nginx makes of the same files.
func TestNginxConfiguration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write("nginx.conf", "pid "+dir+"/pid; error_log stderr;\nevents {}\nhttp {\n access_log off;\n fastcgi_keep_conn on;\n fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n include \"sites/*.conf\";\n}")
	write("sites/a.conf", `# fastcgi_pass unix:/commented; }
upstream "two words" { server unix:/run/a.sock weight=2; server unix:/run/gone.sock down; keepalive 4; }
server {
	listen 127.0.0.1:18996;
	server_name "a;{b}" a\;b;
	root '/srv/shop/current/public';
	add_header X "say \"hi\" ; }";
	location /inherits { fastcgi_pass "two words"; }
	location /hides { fastcgi_param X y; fastcgi_keep_conn off; fastcgi_pass unix:/run/b.sock; }
	location ~ ^/(?<name>[^/]+)\.php$ {
		if ($request_method = POST) { set $x "${name}}"; }
		root /srv/${name}/public;
		fastcgi_param SCRIPT_FILENAME "${realpath_root}${fastcgi_script_name}";
		location ~ deep {
			include part;
		}
	}
}`) // and no line end
	write("part", "fastcgi_pass\n\t127.0.0.1:9000 ;")
	dump, err := execute(t.Context(), Call{Argv: []string{"nginx", "-T", "-c", dir + "/nginx.conf"}})
	must(t, err)
	all, err := parseNginx(dump)
	must(t, err)
	got := passings(all)
	want := []passing{
		{
			at: dir + "/sites/a.conf:8", pass: "two words", sockets: []string{"/run/a.sock"}, root: "/srv/shop/current/public",
			script: "$document_root$fastcgi_script_name", keep: true, pool: true,
		},
		{at: dir + "/sites/a.conf:9", pass: "unix:/run/b.sock", sockets: []string{"/run/b.sock"}, root: "/srv/shop/current/public"},
		{
			at: dir + "/part:1", pass: "127.0.0.1:9000", sockets: []string{"127.0.0.1:9000"}, root: "/srv/${name}/public",
			script: "${realpath_root}${fastcgi_script_name}", keep: true,
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(passing{})); diff != "" {
		t.Error(diff)
	}
}

func TestNginxConfigurationThatCannotBeUnderstood(t *testing.T) {
	head := dumpMark + "/etc/nginx/nginx.conf:\n"
	for text, says := range map[string]string{
		"":                                 "printed no configuration",
		"nginx: help":                      "printed no configuration",
		head + "http {":                    "nginx.conf:1: cannot understand",
		head + "\nx y":                     "nginx.conf:2:",
		head + "}":                         "not closed",
		head + ";":                         "unexpected",
		head + `x "y`:                      "quoted",
		head + "x_by_lua_block { } } ":     "not closed",
		head + "a_by_lua_block { {":        "Lua",
		head + "include nginx.conf;":       "include each other",
		head + strings.Repeat("a {", 1000): "too many braces",
	} {
		if _, err := parseNginx(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %v, want %q", text, err, says)
		}
	}
	all, err := parseNginx(head + "x_by_lua_block {\n if a then b = { 1, \"q\" } end ; \n}\nlast ${a};\n")
	if err != nil || len(all) != 2 || all[1].args[0] != "${a}" || all[1].at != "/etc/nginx/nginx.conf:4" {
		t.Errorf("%+v, %v", all, err)
	}
}

func FuzzNginxConfiguration(f *testing.F) {
	f.Add("http { server { root \"/a b\"; location / { fastcgi_pass unix:/x; } } }")
	f.Add("a_by_lua_block { { } } include *;")
	f.Add("x ${ \\")
	f.Fuzz(func(_ *testing.T, text string) {
		all, err := parseNginx(dumpMark + "/n:\n" + text)
		if err == nil {
			passings(all)
		}
	})
}

func TestTimeSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1min 30s": 90 * time.Second, "infinity": config.Infinity, "500ms": 500 * time.Millisecond, "1h 2min 3s": 3723 * time.Second,
		"0": 0, "1d": 24 * time.Hour, "2w": 336 * time.Hour, "1.5s": 1500 * time.Millisecond, "": -1, "soon": -1, "5": -1, "5parsec": -1, "..s": -1,
	} {
		got, err := timespan(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

// An app inside the directory of another has a socket of its own.
func TestAppInsideAnother(t *testing.T) {
	shop := config.App{Name: "shop", Root: "/srv/shop", FPM: &config.FPM{Listen: "/run/superd/shop/fpm.sock"}}
	blog := config.App{Name: "blog", Root: "/srv/shop/blog", FPM: &config.FPM{Listen: "/run/superd/blog/fpm.sock"}}
	e := &examination{Doctor: &Doctor{}, cfg: &config.Config{RunDir: "/run/superd", Apps: []config.App{shop, blog}}}
	for _, app := range e.cfg.Apps {
		e.passing(&app, passing{at: "x:1", pass: "unix:" + blog.FPM.Listen, sockets: []string{blog.FPM.Listen}, root: "/srv/shop/blog/current/public"})
	}
	if len(e.found) > 0 {
		t.Errorf("%+v", e.found)
	}
}

func TestStopTimeOfTheUnit(t *testing.T) {
	for _, tt := range []struct {
		have        string
		drain, stop time.Duration
		want        bool
	}{
		{"1min 30s", time.Minute, 90 * time.Second, true},
		{"1min 39s", time.Minute, 90 * time.Second, true},
		{"1min 40s", time.Minute, 90 * time.Second, false},
		{"1min 40s", 2 * time.Minute, 90 * time.Second, true},
		{"infinity", time.Minute, config.Infinity, false},
		{"infinity", time.Minute, time.Hour, false},
		{"1h", time.Minute, config.Infinity, true},
	} {
		app := config.App{Name: "shop", FPM: &config.FPM{DrainTimeout: tt.drain}, Workers: []config.Worker{{Name: "w", StopTimeout: tt.stop}}}
		e := &examination{Doctor: &Doctor{}, cfg: &config.Config{Apps: []config.App{app}}, unit: map[string]string{"TimeoutStopUSec": tt.have}}
		e.stopTime()
		if (len(e.found) > 0) != tt.want || Worst(e.found) == Hint {
			t.Errorf("%+v: %+v", tt, e.found)
		}
		for _, f := range e.found {
			if strings.Contains(f.What, "2562047h") {
				t.Errorf("infinity is told as a number: %s", f.What)
			}
		}
	}
}

// Where superd may ask systemd for time it does, and nothing of a usual stop is cut.
func TestStopTimeThatIsAskedFor(t *testing.T) {
	for access, want := range map[string]Severity{"main": Hint, "all": Hint, "none": Problem, "": Problem} {
		e := &examination{
			Doctor: &Doctor{}, cfg: &config.Config{Programs: []config.Program{{Name: "slow", StopTimeout: time.Hour}}},
			unit: map[string]string{"TimeoutStopUSec": "2min", "Type": "notify", "NotifyAccess": access},
		}
		e.stopTime()
		if len(e.found) != 1 || e.found[0].Severity != want || !strings.Contains(e.found[0].What, "stop_timeout of slow is 1h") {
			t.Errorf("NotifyAccess=%s: %+v", access, e.found)
		}
	}
}

func TestJobTimeout(t *testing.T) {
	for _, tt := range []struct {
		command string
		stop    time.Duration
		want    Severity
	}{
		{"php artisan queue:work", 90 * time.Second, ""},
		{"php artisan queue:work", 69 * time.Second, Warning},
		{"php artisan queue:work", 60 * time.Second, Warning},
		{"php artisan queue:work", 59 * time.Second, Problem},
		{"php artisan queue:work --timeout=80", 90 * time.Second, ""},
		{"php artisan queue:work --timeout=81", 90 * time.Second, Warning},
		{"php artisan queue:work redis --timeout 91 --tries=3", 90 * time.Second, Problem},
		{"php artisan queue:work --timeout={env:T}", time.Second, ""}, // known later
		{"php artisan queue:work --timeout=9999", config.Infinity, ""},
		{"php artisan queue:work --timeout=0", config.Infinity, ""},
		{"php bin/console messenger:consume a --time-limit=3600", 5 * time.Second, ""},
		{"php artisan schedule:work", time.Second, ""},
		{"php artisan tell horizon", time.Second, ""},
		{"php artisan queue:work --queue horizon --timeout=5 -- --timeout=500", 90 * time.Second, ""},
	} {
		e := &examination{Doctor: &Doctor{Run: func(context.Context, Call) (string, error) { return "[PHP Modules]\npcntl\n", nil }}}
		w := &config.Worker{Name: "w", Command: strings.Fields(tt.command), StopTimeout: tt.stop}
		e.worker(t.Context(), &config.App{Name: "shop", Current: "/nonexistent"}, w)
		if got := Worst(e.found); got != tt.want {
			t.Errorf("%s, stop_timeout %s: %q, want %q", tt.command, tt.stop, got, tt.want)
		}
	}
}

func TestHorizonTimeouts(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/config", 0o755))
	must(t, os.WriteFile(dir+"/config/horizon.php", []byte(`<?php return ['defaults' => ['a' => ['timeout' => 60], "b" => ["timeout"=>300], 'c' => ['timeout' => 90]]];`), 0o600))
	e := &examination{Doctor: &Doctor{}}
	e.horizon("shop/h", &config.App{Current: dir}, &config.Worker{StopTimeout: 90 * time.Second})
	if len(e.found) != 1 || e.found[0].Severity != Problem || !strings.Contains(e.found[0].What, "'timeout' => 300") {
		t.Errorf("%+v", e.found)
	}
}

func TestConsumerName(t *testing.T) {
	env := filepath.Join(t.TempDir(), "env")
	must(t, os.WriteFile(env, []byte("MESSENGER_CONSUMER_NAME={slot}-{generation}\n"), 0o600))
	for _, tt := range []struct {
		value     string
		processes int
		order     string
		file      string
		bad       bool
	}{
		{"", 8, "start-first", "", false},
		{"one", 1, "stop-first", "", false},
		{"one", 1, "start-first", "", true},
		{"one", 2, "stop-first", "", true},
		{"c-{slot}", 2, "stop-first", "", false},
		{"c-{slot}", 1, "start-first", "", true},
		{"{generation}", 2, "start-first", "", true},
		{"{release}-{slot}", 2, "start-first", "", true},
		{"{generation}.{slot}", 2, "start-first", "", false},
		{"", 2, "stop-first", env, true}, // a file has no templates
	} {
		e := &examination{Doctor: &Doctor{}}
		app := &config.App{Name: "shop", EnvFile: tt.file, Env: map[string]string{}}
		if tt.value != "" {
			app.Env[consumerVariable] = tt.value
		}
		e.consumerName("shop/w", app, &config.Worker{Processes: tt.processes, Order: tt.order})
		if (len(e.found) > 0) != tt.bad {
			t.Errorf("%+v: %+v", tt, e.found)
		}
	}
}

// The options that choose a php.ini go along, the script and what follows do not.
func TestPHPOfWorker(t *testing.T) {
	for command, want := range map[string]string{
		"php artisan queue:work":                   "php",
		"/usr/bin/php8.2 -c /etc/x -d a=b -q w -n": "/usr/bin/php8.2 -c /etc/x -d a=b",
		"php8.3 -n -dmemory_limit=1G -f x":         "php8.3 -n -dmemory_limit=1G",
		"php -c {root}/php.ini x":                  "php -c /srv/shop/php.ini",
		"node worker.js":                           "",
		"phpunit":                                  "",
	} {
		got, err := phpOf(&config.App{Root: "/srv/shop", Current: "/srv/shop/current"}, &config.Worker{Command: strings.Fields(command)})
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v, want %q", command, got, err, want)
		}
	}
}

func TestToolThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := execute(ctx, Call{Argv: []string{"sh", "-c", "sleep 20 & sleep 20"}}) // and a grandchild with the pipe
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestToolThatIsMissing(t *testing.T) {
	_, err := execute(t.Context(), Call{Argv: []string{"no-such-tool-of-superd"}})
	if err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Error(err)
	}
}

// A worker's php may be a file of the app's user: root must not run it as root.
func TestProgramsOfTheAppRunAsItsUser(t *testing.T) {
	needRoot(t)
	who, err := lookUp("www-data", "")
	must(t, err)
	out, err := execute(t.Context(), Call{Argv: []string{"id", "-un"}, As: &who})
	if err != nil || strings.TrimSpace(out) != "www-data" {
		t.Errorf("%q, %v", out, err)
	}
	w := newWorld(t)
	w.worker = `command = ["` + w.write("bin/php", "#!/bin/sh\nid -un >"+w.dir+"/shop/who\nexec /usr/bin/php \"$@\"\n") + `", "artisan", "queue:work"]`
	must(t, os.WriteFile(w.dir+"/shop/who", nil, 0o666))
	must(t, os.Chmod(w.dir+"/shop/who", 0o666))
	w.examine()
	if got, err := os.ReadFile(w.dir + "/shop/who"); strings.TrimSpace(string(got)) != "www-data" {
		t.Errorf("ran as %q, %v", got, err)
	}
}

// The kernel is the judge of who may pass a directory.
func TestMayAgreesWithTheKernel(t *testing.T) {
	needRoot(t)
	dir := newWorld(t).dir
	who, err := lookUp("www-data", "")
	must(t, err)
	for _, owner := range []int{0, int(who.uid)} {
		for _, group := range []int{0, int(who.gid)} {
			for _, mode := range []os.FileMode{0o000, 0o700, 0o070, 0o007, 0o711, 0o755, 0o677, 0o022, 0o200} {
				path := filepath.Join(dir, "shop")
				must(t, os.Chown(path, owner, group))
				must(t, os.Chmod(path, mode))
				for flag, want := range map[string]uint32{"-x": 1, "-w": 2, "-r": 4} {
					_, err := execute(t.Context(), Call{Argv: []string{"test", flag, path}, As: &who})
					kernel := err == nil
					got, err := who.may(path, want)
					if err != nil || got != kernel {
						t.Errorf("%d:%d %o %s: %t, the kernel says %t (%v)", owner, group, mode, flag, got, kernel, err)
					}
				}
			}
		}
	}
}

func TestWorstFirst(t *testing.T) {
	needRoot(t)
	w := newWorld(t)
	w.somaxconn, w.fpm = "128", "listen_mode = \"0666\"\nwarmup = [\"/\"]"
	var order []Severity
	for _, f := range w.examine() {
		order = append(order, f.Severity)
	}
	if !slices.Equal(order, []Severity{Problem, Warning, Hint}) {
		t.Error(order)
	}
	if Worst(nil) != "" || Worst([]Finding{{Severity: Hint}, {Severity: Problem}, {Severity: Warning}}) != Problem {
		t.Error("the worst is not the worst")
	}
}

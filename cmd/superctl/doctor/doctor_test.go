package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"superd/config"
	"superd/control"
)

// A world is what a Doctor looks at: a configuration, a real nginx with files of its
// own, the real php and php-fpm, and files as the kernel writes them. As it is made,
// nothing is wrong with it.
type world struct {
	address string // of TCP, where PHP-FPM listens; "": a unix socket
	t       *testing.T
	dir     string

	top, app, fpm, ini, worker string // lines of superd.toml
	binary                     string // php-fpm
	nginxTop, server           string // of nginx
	location                   string
	unit                       string // what systemctl prints; "" fails
	somaxconn, meminfo, limits string
	space                      func(path string) (Space, error)
	status                     *control.Status
	statusErr                  error
	release                    string // where current leads to
	arrange                    func() // at last
}

const (
	meminfo = "MemTotal:       32768000 kB\nMemFree:         1000000 kB\nMemAvailable:   30000000 kB\nBuffers:           10000 kB\n"
	limits  = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             63000                63000                processes \nMax open files            1024                 524288               files     \nMax locked memory         8388608              8388608              bytes     \n"
	unit    = "TimeoutStopUSec=5min\nKillMode=process\nDelegate=yes\nPrivateTmp=no\nProtectHome=no\nLimitNOFILE=524288\nLoadState=loaded\n"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "doc") //nolint:usetesting // others must be able to pass, and a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, somaxconn: "4096\n", meminfo: meminfo, limits: limits, unit: unit,
		app: `user = "www-data"`, worker: `command = ["php", "artisan", "queue:work", "redis"]`,
		ini:      `"opcache.validate_timestamps" = "0", memory_limit = "64M"`,
		nginxTop: "user www-data;\n", binary: "php-fpm8.2",
		statusErr: &control.Error{Kind: control.Unreachable, Message: "superd does not answer"},
		space:     func(string) (Space, error) { return Space{Bytes: 1 << 40, Inodes: 1 << 20, Fixed: true}, nil },
		release:   "releases/r1",
	}
	w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass unix:" + w.listen() + ";"
	w.mkdir("")
	w.mkdir("shop")
	w.mkdir("shop/releases")
	w.mkdir("shop/releases/r1/config")
	w.write("cgroup/cgroup.controllers", "cpu memory pids\n")
	return w
}

func (w *world) listen() string {
	if w.address != "" {
		return w.address
	}
	return w.dir + "/run/shop/fpm.sock"
}
func (w *world) root() string { return w.dir + "/shop" }

func (w *world) mkdir(path string) {
	w.t.Helper()
	full := filepath.Join(w.dir, path)
	if err := errors.Join(os.MkdirAll(full, 0o755), os.Chmod(full, 0o755)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(path, text string) string {
	w.t.Helper()
	full := filepath.Join(w.dir, path)
	syscall.ForkLock.RLock() // no child of another test has it open for writing when it is run: golang.org/issue/22315
	defer syscall.ForkLock.RUnlock()
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o755)); err != nil {
		w.t.Fatal(err)
	}
	return full
}

func (w *world) config() *config.Config {
	w.t.Helper()
	file := w.write("superd.toml", fmt.Sprintf(`run_dir = %[1]q
socket = %[2]q
state_dir = %[3]q
log_dir = %[4]q
%[5]s
[app.shop]
root = %[6]q
%[7]s
[app.shop.fpm]
listen = %[8]q
binary = %[12]q
%[9]s
ini = { %[10]s }
[app.shop.worker.emails]
%[11]s
`, w.dir+"/run", w.dir+"/run/s", w.dir+"/state", w.dir+"/log", w.top, w.root(), w.app, w.listen(), w.fpm, w.ini, w.worker, w.binary))
	cfg, err := config.Load(file)
	if err != nil {
		w.t.Fatalf("the test's own configuration is refused: %v", err)
	}
	return cfg
}

func (w *world) doctor() *Doctor {
	w.t.Helper()
	w.write("proc/sys/net/core/somaxconn", w.somaxconn)
	w.write("proc/meminfo", w.meminfo)
	w.write("proc/self/limits", w.limits)
	w.write("proc/77/limits", w.limits)
	conf := w.write("nginx/nginx.conf", w.nginxTop+"pid "+w.dir+"/nginx.pid;\nerror_log stderr;\nevents { }\nhttp {\n  access_log off;\n  include sites/*.conf;\n}\n")
	w.write("nginx/sites/shop.conf", "# a { brace } in a comment\nserver {\n  listen 127.0.0.1:18997;\n  root "+w.root()+"/current/public;\n"+w.server+
		"\n  location ~ \\.php(/|$) {\n    "+w.location+"\n  }\n}\n")
	d := New(func(context.Context) (control.Status, error) {
		if w.status == nil {
			return control.Status{}, w.statusErr
		}
		return *w.status, nil
	}, conf)
	d.Proc, d.Cgroup, d.Free = w.dir+"/proc", w.dir+"/cgroup", w.space
	d.Run = func(ctx context.Context, c Call) (string, error) {
		if c.Argv[0] != "systemctl" {
			return execute(ctx, c)
		}
		if w.unit == "" {
			return "", errors.New("systemctl: exit status 1: Failed to connect to bus: Host is down")
		}
		return w.unit, nil
	}
	return d
}

func (w *world) examine() []Finding {
	w.t.Helper()
	if w.release != "" {
		if err := os.Symlink(w.release, w.root()+"/current"); err != nil {
			w.t.Fatal(err)
		}
	}
	cfg, d := w.config(), w.doctor()
	if w.arrange != nil {
		w.arrange()
	}
	return d.Examine(w.t.Context(), cfg)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
}

func TestNothingIsFoundWhereNothingIsWrong(t *testing.T) {
	needRoot(t)
	for _, f := range newWorld(t).examine() {
		t.Errorf("%+v", f)
	}
}

func TestAddressOfTCP(t *testing.T) {
	needRoot(t)
	w := newWorld(t)
	w.address, w.location = "127.0.0.1:19007", "include /etc/nginx/fastcgi.conf; fastcgi_pass 127.0.0.1:19007;"
	for _, f := range w.examine() {
		t.Errorf("%+v", f)
	}
	w = newWorld(t)
	w.address, w.location = "127.0.0.1:19007", "return 204;"
	found := w.examine()
	if len(found) != 1 || found[0].ID != "nginx-not-connected" || !strings.Contains(found[0].Do, "fastcgi_pass 127.0.0.1:19007;") {
		t.Errorf("%+v", found)
	}
}

// Every kind of finding: what brings it on, and what is so like it that it must not.
var kinds = map[string]struct {
	is       Severity
	bad      func(*world)
	says     string // in What or Do
	good     func(*world)
	notEqual Severity // with good it may be there, but not so bad
}{
	"nginx-document-root": {Problem,
		func(w *world) { w.fpm = "pin = false" }, "realpath_root",
		func(w *world) {
			w.fpm = "pin = false"
			w.location = "include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME ${realpath_root}$fastcgi_script_name; fastcgi_pass unix:" + w.listen() + ";"
		}, ""},
	"nginx-keep-conn": {Warning,
		func(w *world) {
			w.server = "fastcgi_keep_conn on;"
			w.write("nginx/sites/up.conf", "upstream php { server unix:"+w.listen()+"; keepalive 8; }\n")
			w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass php;"
		}, "remove fastcgi_keep_conn",
		func(w *world) {
			w.server = "fastcgi_keep_conn on;"
			w.location += " fastcgi_keep_conn off;"
		}, ""},
	"nginx-private-socket": {Problem,
		func(w *world) {
			w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass unix:" + w.dir + "/run/shop/7/web.sock;"
		}, "7/web.sock", nil, ""},
	"nginx-other-upstream": {Warning,
		func(w *world) {
			w.write("nginx/sites/up.conf", "upstream php { server unix:"+w.listen()+"; server 127.0.0.1:9000 backup; }\n")
			w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass php;"
		}, "127.0.0.1:9000",
		func(w *world) {
			w.write("nginx/sites/up.conf", "upstream php { server unix:"+w.listen()+"; server 127.0.0.1:9000 down; }\n")
			w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass php;"
		}, ""},
	"nginx-elsewhere": {Warning,
		func(w *world) {
			w.location = "include /etc/nginx/fastcgi.conf; fastcgi_pass unix:/run/php/php8.2-fpm.sock;"
		}, "php8.2-fpm.sock",
		func(w *world) {
			w.location = "root /srv/other; include /etc/nginx/fastcgi.conf; fastcgi_pass unix:/run/php/php8.2-fpm.sock;"
		}, ""},
	"nginx-not-connected": {Hint,
		func(w *world) { w.location = "return 204;" }, "fpm.sock", nil, ""},
	"nginx-user": {Problem,
		func(w *world) { w.nginxTop = "user nobody nogroup;" }, `listen_group = "nogroup"`,
		func(w *world) { w.nginxTop = "user nobody www-data;" }, ""},
	"worker-no-pcntl": {Problem,
		func(w *world) {
			php := w.write("bin/php", "#!/bin/sh\nexec /usr/sbin/php-fpm8.2 \"$@\"\n") // a real PHP that has none
			w.worker = fmt.Sprintf(`command = [%q, "artisan", "queue:work"]`, php)
		}, "has no pcntl",
		func(w *world) {
			w.write("shop/releases/r1/console", "#!/usr/bin/env php\n<?php exit(1);\n")
			w.worker = `command = ["./console", "queue:work"]`
		}, ""},
	"worker-pcntl-disabled": {Problem,
		func(w *world) {
			w.worker = `command = ["php", "-d", "disable_functions=exec,pcntl_signal,pcntl_fork,pcntl_alarm", "artisan", "queue:work"]`
		}, "its disable_functions has pcntl_signal, pcntl_alarm",
		func(w *world) {
			w.worker = `command = ["php", "-d", "disable_functions=exec,pcntl_fork", "artisan", "queue:work"]`
		}, ""},
	"worker-shell": {Warning,
		func(w *world) { w.worker = `command = ["sh", "-c", "php artisan queue:work; true"]` }, "sh -c",
		func(w *world) { w.worker = `command = ["sh", "-c", "cd x && exec php artisan queue:work"]` }, ""},
	"queue-listen": {Warning,
		func(w *world) { w.worker = `command = ["php", "artisan", "queue:listen"]` }, "queue:work", nil, ""},
	"stop-timeout": {Problem,
		func(w *world) { w.worker = `command = ["php", "artisan", "queue:work", "--timeout", "120"]` }, `"130s" in [app.shop.worker.emails]`,
		func(w *world) {
			w.worker = `command = ["php", "bin/console", "messenger:consume", "async", "--time-limit=3600"]` // no job's
		}, ""},
	"job-unlimited": {Warning,
		func(w *world) { w.worker = `command = ["php", "artisan", "queue:work", "--timeout=0"]` }, "any time",
		func(w *world) {
			w.worker = "command = [\"php\", \"artisan\", \"queue:work\", \"--timeout=0\"]\nstop_timeout = \"infinity\""
			w.unit = strings.Replace(unit, "5min", "infinity", 1)
		}, ""},
	"messenger-consumer-name": {Problem,
		func(w *world) {
			w.worker = "command = [\"php\", \"bin/console\", \"messenger:consume\", \"async\"]\nprocesses = 2\nenv = { MESSENGER_CONSUMER_NAME = \"{slot}\" }"
		}, "{slot}-{generation}",
		func(w *world) {
			w.worker = "command = [\"php\", \"bin/console\", \"messenger:consume\", \"async\"]\nprocesses = 2\nenv = { MESSENGER_CONSUMER_NAME = \"{slot}-{generation}\" }"
		}, ""},
	"systemd-timeout-stop": {Problem,
		func(w *world) { w.unit = strings.Replace(unit, "5min", "1min 30s", 1) }, "stop_timeout of shop/emails",
		func(w *world) { w.unit = strings.Replace(unit, "5min", "1min 40s", 1) }, ""},
	"systemd-store": {Problem,
		func(w *world) { w.unit += "FileDescriptorStoreMax=0\n" }, "FileDescriptorStoreMax=8192",
		func(w *world) { w.unit += "FileDescriptorStoreMax=8192\n" }, ""},
	"systemd-runtime-directory": {Problem,
		func(w *world) { w.unit += "RuntimeDirectory=other .." + w.dir + "\nRuntimeDirectoryPreserve=no\n" }, "RuntimeDirectoryPreserve=yes",
		func(w *world) { w.unit += "RuntimeDirectory=superd\nRuntimeDirectoryPreserve=no\n" }, ""},
	"systemd-kill-mode": {Problem,
		func(w *world) { w.unit = strings.Replace(unit, "KillMode=process", "KillMode=control-group", 1) }, "KillMode=process",
		func(w *world) { w.unit = strings.Replace(unit, "KillMode=process", "KillMode=mixed", 1) }, "KillMode=process"},
	"systemd-private-tmp": {Problem,
		func(w *world) { w.unit = strings.Replace(unit, "PrivateTmp=no", "PrivateTmp=yes", 1) }, "PrivateTmp", nil, ""},
	"systemd-protect-home": {Problem,
		func(w *world) {
			w.unit = strings.Replace(unit, "ProtectHome=no", "ProtectHome=yes", 1)
			w.top = "include = [\"more.toml\"]"
			w.write("more.toml", "[app.blog]\nroot = \"/home/blog\"\n[app.blog.worker.w]\ncommand = [\"sleep\", \"9\"]\n")
		}, "/home/blog",
		func(w *world) { w.unit = strings.Replace(unit, "ProtectHome=no", "ProtectHome=yes", 1) }, ""},
	"backlog": {Warning,
		func(w *world) { w.somaxconn = "128\n" }, "somaxconn=1024",
		func(w *world) { w.somaxconn = "1024\n" }, ""},
	"opcache-off": {Hint,
		func(w *world) { w.ini = `"opcache.enable" = "0"` }, "opcache", nil, ""},
	"opcache-validate-timestamps": {Hint,
		func(w *world) { w.ini = `"opcache.validate_timestamps" = "1"` }, "validate_timestamps", nil, ""},
	"opcache-file-update-protection": {Hint,
		func(w *world) { w.fpm = `warmup = ["/"]` }, "is 2",
		func(w *world) {
			w.fpm = `warmup = ["/"]`
			w.ini = `"opcache.file_update_protection" = "0", "opcache.validate_timestamps" = "0", memory_limit = "64M"`
		}, ""},
	"opcache-file-cache": {Warning,
		func(w *world) {
			w.mkdir("cache")
			w.ini += `, "opcache.file_cache" = "` + w.dir + `/cache"`
		}, "/cache",
		func(w *world) {
			w.mkdir("cache")
			w.ini = `"opcache.validate_timestamps" = "1", "opcache.file_cache" = "` + w.dir + `/cache"`
		}, Warning},
	"opcache-jit": {Hint,
		func(w *world) { w.ini += `, "opcache.jit" = "tracing", "opcache.jit_buffer_size" = "64M"` }, "tracing",
		func(w *world) { w.ini += `, "opcache.jit" = "disable", "opcache.jit_buffer_size" = "64M"` }, ""},
	"opcache-preload": {Problem,
		func(w *world) {
			must(w.t, os.Chmod(w.write("ran", ""), 0o666)) // whoever runs it could tell
			file := w.write("shop/releases/r1/preload.php", "<?php file_put_contents('"+w.dir+"/ran', 'x');\n")
			w.ini += `, "opcache.preload_user" = "www-data", "opcache.preload" = "` + strings.Replace(file, "releases/r1", "current", 1) + `"`
		}, "current/preload.php",
		func(w *world) {
			w.ini += `, "opcache.preload_user" = "www-data", "opcache.preload" = "` + w.write("preload.php", "<?php\n") + `"`
		}, ""},
	"memory": {Warning,
		func(w *world) { w.meminfo = strings.Replace(meminfo, "30000000", "2000000", 1) }, "2 generations × (16 children × memory_limit 64 MiB",
		func(w *world) { // enough, counting what runs now
			w.meminfo = strings.Replace(meminfo, "30000000", "2000000", 1)
			w.status = w.running()
			w.status.Apps[0].FPM.Generations[0].Memory = 1 << 30
		}, ""},
	"memory-unlimited": {Warning,
		func(w *world) { w.ini = `memory_limit = "-1", "opcache.validate_timestamps" = "0"` }, "-1", nil, ""},
	"disk": {Problem,
		func(w *world) {
			w.space = func(path string) (Space, error) {
				return Space{Bytes: 1 << 40, Inodes: 1 << 20 / uint64(1+100000*strings.Count(path, "releases")), Fixed: true}, nil
			}
		}, "10 inodes left",
		func(w *world) { // a file system that does not count inodes
			w.space = func(string) (Space, error) { return Space{Bytes: 1 << 30}, nil }
		}, ""},
	"nofile": {Problem,
		func(w *world) {
			w.worker += "\nprocesses = 100"
			w.status = w.running()
			w.limits = strings.Replace(limits, "524288", "1024  ", 1)
		}, "LimitNOFILE=65536",
		func(w *world) { // the soft limit alone would not do; superd raises its own
			w.worker += "\nprocesses = 100"
			w.status = w.running()
		}, ""},
	"processes": {Problem,
		func(w *world) { w.worker += "\nprocesses = 3000" }, "6003",
		func(w *world) { w.worker += "\nprocesses = 1000" }, ""},
	"cgroup-v1": {Hint,
		func(w *world) { w.arrange = func() { _ = os.Remove(w.dir + "/cgroup/cgroup.controllers") } }, "cgroup v2",
		func(w *world) { // v1 with v2 beside it
			w.mkdir("cgroup/unified")
			w.arrange = func() {
				must(w.t, os.Rename(w.dir+"/cgroup/cgroup.controllers", w.dir+"/cgroup/unified/cgroup.controllers"))
			}
		}, ""},
	"cgroup-not-delegated": {Hint,
		func(w *world) { w.unit = strings.Replace(unit, "Delegate=yes", "Delegate=no", 1) }, "Delegate=yes",
		func(w *world) {
			w.unit = "LoadState=not-found\nTimeoutStopUSec=1min 30s\nKillMode=control-group\nDelegate=no\n"
		}, ""},
	"cgroup-no-memory": {Hint,
		func(w *world) { w.unit = unit + "DelegateSubgroup=\n" }, "DelegateSubgroup=keeper",
		func(w *world) { w.unit = unit + "DelegateSubgroup=keeper\n" }, ""},
	"release-writable": {Warning,
		func(w *world) { w.arrange = func() { must(w.t, os.Chown(w.dir+"/shop/releases/r1", 33, 33)) } }, "releases/r1 can be written to by www-data",
		func(w *world) { w.arrange = func() { must(w.t, os.Chown(w.dir+"/shop/releases/r1/config", 33, 33)) } }, ""},
	"current-missing":   {Warning, func(w *world) { w.release = "" }, "does not exist", nil, ""},
	"current-directory": {Problem, func(w *world) { w.release = ""; w.mkdir("shop/current") }, "mv -T", nil, ""},
	"current-dangling":  {Problem, func(w *world) { w.release = "releases/r9" }, "nowhere", nil, ""},
	"current-outside": {Problem, func(w *world) { w.mkdir("shop/other"); w.release = "other" }, "shop/other",
		func(w *world) { // an absolute link, and releases on another disk
			w.mkdir("disk")
			must(w.t, os.Rename(w.root()+"/releases", w.dir+"/disk/releases"))
			must(w.t, os.Symlink(w.dir+"/disk/releases", w.root()+"/releases"))
			w.release = w.root() + "/releases/r1"
		}, ""},
	"listen-mode": {Problem,
		func(w *world) { w.fpm = `listen_mode = "0666"` }, "0666",
		func(w *world) { w.fpm = `listen_mode = "0664"` }, ""},
	"socket-directory": {Problem,
		func(w *world) {
			w.mkdir("run")
			w.arrange = func() { must(w.t, os.Chmod(w.dir+"/run", 0o700)) }
		}, "www-data cannot pass through",
		func(w *world) {
			w.mkdir("run")
			w.arrange = func() { must(w.t, os.Chmod(w.dir+"/run", 0o711)) }
		}, ""},
	"superd-unhealthy": {Problem,
		func(w *world) {
			w.status = w.running()
			w.status.Healthy, w.status.Problems = false, []string{"shop is degraded"}
		}, "shop is degraded",
		func(w *world) { w.status = w.running() }, ""},
	"former-listen": {Hint,
		func(w *world) {
			w.status = w.running()
			w.status.Apps[0].FPM.Former = []control.FormerListen{{Listen: "/run/old.sock"}}
		}, "/run/old.sock",
		func(w *world) { w.status = w.running() }, ""},
	"config-not-loaded": {Warning,
		func(w *world) { w.status = w.running(); w.status.Apps[0].FPM.Listen = "/run/old.sock" }, "/run/old.sock",
		func(w *world) { w.status = w.running() }, ""},

	// What could not be looked at.
	"unseen-nginx":   {Hint, func(w *world) { w.nginxTop += "nonsense;\n" }, "nonsense", nil, ""},
	"unseen-systemd": {Hint, func(w *world) { w.unit = "" }, "Failed to connect to bus", nil, ""},
	"unseen-systemd-timeout": {Hint,
		func(w *world) { w.unit = strings.Replace(unit, "5min", "soon", 1) }, `"soon"`, nil, ""},
	"unseen-php": {Hint, func(w *world) {
		w.binary = w.write("bin/php-fpm8.2", "#!/bin/sh\necho is broken >&2\nexit 78\n")
	}, "exit status 78: is broken", nil, ""},
	"unseen-pcntl": {Hint, func(w *world) { w.worker = `command = ["./console", "queue:work"]` }, "console: no such file", nil, ""},
	"unseen-horizon": {Hint, func(w *world) { w.worker = `command = ["php", "artisan", "horizon"]` }, "config/horizon.php",
		func(w *world) {
			w.write("shop/releases/r1/config/horizon.php", "<?php return ['defaults' => ['s' => ['timeout' => 60]]];\n")
			w.worker = `command = ["php", "artisan", "horizon"]`
		}, ""},
	"unseen-env-file": {Hint, func(w *world) {
		w.app += "\nenv_file = \"{release_dir}/.env\""
		w.worker = `command = ["php", "bin/console", "messenger:consume", "async"]`
	}, "current/.env", nil, ""},
	"unseen-somaxconn": {Hint, func(w *world) { w.somaxconn = "" }, "sysctl", nil, ""},
	"unseen-memory":    {Hint, func(w *world) { w.meminfo = "MemTotal: 5 kB\n" }, "MemAvailable", nil, ""},
	"unseen-disk": {Hint, func(w *world) {
		w.space = func(path string) (Space, error) { return space(path + "/nonexistent") }
	}, "statfs", nil, ""},
	"unseen-nofile": {Hint, func(w *world) { w.unit = "LoadState=not-found\n"; w.limits = "" }, "no limit of open files", nil, ""},
	"unseen-superd": {Hint, func(w *world) { w.statusErr = &control.Error{Kind: control.Denied, Message: "you may not"} }, "you may not", nil, ""},
}

// running is the status of a superd that has read the file.
func (w *world) running() *control.Status {
	return &control.Status{PID: 77, Healthy: true, Apps: []control.AppStatus{{Name: "shop", FPM: &control.FPMStatus{
		Listen: w.listen(), Generations: []control.GenerationStatus{{Consumption: control.Consumption{Memory: 10 << 20}}},
	}}}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEachFinding(t *testing.T) {
	needRoot(t)
	for id, tt := range kinds {
		t.Run(id, func(t *testing.T) {
			w := newWorld(t)
			tt.bad(w)
			found := w.examine()
			at := slices.IndexFunc(found, func(f Finding) bool { return f.ID == id && f.Severity == tt.is })
			if at < 0 {
				t.Fatalf("not found in %+v", found)
			}
			f := found[at]
			if !strings.Contains(f.What+f.Do, tt.says) || f.Why == "" || f.Do == "" || f.Subject == "" {
				t.Errorf("want %q in it, and all filled in: %+v", tt.says, f)
			}
			if ran, _ := os.ReadFile(w.dir + "/ran"); len(ran) > 0 {
				t.Error("code of the app was run")
			}
		})
		if tt.good == nil {
			continue
		}
		t.Run(id+" not", func(t *testing.T) {
			w := newWorld(t)
			tt.good(w)
			for _, f := range w.examine() {
				if f.ID == id && (tt.notEqual == "" || f.Severity == tt.notEqual) {
					t.Errorf("%+v", f)
				}
				if strings.HasPrefix(f.ID, "unseen-") {
					t.Errorf("could not look, which proves nothing: %+v", f)
				}
			}
		})
	}
}

var idInSource = regexp.MustCompile(`(?:ID: |f\.ID, [^=]*= )"([a-z0-9-]+)"|unseen\("([a-z-]+)"`)

// Every id in the source has its case above and its row in the documentation.
func TestEveryFindingIsTestedAndDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range idInSource.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "" {
				ids[m[1]] = true
			} else {
				ids["unseen-"+m[2]] = true
			}
		}
	}
	if len(ids) < 40 {
		t.Fatalf("only %d ids: the test looks in the wrong place", len(ids))
	}
	rare := []string{"unseen-", "unseen-user", "unseen-releases", "unseen-current", "unseen-socket-directory"} // need a user or a file to go away meanwhile
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if _, ok := kinds[id]; !ok && !slices.Contains(rare, id) {
			t.Errorf("%s has no test", id)
		}
		if !strings.HasPrefix(id, "unseen-") && !strings.Contains(string(page), "| `"+id+"` |") {
			t.Errorf("%s is not in docs/doctor.md", id)
		}
	}
	for id := range kinds {
		if !ids[id] {
			t.Errorf("%s is tested and does not exist", id)
		}
	}
}

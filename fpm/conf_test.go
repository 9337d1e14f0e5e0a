package fpm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"superd/release"
)

const phpFPM = "/usr/sbin/php-fpm8.2"

func renderingOf(dir string, p Pool) rendering {
	if p.PM == "" {
		p.Binary, p.PM, p.MaxChildren, p.User, p.DrainTimeout = phpFPM, "static", 1, "www-data", time.Minute
	}
	g := release.Generation{Number: 7, Release: "r42", Dir: dir}
	return rendering{at: place{Generation: g, App: "shop", Base: "7", Home: dir}, pool: p}
}

// dump is what PHP-FPM says it has read of directive, by its own parser.
func dump(t testing.TB, conf, directive string) (string, bool) {
	t.Helper()
	out, err := exec.Command(phpFPM, "-tt", "-F", "-O", "-y", conf).CombinedOutput()
	if err != nil {
		t.Fatalf("php-fpm -tt: %v\n%s", err, out)
	}
	found := regexp.MustCompile(`(?m)NOTICE: \t` + regexp.QuoteMeta(directive) + ` = (.*)$`).FindSubmatch(out)
	if found == nil {
		return "", false
	}
	return string(found[1]), true
}

var awkward = []string{
	"256M", "", "0", "a b", `a"b`, "a'b", `a\`, `\"`, `\'`, "${HOME}", "$HOME", "{$x}", "a;b", "; x", "#x", "a=b",
	"[global]", "a]b", "yes", "off", "none", "null", "E_ALL & ~E_NOTICE", "!x", "(1|2)", "a,b", "''", `""`, `'"'"'`,
	"héllo", "\xff\xfe", "\t x \t", "%s%n", "a\x01b", "~", "^", "1.50", "-1",
}

func FuzzQuoteIsWhatPHPReads(f *testing.F) {
	for _, s := range awkward {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 300 {
			return // the dump cuts its lines
		}
		text, err := quote(s)
		if err != nil {
			if !strings.ContainsAny(s, "\r\n\x00") {
				t.Fatalf("%q is refused: %v", s, err)
			}
			return
		}
		conf := filepath.Join(dir, "fpm.conf")
		lines := "[global]\nerror_log = /dev/null\nlog_limit = 8192\n[p]\nuser = www-data\nlisten = /x\npm = static\npm.max_children = 1\n" +
			"php_admin_value[error_append_string] = " + text + "\n"
		if err := os.WriteFile(conf, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		got, ok := dump(t, conf, "php_admin_value[error_append_string]")
		if !ok || got != s {
			t.Fatalf("quoted as %s, %q is read as %q", text, s, got)
		}
	})
}

// PHP reads the ini file when it starts; there a value may have several lines.
func TestIniFileArrivesExactly(t *testing.T) {
	t.Parallel()
	for _, s := range append(awkward, "two\nlines", "[x]\ny=1\n", "a'\n\"b\r\n;c") {
		dir := scratch(t)
		r := renderingOf(dir, Pool{})
		r.pool.INI = map[string]string{"error_append_string": s}
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(dir, "t.php")
		if err := os.WriteFile(script, []byte("<?php fwrite(STDOUT, get_cfg_var('error_append_string'));"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("php8.2", script)
		cmd.Env = []string{"PHP_INI_SCAN_DIR=" + filepath.Join(dir, iniDir)}
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, []byte(s)) {
			t.Errorf("%q is read as %q, %v", s, got, err)
		}
	}
}

func TestConfIsTakenByPHPFPM(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	extra := filepath.Join(dir, "a*[b]?.conf")
	other := "security.limit_extensions = .php5\nlisten = /tmp/theirs\npm.max_children = 99\n[second]\nuser = www-data\nlisten = /tmp/second\npm = static\npm.max_children = 1\n"
	if err := os.WriteFile(extra, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	r := renderingOf(dir, Pool{
		Binary: phpFPM, PM: "dynamic", MaxChildren: 9, StartServers: 3, MinSpareServers: 2, MaxSpareServers: 5, MaxRequests: 11,
		RequestTerminateTimeout: 2500 * time.Millisecond, SlowlogTimeout: 2 * time.Second, DrainTimeout: 90 * time.Second,
		User: "www-data", Group: "www-data", Include: []string{extra}, DocumentRoot: "public", Pin: true,
		INI: map[string]string{"open_basedir": "/srv", "auto_prepend_file": "mine.php", "extension": "redis", "user_agent": "a\nb"},
		Env: map[string]string{"SECRET": "p'w\n", "FPM_SOCKETS": "x=9"},
	})
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := try(t.Context(), r, dir); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, confFile)
	for directive, want := range map[string]string{
		"listen": "/nonexistent/superd/7/web", "pm.status_listen": "/nonexistent/superd/7/status", "pm": "dynamic",
		"pm.max_children": "9", "pm.start_servers": "3", "pm.min_spare_servers": "2", "pm.max_spare_servers": "5",
		"pm.max_requests": "11", "request_terminate_timeout": "3s", "request_slowlog_timeout": "2s", "process_control_timeout": "90s",
		"user": "www-data", "chdir": dir, "security.limit_extensions": ".php5", "clear_env": "yes", "env[SECRET]": "$SECRET",
		"env[SUPERD_RELEASE]": "$SUPERD_RELEASE", "php_admin_value[doc_root]": dir + "/public",
		"php_admin_value[auto_prepend_file]": dir + "/pin.php", "php_admin_value[open_basedir]": "/srv:" + dir + "/pin.php",
		"catch_workers_output": "yes", "decorate_workers_output": "no", "daemonize": "no",
	} {
		if got, ok := dump(t, conf, directive); !ok || got != want {
			t.Errorf("%s = %q, want %q", directive, got, want)
		}
	}
	for _, absent := range []string{"env[FPM_SOCKETS]", "php_admin_value[extension]", "php_admin_value[user_agent]"} {
		if got, ok := dump(t, conf, absent); ok {
			t.Errorf("%s = %q, want none", absent, got)
		}
	}
	text, err := os.ReadFile(conf)
	if err != nil || bytes.Contains(text, []byte("p'w")) {
		t.Errorf("a password is on disk (%v):\n%s", err, text)
	}
	for name, mode := range map[string]os.FileMode{confFile: 0o600, iniDir + "/" + iniFile: 0o600, "pin.php": 0o644, "": 0o711 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%q has mode %v, want %v (%v)", name, info.Mode(), mode, err)
		}
	}
}

func TestConfRefusesWhatItCannotSay(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]Pool{
		`environment variable "A B"`:       {Env: map[string]string{"A B": "x"}},
		`environment variable "X]\ny":`:    {Env: map[string]string{"X]\ny": "x"}},
		`ini "a]b"`:                        {INI: map[string]string{"a]b": "x"}},
		`ini "a\nb"`:                       {INI: map[string]string{"a\nb": "x"}},
		`there is a line break or NUL`:     {INI: map[string]string{"user_agent": "a\x00b"}},
		`include /does/not/exist`:          {Include: []string{"/does/not/exist"}},
		`user "www\n[x]": there is a line`: {User: "www\n[x]", PM: "static", MaxChildren: 1},
	} {
		dir := scratch(t)
		err := renderingOf(dir, p).write(dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	dir := scratch(t)
	r := renderingOf(dir, Pool{})
	r.literal, r.pool.Env = true, map[string]string{"A": "two\nlines"}
	if err := r.write(dir); err == nil || !strings.Contains(err.Error(), "environment variable A") {
		t.Errorf("error %v", err)
	}
}

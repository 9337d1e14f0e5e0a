package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func makeFIFO(t *testing.T, path string) string {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond, "0s": 0, "0": 0,
		"7d": 7 * 24 * time.Hour, "1.5s": 1500 * time.Millisecond, "infinity": Infinity,
	} {
		if got, err := parseDuration(text); got != want || err != nil {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "90", "s", "d", "-1d", "-5s", "1.5d", "99999999d", "1 s", "soon", "Infinity", "9999999999999h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"": 0, "0": 0, "1": 1, "10B": 10, "256MiB": 256 << 20, "1.5GiB": 3 << 29, "2 KiB": 2048, "1TiB": 1 << 40,
		"10MB": 10_000_000, "3kB": 3000, "3KB": 3000, "2GB": 2_000_000_000, "1TB": 1e12,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"256M", "5 parsecs", "MiB", "-1MiB", "NaN", "Inf", "1e300", "9223372036854775808", "1,5GiB", "1MiBB", "1mib"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		of   int
		want int
	}{
		{"25%", 8, 2}, {"25%", 10, 2}, {"25%", 3, 1}, {"25%", 0, 1}, {"100%", 8, 8}, {"0.1%", 8, 1}, {"12.5 %", 16, 2},
		{"3", 8, 3}, {"30", 8, 8}, {"3", 0, 1},
	} {
		share, err := parseShare(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		}
		if got := share.Of(c.of); got != c.want {
			t.Errorf("%s of %d is %d, want %d", share, c.of, got, c.want)
		}
		if again, err := parseShare(share.String()); err != nil || again != share {
			t.Errorf("%q is written %q", c.text, share)
		}
	}
	for _, text := range []string{"", "0", "-1", "0%", "-5%", "100.1%", "NaN%", "Inf%", "%", "half", "1.5"} {
		if got, err := parseShare(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "quit": syscall.SIGQUIT, "sigint": syscall.SIGINT,
		"USR1": syscall.SIGUSR1, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "WINCH": syscall.SIGWINCH,
	} {
		if got, err := parseStopSignal(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "SIG", "15", "TREM", "STOP", "SIGTSTP", "TTIN", "TTOU", "CONT", "CHLD", "TERM "} {
		if got, err := parseStopSignal(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]os.FileMode{"0660": 0o660, "777": 0o777, "0": 0} {
		if got, err := parseMode(text); got != want || err != nil {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0888", "01777", "0o660", "rw-rw----", "-1", "99999999999"} {
		if got, err := parseMode(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// TestNobodyIsRoot: php-fpm would not start, so it is told before.
func TestNobodyIsRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("superd must run as root")
	}
	for text, warned := range map[string]bool{
		"":                           true,
		"user = \"root\"":            true,
		"args = [\"-R\"]":            false,
		"include = [\"/etc/hosts\"]": false, // which may say who
		"user = \"www-data\"":        false,
	} {
		c, err := loadText(t, "[app.a]\nroot = \"/\"\n[app.a.fpm]\nbinary = \"/bin/true\"\n"+text+"\n")
		if err != nil || (len(c.Warnings) > 0) != warned {
			t.Errorf("%s: %v, %+v", text, err, c)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"php artisan":                 {"php", "artisan"},
		"  php\t artisan \r":          {"php", "artisan"},
		`php 'a b' "c d" e\ f`:        {"php", "a b", "c d", "e f"},
		`php '' "" x`:                 {"php", "", "", "x"},
		`a'b'"c"\d`:                   {"abcd"},
		`x "a\"b\\c\$d\` + "`" + `e"`: {"x", "a\"b\\c$d`e"},
		`x "a\nb"`:                    {"x", `a\nb`},
		`x '\' '|;&<>$*?'`:            {"x", `\`, "|;&<>$*?"},
		`x a~ b#c --d=e =f`:           {"x", "a~", "b#c", "--d=e", "=f"},
		`--a=b x`:                     {"--a=b", "x"},
		`"A"=b x`:                     {"A=b", "x"},
		`{env:PHP} {{`:                {"{env:PHP}", "{{"},
		`ü 'ö'`:                       {"ü", "ö"},
	} {
		got, err := words(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

// TestWordsOfShell: what only a shell can do is refused, wherever it stands.
func TestWordsOfShell(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"a|b", "a &", "a;b", "a\nb", "a >b", "a<b", "(a)", "a $b", "a`b`", `a "$b"`, "a \"`b`\"", "a *", "a b?", "a [bc]",
		"~/a", "a ~", "a #b", "#", "A=b c", "A=", "_1=b c",
	} {
		if got, err := words(line); err == nil || !strings.Contains(err.Error(), "needs a shell") {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
	for _, line := range []string{"", " ", "'", `"`, `"\`, `\`, "a 'b"} {
		if got, err := words(line); err == nil || strings.Contains(err.Error(), "needs a shell") {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, well := range map[string]bool{
		"127.0.0.1:6379": true, "[::1]:6379": true, "redis:65535": true, "/run/redis.sock": true,
		"": false, ":6379": false, "redis": false, "redis:": false, "redis:0": false, "redis:65536": false, "redis:http": false,
		"run/redis.sock": false, "::1:6379": false, "/" + strings.Repeat("a", maxSocketPath-1): true, "/" + strings.Repeat("a", maxSocketPath): false,
	} {
		if err := checkAddress(text); (err == nil) != well {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, well := range map[string]bool{
		"http://127.0.0.1": true, "https://shop.example/up?a=b": true, "HTTP://x": true,
		"": false, "127.0.0.1:80": false, "//shop.example": false, "http:///up": false, "ftp://x": false, "http://[": false,
	} {
		if err := checkURL(text); (err == nil) != well {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzWords(f *testing.F) {
	for _, line := range []string{`a 'b c' "d\"e" f\ g`, "A=b c", "a|b", `'`, `\`, "a\nb", `a"`} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, err := words(line)
		if (err == nil) != (len(got) > 0) {
			t.Fatalf("%q with error %v", got, err)
		}
		// Words that are quoted again are the same words.
		var quoted []string
		for _, w := range got {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		again, err := words(strings.Join(quoted, " "))
		if len(got) > 0 && (err != nil || !slices.Equal(again, got)) {
			t.Fatalf("%q became %q, %v", got, again, err)
		}
	})
}

func TestExpand(t *testing.T) {
	t.Parallel()
	vars := Vars{
		App: "shop", Release: "r42", ReleaseDir: "/srv/shop/releases/r42", Root: "/srv/shop",
		Slot: 3, Generation: 7, Env: map[string]string{"A": "{app}", "EMPTY": ""},
	}
	for text, want := range map[string]string{
		"":                        "",
		"plain }":                 "plain }",
		"{app}/{release}-{slot}":  "shop/r42-3",
		"{release_dir}:{root}":    "/srv/shop/releases/r42:/srv/shop",
		"{generation}":            "7",
		"{{app}":                  "{app}",
		"{{{app}":                 "{shop",
		"{env:A}{env:EMPTY}":      "{app}", // what a template stands for is not looked at again
		`{{"a": "{slot}"}`:        `{"a": "3"}`,
		"%(app)s ${app} $APP {{}": "%(app)s $shop $APP {}",
	} {
		if got, err := Expand(text, vars); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"{": "not closed", "{app": "not closed", "{}": "unknown template {}", "{App}": "unknown template",
		"{env:}": "cannot be the name", "{env:A B}": "cannot be the name", "{env:NOPE}": "NOPE is not in the environment",
	} {
		if got, err := Expand(text, vars); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestEnvFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ".env")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeff# comment\n; comment\n\n  \nA=1\nexport B = two words # comment\nC=\"x # y\\n\\\"z\\\" \\$1 \\t\" # comment\r\n" +
		"D='$A \\n'\nE=\nF=a#b\nG=\"two\nlines\"\nH='three\n\nlines' \nA=2\nexported=1\nI=\"\"\nJ=\"a\\\\nb\"\nL='a\\'\nK=last")
	got, err := EnvFile(path)
	want := map[string]string{
		"A": "2", "B": "two words", "C": "x # y\n\"z\" $1 \t", "D": `$A \n`, "E": "", "F": "a#b",
		"G": "two\nlines", "H": "three\n\nlines", "exported": "1", "I": "", "J": `a\nb`, "K": "last", "L": `a\`,
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	write("A=1\nB\n2C=3\nD=\"a\" b\nE='x\ny' z\nF=\x00\nG=\"open\nH=1\n")
	_, err = EnvFile(path)
	wantError := strings.Join([]string{
		`:2:1: has no =; write KEY=value, or # in front of a comment`,
		`:3:1: "2C" cannot be the name of an environment variable: letters, digits and _ only, no digit first`,
		`:4:1: D: has "b" behind the closing quote`,
		`:5:1: E: has "z" behind the closing quote`,
		`:7:1: F: has a NUL byte in it, which no environment can hold`,
		`:8:1: G: has a " that is not closed`,
	}, "\n"+path)
	if err == nil || err.Error() != path+wantError {
		t.Errorf("error\n%v\nwant\n%s", err, path+wantError)
	}
	if _, err = EnvFile(path + "-"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A=1\nexport B='x\ny'\nC=\"a\\\"b\" # c\n# d\n")
	f.Add("A=\"\\")
	f.Fuzz(func(t *testing.T, text string) {
		p := envParser{path: "env", rest: text, env: make(map[string]string)}
		for p.rest != "" {
			before := len(p.rest)
			if p.entry(); len(p.rest) >= before {
				t.Fatal("stays where it is")
			}
		}
		lines := strings.Count(text, "\n") + 1
		for _, one := range p.problems {
			if one.Line < 1 || one.Line > lines {
				t.Fatalf("of %d lines: %s", lines, one)
			}
		}
		for name := range p.env {
			if !isEnvName(name) {
				t.Fatalf("name %q", name)
			}
		}
	})
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	known := namesOf(workerKeys(new(Worker)))
	for name, want := range map[string]string{
		"comand": "command", "COMMAND": "command", "proccesses": "processes", "stop_time": "stop_timeout",
		"stopsignal": "stop_signal", "min_healty_time": "min_healthy_time", "evn": "env", "oder": "order",
		"numprocs": "", "x": "", strings.Repeat("command", 30): "",
	} {
		got := suggest(name, known)
		if want == "" && !strings.HasPrefix(got, "known here: command, ") || want != "" && got != didYouMean(want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := suggest("postgres", []string{"shop", "blog", "shop"}); got != "known here: shop, blog" {
		t.Error(got)
	}
	if got := suggest("x", nil); got != "there is none" {
		t.Error(got)
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abd", "abc", 1}, {"ab", "abc", 1}, {"abcd", "abc", 1},
		{"acb", "abc", 1}, {"bca", "abc", 2}, {"xyz", "abc", 3},
	} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// TestNewestFPM: Debian has a php-fpm for each version, and 8.10 comes after 8.9.
func TestNewestFPM(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"php-fpm": 0o755, "php-fpm97.9": 0o755, "php-fpm97.10": 0o755, "php-fpm98.1": 0o644, "php-fpm99.1.bak": 0o755, "php-fpm-99.2": 0o755,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "php-fpm99.3"), 0o755); err != nil {
		t.Fatal(err)
	}
	relative := filepath.Join(dir, "relative", "php-fpm99.9")
	if err := errors.Join(os.Mkdir(filepath.Dir(relative), 0o755), os.WriteFile(relative, nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PATH", "relative:"+dir+":/usr/bin")
	if got, err := findFPM(); err != nil || got != filepath.Join(dir, "php-fpm97.10") {
		t.Errorf("found %q, %v", got, err)
	}
	if got, err := findProgram("php-fpm97.9"); err != nil || got != filepath.Join(dir, "php-fpm97.9") {
		t.Errorf("found %q, %v", got, err)
	}
	if got, err := findProgram("php-fpm98.1"); err == nil {
		t.Errorf("found %q", got)
	}
}

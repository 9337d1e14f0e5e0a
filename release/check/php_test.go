package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
)

// phpFPM starts a real php-fpm, and returns its socket. It is one master with one
// pool, as a generation has it. Its php.ini is like the one that PHP has for
// production, but for what is given.
func phpFPM(t *testing.T, ini ...string) string {
	t.Helper()
	dir := t.TempDir()
	socket, conf := filepath.Join(dir, "s"), filepath.Join(dir, "fpm.conf")
	write(t, conf, fmt.Sprintf(`[global]
error_log = %[1]s/log
[www]
user = root
group = root
listen = %[1]s/s
pm = static
pm.max_children = 4
ping.path = /fpm-ping
php_value[display_errors] = 0
php_value[log_errors] = 1
%[2]s
`, dir, strings.Join(ini, "\n")))
	binary, err := exec.LookPath("php-fpm8.2")
	if err != nil {
		t.Fatal("php-fpm8.2 is needed: make deps")
	}
	fpm := exec.Command(binary, "-n", "-F", "-R", "-y", conf)
	fpm.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := fpm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-fpm.Process.Pid, syscall.SIGKILL)
		_ = fpm.Wait()
	})
	for start := time.Now(); ; {
		answer, err := fastcgi.Do(t.Context(), "unix", socket, fastcgi.Request{Params: fastcgi.Page("/fpm-ping", "")})
		if err == nil && answer.Status == 200 {
			return socket
		}
		if time.Since(start) > time.Minute {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("php-fpm is not ready: %v\n%s", err, log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const front = `<?php
file_put_contents(__DIR__ . '/../asked', $_SERVER['REQUEST_URI'] . ' ' . $_SERVER['HTTP_HOST'] . "\n", FILE_APPEND);
switch (strtok($_SERVER['REQUEST_URI'], '?')) {
case '/up': echo "all is well\n"; break;
case '/sick': http_response_code(503); error_log('the database is gone'); echo "\n  Service unavailable\nsecond line\n"; break;
case '/fatal': function deep() { throw new RuntimeException('no such table: orders'); } deep(); break;
case '/hang': sleep(600); break;
case '/where': echo $_SERVER['SCRIPT_FILENAME'], ' ', __FILE__, ' ', $_SERVER['QUERY_STRING']; break;
case '/headers': echo $_SERVER['HTTP_HOST'], ' ', $_SERVER['HTTP_X_CHECK'] ?? 'none'; break;
case '/hello': header('Location: /login'); http_response_code(302); break;
default: http_response_code(404); echo 'nothing here';
}
`

// shop makes a release whose front controller is text, served by socket.
func shop(t *testing.T, number uint64, text string) release.Generation {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if text != "" {
		write(t, filepath.Join(dir, "public", "index.php"), text)
	} else {
		write(t, filepath.Join(dir, "public", "readme"), "no script")
	}
	return release.Generation{Number: number, Release: fmt.Sprint("r", number), Dir: dir}
}

func asked(t *testing.T, g release.Generation) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.Dir, "asked"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// TestFastCGI asks a real PHP, in every way that a release can be bad.
func TestFastCGI(t *testing.T) {
	t.Parallel()
	socket := phpFPM(t)
	for name, c := range map[string]struct {
		front string
		check Check
		says  []string
		lines []string
	}{
		"well":         {front: front, check: Check{Path: "/up"}},
		"body":         {front: front, check: Check{Path: "/up", Body: regexp.MustCompile("^all is")}},
		"headers":      {front: front, check: Check{Path: "/headers", Headers: map[string]string{"Host": "shop.example", "X-Check": "yes"}, Body: regexp.MustCompile("^shop.example yes$")}},
		"other status": {front: front, check: Check{Path: "/hello", Status: []int{301, 302}}},
		"query":        {front: front, check: Check{Path: "/where?full=1", Body: regexp.MustCompile(" full=1$")}},
		"wrong body": {
			front: front, check: Check{Path: "/up", Body: regexp.MustCompile("^fine")},
			says: []string{`GET /up: answered 200, but the body does not match "^fine"`, `it begins with "all is well"`},
		},
		"wrong status": {
			front: front, check: Check{Path: "/sick", Status: []int{200, 204}},
			says:  []string{"GET /sick: answered 503, wanted 200 or 204", `it begins with "Service unavailable"`, "the database is gone"},
			lines: []string{"Service unavailable", "second line", "the database is gone"},
		},
		"uncaught exception": {
			front: front, check: Check{Path: "/fatal"},
			says:  []string{"answered 500", "PHP Fatal error:  Uncaught RuntimeException: no such table: orders"},
			lines: []string{"no such table: orders", "#0 "},
		},
		"hangs": {
			front: front, check: Check{Path: "/hang", Timeout: 300 * time.Millisecond},
			says: []string{"GET /hang", "no answer within 300ms"},
		},
		"syntax error": {
			front: "<?php\necho 'x'\necho 'y';\n", check: Check{Path: "/up"},
			says:  []string{"answered 500", "PHP Parse error:  syntax error", "index.php"},
			lines: []string{"PHP Parse error"},
		},
		"missing vendor": {
			front: "<?php require __DIR__ . '/../vendor/autoload.php';", check: Check{Path: "/up"},
			says: []string{"answered 500", "Fatal error", "vendor/autoload.php"},
		},
		"no script": {
			check: Check{Path: "/up"},
			says:  []string{"answered 404", "Primary script unknown"},
		},
		"other script": {
			front: front, check: Check{Path: "/up", Script: "admin.php"},
			says: []string{"answered 404"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := shop(t, 7, c.front)
			check := c.check
			check.Kind = KindFastCGI
			if check.Timeout == 0 {
				check.Timeout = time.Minute
			}
			p := newProber(Site{DocumentRoot: "public", Socket: func(release.Generation) string { return socket }})
			err := p.try(t.Context(), check.orDefaults(), g)
			if (err != nil) != (len(c.says) > 0) {
				t.Fatalf("error %v", err)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in %q", text, err)
				}
			}
			told := strings.Join(linesOf(err), "\n")
			for _, text := range c.lines {
				if !strings.Contains(told, text) {
					t.Errorf("%q is not in the lines\n%s", text, told)
				}
			}
		})
	}
}

// TestFastCGIDisplaysErrors: a php.ini for developers makes PHP answer 200 when it
// dies.
func TestFastCGIDisplaysErrors(t *testing.T) {
	t.Parallel()
	socket := phpFPM(t, "php_value[display_errors] = 1")
	p := newProber(Site{DocumentRoot: "public", Socket: func(release.Generation) string { return socket }})
	check := Check{Kind: KindFastCGI, Timeout: time.Minute}.orDefaults()
	err := p.try(t.Context(), check, shop(t, 7, "<?php echo 'fine'; oops();"))
	if err == nil || !strings.Contains(err.Error(), "answered 200, but PHP died of an error") {
		t.Errorf("error %v", err)
	}
}

// TestFastCGIByRealPath: opcache and PHP must see the release where it really is,
// whatever links lead there.
func TestFastCGIByRealPath(t *testing.T) {
	t.Parallel()
	socket := phpFPM(t)
	g := shop(t, 7, front)
	if err := os.Symlink(filepath.Join(g.Dir, "public"), filepath.Join(g.Dir, "www")); err != nil {
		t.Fatal(err)
	}
	script := regexp.QuoteMeta(filepath.Join(g.Dir, "public", "index.php"))
	check := Check{Name: "where", Kind: KindFastCGI, Phase: PhaseBoth, Path: "/where", Body: regexp.MustCompile("^" + script + " " + script + " $")}
	check.Timeout = time.Minute
	v := NewVerifier(Site{DocumentRoot: "www", Socket: func(release.Generation) string { return socket }}, []Check{check}, nil)
	if err := v.Verify(t.Context(), g); err != nil {
		t.Error(err)
	}
}

// TestFastCGIMasterGone: nothing listens, or nothing runs.
func TestFastCGIMasterGone(t *testing.T) {
	t.Parallel()
	check := Check{Name: "up", Kind: KindFastCGI, Phase: PhaseBoth, Interval: time.Millisecond, Deadline: time.Second}
	for _, socket := range []string{filepath.Join(t.TempDir(), "gone"), "127.0.0.1:1", ""} {
		site := Site{Socket: func(release.Generation) string { return socket }}
		for what, err := range map[string]error{
			"verify": NewVerifier(site, []Check{check}, []string{"/"}).Verify(t.Context(), shop(t, 7, front)),
			"watch":  NewWatcher(site, []Check{check}, WatchOptions{For: time.Hour}).Watch(t.Context(), shop(t, 7, front)),
		} {
			if err == nil || !strings.Contains(err.Error(), `check "up"`) {
				t.Errorf("socket %q, %s: error %v", socket, what, err)
			}
		}
	}
}

// TestDifferentialWithPHP: two real masters; only what the candidate alone gets
// wrong speaks against it.
func TestDifferentialWithPHP(t *testing.T) {
	t.Parallel()
	sockets := map[uint64]string{6: phpFPM(t), 7: phpFPM(t)}
	old := shop(t, 6, front)
	site := Site{
		DocumentRoot: "public",
		Socket:       func(g release.Generation) string { return sockets[g.Number] },
		Against:      func(release.Generation) release.Generation { return old },
		Tail:         func(g release.Generation) []string { return []string{fmt.Sprint("master ", g.Number)} },
	}
	for name, c := range map[string]struct {
		front, path  string
		inconclusive bool
	}{
		"only the candidate": {"<?php http_response_code(500); echo 'broken';", "/up", false},
		"both":               {front, "/sick", true},
	} {
		t.Run(name, func(t *testing.T) {
			g := shop(t, 7, c.front)
			check := Check{
				Name: "up", Kind: KindFastCGI, Phase: PhaseBoth, Path: c.path,
				Interval: 50 * time.Millisecond, Timeout: time.Minute, Deadline: 3 * time.Second, UnhealthyThreshold: 2,
			}
			for what, err := range map[string]error{
				"verify": NewVerifier(site, []Check{check}, nil).Verify(t.Context(), g),
				"watch":  NewWatcher(site, []Check{check}, WatchOptions{For: time.Hour}).Watch(t.Context(), g),
			} {
				if err == nil || errors.Is(err, release.ErrInconclusive) != c.inconclusive {
					t.Errorf("%s: error %v", what, err)
				}
				if lines := linesOf(err); len(lines) == 0 || lines[0] != "master 7" {
					t.Errorf("%s: lines %q", what, lines)
				}
			}
		})
	}
}

// TestWarmUp: pages are fetched in order, before any check and with its headers.
func TestWarmUp(t *testing.T) {
	t.Parallel()
	socket := phpFPM(t)
	check := Check{
		Name: "up", Kind: KindFastCGI, Phase: PhaseVerify, Path: "/up", HealthyThreshold: 2, Interval: time.Millisecond,
		Timeout: time.Minute, Headers: map[string]string{"Host": "shop.example"},
	}
	g := shop(t, 7, front)
	var told []string
	beats := 0
	site := Site{
		DocumentRoot: "public", Socket: func(release.Generation) string { return socket },
		Tell:     func(what string, _ []string) { told = append(told, what) },
		Progress: func() { beats++ },
	}
	v := NewVerifier(site, []Check{check}, []string{"/hello", "/lost", "/fatal"})
	if err := v.Verify(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	want := "/hello shop.example\n/lost shop.example\n/fatal shop.example\n/up shop.example\n/up shop.example\n"
	if got := asked(t, g); got != want {
		t.Errorf("asked\n%s", got)
	}
	if len(told) != 2 || !strings.Contains(told[0], "GET /lost: answered 404") || !strings.Contains(told[1], "no such table") {
		t.Errorf("told %q", told)
	}
	if beats != 5 {
		t.Errorf("%d signs of life", beats)
	}
}

// TestWarmUpBreaks: a page that breaks where what serves does not is a failure.
func TestWarmUpBreaks(t *testing.T) {
	t.Parallel()
	sockets := map[uint64]string{6: phpFPM(t), 7: phpFPM(t)}
	old := shop(t, 6, front)
	site := Site{
		DocumentRoot: "public",
		Socket:       func(g release.Generation) string { return sockets[g.Number] },
		Against:      func(release.Generation) release.Generation { return old },
	}
	broken := shop(t, 7, "<?php throw new Error('missing class');")
	err := NewVerifier(site, nil, []string{"/up"}).Verify(t.Context(), broken)
	if err == nil || errors.Is(err, release.ErrInconclusive) {
		t.Fatalf("error %v", err)
	}
	for _, text := range []string{"warm-up", "r6 (generation 6) answers 200", "answered 500", "missing class"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %q", text, err)
		}
	}
	if err := NewVerifier(site, nil, []string{"/sick"}).Verify(t.Context(), broken); err != nil {
		t.Errorf("what serves breaks on it too: %v", err)
	}
	if err := NewVerifier(site, nil, []string{"/nothing"}).Verify(t.Context(), shop(t, 7, front)); err != nil {
		t.Errorf("a page that is not there: %v", err)
	}
	var told []string
	site.Alone = true
	site.Tell = func(what string, _ []string) { told = append(told, what) }
	if err := NewVerifier(site, nil, []string{"/up", "/"}).Verify(t.Context(), broken); err != nil {
		t.Error(err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "warm-up is skipped: r7 (generation 7) does not run beside what serves") {
		t.Errorf("told %q", told)
	}
}

// TestWarmUpCancelled: a page that hangs does not hold up a switch that is taken back.
func TestWarmUpCancelled(t *testing.T) {
	t.Parallel()
	socket := phpFPM(t)
	g := shop(t, 7, front)
	ctx, cancel := context.WithCancelCause(t.Context())
	site := Site{
		DocumentRoot: "public", Socket: func(release.Generation) string { return socket },
		Tell: func(what string, _ []string) { t.Errorf("told %q", what) },
	}
	v := NewVerifier(site, nil, []string{"/hang", "/up"})
	ended := make(chan error, 1)
	go func() { ended <- v.Verify(ctx, g) }()
	for asked(t, g) == "" {
		time.Sleep(time.Millisecond)
	}
	cancel(errOther)
	select {
	case err := <-ended:
		if !errors.Is(err, errOther) {
			t.Errorf("error %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waits for the page")
	}
}

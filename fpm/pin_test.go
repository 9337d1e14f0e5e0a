package fpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/fpm/fastcgi"
)

// nginx serves the shop over two unix sockets, named after what it sends as the
// document root. It ends with the test.
func (s *shop) nginx() {
	s.t.Helper()
	var servers strings.Builder
	for _, root := range []string{"document_root", "realpath_root"} {
		fmt.Fprintf(&servers, `server {
			listen unix:%[1]s/%[2]s.sock;
			root %[1]s/current/public;
			location / {
				include /etc/nginx/fastcgi_params;
				fastcgi_pass php;
				%[3]s
				fastcgi_split_path_info ^(/index\.php)(/.*)$;
				set $script /index.php;
				fastcgi_param SCRIPT_NAME $script;
				fastcgi_param PATH_INFO $fastcgi_path_info;
				fastcgi_param PATH_TRANSLATED $%[2]s$fastcgi_path_info;
				fastcgi_param DOCUMENT_ROOT $%[2]s;
				fastcgi_param SCRIPT_FILENAME $%[2]s$script;
			}
		}
		`, s.dir, root, s.keep[0])
	}
	conf := filepath.Join(s.dir, "nginx.conf")
	text := fmt.Sprintf(`user www-data; worker_processes 1; daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log;
		events { worker_connections 512; }
		http { access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
		upstream php { server %[3]s; %[4]s }
		%[2]s }`, s.dir, servers.String(), s.upstream(), s.keep[1])
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", conf, "-e", filepath.Join(s.dir, "nginx.log"))
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	eventually(s.t, "nginx listens", func() bool {
		c, err := net.Dial("unix", filepath.Join(s.dir, "realpath_root.sock"))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// upstream is how nginx calls the place where users come.
func (s *shop) upstream() string {
	if s.address != "" {
		return s.address
	}
	return "unix:" + s.public()
}

// client asks nginx through one of its sockets.
func (s *shop) client(socket string) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(s.dir, socket+".sock"))
		}},
	}
}

func fetch(c *http.Client, method, uri string) (reply, error) {
	var a reply
	req, err := http.NewRequest(method, "http://shop"+uri, http.NoBody)
	if err != nil {
		return a, err
	}
	r, err := c.Do(req)
	if err != nil {
		return a, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return a, errors.Join(fmt.Errorf("status %d: %s", r.StatusCode, b), err)
	}
	return a, json.Unmarshal(b, &a)
}

// point moves the link current in one step, as deploy tools do.
func (s *shop) point(release string) {
	s.t.Helper()
	next := filepath.Join(s.dir, "current.next")
	if err := errors.Join(os.Symlink("releases/"+release, next), os.Rename(next, filepath.Join(s.dir, "current"))); err != nil {
		s.t.Error(err)
	}
}

// cell is one combination: what came back while the link moved to and fro.
type cell struct {
	answers, failed int
	mixed           int // files of two releases in one answer
	foreign         int // not of the release that the generation is for
	why             string
}

// What a request runs while somebody moves the link: every combination of what the
// web server sends and of pin. Only with pin it is the release of the generation,
// and nothing else, whatever the web server sends.
func TestPinMatrix(t *testing.T) {
	t.Parallel()
	table := "what the web server sends | pin | answers | failed | mixed | not of the generation's release\n"
	for _, pin := range []bool{true, false} {
		s := newShop(t)
		s.change = func(_ *Options, p *Pool) {
			p.Pin = pin
			p.INI = map[string]string{"opcache.revalidate_freq": "0", "opcache.file_update_protection": "0", "realpath_cache_ttl": "1"}
		}
		s.point("r1")
		s.nginx()
		l := s.superd()
		l.serve(s.generation(1))
		cells := map[string]*cell{"document_root": {}, "realpath_root": {}}
		s.hammer(l, cells)
		for _, root := range []string{"document_root", "realpath_root"} {
			c := cells[root]
			table += fmt.Sprintf("$%s | %v | %d | %d | %d | %d %s\n", root, pin, c.answers, c.failed, c.mixed, c.foreign, c.why)
			switch {
			case c.answers < 100 || c.failed > 0:
				t.Errorf("$%s, pin %v: %+v", root, pin, *c)
			case pin && c.mixed+c.foreign > 0:
				t.Errorf("$%s: %d mixed, %d foreign although pinned: %s", root, c.mixed, c.foreign, c.why)
			case !pin && c.foreign == 0:
				t.Errorf("$%s: not pinned, and yet no answer of the other release: the test would not see one", root)
			}
		}
	}
	t.Logf("while the link current moved and generations switched:\n%s", table)
}

// hammer asks for a while, through both sockets, while the link moves and users are
// switched to and fro.
func (s *shop) hammer(l *life, cells map[string]*cell) {
	stop := make(chan struct{})
	var users sync.WaitGroup
	var mu sync.Mutex
	for root, c := range cells {
		for range 4 {
			users.Go(func() {
				client := s.client(root)
				for !isClosed(stop) {
					a, err := fetch(client, http.MethodGet, "/")
					mu.Lock()
					c.count(a, err)
					mu.Unlock()
				}
			})
		}
	}
	users.Go(func() {
		for n := 0; !isClosed(stop); n++ {
			s.point(fmt.Sprintf("r%d", n%2+1))
			time.Sleep(7 * time.Millisecond)
		}
	})
	for n := uint64(2); n <= 5; n++ {
		time.Sleep(400 * time.Millisecond)
		l.serve(s.generation(n))
	}
	close(stop)
	users.Wait()
}

func (c *cell) count(a reply, err error) {
	switch {
	case err != nil:
		c.failed++
		c.why = err.Error()
		return
	case a.Self != a.Part || a.Self != a.Cwd || a.Self != a.Root:
		c.mixed++
		c.why = fmt.Sprintf("(self %q, __DIR__ %q, getcwd %q, DOCUMENT_ROOT %q)", a.Self, a.Part, a.Cwd, a.Root)
	}
	if a.Self != a.Env || a.Root != a.Env {
		c.foreign++
	}
	c.answers++
}

// What a script finds out about itself is the release that runs, not what was sent.
func TestPinnedServerVariables(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	prepend := filepath.Join(s.dir, "mine.php")
	if err := os.WriteFile(prepend, []byte("<?php define('PREPENDED', $_SERVER['SCRIPT_FILENAME']);"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.change = func(_ *Options, p *Pool) {
		p.INI = map[string]string{"auto_prepend_file": prepend, "cgi.fix_pathinfo": "0", "open_basedir": s.dir + "/releases:" + prepend}
	}
	s.point("r1")
	s.nginx()
	l := s.superd()
	g := s.generation(2)
	l.serve(g) // r2 serves while the link is at r1
	public := filepath.Join(g.Dir, "public")
	for _, root := range []string{"document_root", "realpath_root"} {
		a, err := fetch(s.client(root), http.MethodGet, "/index.php/a/b?server=1&x=y")
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"DOCUMENT_ROOT": public, "SCRIPT_FILENAME": public + "/index.php", "SCRIPT_NAME": "/index.php", "PATH_INFO": "/a/b",
			"PATH_TRANSLATED": public + "/a/b", "PHP_SELF": "/index.php/a/b", "REQUEST_URI": "/index.php/a/b?server=1&x=y",
			"SUPERD_RELEASE": "r2", "SUPERD_RELEASE_DIR": g.Dir,
		} {
			if a.Server[name] != want {
				t.Errorf("$%s: $_SERVER['%s'] is %v, want %s", root, name, a.Server[name], want)
			}
		}
		if a.Prepended != public+"/index.php" {
			t.Errorf("$%s: the user's own auto_prepend_file saw %q", root, a.Prepended)
		}
		if got := strings.Join(a.Vars, " "); got != "_GET _POST _COOKIE _FILES _SERVER" {
			t.Errorf("$%s: variables are left behind: %s", root, got)
		}
		if a.Self != "r2" || a.Part != "r2" || a.Root != "r2" || a.Cwd != "r2" {
			t.Errorf("$%s: %+v", root, a)
		}
	}
}

// A broken file of the user's own to prepend breaks every request: a check sees why.
func TestBrokenPrependIsReported(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	prepend := filepath.Join(s.dir, "mine.php")
	if err := os.WriteFile(prepend, []byte("<?php this is not php;"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.change = func(_ *Options, p *Pool) { p.INI = map[string]string{"auto_prepend_file": prepend, "log_errors": "1"} }
	l := s.superd()
	g := s.generation(1)
	l.must("start", l.Start(t.Context(), g))
	params := fastcgi.Script(filepath.Join(g.Dir, "public"), "index.php", "/", http.MethodGet, "")
	r, err := fastcgi.Do(t.Context(), "unix", l.Socket(g), fastcgi.Request{Params: params})
	if err != nil || r.Status != http.StatusInternalServerError || !strings.Contains(string(r.Stderr), prepend) {
		t.Errorf("%+v, %v", r, err)
	}
}

// The environment and the settings arrive byte for byte, through all of it.
func TestValuesArriveExactly(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	env := map[string]string{"PATH": os.Getenv("PATH"), "PHP_INI_SCAN_DIR": "/etc/php/8.2/fpm/conf.d", "SUPERD_RELEASE": "a lie", "NOTIFY_SOCKET": "/x"}
	query := []string{}
	var want []string
	for i, v := range append(awkward, "two\nlines", "$PATH", "\n[x]\ny = 1\n") {
		name := fmt.Sprintf("V%d", i)
		env[name] = v
		query = append(query, "env[]="+name)
		want = append(want, strings.ToValidUTF8(v, "\ufffd"))
	}
	ini := map[string]string{
		"memory_limit": "77M", "opcache.memory_consumption": "33", "error_append_string": "'\"${HOME};\n$x", "user_agent": `a'b"c\`,
		"error_prepend_string": "", "date.timezone": "Europe/Berlin",
	}
	s.change = func(_ *Options, p *Pool) { p.Env, p.INI = env, ini }
	l := s.superd()
	l.serve(s.generation(1))
	names := []string{}
	for name := range ini {
		names = append(names, name)
		query = append(query, "ini[]="+name)
	}
	a, err := s.get(strings.Join(query, "&"))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range want {
		// Every byte that is not UTF-8 comes as one mark of that.
		if got, _ := a.Getenv[i].(string); strings.ReplaceAll(got, "\ufffd\ufffd", "\ufffd") != v {
			t.Errorf("%q arrives as %q", v, a.Getenv[i])
		}
	}
	for i, name := range names {
		if a.INI[i] != ini[name] {
			t.Errorf("%s is %q, want %q", name, a.INI[i], ini[name])
		}
	}
	a, err = s.get("env[]=SUPERD_RELEASE&env[]=NOTIFY_SOCKET&env[]=FPM_SOCKETS&env[]=SUPERD_SLOT&env[]=PHP_INI_SCAN_DIR")
	if got := fmt.Sprint(a.Getenv); err != nil || got != "[r1 false false false /etc/php/8.2/fpm/conf.d]" {
		t.Errorf("%s, %v", got, err)
	}
}

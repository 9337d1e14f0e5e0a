//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// newBackend is a site without a web server, with words of its configuration replaced.
func newBackend(t *testing.T, c lab.Config, replace ...string) *site {
	t.Helper()
	l, redis := newLab(t)
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(replace...).Replace(string(text))
	if len(replace) > 0 && changed == string(text) {
		t.Fatalf("nothing to replace: %q", replace)
	}
	if err := os.WriteFile(l.ConfigFile(), []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	return &site{Lab: l, t: t, redis: redis, superd: superd}
}

// switchedUnnoticed switches to and fro for a quarter of a minute while url is asked.
func (s *site) switchedUnnoticed(url string) {
	s.t.Helper()
	run := load.Start(load.Plan{URL: url, Rate: 100})
	began := time.Now()
	spans := s.thereAndBack(2)
	if rest := 12*time.Second - time.Since(began); rest > 0 {
		time.Sleep(rest)
	}
	r := run.Stop()
	unharmed(s.t, r)
	if stale := r.Stale(spans); stale != 0 {
		s.t.Errorf("%d requests sent after the end of a switch were answered by the old release", stale)
	}
	s.wholly("r1", 40*time.Second)
}

// A server is a web server as docs/webservers.md says.
type server struct {
	language string // of its example in the page
	serve    func(*lab.Lab, lab.Site) (*lab.WebServer, error)
	replace  []string // in superd's configuration
}

var (
	nginx  = server{"nginx", (*lab.Lab).ServeWithNginx, nil}
	apache = server{"apache", (*lab.Lab).ServeWithApache, nil}
	caddy  = server{"caddy", (*lab.Lab).ServeWithCaddy, []string{"max_children =", "listen_group = \"caddy\"\nmax_children ="}}
)

// start serves an app with it. Words of the example may be replaced.
func (w server) start(t *testing.T, l *lab.Lab, app string, replace ...string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/webservers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, found := strings.Cut(string(page), "```"+w.language+"\n")
	example, _, ended := strings.Cut(example, "```\n")
	if !found || !ended {
		t.Fatalf("the page has no example for %s", w.language)
	}
	s, err := w.serve(l, lab.Site{
		Text: strings.NewReplacer(replace...).Replace(example),
		Root: l.Path(app, "current", "public"), Socket: l.Path("run", app, "fpm.sock"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.URL
}

// The examples in the page: users of Apache and Caddy notice no more than nginx's.
func TestSwitchesBehindOtherServers(t *testing.T) {
	for _, w := range []server{apache, caddy} {
		t.Run(w.language, func(t *testing.T) {
			s := newBackend(t, lab.Config{Children: 24, Watch: "500ms"}, w.replace...)
			s.switchedUnnoticed(w.start(t, s.Lab, "shop"))
		})
	}
}

// An Apache that keeps its connections to PHP would ask the old release after a switch,
// dozens of times in this load, did superd not end such connections. At a higher rate a busy
// machine cannot keep up, and some ask in vain, also without a switch.
func TestKeptConnectionsOfApache(t *testing.T) {
	s := newBackend(t, lab.Config{Children: 48, Watch: "500ms"})
	url := apache.start(t, s.Lab, "shop", "</VirtualHost>",
		"<Proxy \"unix:/run/superd/shop/fpm.sock|fcgi://localhost\" enablereuse=on max=20>\n</Proxy>\n</VirtualHost>")
	run := load.Start(load.Plan{URL: url, Rate: 50, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	time.Sleep(time.Second)
	s.ctl(0, "switch", "r2")
	span := load.Span{From: time.Now(), Until: time.Now().Add(time.Hour), Release: "r2", Generation: s.status().Apps[0].Live.Number}
	time.Sleep(time.Second)
	r := run.Stop()
	stale := r.Stale([]load.Span{span})
	t.Logf("with enablereuse=on %d answers came from the old release after the switch, %d requests failed", stale, r.Failed())
	if stale > 10 || r.Failed() > 0 {
		t.Errorf("%d stale answers, %d requests failed", stale, r.Failed())
	}
}

// Children that PHP-FPM starts and ends as it sees fit are switched as unnoticed.
func TestSwitchesWithAnyManager(t *testing.T) {
	for pm, lines := range map[string]string{
		"dynamic":  "pm = \"dynamic\"\nstart_servers = 4\nmin_spare_servers = 2\nmax_spare_servers = 6\n",
		"ondemand": "pm = \"ondemand\"\n",
	} {
		t.Run(pm, func(t *testing.T) {
			s := newBackend(t, lab.Config{Children: 24, Watch: "500ms"}, "max_children =", lines+"max_requests = 50\nmax_children =")
			s.switchedUnnoticed(nginx.start(t, s.Lab, "shop"))
		})
	}
}

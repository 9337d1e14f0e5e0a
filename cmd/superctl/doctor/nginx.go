package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"superd/config"
)

// A passing is a place in nginx's configuration that hands requests to FastCGI, with
// what counts there, inherited or not.
type passing struct {
	at      string
	pass    string   // the argument of fastcgi_pass
	sockets []string // who is behind it: paths of unix sockets, addresses of TCP
	script  string   // SCRIPT_FILENAME
	root    string
	keep    bool // fastcgi_keep_conn
	pool    bool // the upstream keeps connections
}

// nginxWalk goes down the blocks; a directive in a block hides that of the block around it.
type nginxWalk struct {
	upstreams map[string]directive
	found     []passing
}

// passings finds every fastcgi_pass of a configuration.
func passings(all []directive) []passing {
	w := &nginxWalk{upstreams: map[string]directive{}}
	w.collect(all)
	w.down(all, passing{})
	return w.found
}

func (w *nginxWalk) collect(all []directive) {
	for _, d := range all {
		if d.name == "upstream" && len(d.args) == 1 {
			w.upstreams[d.args[0]] = d
		}
		w.collect(d.block)
	}
}

func (w *nginxWalk) down(all []directive, outer passing) {
	here := outer
	here.pass = "" // is not inherited
	params := false
	for _, d := range all {
		switch {
		case d.name == "root" && len(d.args) == 1:
			here.root = d.args[0]
		case d.name == "fastcgi_keep_conn" && len(d.args) == 1:
			here.keep = d.args[0] == "on"
		case d.name == "fastcgi_pass" && len(d.args) == 1:
			here.pass, here.at = d.args[0], d.at
		case d.name == "fastcgi_param" && len(d.args) >= 2:
			if !params { // one of its own hides all of the outer ones
				params, here.script = true, ""
			}
			if d.args[0] == "SCRIPT_FILENAME" {
				here.script = d.args[1]
			}
		}
	}
	if here.pass != "" {
		w.found = append(w.found, w.behind(here))
	}
	for _, d := range all {
		if d.name != "upstream" {
			w.down(d.block, here)
		}
	}
}

// behind fills in who answers.
func (w *nginxWalk) behind(p passing) passing {
	p.sockets = nil
	add := func(address string) {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			address = filepath.Clean(path)
		}
		p.sockets = append(p.sockets, address)
	}
	upstream, ok := w.upstreams[p.pass]
	if !ok {
		add(p.pass)
		return p
	}
	for _, d := range upstream.block {
		switch {
		case d.name == "server" && len(d.args) > 0 && !slices.Contains(d.args, "down"):
			add(d.args[0])
		case d.name == "keepalive":
			p.pool = true
		}
	}
	return p
}

// nginx looks at every place that leads to one of our sockets.
func (e *examination) nginx(ctx context.Context) {
	if !slices.ContainsFunc(e.cfg.Apps, func(a config.App) bool { return a.FPM != nil }) {
		return
	}
	dump, err := e.Run(ctx, Call{Argv: e.Nginx})
	var all []directive
	if err == nil {
		all, err = parseNginx(dump)
	}
	if err != nil {
		e.unseen("nginx", "nginx", err, strings.Join(e.Nginx, " ")+", as root; --nginx-config FILE if nginx is started with -c FILE")
		return
	}
	found := passings(all)
	for i := range e.cfg.Apps {
		app := &e.cfg.Apps[i]
		if app.FPM == nil {
			continue
		}
		met := false
		for _, p := range found {
			met = e.passing(app, p) || met
		}
		if !met {
			e.tell(Finding{
				ID: "nginx-not-connected", Severity: Hint, Subject: app.Name,
				What: "nothing in nginx's configuration passes to " + app.FPM.Listen,
				Why:  "Unless another web server connects to it, nobody reaches this app through superd.",
				Do:   "fastcgi_pass " + address(app) + "; then nginx -t && nginx -s reload",
			})
			continue
		}
		e.admitted(app, all)
	}
}

// admitted tells whether nginx's workers may connect to the socket of app. Only root
// gives a socket away; who is not root has it to itself, and its nginx too.
func (e *examination) admitted(app *config.App, all []directive) {
	f := app.FPM
	if os.Geteuid() != 0 || !filepath.IsAbs(f.Listen) {
		return
	}
	for _, d := range all {
		if d.name != "user" || len(d.args) == 0 {
			continue
		}
		who, err := lookUp(d.args[0], d.args[len(d.args)-1]) // without a group it is the one called like the user
		if err != nil {
			e.unseen("user", d.at, err, "getent passwd "+d.args[0])
			return
		}
		e.passable(app, who)
		if ok, err := who.mayConnect(f); ok || err != nil {
			return // what is wrong with a name, package config has told
		}
		e.tell(Finding{
			ID: "nginx-user", Severity: Problem, Subject: d.at,
			What: fmt.Sprintf("nginx runs as %s, and the socket of %s is %s:%s with mode %04o", who.name, app.Name, cmp.Or(f.ListenOwner, "root"), cmp.Or(f.ListenGroup, "root"), f.ListenMode.Perm()),
			Why:  "nginx gets \"permission denied\" for every request, and answers 502.",
			Do:   fmt.Sprintf(`listen_group = %q and listen_mode = "0660" in [app.%s.fpm]`, primaryGroup(who), app.Name),
		})
		return
	}
}

// address is where the PHP-FPM of app listens, as nginx writes it.
func address(app *config.App) string {
	if filepath.IsAbs(app.FPM.Listen) {
		return "unix:" + app.FPM.Listen
	}
	return app.FPM.Listen
}

// passing tells whether p has to do with app.
func (e *examination) passing(app *config.App, p passing) bool {
	private := filepath.Join(e.cfg.RunDir, app.Name)
	ours := slices.Contains(p.sockets, app.FPM.Listen)
	for _, path := range p.sockets {
		if path != app.FPM.Listen && below(private, path) {
			e.tell(Finding{
				ID: "nginx-private-socket", Severity: Problem, Subject: p.at,
				What: "fastcgi_pass leads to " + path + ", the socket of one generation of " + app.Name,
				Why:  "It is gone after the next switches, and every request is answered 502 then; until then they all go to one release, whatever is live.",
				Do:   "fastcgi_pass " + address(app) + "; then nginx -t && nginx -s reload",
			})
			return true
		}
	}
	if !ours {
		return e.elsewhere(app, p)
	}
	e.mixedCode(app, p)
	e.keptConnections(app, p)
	others := slices.DeleteFunc(slices.Clone(p.sockets), func(s string) bool { return s == app.FPM.Listen })
	if len(others) > 0 {
		e.tell(Finding{
			ID: "nginx-other-upstream", Severity: Warning, Subject: p.at,
			What: fmt.Sprintf("upstream %s has %s beside the socket of %s", p.pass, strings.Join(others, ", "), app.Name),
			Why:  "nginx sends part of the requests there, and repeats there what failed here: superd does not switch it, so users meet two releases.",
			Do:   "leave only server " + address(app) + "; in the upstream",
		})
	}
	return true
}

// elsewhere tells of a site of this app that is answered by somebody else's PHP.
func (e *examination) elsewhere(app *config.App, p passing) bool {
	known := func(a config.App) bool { return a.FPM != nil && slices.Contains(p.sockets, a.FPM.Listen) }
	if !below(app.Root, filepath.Clean(p.root)) || slices.ContainsFunc(e.cfg.Apps, known) {
		return false
	}
	e.tell(Finding{
		ID: "nginx-elsewhere", Severity: Warning, Subject: p.at,
		What: fmt.Sprintf("root %s is in %s, but fastcgi_pass %s is not the socket of %s", p.root, app.Root, p.pass, app.Name),
		Why:  "These requests go to a PHP that superd does not switch: they keep the old code, or mix it with the new.",
		Do:   "fastcgi_pass " + address(app) + "; then nginx -t && nginx -s reload",
	})
	return true
}

// mixedCode: without the pin PHP runs what the web server names, and PHP remembers
// where a path with the link in it led to.
func (e *examination) mixedCode(app *config.App, p passing) {
	script := strings.NewReplacer("{", "", "}", "").Replace(p.script)
	linked := below(app.Current, filepath.Clean(script)) || strings.Contains(script, "$document_root") || strings.Contains(script, "$request_filename")
	if app.FPM.Pin || !linked {
		return
	}
	e.tell(Finding{
		ID: "nginx-document-root", Severity: Problem, Subject: p.at,
		What: "SCRIPT_FILENAME is " + p.script + ", with the link in it, and pin = false in app." + app.Name + ".fpm",
		Why: "PHP keeps in memory where the link led when it first saw the path: after a switch users get the old code, for minutes or for good, " +
			"and one request can run files of both releases.",
		Do: "remove pin = false; or in nginx: fastcgi_param SCRIPT_FILENAME $realpath_root$fastcgi_script_name; fastcgi_param DOCUMENT_ROOT $realpath_root;",
	})
}

func (e *examination) keptConnections(app *config.App, p passing) {
	if !p.keep {
		return
	}
	f := Finding{
		ID: "nginx-keep-conn", Severity: Warning, Subject: p.at,
		What: "fastcgi_keep_conn is on, and upstream " + p.pass + " keeps connections to " + app.FPM.Listen,
		Why: "A kept connection stays with the PHP-FPM worker that has accepted it and occupies it, idle or not. After a switch superd ends kept connections when they are idle: " +
			"until then, for moments, requests on them reach the old release, and a POST that is written in the microseconds of the end is lost.",
		Do: "remove fastcgi_keep_conn and keepalive; to a unix socket a new connection costs microseconds",
	}
	if !p.pool {
		f.Severity = Hint
		f.What = "fastcgi_keep_conn is on"
		f.Why = "It does nothing as long as the upstream has no keepalive; with it, requests could reach the old release for a moment after a switch."
		f.Do = "remove fastcgi_keep_conn"
	}
	e.tell(f)
}

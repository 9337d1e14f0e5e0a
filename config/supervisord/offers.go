package supervisord

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// This file finds the workers of PHP applications that are deployed below a link
// called current. As apps they move between releases with a switch; as programs they
// would go on running the release they were started in.

// offers are the apps that units could be.
type offers struct{ all []*offer }

type offer struct {
	name string
	root string // has the link current
	user string
	work []*unit
}

// apps finds them. Units of one root are one app, if they run as one user.
func (p *plan) apps() *offers {
	o := &offers{}
	for _, u := range p.units {
		root := releaseRoot(u)
		if root == "" || u.program.Kind != kindProgram || p.missingUser(u) {
			continue
		}
		user := u.process.User
		if user == "" {
			user = p.conf.Daemon.User
		}
		i := slices.IndexFunc(o.all, func(a *offer) bool { return a.root == root && a.user == user })
		if i < 0 {
			o.all = append(o.all, &offer{name: p.appName(root), root: root, user: user})
			i = len(o.all) - 1
		}
		o.all[i].work = append(o.all[i].work, u)
	}
	for _, a := range o.all {
		for _, u := range a.work {
			what := "can be an app of superd, which moves it between the releases below %s; it is offered at the end of the result, and superctl import --apps writes it so"
			if p.opts.Apps {
				what = "is a worker of an app now, which moves between the releases below %s"
			}
			p.find(Note, u.program.section, "", what, a.root)
		}
	}
	return o
}

func (p *plan) appName(root string) string {
	base := sanitized(filepath.Base(root))
	name := base
	for i := 2; name == "all" || p.taken[name]; i++ {
		name = fmt.Sprintf("%s-app%d", base, i-1)
	}
	p.taken[name] = true
	return name
}

// releaseRoot is the directory above current for a PHP worker; "" is none.
func releaseRoot(u *unit) string {
	words := u.words
	if !strings.HasPrefix(filepath.Base(words[0]), "php") {
		return ""
	}
	script := slices.IndexFunc(words[1:], func(word string) bool {
		base := filepath.Base(word)
		return base == "artisan" || base == "console" || base == "yii" || base == "cake"
	})
	if script < 0 || strings.ContainsRune(u.process.Command+u.process.Directory, openMark) {
		return ""
	}
	for _, place := range []string{u.process.Directory, words[script+1]} {
		before, _, found := strings.Cut(place+"/", "/current/")
		if found && strings.HasPrefix(before, "/") && len(before) > 1 {
			return before
		}
	}
	return ""
}

func (o *offers) takes(u *unit) bool {
	return slices.ContainsFunc(o.all, func(a *offer) bool { return slices.Contains(a.work, u) })
}

// instead is the app that a member of a group has become, or the member.
func (o *offers) instead(member string) string {
	for _, a := range o.all {
		for _, u := range a.work {
			if member == "program."+u.name {
				return "app." + a.name
			}
		}
	}
	return member
}

// write writes the apps, in comments unless they are wanted.
func (o *offers) write(w *tomlWriter, wanted bool) {
	for _, a := range o.all {
		var app tomlWriter
		a.write(&app)
		w.line("")
		if wanted {
			w.raw(app.b.String())
			continue
		}
		w.comment("As an app these workers move between releases without losing a job (superctl switch).\nTake the %d programs above out, and the # away here; or superctl import --apps.", len(a.work))
		w.comment("%s", strings.TrimSuffix(app.b.String(), "\n"))
	}
}

func (a *offer) write(w *tomlWriter) {
	w.line("[app.%s]", bareKey(a.name))
	w.text("root", a.root)
	if a.user != "" {
		w.text("user", a.user)
	}
	for _, u := range a.work {
		one := u.process
		w.line("\n[app.%s.worker.%s]", bareKey(a.name), bareKey(strings.ReplaceAll(u.name, ".", "_")))
		words := make([]string, len(u.words))
		for i, word := range u.words {
			words[i] = text(word)
			if inside, ok := strings.CutPrefix(word, a.root+"/current/"); ok {
				words[i] = "{release_dir}/" + text(inside)
			}
		}
		w.key("command", quotedAll(words))
		w.key("processes", fmt.Sprint(u.processes))
		w.text("stop_timeout", seconds(one.StopWaitSecs))
		workerEnv(w, u)
	}
}

// workerEnv is env without findings, which the program has had already.
func workerEnv(w *tomlWriter, u *unit) {
	silent := &plan{conf: &Conf{ini: newINI(nil)}, opts: Options{LookupEnv: func(string) (string, bool) { return "", true }}}
	silent.env(w, u)
}

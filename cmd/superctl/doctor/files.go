package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"superd/config"
)

// files looks at the releases of an app and the link to the live one.
func (e *examination) files(app *config.App) {
	live := e.link(app)
	if app.User == "" || app.User == "root" {
		return // the app runs as superd does, and nothing is safe from it
	}
	who, err := lookUp(app.User, app.Group)
	if err != nil {
		e.unseen("user", app.Name, err, "getent passwd "+app.User)
		return
	}
	places := []string{app.Root, app.Releases}
	if live != "" {
		places = append(places, live)
	}
	for _, path := range slices.Compact(places) {
		writable, err := who.may(path, 2)
		if err != nil {
			e.unseen("releases", app.Name, err, "ls -ld "+path)
			continue
		}
		if writable {
			e.tell(Finding{
				ID: "release-writable", Severity: Warning, Subject: app.Name,
				What: path + " can be written to by " + app.User + ", whom the app runs as",
				Why:  "A hole in the app is enough to put code of a stranger into a release, or to move the link: it survives every restart, and a rollback may lead to it.",
				Do:   "chown root: " + path + " && chmod go-w " + path + "; only storage and cache directories need to be the app's",
			})
		}
	}
}

// link is the live release, "" when there is none.
func (e *examination) link(app *config.App) string {
	f := Finding{Severity: Problem, Subject: app.Name}
	info, err := os.Lstat(app.Current)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.ID, f.Severity, f.What = "current-missing", Warning, app.Current+" does not exist"
		f.Why = "superd has no release to run: neither PHP nor workers are there until the first switch."
		f.Do = "superctl switch --app " + app.Name + " latest"
		e.tell(f)
		return ""
	case err != nil:
		e.unseen("current", app.Name, err, "ls -ld "+app.Current)
		return ""
	case info.IsDir():
		f.ID, f.What = "current-directory", app.Current+" is a directory, not a link"
		f.Why = "A directory cannot be exchanged for another in one step, so superd refuses every switch, and never removes it."
		f.Do = fmt.Sprintf("mv -T %s %s && ln -s %s %s", app.Current, filepath.Join(app.Releases, "first"), relative(app, "first"), app.Current)
		e.tell(f)
		return ""
	}
	live, err := filepath.EvalSymlinks(app.Current)
	if err != nil {
		f.ID, f.What = "current-dangling", app.Current+" leads nowhere: "+err.Error()
		f.Why = "There is nothing that a process could be started from: a worker that ends now stays away."
		f.Do = "superctl releases --app " + app.Name + ", then superctl switch --app " + app.Name + " RELEASE"
		e.tell(f)
		return ""
	}
	releases, err := filepath.EvalSymlinks(app.Releases)
	if err == nil && filepath.Dir(live) != releases {
		f.ID, f.What = "current-outside", fmt.Sprintf("%s leads to %s, which is not a release in %s", app.Current, live, app.Releases)
		f.Why = "superd does not know it as a release: it can neither be gone back to nor be kept from being removed."
		f.Do = "superctl switch --app " + app.Name + " RELEASE, or set releases in [app." + app.Name + "]"
		e.tell(f)
	}
	return live
}

// relative is a release as the link names it.
func relative(app *config.App, name string) string {
	path, err := filepath.Rel(filepath.Dir(app.Current), filepath.Join(app.Releases, name))
	if err != nil {
		return filepath.Join(app.Releases, name)
	}
	return path
}

// socket looks at who can connect to an app's public socket.
func (e *examination) socket(app *config.App) {
	f := app.FPM
	if !filepath.IsAbs(f.Listen) {
		return // an address of TCP has neither owner nor mode
	}
	if f.ListenMode&0o002 != 0 {
		e.tell(Finding{
			ID: "listen-mode", Severity: Problem, Subject: app.Name + "/fpm",
			What: fmt.Sprintf("listen_mode is %04o: every user of the machine may connect", f.ListenMode.Perm()),
			Why:  "Who can talk to PHP-FPM can make it run any PHP code, as the user of the app.",
			Do:   `listen_mode = "0660" and listen_group = "www-data", or whatever group the web server is in`,
		})
		return
	}
	if f.ListenOwner == "" || f.ListenMode&0o200 == 0 {
		return
	}
	who, err := lookUp(f.ListenOwner, "")
	if err != nil {
		e.unseen("user", app.Name+"/fpm", err, "getent passwd "+f.ListenOwner)
		return
	}
	e.passable(app, who)
}

// passable tells of every directory on the way to the sockets of app that w cannot
// pass through. superd makes those that are not there yet so that everybody can.
func (e *examination) passable(app *config.App, w who) {
	for _, end := range []string{filepath.Dir(app.FPM.Listen), filepath.Join(e.cfg.RunDir, app.Name)} {
		for dir := existing(end); ; dir = filepath.Dir(dir) {
			ok, err := w.may(dir, 1)
			if err != nil {
				e.unseen("socket-directory", app.Name+"/fpm", err, "ls -ld "+dir)
			} else if !ok {
				e.closed(app, w, dir)
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
}

func (e *examination) closed(app *config.App, w who, dir string) {
	e.tell(Finding{
		ID: "socket-directory", Severity: Problem, Subject: app.Name + "/fpm",
		What: fmt.Sprintf("%s cannot pass through %s, on the way to %s", w.name, dir, app.FPM.Listen),
		Why:  "The web server gets \"permission denied\" for every request, whatever the mode of the socket, and answers 502.",
		Do:   "chmod o+x " + dir + ", or put listen and run_dir below /run",
	})
}

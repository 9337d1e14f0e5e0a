package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The rules between keys, and the defaults that depend on other keys. They run
// behind the keys of a table, so a key of the wrong type has its default here.

// finishApps reads the apps of all files.
func (in *reading) finishApps() {
	in.apps = inOneFile(in.apps, "app")
	listens := make(map[string]Problem)
	for _, n := range in.apps {
		a := newApp(n.name)
		checkName(n, n.name)
		n.read(appKeys(&a))
		checkApp(n, &a)
		in.config.Apps = append(in.config.Apps, a)
		if a.FPM != nil && a.FPM.Listen != "" {
			alone(n.at("fpm").at("listen"), a.FPM.Listen, listens)
		}
	}
}

// inOneFile sorts tables by name, and drops those that another file has too.
func inOneFile(all []node, what string) []node {
	slices.SortStableFunc(all, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(all, func(again, first node) bool {
		if first.name != again.name {
			return false
		}
		p := first.problem("")
		again.wrong("this %s is in %s:%d already; one %s belongs into one file", what, p.File, p.Line, what)
		return true
	})
}

// alone refuses a socket that another app has.
func alone(n node, path string, taken map[string]Problem) {
	if path == n.in.config.Socket {
		n.wrong("%q is superd's own control socket; use another path", path)
		return
	}
	if first, ok := taken[path]; ok {
		n.wrong("%q is what %s (%s:%d) is; each app needs a socket of its own", path, first.Key, first.File, first.Line)
		return
	}
	for _, other := range slices.Sorted(maps.Keys(taken)) {
		if first := taken[other]; overlap(path, other) {
			n.wrong("%q overlaps with %q, what %s (%s:%d) is; each app needs a port of its own", path, other, first.Key, first.File, first.Line)
			return
		}
	}
	taken[path] = n.problem("")
}

// checkName refuses names that commands and messages could not use.
func checkName(n node, name string) {
	switch {
	case name == "all":
		n.wrong(`cannot be called "all", which means all of them in commands`)
	case name == "" || strings.Trim(name, nameCharacters) != "":
		n.wrong("cannot be a name: use letters, digits, _ and - only")
	}
}

func checkApp(n node, a *App) {
	if _, isTable := n.value.(map[string]any); !isTable {
		return
	}
	checkRoot(n, a)
	if a.Group == "" {
		a.Group = n.in.accounts.primaryGroup(a.User)
	}
	if os.Geteuid() != 0 && a.User != "" && !n.in.accounts.isMe(a.User) {
		n.at("user").warn("counts only when superd runs as root; as another user it runs everything as itself")
	}
	a.EnvFile = checkEnvFile(n.at("env_file"), a.EnvFile, a.ReadEnvFile, map[string]string{"app": a.Name, "root": a.Root})
	checkSwitch(n.at("switch"), &a.Switch)
	checkCanary(n.at("switch"), a)
	if a.FPM != nil {
		checkFPM(n.at("fpm"), a)
	}
	for _, w := range a.Workers {
		theirLog(n.at("worker").at(w.Name).at("log"), []App{*a}, w.Log)
	}
	nameChecks(n.at("check"), a)
	if !n.file.broken && a.FPM == nil && len(a.Workers) == 0 {
		n.warn("has neither fpm nor a worker: nothing runs for this app")
	}
}

func checkRoot(n node, a *App) {
	if !n.has("root") {
		n.missing("root", `the directory that holds releases/ and the link current, such as "/srv/%s"`, n.name)
	}
	if a.Root == "" {
		return
	}
	if info, err := os.Stat(a.Root); err != nil || !info.IsDir() {
		n.at("root").warn("%q is not a directory (yet)", a.Root)
	}
	releases, inRoot := within(a.Root, a.Releases)
	if !inRoot {
		n.at("releases").wrong("must be inside root %q, is %q", a.Root, short(a.Releases))
	}
	current, alsoInRoot := within(a.Root, a.Current)
	if !alsoInRoot {
		n.at("current").wrong("must be inside root %q, is %q", a.Root, short(a.Current))
	}
	a.Releases, a.Current = releases, current
	if !inRoot || !alsoInRoot {
		return
	}
	if current == releases || strings.HasPrefix(current, releases+"/") || strings.HasPrefix(releases, current+"/") {
		n.at("current").wrong("must be beside releases, not the same and not inside: current is %q, releases is %q", current, releases)
	}
}

// checkEnvFile reads the file now, so that a bad line is told now, unless where
// it is depends on a release. It returns what is to be given to Expand.
func checkEnvFile(n node, written string, read func(string) (map[string]string, error), known map[string]string) string {
	if written == "" {
		return ""
	}
	path, err := expandKnown(written, known)
	if err != nil {
		if !strings.HasPrefix(written, "/") && !strings.HasPrefix(written, "{") {
			n.wrong("must be an absolute path, is %q", short(written))
		}
		return written
	}
	if !filepath.IsAbs(path) {
		n.wrong("must be an absolute path, is %q", short(path))
		return written
	}
	_, err = read(path)
	var bad *Problems
	if !errors.As(err, &bad) {
		return escaped(path)
	}
	for _, p := range *bad {
		if p.Line == 0 {
			n.wrong("%s %s", path, p.Text)
			continue
		}
		n.in.problems = append(n.in.problems, p)
	}
	return escaped(path)
}

// escaped is a path that Expand leaves as it is.
func escaped(path string) string { return strings.ReplaceAll(path, "{", "{{") }

func checkSwitch(n node, s *Switch) {
	for name, hook := range map[string]*Hook{"before": s.Before, "after": s.After} {
		_, isTable := n.at(name).value.(map[string]any)
		if hook != nil && isTable && !n.at(name).has("command") {
			n.at(name).missing("command", `such as ["php", "artisan", "migrate", "--force"]`)
		}
	}
}

// checkCanary holds a share of live traffic to what it needs: two generations that
// serve side by side, each its own release whatever path the web server sends.
func checkCanary(n node, a *App) {
	if a.Switch.CanaryShare == 0 {
		if n.has("canary_time") && !n.has("canary_share") {
			n.at("canary_time").wrong(`counts with canary_share only, such as canary_share = "10%%"; set that, or leave it out`)
		}
		return
	}
	switch at := n.at("canary_share"); {
	case a.FPM == nil:
		at.wrong("needs [app.%s.fpm]: it is a share of the requests, and this app answers none", a.Name)
	case a.FPM.Handoff != "parallel":
		at.wrong(`needs handoff = "parallel" in fpm: with %q there is never a second generation to give a share to`, a.FPM.Handoff)
	case !a.FPM.Pin:
		at.wrong("needs pin = true in fpm: otherwise the path that the web server sends decides which release runs, not the share")
	}
}

func checkFPM(n node, a *App) {
	f := a.FPM
	fpmAccounts(n, a)
	if f.Listen == "" && !n.has("listen") {
		f.Listen = filepath.Join(n.in.config.RunDir, a.Name, "fpm.sock")
		if err := checkSocket(f.Listen); err != nil {
			n.at("listen").wrong("by default %q, %v", short(f.Listen), err)
		}
	}
	checkBinary(n.at("binary"), f)
	if isTCP(f.Listen) {
		for _, name := range []string{"listen_owner", "listen_group", "listen_mode"} {
			if n.has(name) {
				n.at(name).warn("has no effect: listen is the address %s, and addresses have no owner and no rights", f.Listen)
			}
		}
	}
	if f.PM == "dynamic" {
		checkDynamic(n, f)
	}
	if f.Handoff == "reload" {
		n.at("handoff").warn("during a switch requests wait while PHP starts anew, those that take too long are cut, " +
			"and going back is a second reload; only for hosts that cannot hold two masters in memory")
	}
	checkArgs(n.at("args"), f.Args)
	checkOutput(n.at("log"), &f.Log, 1)
	plainFPM(n, f)
	theirLog(n.at("log"), []App{*a}, f.Log)
	for i, path := range f.Include {
		theirInclude(n.at("include").item(i, path), a.Root, path)
	}
	f.Include = checkIncludes(n.at("include"), f.Include)
	for i, path := range f.Warmup {
		if !strings.HasPrefix(path, "/") {
			n.at("warmup").item(i, path).wrong("must begin with /, is %q", short(path))
		}
	}
}

func checkBinary(n node, f *FPM) {
	var err error
	switch {
	case n.value == nil:
		f.Binary, err = findFPM()
	case f.Binary != "" || n.value == "":
		f.Binary, err = findProgram(f.Binary)
	}
	if err != nil {
		n.wrong("%v", err)
	}
}

// fpmAccounts fills in who FPM runs as and who may connect to it.
func fpmAccounts(n node, a *App) {
	f := a.FPM
	if f.Group == "" && f.User != "" {
		f.Group = n.in.accounts.primaryGroup(f.User)
	}
	f.User = cmp.Or(f.User, a.User)
	f.Group = cmp.Or(f.Group, a.Group)
	f.ListenOwner = cmp.Or(f.ListenOwner, f.User)
	f.ListenGroup = cmp.Or(f.ListenGroup, f.Group)
	asRoot := f.User == "root" || f.User == "" && os.Geteuid() == 0
	allowed := slices.Contains(f.Args, "-R") || slices.Contains(f.Args, "--allow-to-run-as-root")
	if asRoot && !allowed && len(f.Include) == 0 {
		n.at("user").warn(`php-fpm refuses to run as root; set user here or in the app, such as "www-data"`)
	}
}

// checkDynamic fills in the children of a dynamic pool and holds them to what
// php-fpm accepts: min_spare <= start <= max_spare <= max_children.
func checkDynamic(n node, f *FPM) {
	if f.MinSpareServers == 0 {
		f.MinSpareServers = max(1, f.MaxChildren/8)
	}
	if f.MaxSpareServers == 0 {
		f.MaxSpareServers = max(f.MinSpareServers, f.MaxChildren*3/8)
	}
	if f.StartServers == 0 {
		f.StartServers = (f.MinSpareServers + f.MaxSpareServers) / 2
	}
	switch {
	case f.MaxSpareServers > f.MaxChildren:
		n.at("max_spare_servers").wrong("must be at most max_children, %d, is %d", f.MaxChildren, f.MaxSpareServers)
	case f.MinSpareServers > f.MaxSpareServers:
		n.at("min_spare_servers").wrong("must be at most max_spare_servers, %d, is %d", f.MaxSpareServers, f.MinSpareServers)
	case f.StartServers < f.MinSpareServers || f.StartServers > f.MaxSpareServers:
		n.at("start_servers").wrong("must be from min_spare_servers to max_spare_servers, %d to %d, is %d",
			f.MinSpareServers, f.MaxSpareServers, f.StartServers)
	}
}

// checkArgs refuses what superd itself says to php-fpm.
func checkArgs(n node, args []string) {
	value := false // of the argument before
	for i, arg := range args {
		if value {
			value = false
			continue
		}
		var ours string
		if ours, value = phpArgument(arg); ours != "" {
			n.item(i, arg).wrong("%s is set by superd itself; leave it out", ours)
		}
	}
}

// phpArgument takes an argument apart as php_getopt does: short options can share
// one dash, and a value can follow at once. It returns the option that is ours to
// set, if there is one, and whether the next argument is a value.
func phpArgument(arg string) (ours string, value bool) {
	if strings.HasPrefix(arg, "--") {
		name, _, hasValue := strings.Cut(arg, "=")
		if slices.Contains([]string{"--fpm-config", "--daemonize", "--nodaemonize", "--pid", "--test"}, name) {
			return name, false
		}
		return "", !hasValue && slices.Contains([]string{"--php-ini", "--define", "--prefix", "--zend-extension"}, name)
	}
	if !strings.HasPrefix(arg, "-") {
		return "", false
	}
	for i, c := range arg[1:] {
		switch {
		case strings.ContainsRune("yDFgt", c):
			return "-" + string(c), false
		case strings.ContainsRune("cdpz", c):
			return "", i == len(arg)-2
		}
	}
	return "", false
}

// checkIncludes makes the files absolute; those whose place depends on a release
// stay templates.
func checkIncludes(n node, files []string) []string {
	for i, path := range files {
		item := n.item(i, path)
		if err := checkTemplate(path); err != nil {
			item.wrong("%v", err)
			continue
		}
		item.needs(path)
		plain, err := expandKnown(path, nil)
		if err != nil {
			continue
		}
		if !filepath.IsAbs(plain) {
			plain = filepath.Join(filepath.Dir(n.file.path), plain)
		}
		if plain, err = filepath.Abs(plain); err != nil {
			item.wrong("%v", err)
			continue
		}
		if info, err := os.Stat(plain); err != nil || !info.Mode().IsRegular() {
			item.wrong("%q is not a file; php-fpm would not start without it", short(plain))
		}
		files[i] = escaped(plain)
	}
	return files
}

func checkWorker(n node, w *Worker) {
	checkName(n, w.Name)
	plainNice(n.at("nice"), w.Nice)
	if w.Name == "fpm" {
		n.wrong(`cannot be called "fpm", which is the app's php-fpm in commands`)
	}
	if _, isTable := n.value.(map[string]any); !isTable {
		return
	}
	if !n.has("command") {
		n.missing("command", `such as ["php", "artisan", "queue:work"]`)
	}
	if w.StopTimeout == Infinity && w.Order != "start-first" {
		n.at("stop_timeout").wrong(`can be "infinity" with order = "start-first" only: nothing would ever start`)
	}
	if w.Canary > w.Processes {
		n.at("canary").wrong("must be at most processes, %d, is %d", w.Processes, w.Canary)
	}
	checkReadiness(n, w.Ready, w.Watchdog)
	checkOutput(n.at("log"), &w.Log, w.Processes)
}

// checkReadiness holds together how a process says that it is well: at first, and
// then again and again.
func checkReadiness(n node, ready string, watchdog time.Duration) {
	if ready == "command" && !n.has("ready_command") {
		n.at("ready").wrong(`"command" needs the key ready_command beside it, such as ["php", "artisan", "queue:ready"]`)
	}
	if ready != "command" && n.has("ready_command") {
		n.at("ready_command").wrong(`counts with ready = "command" only; set that, or leave it out`)
	}
	if watchdog > 0 && ready != "notify" {
		n.at("watchdog").wrong(`needs ready = "notify": a process that sends WATCHDOG=1 sends READY=1 first, and only with that is it told where to`)
	}
}

// nameChecks gives checks without a name one, and refuses a name twice.
func nameChecks(n node, a *App) {
	taken := make(map[string]bool)
	for i := range a.Checks {
		c := &a.Checks[i]
		c.Name = cmp.Or(c.Name, fmt.Sprintf("check-%d", i+1))
		if taken[c.Name] {
			n.item(i, nil).wrong("there are two checks called %q in this app; give each a name of its own", short(c.Name))
		}
		taken[c.Name] = true
	}
}

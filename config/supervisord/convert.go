package supervisord

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// This file writes the TOML. Only what differs from superd's own defaults is written,
// except where supervisord's default is another one.

// A Result is a whole import.
type Result struct {
	TOML     string
	Programs map[string][]string // a program of superd to what supervisorctl called its processes
	Refused  []string            // sections that are not in the TOML
	Replaced []string            // event listeners whose work superd does itself
	Findings []Finding
}

// Convert writes what Read has read.
func Convert(c *Conf, opts Options) *Result {
	p := &plan{conf: c, opts: opts, taken: map[string]bool{}}
	p.lay()
	replaced := p.listeners()
	p.sameFiles()
	var w tomlWriter
	p.header(&w)
	p.settings(&w)
	apps := p.apps()
	for _, u := range p.units {
		if !opts.Apps || !apps.takes(u) {
			p.unit(&w, u)
		}
	}
	for _, text := range p.scheduled {
		w.raw(text)
	}
	for _, g := range p.groups {
		p.group(&w, g, apps)
	}
	apps.write(&w, opts.Apps)
	for _, text := range p.comments {
		w.comment("%s", text)
	}
	p.general()
	r := &Result{TOML: w.b.String(), Programs: map[string][]string{}, Refused: p.refused, Replaced: replaced, Findings: c.Findings}
	for _, u := range p.units {
		r.Programs[u.name] = u.listed
	}
	if len(r.TOML) > maxFile {
		r.Findings = append(r.Findings, Finding{Kind: Refused, Text: "the result is larger than 1 MiB, and superd takes no such file: divide it, and name the parts in include"})
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(fileOrder(c.Files, a.File), fileOrder(c.Files, b.File)), cmp.Compare(a.Line, b.Line))
	})
	return r
}

func fileOrder(files []string, name string) int {
	if i := slices.Index(files, name); i >= 0 {
		return i
	}
	return len(files)
}

// tomlWriter writes keys and comments.
type tomlWriter struct{ b strings.Builder }

func (w *tomlWriter) raw(text string)              { w.b.WriteString(text) }
func (w *tomlWriter) line(format string, a ...any) { fmt.Fprintf(&w.b, format+"\n", a...) }
func (w *tomlWriter) key(name, value string)       { fmt.Fprintf(&w.b, "%s = %s\n", name, value) }
func (w *tomlWriter) text(name, value string)      { w.key(name, quoted(value)) }
func (w *tomlWriter) comment(format string, a ...any) {
	for l := range strings.SplitSeq(fmt.Sprintf(format, a...), "\n") {
		w.line("%s", strings.TrimRight("# "+printable(l), " "))
	}
}

// printable is text that a comment of TOML can hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return ' '
		}
		return r
	}, s)
}

// text is a value with its templates; a brace that is none is doubled.
func text(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch r {
		case '{':
			b.WriteString("{{")
		case openMark:
			b.WriteByte('{')
		case closeMark:
			b.WriteByte('}')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// quoted is a basic string of TOML.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// quotedAll is an array of strings.
func quotedAll(all []string) string {
	parts := make([]string, len(all))
	for i, s := range all {
		parts[i] = quoted(s)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// bareKey is a name as a key of TOML.
func bareKey(name string) string {
	if name != "" && strings.Trim(name, letters+"-") == "" {
		return name
	}
	return quoted(name)
}

// seconds is a duration of superd. What is longer than it can hold has no end.
func seconds(n int) string {
	switch {
	case n <= 0:
		return "0s"
	case n > int(tooLong/time.Second):
		return "infinity"
	}
	return fmt.Sprintf("%ds", n)
}

const tooLong = 100 * 365 * 24 * time.Hour

func (p *plan) header(w *tomlWriter) {
	w.comment("superd.toml, made by superctl import %s from", p.opts.Version)
	for _, f := range p.conf.Files {
		w.comment("  %s", f)
	}
	w.comment("\nWhat means something else than it did under supervisord is in the list that the import\nprinted; print it again with: superctl import %s -o /dev/null", p.conf.Path)
	w.line("")
}

// settings writes what is not a program.
func (p *plan) settings(w *tomlWriter) {
	p.compat(w)
	if level := map[string]string{"critical": "error", "error": "error", "warn": "warn", "debug": "debug", "trace": "debug", "blather": "debug"}[p.conf.Daemon.LogLevel]; level != "" {
		w.line("\n[log]")
		w.text("level", level)
	}
	p.names(w)
	p.access(w)
}

// typed is a name that supervisorctl can be told: the rule of [compat.names].
var typed = regexp.MustCompile(`^[^\s:/[:cntrl:]]+(:[^\s:/[:cntrl:]]+)?$`)

// names writes what supervisord called a process, where superd would call it something
// else to those who ask by [compat]: the rule is in control/compatnames.go.
func (p *plan) names(w *tomlWriter) {
	group := make(map[string]string)
	for _, g := range p.groups {
		for _, member := range g.members {
			group[strings.TrimPrefix(member, "program.")] = g.name
		}
	}
	var lines []string
	taken := make(map[string]bool)
	for _, u := range p.units {
		for i, listed := range u.listed {
			if taken[listed] {
				p.find(Unhelpful, u.program.section, "process_name", "another process is called %s already, and supervisord runs only one of them; superd runs both", short(listed))
				continue
			}
			taken[listed] = true
			if !typed.MatchString(listed) {
				continue // nobody has ever typed it
			}
			usual := u.name
			if u.processes > 1 {
				usual = fmt.Sprintf("%s_%02d", u.name, i)
			}
			if namespec(cmp.Or(group[u.name], u.name), usual) != listed {
				lines = append(lines, quoted(fmt.Sprintf("%s:%d", u.name, i))+" = "+quoted(listed))
			}
		}
	}
	if len(lines) > 0 {
		w.line("\n[compat.names]")
		w.line("%s", strings.Join(lines, "\n"))
	}
}

func (p *plan) compat(w *tomlWriter) {
	w.comment("Supervisor's XML-RPC, for supervisorctl and the panels that speak it.")
	w.line("[compat]")
	w.text("xmlrpc", "/run/superd/supervisor.sock")
	for _, s := range p.conf.Servers {
		if s.File == "" {
			p.find(Changed, s.section, "port", "superd serves supervisor's XML-RPC on a unix socket only, never on an address; its own page is the key listen of [web]")
			continue
		}
		p.find(Changed, s.section, "file", "superd serves supervisor's XML-RPC on /run/superd/supervisor.sock, so that both can run side by side; once supervisord is gone, xmlrpc = %s serves it where it was", quoted(s.File))
		if s.Authenticated {
			p.find(Changed, s.section, "username", "on a unix socket superd asks the kernel who calls, and no password; what each may do is in [[access]]")
		}
	}
}

// access lets in who could open supervisord's socket: there, that was all it took.
func (p *plan) access(w *tomlWriter) {
	for _, s := range p.conf.Servers {
		if s.File == "" || !p.has(s.section, "chown") && s.Chmod&0o022 == 0 {
			continue
		}
		user, group, _ := strings.Cut(s.Chown, ":")
		if s.Chmod&0o002 != 0 {
			p.find(Changed, s.section, "chmod", "%04o lets everybody on the machine in; superd never does, name who may in [[access]]", s.Chmod)
		}
		if s.Chmod&0o020 != 0 && group != "" && group != "root" {
			p.allow(w, s, "group", group, p.opts.groupKnown(group))
		}
		if user != "" && user != "root" && user != "0" {
			p.allow(w, s, "user", user, p.opts.userKnown(user))
		}
	}
}

func (p *plan) allow(w *tomlWriter, s Server, kind, name string, known bool) {
	if !known {
		p.find(Changed, s.section, "chown", "there is no %s %q on this machine, so nobody but root and superd's own user may control superd yet; create it and write [[access]] with %s = %s and role = \"admin\"", kind, short(name), kind, quoted(name))
		return
	}
	w.line("\n[[access]]")
	w.text(kind, name)
	w.text("role", "admin")
	p.find(Note, s.section, "chown", "%s %s may do everything, as before; role = \"operate\" would let it start and stop only", kind, name)
}

func (o Options) userKnown(name string) bool {
	return !strings.ContainsRune(name, openMark) && (o.UserKnown == nil || o.UserKnown(name))
}
func (o Options) groupKnown(name string) bool { return o.GroupKnown == nil || o.GroupKnown(name) }

// group writes a [group.x]. Its members may have become an app.
func (p *plan) group(w *tomlWriter, g plannedGroup, apps *offers) {
	var members []string
	for _, member := range g.members {
		if p.opts.Apps {
			member = apps.instead(member)
		}
		if !slices.Contains(members, member) {
			members = append(members, member)
		}
	}
	w.line("")
	w.comment("[%s] in %s", g.group.section.name, origin(g.group.section))
	w.line("[group.%s]", bareKey(g.name))
	w.key("members", quotedAll(members))
	if g.group.Priority != 999 {
		p.find(Ignored, g.group.section, "priority", "superd starts what does not depend on each other at once; write after = […] into a program that must wait")
	}
}

func origin(s *section) string { return fmt.Sprintf("%s:%d", s.file, s.line) }

// unit writes one program.
func (p *plan) unit(w *tomlWriter, u *unit) {
	s, one := u.program.section, u.process
	w.line("")
	w.comment("[%s] in %s", s.name, origin(s))
	w.line("[program.%s]", bareKey(u.name))
	p.command(w, u)
	p.directory(w, u)
	p.user(w, u)
	if u.processes != 1 {
		w.key("processes", fmt.Sprint(u.processes))
	}
	p.life(w, u)
	p.stop(w, u)
	umask := one.Umask
	switch {
	case umask >= 0:
	case p.conf.Daemon.NoDaemon: // see base
		umask = 0o022
	default:
		umask = p.conf.Daemon.Umask
	}
	if umask != 0o022 {
		w.text("umask", fmt.Sprintf("%03o", umask&0o777))
	}
	p.limits(w, u)
	p.output(w, u)
	p.env(w, u)
	p.ignored(u)
}

func (p *plan) command(w *tomlWriter, u *unit) {
	words, s := u.words, u.program.section
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = text(word)
	}
	w.key("command", quotedAll(all))
	p.fromEnvironment(u)
	if len(words) == 2 && words[0] == "/usr/bin/env" && strings.ContainsAny(words[1], " \t") {
		p.find(Note, s, "command", "is one word with spaces in it, so what is run is a program of that whole name; take the quotes out if the rest is its arguments")
	}
	shell := words[0][strings.LastIndexByte(words[0], '/')+1:]
	if slices.Contains([]string{"sh", "bash", "dash", "zsh"}, shell) && len(words) > 2 && words[1] == "-c" && !strings.Contains(words[2], "exec ") {
		p.find(Note, s, "command", "the stop signal reaches the shell and not what it runs; begin what is to get it with exec")
	}
	if i := slices.IndexFunc(words, func(word string) bool { return strings.Contains(word, "/releases/") }); i >= 0 {
		p.find(Note, s, "command", "names one release, %s: after a switch it still runs that one; use the link current, or make it an app", text(words[i]))
	}
}

// fromEnvironment tells what becomes of the variables in a command.
func (p *plan) fromEnvironment(u *unit) {
	s, templates := u.program.section, variables(strings.Join(u.words, " "))
	for _, name := range variables(u.process.Command) {
		_, set := p.opts.LookupEnv(name)
		switch {
		case !set:
			p.find(Changed, s, "command", "{env:%s} is what the environment of superd will say, as one argument, and it is not set here; supervisord split it into words: if it is several, set it and import again, such as: %s=… superctl import …", name, name)
		case !slices.Contains(templates, name):
			p.find(Changed, s, "command", "%s is written out as it is set here, for supervisord splits it into words and superd takes {env:%s} as one; import again when it changes", name, name)
		}
	}
}

// variables are the names of the templates {env:NAME} in a text.
func variables(marked string) []string {
	var all []string
	resolved(marked, func(name string) string {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
		return ""
	})
	return all
}

func (p *plan) directory(w *tomlWriter, u *unit) {
	directory, s := u.process.Directory, u.program.section
	base := p.base()
	switch {
	case directory == "" && base != "/":
		w.text("directory", text(base))
	case directory == "":
	case strings.HasPrefix(directory, "/") || strings.HasPrefix(directory, string(openMark)):
		w.text("directory", text(directory))
	default:
		absolute := filepath.Join(base, directory)
		p.find(Changed, s, "directory", "is relative to where supervisord was started, which superd cannot know; taken is %s", text(absolute))
		w.text("directory", text(absolute))
	}
}

func (p *plan) user(w *tomlWriter, u *unit) {
	s, key := u.program.section, "user"
	user := u.process.User
	if daemon := p.conf.Daemon.User; user == "" && daemon != "root" && daemon != "0" {
		user, s = daemon, p.conf.Daemon.section
	}
	switch {
	case user == "":
	case p.opts.userKnown(user):
		w.text("user", user)
	case strings.ContainsRune(user, openMark):
		name := variables(user)[0]
		p.find(Changed, s, key, "needs %s from the environment of supervisord, and it is not set here; until user is written, the program is not started and belongs to nobody. Set it and import again, such as: %s=… superctl import …", name, name)
		w.comment("user was %s from the environment: write who that is and take autostart = false out", name)
		w.text("user", "nobody")
	default:
		p.find(Changed, s, key, "there is no user %q on this machine; until there is, the program is not started and belongs to nobody: create the user, then set user and take autostart = false out", short(user))
		w.comment("user %q is not on this machine: create it, write it here and take autostart = false out", user)
		w.text("user", "nobody")
	}
}

// missingUser tells whether the program waits for its user to be created.
func (p *plan) missingUser(u *unit) bool {
	user := u.process.User
	if daemon := p.conf.Daemon.User; user == "" && daemon != "root" && daemon != "0" {
		user = daemon
	}
	return user != "" && !p.opts.userKnown(user)
}

// life writes when it is started, and again.
func (p *plan) life(w *tomlWriter, u *unit) {
	one, s := u.process, u.program.section
	if !one.AutoStart || p.missingUser(u) || u.program.Kind == kindListener {
		w.key("autostart", "false")
	}
	w.text("restart", one.AutoRestart)
	if !slices.Equal(one.ExitCodes, []int{0}) {
		w.key("planned_exits", strings.Join(strings.Fields(fmt.Sprint(one.ExitCodes)), ", "))
	}
	if one.StartSecs != 1 {
		w.text("min_healthy_time", strings.Replace(seconds(one.StartSecs), "infinity", "876000h", 1))
	}
	switch {
	case one.AutoRestart == restartNever && one.StartSecs > 0 && one.StartRetries > 0:
		p.find(Changed, s, "autorestart", "supervisord tried %d times more when it ended within %d s of its start; superd starts it once", one.StartRetries, one.StartSecs)
	case p.has(s, "startretries") && one.AutoRestart != restartNever:
		p.find(Changed, s, "startretries", "supervisord gave up after %d attempts, for ever; superd goes on trying, with pauses that grow to 30 s (backoff); max_restarts makes it give up", one.StartRetries+1)
	}
	if one.StartSecs <= 0 && p.has(s, "startsecs") && one.AutoRestart != restartNever {
		p.find(Changed, s, "startsecs", "0 made supervisord start it again at once, without end or pause; superd pauses")
	}
	if one.Priority != 999 {
		w.comment("priority was %d: superd starts what does not depend on each other at once; after = […] waits", one.Priority)
		p.find(Ignored, s, "priority", "%d only said in which order processes are forked, without waiting; superd starts them at once. Write after = […] into what must wait for another to be ready", one.Priority)
	}
}

func (p *plan) stop(w *tomlWriter, u *unit) {
	one, s := u.process, u.program.section
	name := strings.TrimPrefix(unix.SignalName(one.StopSignal), "SIG")
	if slices.Contains([]unix.Signal{unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGCHLD}, one.StopSignal) || name == "" {
		p.find(Refused, s, "stopsignal", "signal %d asks no process to end; superd sends TERM", int(one.StopSignal))
		name = "TERM"
	}
	if name != "TERM" {
		w.text("stop_signal", name)
	}
	w.text("stop_timeout", seconds(one.StopWaitSecs))
	if !one.KillAsGroup {
		w.text("kill_scope", "process")
	}
	if one.StopAsGroup {
		p.find(Changed, s, "stopasgroup", "the stop signal goes to the main process only, which can end its children in order; what is left of them after stop_timeout is killed, wherever it went")
	}
	p.jobs(u)
}

// jobs compares how long a queue worker may take with how long it gets.
func (p *plan) jobs(u *unit) {
	for _, word := range u.words {
		limit, ok := strings.CutPrefix(word, "--timeout=")
		n, err := integer(limit)
		if ok && err == nil && n >= u.process.StopWaitSecs {
			p.find(Note, u.program.section, "stopwaitsecs", "a job may take %d s and gets %d s to finish when it is stopped, as it did before; raise stop_timeout above it", n, u.process.StopWaitSecs)
		}
	}
}

func (p *plan) limits(w *tomlWriter, u *unit) {
	var all []string
	if n := p.conf.Daemon.MinFDs; n != 1024 && n > 0 {
		all = append(all, fmt.Sprintf("nofile = %d", n))
	}
	if n := p.conf.Daemon.MinProcs; n != 200 && n > 0 {
		all = append(all, fmt.Sprintf("nproc = %d", n))
	}
	if len(all) > 0 {
		w.key("limits", "{ "+strings.Join(all, ", ")+" }")
	}
	if u.maxMemory > 0 {
		w.key("max_memory", size(u.maxMemory))
	}
}

// size is bytes as superd.toml has them.
func size(n int) string {
	if n > 0 && n%(1<<20) == 0 {
		return quoted(fmt.Sprintf("%dMiB", n>>20))
	}
	return fmt.Sprint(max(0, n))
}

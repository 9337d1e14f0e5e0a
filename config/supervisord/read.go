package supervisord

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// This file goes through the files in supervisord's order: the main one, those it
// includes, [supervisord], then groups, programs, event listeners, fcgi programs.

// A Conf is what supervisord would run, and how.
type Conf struct {
	Path    string   // absolute
	Files   []string // all that were read, the main one first
	Daemon  Daemon
	Groups  []*Group // in the order supervisord starts them
	Servers []Server

	Findings []Finding
	piece    bool // there is no [supervisord]: it is a file meant to be included
	ini      *ini
}

// Daemon is [supervisord].
type Daemon struct {
	MinFDs, MinProcs int
	Directory        string
	User             string
	Umask            int
	LogLevel         string
	NoDaemon         bool
	StripANSI        bool
	Environment      map[string]string
	section          *section
}

// A Server is an [inet_http_server] or a [unix_http_server].
type Server struct {
	File          string // of a unix socket
	Host          string
	Port          int
	Chmod         int
	Chown         string
	Authenticated bool
	section       *section
}

// The kinds of a Group.
const (
	kindGroup    = "group"
	kindProgram  = "program"
	kindListener = "eventlistener"
	kindFCGI     = "fcgi-program"
)

// A Group is supervisord's unit: a [group:x], or a program with its processes.
type Group struct {
	Name     string
	Priority int
	Kind     string
	Events   []string // of a listener, sorted
	Socket   string   // of an fcgi-program
	Programs []*Program
	section  *section
}

// A reader is one Read.
type reader struct {
	opts  Options
	conf  *Conf
	ini   *ini
	here  string
	own   values          // ENV_… that [supervisord] environment= sets
	told  map[string]bool // findings that are told once
	looks *Error          // the first line that reads like one of a template
	fails Errors
}

// Read reads path and what it includes. The error is Errors.
func Read(path string, opts Options) (*Conf, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, Errors{{File: path, Text: err.Error()}}
	}
	r := &reader{opts: opts, conf: &Conf{Path: abs}, here: filepath.Dir(abs), own: values{}, told: make(map[string]bool)}
	r.ini = newINI(r.surprise)
	r.conf.ini = r.ini
	text, err := contents(path)
	if err != nil {
		return nil, Errors{{File: path, Text: err.Error()}}
	}
	r.template(path, text)
	r.fails = r.ini.read(path, text)
	r.conf.Files = []string{path}
	if len(r.fails) == 0 {
		r.include(path)
	}
	if len(r.fails) == 0 {
		r.daemon()
		r.groups()
		r.servers()
		r.rest()
	}
	if len(r.fails) > 0 && r.looks != nil {
		r.fails = append(r.fails, r.looks)
	}
	if len(r.fails) > 0 {
		return nil, r.fails
	}
	return r.conf, nil
}

// ofTemplates begins what Jinja, ERB and Blade put in the place of something.
var ofTemplates = regexp.MustCompile(`\{\{|\{%|<%|^\s*@(if|foreach|end)`)

// template remembers the first line that looks as if the file were still to be made.
func (r *reader) template(path, text string) {
	for i, line := range lines(text) {
		if r.looks == nil && comment(line) != 0 && ofTemplates.MatchString(line) {
			r.looks = &Error{File: path, Line: i + 1, Text: fmt.Sprintf("looks like a line of a template, %q; import the file that is made of it", short(strip(line)))}
		}
	}
}

func (r *reader) surprise(file string, line int, section, key, text string) {
	r.tell(Finding{Kind: Note, File: file, Line: line, Section: section, Key: key, Text: text})
}

func (r *reader) tell(f Finding) { r.conf.Findings = append(r.conf.Findings, f) }

// once tells what may come up for every process of a program.
func (r *reader) once(f Finding) {
	if id := f.String(); !r.told[id] {
		r.told[id] = true
		r.tell(f)
	}
}

func (r *reader) fail(s *section, key string, format string, args ...any) {
	e := &Error{File: s.file, Line: s.line, Section: s.name, Key: key, Text: fmt.Sprintf(format, args...)}
	if at, ok := r.ini.get(s, key); ok {
		e.File, e.Line = at.file, at.line
	}
	if !slices.ContainsFunc(r.fails, func(o *Error) bool { return *o == *e }) {
		r.fails = append(r.fails, e)
	}
}

func (r *reader) find(kind string, s *section, key, format string, args ...any) {
	f := Finding{Kind: kind, File: s.file, Line: s.line, Section: s.name, Key: key, Text: fmt.Sprintf(format, args...)}
	if at, ok := r.ini.get(s, key); ok {
		f.File, f.Line = at.file, at.line
	}
	r.once(f)
}

// include reads the files of [include], which is not looked at in those again.
func (r *reader) include(main string) {
	s, ok := r.ini.named["include"]
	if !ok {
		return
	}
	r.replaceHere(r.here)
	files, ok := r.ini.get(s, "files")
	if !ok {
		r.fail(s, "", `has no key "files"`)
		return
	}
	patterns, err := r.now(values{"here": r.here, "host_node_name": r.opts.Host}).format(files.value)
	if unset, isUnset := errors.AsType[*missing](err); isUnset && strings.HasPrefix(unset.name, "ENV_") {
		name := unset.name[len("ENV_"):]
		r.fail(s, "files", "needs %s from the environment of supervisord, and it is not set here; set it and import again, such as: %s=… superctl import …", name, name)
		return
	}
	if err != nil {
		r.fail(s, "files", "%v", err)
		return
	}
	for _, pattern := range strings.FieldsFunc(patterns, isSpace) {
		r.includeAll(main, s, pattern)
	}
	if after, _ := r.ini.get(s, "files"); after != files {
		r.tell(Finding{Kind: Unhelpful, File: after.file, Line: after.line, Section: "include", Key: "files",
			Text: "stands in a file that is included itself, where supervisord does not look for it"})
	}
}

func (r *reader) includeAll(main string, s *section, pattern string) {
	if !filepath.IsAbs(pattern) {
		base, err := filepath.Abs(filepath.Dir(main))
		if err != nil {
			r.fail(s, "files", "%v", err)
			return
		}
		pattern = base + "/" + pattern
	}
	matches := globbed(pattern)
	if len(matches) == 0 {
		r.find(Note, s, "files", "no file matches %s", short(pattern))
	}
	slices.Sort(matches)
	for _, path := range matches {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue // as supervisord does
		}
		text, err := contents(path)
		if err != nil {
			// supervisord passes over what it may not open; here that would lose it.
			r.fail(s, "files", "%s %v", path, err)
			continue
		}
		r.conf.Files = append(r.conf.Files, path)
		r.template(path, text)
		bad := r.ini.read(path, text)
		r.fails = append(r.fails, bad...)
		if len(bad) == 0 {
			r.replaceHere(filepath.Dir(path))
		}
	}
}

// replaceHere is expand_here: it goes over every section, for those that come later
// have another here.
func (r *reader) replaceHere(here string) {
	const name = "%(here)s"
	for _, s := range r.ini.sections {
		for _, key := range r.ini.keysOf(s) {
			at, _ := r.ini.get(s, key)
			if strings.Contains(at.value, name) {
				at.value = strings.ReplaceAll(at.value, name, here)
				s.set(key, at)
			}
		}
	}
}

// daemon reads [supervisord].
func (r *reader) daemon() {
	s, ok := r.ini.named["supervisord"]
	if !ok {
		r.conf.piece = true
		s = &section{name: "supervisord", file: r.conf.Files[0], settings: make(map[string]setting)}
		r.tell(Finding{Kind: Note, File: s.file, Text: "has no [supervisord]: supervisord would not start from it alone, so it is read as one of the files it includes"})
	}
	p := r.part(s, values{"here": r.here})
	d := &r.conf.Daemon
	d.section = s
	d.MinFDs = parsed(p, "minfds", "1024", integer)
	d.MinProcs = parsed(p, "minprocs", "200", integer)
	d.Directory = parsed(p, "directory", "", path)
	d.User = p.account()
	d.Umask = parsed(p, "umask", "022", octal)
	d.LogLevel = parsed(p, "loglevel", "info", loggingLevel)
	d.NoDaemon = parsed(p, "nodaemon", "false", boolean)
	d.StripANSI = parsed(p, "strip_ansi", "false", boolean)
	parsed(p, "logfile_maxbytes", "50MB", byteSize)
	parsed(p, "logfile_backups", "10", integer)
	parsed(p, "silent", "false", boolean)
	parsed(p, "nocleanup", "false", boolean)
	// It is formatted twice: once as every value is, once for what comes next.
	p.values["host_node_name"] = r.opts.Host
	text, _ := p.later("environment", "")
	d.Environment = r.environment(p, text)
	for name, value := range d.Environment {
		r.own["ENV_"+name] = value
	}
}

// others names the sections that go with a group.
func (g *Group) others() string {
	var all []string
	for _, p := range g.Programs {
		if p.section != g.section {
			all = append(all, "["+p.section.name+"]")
		}
	}
	if len(all) == 0 {
		return ""
	}
	return ", nor what is in it: " + strings.Join(all, ", ")
}

func path(text string) (string, error) { return expandUser(text), nil }

// environment formats and splits an environment=.
func (r *reader) environment(p *part, text string) map[string]string {
	from := r.symbolic(p.values)
	symbol := from.env
	from.env = func(name string) (string, bool) {
		p.outer[name] = true
		return symbol(name)
	}
	formatted, err := from.format(text)
	if err == nil {
		var pairs map[string]string
		if pairs, err = environment(formatted); err == nil {
			return pairs
		}
	}
	r.fail(p.section, "environment", "%v", err)
	return nil
}

// groups reads everything that makes processes.
func (r *reader) groups() {
	grouped := make(map[string]bool)
	for _, s := range r.ini.sections {
		if strings.HasPrefix(s.name, "group:") {
			r.group(s, grouped)
		}
	}
	for _, kind := range []string{kindProgram, kindListener, kindFCGI} {
		for _, s := range r.ini.sections {
			if strings.HasPrefix(s.name, kind+":") && !grouped[s.name] {
				r.homogeneous(s, kind)
			}
		}
	}
	slices.SortStableFunc(r.conf.Groups, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	seen := make(map[string]*Group)
	r.conf.Groups = slices.DeleteFunc(r.conf.Groups, func(g *Group) bool {
		first, twice := seen[g.Name]
		if twice {
			r.find(Unhelpful, g.section, "", "a group of that name is there already, [%s], and supervisord never runs the second%s", first.section.name, g.others())
		}
		seen[g.Name] = cmp.Or(first, g)
		return twice
	})
}

// group reads a [group:x] with its programs, and marks those as taken.
func (r *reader) group(s *section, grouped map[string]bool) {
	name, err := processOrGroupName(s.name[len("group:"):])
	if err != nil {
		r.fail(s, "", "%v", err)
		return
	}
	p := r.part(s, values{"here": r.here})
	g := &Group{Name: name, Kind: kindGroup, Priority: parsed(p, "priority", "999", integer), section: s}
	members, _ := p.text("programs", "")
	for _, member := range listOf(members) {
		program, isProgram := r.ini.named["program:"+member]
		fcgi, isFCGI := r.ini.named["fcgi-program:"+member]
		switch {
		case isProgram && isFCGI:
			r.fail(s, "programs", "%q is both a program and an fcgi-program", short(member))
		case isProgram:
			grouped[program.name] = true
			g.Programs = append(g.Programs, r.program(program, kindProgram, name))
		case isFCGI:
			grouped[fcgi.name] = true
			g.Programs = append(g.Programs, r.program(fcgi, kindFCGI, name))
		default:
			r.fail(s, "programs", "names %q, which is no program here", short(member))
		}
	}
	r.conf.Groups = append(r.conf.Groups, g)
}

// homogeneous reads a program that is a group of its own.
func (r *reader) homogeneous(s *section, kind string) {
	name := s.name[len(kind)+1:]
	if kind != kindListener {
		var err error
		if name, err = processOrGroupName(name); err != nil {
			r.fail(s, "", "%v", err)
			return
		}
	}
	usual := "999"
	if kind == kindListener {
		usual = "-1"
	}
	p := r.part(s, values{"here": r.here})
	g := &Group{Name: name, Kind: kind, Priority: parsed(p, "priority", usual, integer), section: s}
	switch kind {
	case kindListener:
		r.listener(p, g)
	case kindFCGI:
		p.values["program_name"] = name
		r.fcgi(p, g)
	}
	g.Programs = []*Program{r.program(s, kind, name)}
	r.conf.Groups = append(r.conf.Groups, g)
}

// eventTypes is every event a listener can ask for.
var eventTypes = strings.Fields(`EVENT PROCESS_STATE PROCESS_STATE_STOPPED PROCESS_STATE_EXITED PROCESS_STATE_STARTING
	PROCESS_STATE_STOPPING PROCESS_STATE_BACKOFF PROCESS_STATE_FATAL PROCESS_STATE_RUNNING PROCESS_STATE_UNKNOWN
	PROCESS_COMMUNICATION PROCESS_COMMUNICATION_STDOUT PROCESS_COMMUNICATION_STDERR PROCESS_LOG PROCESS_LOG_STDOUT
	PROCESS_LOG_STDERR REMOTE_COMMUNICATION SUPERVISOR_STATE_CHANGE SUPERVISOR_STATE_CHANGE_RUNNING
	SUPERVISOR_STATE_CHANGE_STOPPING TICK TICK_5 TICK_60 TICK_3600 PROCESS_GROUP PROCESS_GROUP_ADDED PROCESS_GROUP_REMOVED`)

func (r *reader) listener(p *part, g *Group) {
	if n := parsed(p, "buffer_size", "10", integer); n < 1 {
		r.fail(p.section, "buffer_size", "must be at least 1, is %d", n)
	}
	events, _ := p.text("events", "")
	for _, event := range listOf(events) {
		event = strings.ToUpper(event)
		if !slices.Contains(eventTypes, event) {
			r.fail(p.section, "events", "there is no event %q", short(event))
		}
		if !slices.Contains(g.Events, event) {
			g.Events = append(g.Events, event)
		}
	}
	slices.Sort(g.Events)
	if len(g.Events) == 0 {
		r.fail(p.section, "events", "an event listener must say for which events")
	}
	if parsed(p, "redirect_stderr", "false", boolean) {
		r.fail(p.section, "redirect_stderr", "cannot be true for an event listener, which talks to supervisord on its output")
	}
}

func (r *reader) fcgi(p *part, g *Group) {
	if text, ok := p.text("socket_backlog", ""); ok {
		if n, err := integer(text); err != nil || n < 1 || n > 65535 {
			r.fail(p.section, "socket_backlog", "must be a number from 1 to 65535, is %q", short(text))
		}
	}
	_, owned := p.text("socket_owner", "")
	mode, moded := p.text("socket_mode", "")
	if moded {
		if _, err := octal(mode); err != nil {
			r.fail(p.section, "socket_mode", "%v", err)
		}
	}
	var known bool
	if g.Socket, known = p.text("socket", ""); !known && p.given("socket") {
		return // only the environment knows which; that is told
	}
	if g.Socket == "" {
		r.fail(p.section, "socket", "an fcgi-program must have a socket, such as unix:///run/x.sock")
		return
	}
	if err := fcgiSocket(g.Socket, owned || moded); err != nil {
		r.fail(p.section, "socket", "%v", err)
	}
}

// servers reads the sockets of supervisord.
func (r *reader) servers() {
	for _, s := range r.ini.sections {
		p := r.part(s, values{})
		switch {
		case strings.HasPrefix(s.name, "inet_http_server"):
			r.inet(p)
		case strings.HasPrefix(s.name, "unix_http_server"):
			p.values["here"] = r.here
			r.unix(p)
		}
	}
}

func (r *reader) inet(p *part) {
	server := Server{section: p.section, Authenticated: r.authenticated(p)}
	port, ok := p.text("port", "")
	if !p.given("port") {
		r.fail(p.section, "port", "must be given")
		return
	}
	if ok { // or only the environment knows it, and superd serves no address anyway
		var err error
		if server.Host, server.Port, err = inetAddress(port); err != nil {
			r.fail(p.section, "port", "%v", err)
		}
	}
	r.conf.Servers = append(r.conf.Servers, server)
}

func (r *reader) unix(p *part) {
	server := Server{section: p.section, Authenticated: r.authenticated(p), Chmod: parsed(p, "chmod", "0700", octal)}
	file, ok := p.text("file", "")
	if !ok {
		if !p.given("file") {
			r.fail(p.section, "file", "must be given")
		}
		return // or only the environment knows where; that is told
	}
	server.File = r.absolute(p.section, expandUser(strip(file)))
	server.Chown, _ = p.text("chown", "")
	r.conf.Servers = append(r.conf.Servers, server)
}

// absolute is a socket as supervisord opens it: below the directory it is started in.
func (r *reader) absolute(s *section, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return file
	}
	r.find(Changed, s, "file", "is relative to where supervisord is started, which is not known; taken is where this import runs")
	return abs
}

func (r *reader) authenticated(p *part) bool {
	p.text("username", "")
	p.text("password", "")
	user, password := p.given("username"), p.given("password")
	if user != password {
		r.fail(p.section, "username", "username and password must both be given, or none of them")
	}
	return user
}

package supervisord

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// This file makes processes of a section, in the same order of formatting,
// splitting and defaulting as supervisord's _processes_from_section.

// A Program is a section with the processes it makes.
type Program struct {
	Name      string // of the section
	Group     string
	Kind      string // program, eventlistener, fcgi-program
	Processes []Process
	first     int
	section   *section
	// general is one process for all of them, with {slot} where they differ; nil
	// when no template of superd can say how they differ.
	general *Process
}

// A Process is one process as supervisord starts it. Text may have templates of
// superd between marks, {env:NAME} for what the environment decides.
type Process struct {
	Name         string
	Command      string
	Directory    string // "": supervisord's own
	Umask        int    // -1: supervisord's own
	Priority     int
	AutoStart    bool
	AutoRestart  string
	StartSecs    int
	StartRetries int
	User         string
	Stdout       Stream
	Stderr       Stream
	StopSignal   unix.Signal
	StopWaitSecs int
	StopAsGroup  bool
	KillAsGroup  bool
	ExitCodes    []int
	Redirect     bool
	Environment  map[string]string // with that of [supervisord]
	ServerURL    string
}

// A Stream is where one of the two outputs goes.
type Stream struct {
	Log      string // a path, AUTO, NONE
	MaxBytes int
	Backups  int
	Capture  int
	Events   bool
	Syslog   bool
}

// A part is a section being read, with what its formats stand for.
type part struct {
	r       *reader
	section *section
	values  values
	outer   map[string]bool // variables that its environment= takes from supervisord's own
}

func (r *reader) part(s *section, v values) *part {
	return &part{r: r, section: s, values: v, outer: make(map[string]bool)}
}

// formatter is values and the environment.
type formatter struct {
	values values
	env    func(name string) (string, bool)
}

func (f formatter) format(s string) (string, error) { return f.values.formatWith(s, f.env) }

// now takes the environment as it is.
func (r *reader) now(v values) formatter {
	return formatter{r.own.with(v), func(name string) (string, bool) { return r.opts.LookupEnv(name) }}
}

// symbolic keeps what the environment decides as a template.
func (r *reader) symbolic(v values) formatter {
	return formatter{r.own.with(v), func(name string) (string, bool) {
		if name == "" || strings.Trim(name, letters) != "" {
			return "", false
		}
		return mark("env:" + name), true
	}}
}

// text is a value that must be known now. A variable that is not set here is told,
// and the default taken.
func (p *part) text(key, usual string) (string, bool) {
	at, ok := p.r.ini.get(p.section, key)
	if !ok {
		return usual, false
	}
	text, err := p.r.now(p.values).format(at.value)
	if unset, isUnset := errors.AsType[*missing](err); isUnset && strings.HasPrefix(unset.name, "ENV_") {
		p.r.find(Changed, p.section, key, "needs %s from the environment of supervisord, and it is not set here; taken is what counts without the key, %q. Set it and import again, such as: %s=… superctl import …",
			unset.name[len("ENV_"):], usual, unset.name[len("ENV_"):])
		return usual, false
	}
	if err != nil {
		p.r.fail(p.section, key, "%v", err)
		return usual, false
	}
	return p.resolve(key, text), true
}

// account is user=. If the environment was to say it and does not, it stays a template:
// without the key, the program would run as root.
func (p *part) account() string {
	at, _ := p.r.ini.get(p.section, "user")
	_, err := p.r.now(p.values).format(at.value)
	if unset, isUnset := errors.AsType[*missing](err); isUnset && strings.HasPrefix(unset.name, "ENV_") {
		user, _ := p.later("user", "")
		return user
	}
	user, _ := p.text("user", "")
	return user
}

// given tells whether a key is written, whatever its value is.
func (p *part) given(key string) bool {
	_, ok := p.r.ini.get(p.section, key)
	return ok
}

// resolve puts what the environment has in the place of templates that came in by
// way of environment=.
func (p *part) resolve(key, text string) string {
	return resolved(text, func(name string) string {
		value, ok := p.r.opts.LookupEnv(name)
		if !ok {
			p.r.find(Changed, p.section, key, "needs %s from the environment of supervisord, and it is not set here; taken as empty", name)
		}
		return value
	})
}

// resolved replaces every {env:NAME} between marks.
func resolved(text string, lookup func(string) string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, string(openMark)+"env:")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, _ := strings.Cut(rest, string(closeMark))
		b.WriteString(lookup(name))
		text = after
	}
}

// later is a value that may have templates.
func (p *part) later(key, usual string) (string, bool) {
	at, ok := p.r.ini.get(p.section, key)
	if !ok {
		return usual, false
	}
	text, err := p.r.symbolic(p.values).format(at.value)
	if err != nil {
		p.r.fail(p.section, key, "%v", err)
		return usual, false
	}
	return text, true
}

// parsed is the value of a key, or of its default.
func parsed[T any](p *part, key, usual string, parse func(string) (T, error)) T {
	text, _ := p.text(key, usual)
	value, err := parse(text)
	if err != nil {
		p.r.fail(p.section, key, "%v", err)
	}
	return value
}

// mostProcesses bounds numprocs: above it there is a typing mistake, not a wish.
const mostProcesses = 10_000

// program reads a section as part of a group.
func (r *reader) program(s *section, kind, group string) *Program {
	name, err := processOrGroupName(s.name[strings.IndexByte(s.name, ':')+1:])
	if err != nil {
		r.fail(s, "", "%v", err)
	}
	common := values{"here": r.here, "program_name": name, "host_node_name": r.opts.Host, "group_name": group}
	p := r.part(s, common)
	program := &Program{Name: name, Group: group, Kind: kind, section: s}
	like := p.common()
	program.first = parsed(p, "numprocs_start", "0", integer)
	n := parsed(p, "numprocs", "1", integer)
	processName := name
	if at, ok := r.ini.get(s, "process_name"); ok {
		if processName, err = processOrGroupName(at.value); err != nil {
			r.fail(s, "process_name", "%v", err)
		}
	}
	if _, ok := r.ini.get(s, "process_name"); !ok {
		processName = "%(program_name)s"
	}
	switch {
	case n > 1 && !strings.Contains(processName, "%(process_num)"):
		r.fail(s, "process_name", "must have %%(process_num)s in it, for numprocs is %d and every process needs a name of its own", n)
		return program
	case n > mostProcesses:
		r.fail(s, "numprocs", "is more than %d", mostProcesses)
		return program
	case n < 1:
		r.find(Note, s, "numprocs", "is %d: supervisord runs nothing for it", n)
	}
	r.processes(p, program, like, processName, n)
	program.unify(n)
	r.sameNames(program)
	return program
}

// processes makes each process. As in supervisord they share one dictionary, so that
// what environment= sets for one can be met by the next, unless supervisord has it in its
// own environment.
func (r *reader) processes(p *part, program *Program, like Process, processName string, n int) {
	before := len(r.fails)
	for i := program.first; i < program.first+n && len(r.fails) == before; i++ {
		one := like
		p.values["process_num"], p.values["numprocs"] = i, n
		r.process(p, &one, processName)
		program.Processes = append(program.Processes, one)
	}
	if n < 2 || len(r.fails) > before {
		return
	}
	// Once more, with {slot} for the number.
	general := like
	p.values["process_num"] = slotNumber{of: n, first: program.first}
	r.process(p, &general, processName)
	r.fails = r.fails[:before] // a format that has no template
	program.general = &general
}

// common reads the keys that are the same for every process.
func (p *part) common() Process {
	one := Process{
		Priority:     parsed(p, "priority", "999", integer),
		AutoStart:    parsed(p, "autostart", "true", boolean),
		AutoRestart:  parsed(p, "autorestart", "unexpected", autoRestart),
		StartSecs:    parsed(p, "startsecs", "1", integer),
		StartRetries: parsed(p, "startretries", "3", integer),
		StopSignal:   parsed(p, "stopsignal", "TERM", signalNumber),
		StopWaitSecs: parsed(p, "stopwaitsecs", "10", integer),
		StopAsGroup:  parsed(p, "stopasgroup", "false", boolean),
		ExitCodes:    parsed(p, "exitcodes", "0", exitCodes),
		Redirect:     parsed(p, "redirect_stderr", "false", boolean),
		User:         p.account(),
		Umask:        -1,
		Stdout:       p.stream("stdout"),
		Stderr:       p.stream("stderr"),
	}
	one.KillAsGroup = parsed(p, "killasgroup", fmt.Sprint(one.StopAsGroup), boolean)
	if _, ok := p.text("umask", ""); ok {
		one.Umask = parsed(p, "umask", "022", octal)
	}
	if one.StopAsGroup && !one.KillAsGroup {
		p.r.fail(p.section, "killasgroup", "cannot be false while stopasgroup is true")
	}
	if url, _ := p.text("serverurl", ""); !strings.EqualFold(strip(url), "auto") {
		one.ServerURL = url
	}
	return one
}

func (p *part) stream(name string) Stream {
	return Stream{
		Capture: parsed(p, name+"_capture_maxbytes", "0", byteSize),
		Events:  parsed(p, name+"_events_enabled", "false", boolean),
	}
}

// process reads what may differ from one process to the next.
func (r *reader) process(p *part, one *Process, processName string) {
	p.renew()
	text, _ := r.ini.get(p.section, "environment")
	own := r.environment(p, text.value)
	for name, value := range own {
		p.values["ENV_"+name] = value
	}
	one.Environment = make(map[string]string)
	maps.Copy(one.Environment, r.conf.Daemon.Environment)
	maps.Copy(one.Environment, own)
	one.Directory, _ = p.later("directory", "")
	r.log(p, "stdout", &one.Stdout)
	r.log(p, "stderr", &one.Stderr)
	if one.Redirect {
		one.Stderr.Log = logNone
	}
	one.Command, _ = p.later("command", "")
	if _, given := r.ini.get(p.section, "command"); !given {
		r.fail(p.section, "command", "is not given: there is nothing to run")
	}
	name, err := r.symbolic(p.values).format(processName)
	if err != nil {
		r.fail(p.section, "process_name", "%v", err)
	}
	one.Name = p.resolve("process_name", name)
}

// renew forgets what environment= of the process before has set over supervisord's own
// environment: options.py, _processes_from_section, updates from that for every process.
func (p *part) renew() {
	for key := range p.values {
		name, is := strings.CutPrefix(key, "ENV_")
		if !is {
			continue
		}
		_, daemon := p.r.own[key]
		_, set := p.r.opts.LookupEnv(name)
		if daemon || set || p.outer[name] {
			delete(p.values, key)
		}
	}
}

// log reads where a stream goes. Its value is formatted twice.
func (r *reader) log(p *part, name string, s *Stream) {
	s.Log = logAuto
	if text, ok := p.later(name+"_logfile", ""); ok {
		again, err := r.symbolic(p.values).format(text)
		if err != nil {
			r.fail(p.section, name+"_logfile", "%v", err)
		}
		s.Log = logfileName(again)
	}
	s.Backups = parsed(p, name+"_logfile_backups", "10", integer)
	s.MaxBytes = parsed(p, name+"_logfile_maxbytes", "50MB", byteSize)
	s.Syslog = parsed(p, name+"_syslog", "false", boolean)
	if s.Log == logSyslog {
		s.Log, s.Syslog = logNone, true
	}
}

// A slotNumber is the number of a process that is not known yet.
type slotNumber struct{ of, first int }

// format is a template for the number, if one can say it.
func (n slotNumber) format(spec string, letter byte) (string, error) {
	width := len(fmt.Sprintf("%"+spec+"d", 0))
	widest := len(fmt.Sprint(n.of - 1))
	switch {
	case n.first != 0 || !strings.ContainsRune("diu", rune(letter)) && letter != 's':
	case spec == "":
		return mark("slot"), nil
	case widest == 1 && strings.Trim(spec, "0123456789") == "" && spec[0] == '0' && letter != 's':
		return strings.Repeat("0", max(0, width-1)) + mark("slot"), nil
	}
	return "", errors.New("has no template")
}

// unify keeps general only if it stands for exactly the processes there are.
func (p *Program) unify(n int) {
	if n == 1 && len(p.Processes) == 1 {
		p.general = &p.Processes[0]
	}
	if n < 2 || p.general == nil {
		return
	}
	for i, one := range p.Processes {
		same := p.general.at(i)
		one.Name, same.Name = "", ""
		if !reflect.DeepEqual(one, same) {
			p.general = nil
			return
		}
	}
}

// at is the general process as number i.
func (o *Process) at(i int) Process {
	put := func(s string) string { return strings.ReplaceAll(s, mark("slot"), fmt.Sprint(i)) }
	one := *o
	one.Command, one.Directory = put(o.Command), put(o.Directory)
	one.Stdout.Log, one.Stderr.Log = put(o.Stdout.Log), put(o.Stderr.Log)
	one.Environment = make(map[string]string)
	for k, v := range o.Environment {
		one.Environment[put(k)] = put(v)
	}
	return one
}

// sameNames drops processes whose name another has: the last one is what
// supervisord runs.
func (r *reader) sameNames(p *Program) {
	last := make(map[string]int)
	for i, one := range p.Processes {
		last[one.Name] = i
	}
	if len(last) < len(p.Processes) {
		r.find(Unhelpful, p.section, "process_name", "gives the same name to several processes, and supervisord runs only the last of them")
		p.general = nil
	}
	kept := p.Processes[:0:0]
	for i, one := range p.Processes {
		if last[one.Name] == i {
			kept = append(kept, one)
		}
	}
	p.Processes = kept
}

// names is the names of all processes of a group, as supervisorctl shows them.
func (g *Group) names() []string {
	var all []string
	for _, p := range g.Programs {
		for _, one := range p.Processes {
			all = append(all, namespec(g.Name, one.Name))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Names is every process supervisord would run, as supervisorctl shows it.
func (c *Conf) Names() []string {
	var all []string
	for _, g := range c.Groups {
		all = append(all, g.names()...)
	}
	slices.Sort(all)
	return all
}

func namespec(group, process string) string {
	if group == process {
		return process
	}
	return cmp.Or(group, process) + ":" + process
}

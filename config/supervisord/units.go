package supervisord

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// This file decides which programs of superd there will be and what they are called.

// A unit is one [program.…] of superd: all processes of a program of supervisord, or
// one of them where no template can say how they differ.
type unit struct {
	name      string
	program   *Program
	process   *Process
	words     []string // its command
	processes int
	listed    []string // as supervisorctl shows them
	maxMemory int      // bytes, from a memmon; 0: none
}

// A plan is what the TOML will have.
type plan struct {
	conf   *Conf
	opts   Options
	units  []*unit
	groups []plannedGroup
	taken  map[string]bool
	logs   map[string]string // files that are written to, and by which unit

	temporary bool     // there is output that supervisord would throw away when it starts
	refused   []string // sections that are in comments only
	scheduled []string // programs that stand for an httpok
	comments  []string
}

type plannedGroup struct {
	name    string
	group   *Group
	members []string
}

// find adds a finding about a key of a section, or about the section.
func (p *plan) find(kind string, s *section, key, format string, args ...any) {
	f := Finding{Kind: kind, File: s.file, Line: s.line, Section: s.name, Key: key, Text: fmt.Sprintf(format, args...)}
	if at, ok := p.conf.ini.get(s, key); ok && key != "" {
		f.File, f.Line = at.file, at.line
	}
	if !slices.Contains(p.conf.Findings, f) {
		p.conf.Findings = append(p.conf.Findings, f)
	}
}

// has tells whether a key is written.
func (p *plan) has(s *section, key string) bool {
	_, ok := p.conf.ini.get(s, key)
	return ok
}

// lay makes the units of everything that superd can run.
func (p *plan) lay() {
	for _, g := range p.conf.Groups {
		if g.Kind == kindListener {
			continue
		}
		before := len(p.units)
		for _, program := range g.Programs {
			p.layProgram(g, program)
		}
		p.layGroup(g, p.units[before:])
	}
}

func (p *plan) layProgram(g *Group, program *Program) {
	if program.Kind == kindFCGI {
		p.refuse(program.section, "%s", whyNotFCGI(g))
		return
	}
	if len(program.Processes) == 0 {
		p.find(Note, program.section, "", "has no process, and is not in the result")
		return
	}
	if _, err := p.words(program.Processes[0].Command); err != nil {
		p.refuse(program.section, "its command %v; supervisord could never start it", err)
		return
	}
	for _, one := range program.Processes {
		if strings.ContainsFunc(one.Directory+one.Stdout.Log+one.Stderr.Log+one.User+p.conf.Daemon.User+p.conf.Daemon.Directory, isControl) {
			p.refuse(program.section, "a path or its user has a line end or another control character in it, which superd does not take")
			return
		}
	}
	if program.general != nil {
		u := &unit{name: p.name(program.section, program.Name, g.Name), program: program, process: program.general, processes: len(program.Processes)}
		u.words, _ = p.words(u.process.Command) // as long as the first one's
		for _, one := range program.Processes {
			u.listed = append(u.listed, namespec(g.Name, one.Name))
		}
		p.units = append(p.units, u)
		return
	}
	p.find(Changed, program.section, "numprocs", "its processes differ by their number in a way that superd's {slot}, 0, 1, 2 …, cannot say; each is a program of its own, in a group")
	for i := range program.Processes {
		one := &program.Processes[i]
		words, err := p.words(one.Command)
		if err != nil {
			p.refuse(program.section, "the command of %s %v; supervisord could never start it", short(one.Name), err)
			continue
		}
		p.units = append(p.units, &unit{name: p.name(program.section, one.Name, g.Name), program: program, process: one, words: words, processes: 1,
			listed: []string{namespec(g.Name, one.Name)}})
	}
}

func whyNotFCGI(g *Group) string {
	return fmt.Sprintf("an fcgi-program is started on a socket that supervisord opens (%s), which superd does for PHP-FPM only; for PHP make it an [app] with fpm, for anything else let the program open its socket itself",
		cmp.Or(g.Socket, "see its key socket"))
}

// refuse takes a section out of the result, with the reason.
func (p *plan) refuse(s *section, format string, args ...any) {
	p.find(Refused, s, "", format, args...)
	p.refused = append(p.refused, s.name)
	p.comments = append(p.comments, fmt.Sprintf("\n[%s] in %s is not here: %s", s.name, origin(s), fmt.Sprintf(format, args...)))
}

// layGroup keeps a [group:x], and the processes of a program that became several.
func (p *plan) layGroup(g *Group, units []*unit) {
	if len(units) == 0 {
		if g.Kind == kindGroup {
			p.find(Note, g.section, "", "has no program that is in the result, and is left out")
		}
		return
	}
	if len(units) == 1 && (g.Kind != kindGroup || units[0].name == g.Name) {
		return
	}
	planned := plannedGroup{name: p.name(g.section, g.Name, "group"), group: g}
	for _, u := range units {
		planned.members = append(planned.members, "program."+u.name)
	}
	p.groups = append(p.groups, planned)
}

// name is what a program or a group of supervisord is called in superd.
func (p *plan) name(s *section, wanted, beside string) string {
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune(letters+"-.", r) {
			return r
		}
		return '_'
	}, wanted)
	if strings.HasPrefix(clean, ".") || clean == "" || clean == "all" {
		clean = "_" + strings.TrimLeft(clean, ".")
	}
	name := clean
	for i := 1; p.taken[name]; i++ {
		name = fmt.Sprintf("%s_%s", sanitized(beside), clean)
		if i > 1 {
			name = fmt.Sprintf("%s_%d", clean, i)
		}
	}
	p.taken[name] = true
	if name != wanted {
		p.find(Changed, s, "", "%q is called %s in superd", short(wanted), name)
	}
	return name
}

func sanitized(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(letters+"-", r) {
			return r
		}
		return '_'
	}, name)
}

// isControl is what superd takes in no value but an argument.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// argv splits a command, or says why nothing can be run.
func argv(command string) ([]string, error) {
	words, err := commandWords(command)
	switch {
	case err != nil:
		return nil, err
	case len(words) == 0 || strip(words[0]) == "":
		return nil, fmt.Errorf("is empty")
	}
	if len(words) == 1 && strings.ContainsAny(words[0], " \t") {
		return []string{"/usr/bin/env", words[0]}, nil // one word with a space reads like a mistake, and is none
	}
	return words, nil
}

// words splits a command as supervisord does, which puts the environment into it first.
// A variable stays a template where that comes to the same; one with spaces in it, or
// with nothing, would be one argument too many or too few, and is written out.
func (p *plan) words(command string) ([]string, error) {
	now := func(name string) string {
		if value, set := p.opts.LookupEnv(name); set {
			return value
		}
		return mark("env:" + name)
	}
	literal, err := argv(resolved(command, now))
	if err != nil {
		return nil, err
	}
	kept, err := argv(command)
	if err != nil {
		return literal, nil
	}
	for i, word := range kept {
		if len(kept) != len(literal) || resolved(word, now) != literal[i] {
			return literal, nil
		}
	}
	return kept, nil
}

// sameFiles gives each program, and each process, a file of its own to write to:
// under supervisord they may share one, and rotate it under each other.
func (p *plan) sameFiles() {
	p.logs = make(map[string]string)
	for _, u := range p.units {
		own := *u.process
		u.process = &own
		own.Stdout.Log = p.whole(u, "stdout", own.Stdout.Log)
		if !own.Redirect {
			own.Stderr.Log = p.whole(u, "stderr", own.Stderr.Log)
		}
		one := filepath.Clean(own.Stderr.Log) == filepath.Clean(own.Stdout.Log)
		p.ownFile(u, "stdout", &own.Stdout)
		switch {
		case own.Redirect:
		case one: // its two outputs are lines of one file, whatever that is called now
			own.Stderr.Log = own.Stdout.Log
		default:
			p.ownFile(u, "stderr", &own.Stderr)
		}
	}
}

// whole is the path of a log, absolute.
func (p *plan) whole(u *unit, name, path string) string {
	if path == logAuto || path == logNone || strings.HasPrefix(path, "/") || strings.HasPrefix(path, string(openMark)) {
		return path
	}
	absolute := strings.TrimSuffix(p.base(), "/") + "/" + path
	p.find(Changed, u.program.section, name+"_logfile", "is relative to where supervisord was started, which superd cannot know; taken is %s", text(absolute))
	return absolute
}

// base is where supervisord goes before it starts anything: nowhere if it stays in the
// foreground (options.py, daemonize).
func (p *plan) base() string {
	if d := p.conf.Daemon; strings.HasPrefix(d.Directory, "/") && !d.NoDaemon {
		return d.Directory
	}
	return "/"
}

func (p *plan) ownFile(u *unit, name string, s *Stream) {
	if s.Log == logAuto || s.Log == logNone || device(s.Log) != "" {
		return
	}
	was := s.Log
	if u.processes > 1 && !strings.Contains(s.Log, mark("slot")) {
		s.Log = beforeExtension(s.Log, "-"+mark("slot"))
	}
	if other, taken := p.logs[filepath.Clean(s.Log)]; taken && other != u.name {
		s.Log = beforeExtension(s.Log, "-"+u.name)
	}
	if _, taken := p.logs[filepath.Clean(s.Log)]; taken {
		s.Log = beforeExtension(s.Log, "-"+name)
	}
	if key := name + "_logfile"; s.Log != was && !p.told(u.program.section, key) {
		such := "" // as there are others
		if u.program.general == nil {
			such = "such as "
		}
		p.find(Changed, u.program.section, key, "several processes wrote to %s, and rotated it under each other; each has a file of its own now, %s%s", text(was), such, text(s.Log))
	}
	p.logs[filepath.Clean(s.Log)] = u.name
}

// told tells whether a key of a section has a finding that begins like that of ownFile.
func (p *plan) told(s *section, key string) bool {
	return slices.ContainsFunc(p.conf.Findings, func(f Finding) bool {
		return f.Section == s.name && f.Key == key && strings.HasPrefix(f.Text, "several processes wrote")
	})
}

// beforeExtension puts more in front of the .log of a path.
func beforeExtension(path, more string) string {
	base := path[strings.LastIndexByte(path, '/')+1:]
	if dot := strings.LastIndexByte(base, '.'); dot > 0 && !strings.ContainsRune(base[dot:], closeMark) {
		at := len(path) - len(base) + dot
		return path[:at] + more + path[at:]
	}
	return path + more
}

// ordinary tells whether a device is supervisord's standard output.
func ordinary(path string) bool {
	return strings.HasSuffix(path, "/stdout") || strings.HasSuffix(path, "/1")
}

// device is where a path leads that is no file: what supervisord itself writes to, or
// nowhere. "" is a file.
func device(path string) string {
	switch path {
	case "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/1/fd/1", "/proc/1/fd/2", "/dev/tty", "/dev/console":
		return "inherit"
	case "/dev/null":
		return "none"
	}
	return ""
}

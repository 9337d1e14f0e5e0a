package supervisord

import (
	"fmt"
	"slices"
	"strings"
)

// This file is what becomes of event listeners. superd has no events of supervisord's
// kind; the work that most listeners are there for it does itself.

// listeners lays out the event listeners, and returns the names of the processes
// whose work superd does itself.
func (p *plan) listeners() []string {
	var replaced []string
	for _, g := range p.conf.Groups {
		if g.Kind != kindListener {
			continue
		}
		program := g.Programs[0]
		if len(program.Processes) == 0 {
			p.find(Note, program.section, "", "has no process, and is not in the result")
			continue
		}
		words, err := p.words(program.Processes[0].Command)
		if err != nil {
			p.refuse(program.section, "its command %v; supervisord could never start it", err)
			continue
		}
		switch tool, active := toolOf(words), program.Processes[0].AutoStart; {
		case active && (tool == "memmon" && p.memmon(g, words) || tool == "httpok" && p.httpok(g, words)):
			replaced = append(replaced, g.names()...)
			p.surroundings(program.section, tool)
		case slices.Contains([]string{"crashmail", "crashmailbatch", "crashsms", "fatalmailbatch"}, tool):
			p.refuse(program.section, "superd sends no mail; let a program of yours follow superctl events -f --json, where each exit and failure is a line")
		default:
			p.keep(g, program)
		}
	}
	return replaced
}

// toolOf is the name of the program that is run, behind a python that runs it.
func toolOf(words []string) string {
	for _, word := range words {
		base := word[strings.LastIndexByte(word, '/')+1:]
		if !strings.HasPrefix(base, "python") && base != "env" && !strings.HasPrefix(word, "-") {
			return strings.TrimSuffix(base, ".py")
		}
	}
	return ""
}

// keep makes a program of a listener that superd does not know. It would get no
// event, so it is not started.
func (p *plan) keep(g *Group, program *Program) {
	before := len(p.units)
	p.layProgram(g, program)
	p.layGroup(g, p.units[before:])
	p.find(Changed, program.section, "events", "superd sends no events to its programs, so this one is not started by itself (autostart = false); let it follow superctl events -f --json instead of %s", strings.Join(g.Events, ", "))
	if p.has(program.section, "result_handler") {
		p.find(Ignored, program.section, "result_handler", "is code in Python for events, of which there are none")
	}
}

// surroundings tells what a listener ran with, when superd does its work.
func (p *plan) surroundings(s *section, tool string) {
	var had []string
	for _, key := range s.keys {
		name, _, _ := strings.Cut(key, "_logfile")
		if slices.Contains([]string{"environment", "user", "directory", "umask", "stdout", "stderr"}, name) {
			had = append(had, key)
		}
	}
	if len(had) > 0 {
		p.find(Ignored, s, had[0], "what only %s itself ran with is not taken over: %s", tool, strings.Join(had, ", "))
	}
}

// flags are the options of a getopt line: the letters that take a value, and those
// that do not. The rest is what is behind them; false is an option nobody knows.
func flags(words []string, valued, bare string) (map[string][]string, []string, bool) {
	all := make(map[string][]string)
	for len(words) > 0 && len(words[0]) > 1 && words[0][0] == '-' {
		letter, value := words[0][1:2], words[0][2:]
		words = words[1:]
		switch {
		case strings.Contains(bare, letter) && value == "":
		case !strings.Contains(valued, letter):
			return nil, nil, false
		case value == "" && len(words) == 0:
			return nil, nil, false
		case value == "":
			value, words = words[0], words[1:]
		}
		all[letter] = append(all[letter], value)
	}
	return all, words, true
}

// behind are the arguments behind the tool itself.
func behind(words []string, tool string) []string {
	for i, word := range words {
		if strings.TrimSuffix(word[strings.LastIndexByte(word, '/')+1:], ".py") == tool {
			return words[i+1:]
		}
	}
	return nil
}

// memmon becomes max_memory. False leaves it as a listener nobody knows.
func (p *plan) memmon(g *Group, words []string) bool {
	s := g.Programs[0].section
	options, rest, ok := flags(behind(words, "memmon"), "pgasmnu", "ch")
	if !ok || len(rest) > 0 {
		return false
	}
	limit := make(map[*unit]int)
	for _, letter := range []string{"a", "g", "p"} {
		for _, pair := range options[letter] {
			name, size, named := strings.Cut(pair, "=")
			if letter == "a" {
				name, size, named = "", pair, true
			}
			n, err := byteSize(size)
			if err != nil || !named {
				return false
			}
			found := p.watched(letter, name)
			for _, u := range found {
				limit[u] = n
			}
			if len(found) == 0 {
				p.find(Unhelpful, s, "command", "watches %s, and nothing here is called so", short(name))
			}
		}
	}
	for u, n := range limit {
		u.maxMemory = n
	}
	p.find(Changed, s, "", "memmon is max_memory of the %d programs that it watched: superd measures the whole tree of each process and ends it gracefully", len(limit))
	if len(options["m"]) > 0 {
		p.find(Ignored, s, "command", "superd sends no mail; superctl events -f --json tells of every process that is recycled")
	}
	return true
}

// watched are the units that an option of memmon is about: a for all, g for those of
// a group, p for a process.
func (p *plan) watched(letter, name string) []*unit {
	if letter == "a" {
		return p.units
	}
	return p.named(name, letter == "g")
}

// named are the units of a process, "web" or "group:web", or of a group.
func (p *plan) named(name string, group bool) []*unit {
	var found []*unit
	for _, u := range p.units {
		bare := func(listed string) bool {
			_, process, grouped := strings.Cut(listed, ":")
			return listed == name || grouped && process == name
		}
		if group && u.program.Group == name || !group && slices.ContainsFunc(u.listed, bare) {
			found = append(found, u)
		}
	}
	return found
}

// everySoOften is how often a listener is woken by its TICK events.
var everySoOften = map[string]string{"TICK_5": "every 5s", "TICK_60": "every 1m", "TICK_3600": "every 1h"}

// httpok becomes a program with a schedule that asks and restarts. False leaves it
// as a listener nobody knows.
func (p *plan) httpok(g *Group, words []string) bool {
	s := g.Programs[0].section
	options, rest, ok := flags(behind(words, "httpok"), "ptcbmgsn", "aeEh")
	if !ok || len(rest) != 1 || len(g.Events) != 1 || everySoOften[g.Events[0]] == "" || len(options["p"]) == 0 ||
		options["a"] != nil || options["b"] != nil || strings.ContainsAny(rest[0]+strings.Join(options["c"], ""), "'\""+string(openMark)) {
		return false
	}
	codes, seconds := options["c"], 10
	if len(codes) == 0 {
		codes = []string{"200"}
	}
	if t := options["t"]; len(t) > 0 {
		var err error
		if seconds, err = integer(t[0]); err != nil || seconds < 1 {
			return false
		}
	}
	var names []string
	for _, process := range options["p"] {
		for _, u := range p.named(process, false) {
			names = append(names, u.name)
		}
	}
	if len(names) == 0 {
		return false
	}
	codes = strings.Split(strings.Join(codes, ","), ",")
	script := fmt.Sprintf(`code=$(curl -s -o /dev/null -m %d -w '%%{http_code}' '%s'); case "$code" in %s) exit 0;; esac; echo "%s: got $code"; superctl restart %s`,
		seconds, rest[0], strings.Join(codes, "|"), strings.ReplaceAll(rest[0], "$", ""), strings.Join(names, " "))
	name := p.name(s, g.Name, "listener")
	var w tomlWriter
	w.line("")
	w.comment("[%s] in %s", s.name, origin(s))
	w.line("[program.%s]", bareKey(name))
	w.key("command", quotedAll([]string{"sh", "-c", text(script)}))
	w.text("schedule", everySoOften[g.Events[0]])
	w.text("restart", "never")
	p.scheduled = append(p.scheduled, w.b.String())
	p.find(Changed, s, "", "httpok is a program with a schedule that asks with curl, which must be installed, and restarts %s; it also starts what was stopped by hand", strings.Join(names, ", "))
	if len(options["m"]) > 0 {
		p.find(Ignored, s, "command", "superd sends no mail; superctl events -f --json tells of every restart")
	}
	return true
}

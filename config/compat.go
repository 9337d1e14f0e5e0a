package config

import (
	"regexp"
)

// [compat]: what superd is to those who know supervisord.

// Compat is how tools that were written for supervisord find what runs.
type Compat struct {
	XMLRPC string            // the absolute path of a unix socket; empty: off
	Names  map[string]string // a process, "web:0", to its name there: "web:web_00"
}

func compatKeys(c *Compat) []key {
	return []key{
		{name: "xmlrpc", kind: socketPath{&c.XMLRPC}},
		{name: "names", kind: compatNames{&c.Names}},
	}
}

// compatNames is a table of processes and what supervisord called them.
type compatNames struct{ into *map[string]string }

var (
	processName = regexp.MustCompile(`^[A-Za-z0-9_.-]+:[0-9]+$`)
	theirName   = regexp.MustCompile(`^[^\s:/]+(:[^\s:/]+)?$`)
)

func (k compatNames) set(n node) {
	names := make(map[string]string)
	taken := make(map[string]string)
	for _, name := range n.names() {
		one := n.at(name)
		if !processName.MatchString(name) {
			one.wrong(`must be the name of a process in quotes, such as "web:0"`)
		}
		is, ok := one.text(`the name that supervisord had for it, such as "web:web_00"`)
		switch first := taken[is]; {
		case !ok:
			continue
		case !theirName.MatchString(is):
			one.wrong(`must be a name as supervisorctl shows it, such as "web:web_00": no space and no /, and one ":" at most, is %q`, short(is))
		case first != "":
			one.wrong("%q is what %s is called already", short(is), first)
		}
		names[name], taken[is] = is, name
	}
	*k.into = names
}

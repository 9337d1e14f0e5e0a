package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The kinds of values that are tables, or arrays of them, and those that only
// one key has.

// section is a table with keys of its own.
type section struct{ keys func() []key }

func (k section) set(n node) { n.read(k.keys()) }

// tables is a table of named tables: [app.shop.worker.emails].
type tables[T any] struct {
	into  *[]T
	fresh func(name string) T
	keys  func(*T) []key
	check func(node, *T)
}

func (k tables[T]) set(n node) {
	for _, name := range n.names() {
		one := k.fresh(name)
		child := n.at(name)
		child.read(k.keys(&one))
		k.check(child, &one)
		*k.into = append(*k.into, one)
	}
}

// lists is an array of tables: [[app.shop.check]].
type lists[T any] struct {
	into  *[]T
	fresh func(name string) T
	keys  func(*T) []key
	check func(node, *T)
}

func (k lists[T]) set(n node) {
	for i, child := range n.items("an array of tables, each under a header in double brackets: [[" + n.key + "]]") {
		one := k.fresh(fmt.Sprint(i))
		child.read(k.keys(&one))
		k.check(child, &one)
		*k.into = append(*k.into, one)
	}
}

// named collects the tables in a table, to be read when all files have been.
type named struct {
	into *[]node
	keys func() []key // those of each, for who walks the schema
}

func (k named) set(n node) {
	for _, name := range n.names() {
		*k.into = append(*k.into, n.at(name))
	}
}

// rows collects the tables of an array, to be read when all files have been.
type rows struct {
	into *[]node
	keys func() []key
}

func (k rows) set(n node) {
	*k.into = append(*k.into, n.items("an array of tables, each under a header in double brackets: [["+n.key+"]]")...)
}

// environment is a table of variables; their values are templates.
type environment struct{ into *map[string]string }

func (k environment) set(n node) {
	env := make(map[string]string)
	for _, name := range n.names() {
		variable := n.at(name)
		if !isEnvName(name) {
			variable.wrong("cannot be the name of an environment variable: letters, digits and _ only, no digit first")
		}
		template{want: `text in quotes, such as "production"`}.put(variable, env, name)
	}
	*k.into = env
}

// put is set for a value that is one of many.
func (k template) put(n node, into map[string]string, name string) {
	var s string
	k.into = &s
	k.set(n)
	into[name] = s
}

// settings is a table of php.ini settings.
type settings struct{ into *map[string]string }

var iniName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

func (k settings) set(n node) {
	ini := make(map[string]string)
	for _, name := range n.names() {
		setting := n.at(name)
		if _, nested := setting.value.(map[string]any); nested {
			setting.wrong(`must be text in quotes; a name with a dot is written in quotes too: "%s.…" = "…"`, name)
			continue
		}
		if !iniName.MatchString(name) {
			setting.wrong(`cannot be the name of a php.ini setting; write one such as memory_limit or "opcache.enable"`)
		}
		if s, ok := setting.text(`text in quotes, such as "256M"`); ok {
			ini[name] = s
		}
	}
	*k.into = ini
}

// headers is a table of the headers of a request.
type headers struct{ into *map[string]string }

func (k headers) set(n node) {
	all := make(map[string]string)
	for _, name := range n.names() {
		header := n.at(name)
		if strings.Trim(name, nameCharacters) != "" || name == "" {
			header.wrong(`cannot be the name of a header; write one such as Host or "X-Check"`)
		}
		if s, ok := header.text(`text in quotes, such as "shop.example"`); ok {
			all[name] = s
		}
	}
	*k.into = all
}

// limits is a table of resource limits.
type limits struct{ into *map[string]uint64 }

func limitNames() []string {
	return []string{
		"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
		"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
	}
}

func (k limits) set(n node) {
	all := make(map[string]uint64)
	for _, name := range n.names() {
		limit := n.at(name)
		if !slices.Contains(limitNames(), name) {
			limit.wrong("unknown limit `%s`; %s", name, suggest(name, limitNames()))
			continue
		}
		switch v := limit.value.(type) {
		case int64:
			if v < 0 {
				limit.wrong(`must not be negative, is %d; write "unlimited" for no limit`, v)
			}
			all[name] = uint64(max(v, 0))
		case string:
			all[name] = limitText(limit, v)
		default:
			limit.mistyped(`a number, a size or "unlimited"`)
		}
	}
	*k.into = all
}

func limitText(n node, s string) uint64 {
	if s == "unlimited" || s == "infinity" {
		return Unlimited
	}
	bytes, err := parseSize(s)
	if err != nil || s == "" {
		n.wrong(`must be a number, a size such as "64MiB", or "unlimited", is %q`, short(s))
	}
	return uint64(bytes)
}

// listener is where FPM listens.
type listener struct {
	into *string
	app  *App
}

// maxSocketPath is what fits into the address of a unix socket (108 bytes with
// the final NUL, unix(7)).
const maxSocketPath = 107

func (k listener) set(n node) {
	s, ok := n.text(`the path of a unix socket, such as "/run/superd/shop/fpm.sock", or an address, such as "127.0.0.1:9000"`)
	if !ok {
		return
	}
	if isTCP(s) {
		k.address(n, s)
		return
	}
	before := len(n.in.problems)
	absolute{into: k.into, known: map[string]string{"app": k.app.Name, "root": k.app.Root}}.set(n)
	if len(n.in.problems) > before {
		return
	}
	if err := checkSocket(*k.into); err != nil {
		n.wrong("%v", err)
	}
}

func checkSocket(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("is %d bytes long, and the path of a unix socket has at most %d; use a shorter one", len(path), maxSocketPath)
	}
	if strings.Contains(path, ":") {
		return errors.New(`must not contain ":"`)
	}
	return nil
}

// readiness is how a process tells that it is ready.
type readiness struct {
	ready *string
	log   **regexp.Regexp
	ends  bool // "exit" is one too
}

func (k readiness) set(n node) {
	want := `"alive", "notify", "log:<regexp>" or "command"`
	if k.ends {
		want = `"alive", "notify", "log:<regexp>", "command" or "exit"`
	}
	s, ok := n.text(want)
	if !ok {
		return
	}
	switch expression, isLog := strings.CutPrefix(s, "log:"); {
	case s == "alive", s == "notify", s == "command", s == "exit" && k.ends:
		*k.ready = s
	case isLog && expression != "":
		*k.ready, *k.log = "log", compile(n, expression)
	default:
		n.wrong("must be %s, is %q", want, short(s))
	}
}

// account is a user or a group that exists. A number is taken for the name it has.
type account struct {
	into  *string
	group bool
}

func (k account) set(n node) {
	want := `the name of a user, such as "www-data"`
	if k.group {
		want = `the name of a group, such as "www-data"`
	}
	s, ok := n.text(want)
	if !ok || s == "" {
		return
	}
	name, err := n.in.accounts.name(s, k.group)
	if err != nil {
		n.wrong("%v", err)
		return
	}
	*k.into = name
}

// within makes a path below root of one that may be written relative to it.
func within(root, path string) (string, bool) {
	if filepath.IsAbs(path) {
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return "", false
		}
		path = relative
	}
	ok := filepath.IsLocal(path) && filepath.Clean(path) != "."
	return filepath.Join(root, path), ok
}

// destination is where a stream of output goes.
type destination struct {
	into   *string
	stdout bool // it may go where stdout goes
}

func (k destination) set(n node) {
	known := []string{"file", "journal", "syslog", "none", "inherit"}
	if k.stdout {
		known = append([]string{"stdout"}, known...)
	}
	want := "one of " + quotedList(known) + `, or the absolute path of a file`
	s, ok := n.text(want)
	switch {
	case !ok:
	case slices.Contains(known, s):
		*k.into = s
	case strings.HasPrefix(s, "{"), filepath.IsAbs(s):
		template{into: k.into, want: want}.set(n)
	default:
		n.wrong("must be %s, is %q", want, short(s))
	}
}

// socketPath is the path of a unix socket that superd is to serve; "" is none.
type socketPath struct{ into *string }

func (k socketPath) set(n node) {
	if n.value == "" {
		return
	}
	before := len(n.in.problems)
	absolute{into: k.into}.set(n)
	if len(n.in.problems) > before {
		return
	}
	if err := checkSocket(*k.into); err != nil {
		n.wrong("%v", err)
	}
}

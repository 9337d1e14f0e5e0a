package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The rules of programs and groups. What they name may be in another file, so they
// are read when all files have been, behind the apps.

// finishPrograms reads the programs of all files.
func (in *reading) finishPrograms() {
	in.programs = inOneFile(in.programs, "program")
	logs := make(map[string]Problem)
	for _, n := range in.programs {
		p := newProgram(n.name)
		checkProgramName(n)
		n.read(programKeys(&p))
		checkProgramTable(n, &p)
		p.After = in.names(n.at("after"), p.After, "program", "app")
		p.Requires = in.names(n.at("requires"), p.Requires, "program")
		ownFile(n.at("log"), &p.Log, logs)
		in.config.Programs = append(in.config.Programs, p)
	}
	in.refuseCircles()
	for i := range in.config.Programs { // only now: a circle is told with the keys that were written
		p := &in.config.Programs[i]
		for _, name := range p.Requires {
			if !slices.Contains(p.After, name) {
				p.After = append(p.After, name)
			}
		}
	}
}

// checkProgramName refuses what commands and messages could not tell from something
// else. A dot inside is fine, for there are php8.2-fpm and the like.
func checkProgramName(n node) {
	checkName(n, strings.ReplaceAll(strings.TrimPrefix(n.name, "."), ".", "-"))
	if strings.HasPrefix(n.name, ".") {
		n.wrong("cannot be a name: it begins with a dot")
	}
	if i := n.in.app(n.name); i >= 0 {
		first := n.in.apps[i].problem("")
		n.wrong("an app has this name (%s:%d), and commands could not tell them apart; use another one", first.File, first.Line)
	}
}

// app is the index of the app of that name among those that were found; -1: none.
func (in *reading) app(name string) int {
	return slices.IndexFunc(in.apps, func(n node) bool { return n.name == name })
}

func checkProgramTable(n node, p *Program) {
	if _, isTable := n.value.(map[string]any); !isTable {
		return
	}
	if !n.has("command") {
		n.missing("command", `such as ["nginx", "-g", "daemon off;"]`)
	}
	if p.Group == "" {
		p.Group = n.in.accounts.primaryGroup(p.User)
	}
	if os.Geteuid() != 0 && p.User != "" && !n.in.accounts.isMe(p.User) {
		n.at("user").warn("counts only when superd runs as root; as another user it runs everything as itself")
	}
	checkReadiness(n, p.Ready, p.Watchdog)
	if p.Ready == "exit" && p.Restart == "always" && p.Schedule == "" {
		n.at("ready").wrong(`"exit" is for what runs to its end, and restart = "always" starts it again and again; write restart = "never", or "unexpected" to try again when it fails`)
	}
	checkDirectory(n.at("directory"), p.Directory)
	p.EnvFile = checkEnvFile(n.at("env_file"), p.EnvFile, EnvFile, nil)
	checkOutput(n.at("log"), &p.Log, p.Processes)
	theirLog(n.at("log"), n.in.config.Apps, p.Log)
	checkReload(n.at("reload"), p.Reload)
	if p.Backoff.First > p.Backoff.Max {
		n.at("backoff").wrong("first, %s, must not be longer than max, %s", p.Backoff.First, p.Backoff.Max)
	}
	checkSchedule(n, p)
	checkProgramTemplates(n, p)
}

func checkDirectory(n node, directory string) {
	if directory == "" || !filepath.IsAbs(directory) && !strings.HasPrefix(directory, "{") {
		n.wrong("must be an absolute path, one that begins with /, is %q", short(directory))
	}
}

func checkReload(n node, r *Reload) {
	if _, isTable := n.value.(map[string]any); !isTable || r == nil {
		return
	}
	switch {
	case n.has("signal") && n.has("command"):
		n.wrong("has both signal and command; one of them is what reloads the program")
	case !n.has("signal") && !n.has("command"):
		n.missing("signal", `the signal that makes the program read its configuration, such as "HUP", or the command that does`)
	}
}

// checkProgramTemplates refuses templates that stand for something of an app.
func checkProgramTemplates(n node, p *Program) {
	check := func(n node, s string) {
		if err := checkTemplate(s); err != nil {
			return // told already
		}
		_, err := expand(s, func(name string) (string, error) {
			if name == "slot" || strings.HasPrefix(name, "env:") {
				return "", nil
			}
			return "", fmt.Errorf("template {%s} is of an app, and this is a program: only {slot} and {env:NAME} are known here", name)
		})
		if err != nil {
			n.wrong("%v", err)
		}
	}
	all := func(n node, argv []string) {
		for i, arg := range argv {
			if _, isText := n.value.(string); isText {
				check(n, arg)
				continue
			}
			check(n.item(i, arg), arg)
		}
	}
	all(n.at("command"), p.Command)
	all(n.at("ready_command"), p.ReadyCommand)
	if p.Reload != nil {
		all(n.at("reload").at("command"), p.Reload.Command)
	}
	for name, value := range p.Env {
		check(n.at("env").at(name), value)
	}
	check(n.at("directory"), p.Directory)
	check(n.at("env_file"), p.EnvFile)
	check(n.at("log").at("stdout"), p.Log.Stdout)
	check(n.at("log").at("stderr"), p.Log.Stderr)
}

// checkOutput holds together what becomes of a process's output.
func checkOutput(n node, o *Output, processes int) {
	if isPath(o.Stdout) && filepath.Clean(o.Stderr) == filepath.Clean(o.Stdout) {
		o.Stderr = "stdout" // one file has one writer
	}
	for name, path := range map[string]string{"stdout": o.Stdout, "stderr": o.Stderr} {
		if processes > 1 && isPath(path) && !strings.Contains(path, "{slot}") {
			n.at(name).wrong(`is one file for %d processes; give each its own with {slot}, such as "/var/log/worker-{slot}.log"`, processes)
		}
	}
	if _, isTable := n.value.(map[string]any); isTable && o.MaxTotal > 0 && o.MaxTotal < o.MaxSize {
		n.at("max_total").wrong("must be at least max_size, %d bytes: otherwise not even the file in hand fits, is %d", o.MaxSize, o.MaxTotal)
	}
}

// isPath tells a file of the user's own from a word such as "journal".
func isPath(destination string) bool { return strings.ContainsAny(destination, "/{") }

// ownFile refuses a file that another program writes its output to: each would
// rotate it under the other.
func ownFile(n node, o *Output, taken map[string]Problem) {
	for name, path := range map[string]string{"stdout": o.Stdout, "stderr": o.Stderr} {
		if !isPath(path) {
			continue
		}
		at := n.at(name)
		clean := filepath.Clean(path) // two ways to write a path are one file
		if first, ok := taken[clean]; ok {
			at.wrong("%q is what %s (%s:%d) writes to; each program needs a file of its own", short(path), first.Key, first.File, first.Line)
			continue
		}
		taken[clean] = at.problem("")
	}
}

// finishGroups reads the groups of all files.
func (in *reading) finishGroups() {
	in.groups = inOneFile(in.groups, "group")
	for _, n := range in.groups {
		g := Group{Name: n.name}
		checkProgramName(n)
		if i := slices.IndexFunc(in.programs, func(p node) bool { return p.name == n.name }); i >= 0 {
			first := in.programs[i].problem("")
			n.wrong("a program has this name (%s:%d), and commands could not tell them apart; use another one", first.File, first.Line)
		}
		n.read(groupKeys(&g))
		if _, isTable := n.value.(map[string]any); !isTable {
			continue
		}
		if !n.has("members") {
			n.missing("members", `the programs and apps that it has, such as ["program.nginx", "app.shop"]`)
		}
		if n.has("members") && g.Members != nil && len(g.Members) == 0 {
			n.at("members").wrong("is empty; a group has at least one member")
		}
		g.Members = in.names(n.at("members"), g.Members, "program", "app")
		in.config.Groups = append(in.config.Groups, g)
	}
}

// names are the programs and apps that a list means, whole: "program.nginx". A bare
// name does, for programs and apps have no name in common.
func (in *reading) names(list node, written []string, kinds ...string) []string {
	var whole []string
	for i, name := range written {
		item := list.item(i, name)
		found, err := in.known(name, kinds)
		switch {
		case err != nil && in.broken: // it may be in what could not be read
		case err != nil:
			item.wrong("%v", err)
		case slices.Contains(whole, found):
			item.wrong("`%s` is in the list twice", short(name))
		default:
			whole = append(whole, found)
		}
	}
	return whole
}

func (in *reading) known(written string, kinds []string) (string, error) {
	tables := map[string][]node{"program": in.programs, "app": in.apps}
	kind, name, isWhole := strings.Cut(written, ".")
	if !isWhole || tables[kind] == nil && kind != "program" && kind != "app" {
		kind, name = "", written
	}
	var near []string
	for _, one := range kinds {
		for _, n := range tables[one] {
			if n.name == name && (kind == "" || kind == one) {
				return one + "." + name, nil
			}
			if kind == "" {
				near = append(near, n.name)
			} else {
				near = append(near, one+"."+n.name)
			}
		}
	}
	if !slices.Contains(kinds, "app") && in.app(name) >= 0 {
		return "", fmt.Errorf("`%s` is an app, and only a program can be required; write it into after, which waits for it", short(written))
	}
	return "", fmt.Errorf("there is no %s `%s`; %s", strings.Join(kinds, " and no "), short(written), suggest(written, near))
}

// refuseCircles tells each circle of programs that wait for each other once, at the
// program that comes first by name.
func (in *reading) refuseCircles() {
	waits := make(map[string][]string)
	for _, p := range in.config.Programs {
		waits[p.Name] = append(slices.Clone(p.After), p.Requires...)
	}
	done := make(map[string]bool)
	for i := range in.config.Programs {
		c := circle{waits: waits, done: done}
		if c.through(in.config.Programs[i].Name); c.found == nil {
			continue
		}
		first := slices.Index(c.found, slices.Min(c.found))
		chain := append(slices.Clone(c.found[first:]), c.found[:first]...)
		at := in.programs[slices.IndexFunc(in.programs, func(n node) bool { return n.name == chain[0] })]
		for _, key := range []string{"requires", "after"} {
			if at.has(key) {
				at = at.at(key)
				break
			}
		}
		at.wrong("nobody would start first: %s → %s; take one of them out of after or requires", strings.Join(chain, " → "), chain[0])
	}
}

// circle looks for a way from a program back to itself.
type circle struct {
	waits map[string][]string
	done  map[string]bool // looked at, with all behind it
	path  []string
	found []string
}

func (c *circle) through(name string) {
	if i := slices.Index(c.path, name); i >= 0 {
		c.found = slices.Clone(c.path[i:])
		return
	}
	if c.done[name] {
		return
	}
	c.path = append(c.path, name)
	for _, next := range c.waits[name] {
		if program, isProgram := strings.CutPrefix(next, "program."); isProgram && c.found == nil {
			c.through(program)
		}
	}
	c.path = c.path[:len(c.path)-1]
	c.done[name] = true
}

// finishCompat refuses a socket for supervisord's tools that is something else.
func (in *reading) finishCompat() {
	path, first := in.config.Compat.XMLRPC, in.taken["compat"]
	if path == "" {
		return
	}
	if path == in.config.Socket {
		first.Text = fmt.Sprintf("xmlrpc: %q is superd's own control socket; use another path", path)
		in.problems = append(in.problems, first)
	}
	for i := range in.config.Apps {
		if a := &in.config.Apps[i]; a.FPM != nil && a.FPM.Listen == path {
			first.Text = fmt.Sprintf("xmlrpc: %q is where app %s listens; use another path", path, a.Name)
			in.problems = append(in.problems, first)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"superd/control"
)

type theirVerb func(t *theirs, ctx context.Context, arg string) error

// theirVerbs is every verb of supervisorctl but help, exit and quit.
func theirVerbs() map[string]theirVerb {
	return map[string]theirVerb{
		"status": (*theirs).status, "pid": (*theirs).pid, "start": (*theirs).start, "stop": (*theirs).stop,
		"restart": (*theirs).restart, "signal": (*theirs).signal, "tail": (*theirs).tail, "maintail": (*theirs).maintail,
		"clear": (*theirs).clear, "reread": (*theirs).reread, "update": (*theirs).update, "add": (*theirs).add,
		"remove": (*theirs).remove, "avail": (*theirs).avail, "reload": (*theirs).reload, "shutdown": (*theirs).shutdown,
		"version": (*theirs).version, "open": (*theirs).open, "fg": (*theirs).fg,
	}
}

func (t *theirs) status(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		t.failed(err)
		t.exit = theirStatusUnknown
		return nil
	}
	value, err := t.call(ctx, "getAllProcessInfo")
	if err != nil {
		return err
	}
	all, names := infosOf(value), strings.Fields(arg)
	shown := all
	if len(names) > 0 && !slices.Contains(names, "all") {
		shown = nil
		for _, name := range names {
			shown = append(shown, t.matching(ctx, name, all)...)
		}
	}
	t.show(shown)
	return nil
}

// matching are those that a name means. It says so of one that means none.
func (t *theirs) matching(ctx context.Context, name string, all []processInfo) []processInfo {
	group, process := splitSpec(name)
	found := slices.DeleteFunc(slices.Clone(all), func(i processInfo) bool {
		return i.group != group || process != "" && i.name != process
	})
	if len(found) == 0 && process != "" { // it may be superd's own name
		if value, err := t.call(ctx, "getProcessInfo", name); err == nil {
			return []processInfo{infoOf(value)}
		}
	}
	switch {
	case len(found) > 0:
		return found
	case process == "":
		t.say("%s: ERROR (no such group)", group)
	default:
		t.say("%s: ERROR (no such process)", name)
	}
	t.exit = theirStatusUnknown
	return nil
}

// show is the table of status. A process that is stopped, exited, fatal or unknown
// makes the exit code 3.
func (t *theirs) show(all []processInfo) {
	width := 30
	for _, i := range all {
		width = max(width, len([]rune(i.spec())))
	}
	for _, i := range all {
		t.say("%-*s%-10s%s", width+3, i.spec(), i.statename, i.description)
	}
	for _, i := range all {
		if slices.Contains([]int{0, 100, 200, 1000}, i.state) {
			t.exit = theirStatusStopped
		}
	}
}

func (t *theirs) pid(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		return err
	}
	names := strings.Fields(arg)
	if len(names) == 0 {
		pid, err := t.call(ctx, "getPID")
		if err == nil {
			t.say("%v", pid)
		}
		return err
	}
	if slices.Contains(names, "all") {
		all, err := t.call(ctx, "getAllProcessInfo")
		for _, i := range infosOf(all) {
			t.say("%d", i.pid)
		}
		return err
	}
	for _, name := range names {
		value, err := t.call(ctx, "getProcessInfo", name)
		i := infoOf(value)
		switch {
		case code(err) == faultBadName:
			t.failAs(control.NotFound, "No such process %s", name)
		case err != nil:
			return err
		default:
			t.say("%d", i.pid)
			if i.pid == 0 {
				t.exitAs(control.Conflict, theirNotRunning)
			}
		}
	}
	return nil
}

// A theirOrder is start, stop or signal: what is called, and how the results are told.
type theirOrder struct {
	verb    string // of the method
	done    string // "started"
	ignored int    // a fault that is no failure
	noGroup int    // the exit code for a group there is not
	more    []any  // behind the name
	words   map[int]string
}

var (
	startOrder = theirOrder{"start", "started", faultAlreadyStarted, theirInvalidArgs, nil, map[int]string{
		faultBadName: "no such process", faultNoFile: "no such file", faultNotExecutable: "file is not executable",
		faultAlreadyStarted: "already started", faultSpawn: "spawn error", faultAbnormal: "abnormal termination",
	}}
	stopOrder = theirOrder{"stop", "stopped", faultNotRunning, theirGeneric, nil, signalWords}

	signalWords = map[int]string{faultBadName: "no such process", faultBadSignal: "bad signal name", faultNotRunning: "not running"}
)

// result tells what came of one process.
func (t *theirs) result(o theirOrder, i processInfo) {
	switch words := o.words[i.status]; {
	case i.status == faultSuccess:
		t.say("%s: %s", i.spec(), o.done)
	case words != "":
		t.say("%s: ERROR (%s)", i.spec(), words)
	default:
		t.say("%s", i.description)
	}
	t.exitFor(i.status, o.ignored)
}

// order does it to processes, groups or all.
func (t *theirs) order(ctx context.Context, o theirOrder, names []string) error {
	if slices.Contains(names, "all") {
		results, err := t.call(ctx, o.verb+"AllProcesses", o.more...)
		for _, i := range infosOf(results) {
			t.result(o, i)
		}
		return err
	}
	for _, name := range names {
		group, process := splitSpec(name)
		method, called := o.verb+"Process", name
		if process == "" {
			method, called = o.verb+"ProcessGroup", group
		}
		results, err := t.call(ctx, method, append([]any{called}, o.more...)...)
		switch {
		case process == "" && code(err) == faultBadName:
			t.say("%s: ERROR (no such group)", group)
			t.exit = o.noGroup
		case code(err) != 0 && process != "":
			t.result(o, processInfo{group: group, name: process, status: code(err), description: textOf(err)})
		case err != nil:
			return err
		case process == "":
			for _, i := range infosOf(results) {
				t.result(o, i)
			}
		default:
			t.result(o, processInfo{group: group, name: process, status: faultSuccess})
		}
	}
	return nil
}

func textOf(err error) string {
	return strings.TrimPrefix(err.Error(), fmt.Sprintf("fault %d: ", code(err)))
}

// named demands at least one name.
func (t *theirs) named(ctx context.Context, verb, complaint, arg string, exit int) ([]string, error) {
	if err := t.up(ctx); err != nil {
		return nil, err
	}
	names := strings.Fields(arg)
	if len(names) == 0 {
		t.say("%s", complaint)
		t.exit = exit
		t.help(verb)
		return nil, errTold
	}
	return names, nil
}

func (t *theirs) start(ctx context.Context, arg string) error {
	names, err := t.named(ctx, "start", "Error: start requires a process name", arg, theirInvalidArgs)
	if err != nil {
		return err
	}
	return t.order(ctx, startOrder, names)
}

func (t *theirs) stop(ctx context.Context, arg string) error {
	names, err := t.named(ctx, "stop", "Error: stop requires a process name", arg, theirGeneric)
	if err != nil {
		return err
	}
	return t.order(ctx, stopOrder, names)
}

func (t *theirs) restart(ctx context.Context, arg string) error {
	names, err := t.named(ctx, "restart", "Error: restart requires a process name", arg, theirGeneric)
	if err != nil {
		return err
	}
	if err := t.order(ctx, stopOrder, names); err != nil {
		t.failed(err)
	}
	return t.order(ctx, startOrder, names)
}

func (t *theirs) signal(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		return err
	}
	args := strings.Fields(arg)
	if len(args) < 2 {
		t.fail("Error: signal requires a signal name and a process name")
		t.help("signal")
		return nil
	}
	return t.order(ctx, theirOrder{"signal", "signalled", 0, theirGeneric, []any{args[0]}, signalWords}, args[1:])
}

// tailArgs are the modifier, the name and the channel of tail.
func tailArgs(args []string) (modifier, name, channel string) {
	if strings.HasPrefix(args[0], "-") {
		modifier, args = args[0], args[1:]
	}
	channel = "stdout"
	if len(args) > 0 {
		name = args[0]
	}
	if len(args) > 1 {
		channel = strings.ToLower(args[len(args)-1])
	}
	return modifier, name, channel
}

func (t *theirs) tail(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		return err
	}
	args := strings.Fields(arg)
	if len(args) < 1 || len(args) > 3 {
		t.fail("Error: too %s arguments", map[bool]string{true: "few", false: "many"}[len(args) < 1])
		t.help("tail")
		return nil
	}
	modifier, name, channel := tailArgs(args)
	bytes, err := 1600, error(nil)
	switch {
	case name == "":
		t.failAs(control.Usage, "Error: tail requires process name")
		return nil
	case channel != "stdout" && channel != "stderr":
		t.failAs(control.Usage, "Error: bad channel '%s'", channel)
		return nil
	case modifier == "-f":
		return t.follow(ctx, name, channel)
	case modifier != "":
		if bytes, err = strconv.Atoi(modifier[1:]); err != nil {
			t.failAs(control.Usage, "Error: bad argument %s", modifier)
			return nil
		}
	}
	method := "readProcessStdoutLog"
	if channel == "stderr" {
		method = "readProcessStderrLog"
	}
	text, err := t.call(ctx, method, name, -bytes, 0)
	return t.logResult(name, text, err, "no such process name")
}

// logResult prints a log, or why there is none.
func (t *theirs) logResult(name string, text any, err error, unknown string) error {
	switch code(err) {
	case faultNoFile:
		t.failAs(control.NotFound, "%s: ERROR (no log file)", name)
	case faultFailed:
		t.fail("%s: ERROR (unknown error reading log)", name)
	case faultBadName:
		t.failAs(control.NotFound, "%s: ERROR (%s)", name, unknown)
	default:
		if err == nil {
			t.say("%v", text)
		}
		return err
	}
	return nil
}

// follow prints what a process writes until Ctrl-C.
func (t *theirs) follow(ctx context.Context, name, channel string) error {
	t.say("==> Press Ctrl-C to exit <==")
	text, err := t.cli.client().Logtail(ctx, name, channel)
	if err == nil {
		defer func() { _ = text.Close() }() // it was only read
		_, err = io.Copy(t.cli.out, text)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	t.say("")
	return nil
}

func (t *theirs) maintail(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		return err
	}
	args := strings.Fields(arg)
	if len(args) > 1 {
		t.fail("Error: too many arguments")
		t.help("maintail")
		return nil
	}
	bytes := 1600
	if len(args) == 1 && args[0] != "-f" {
		n, err := strconv.Atoi(strings.TrimPrefix(args[0], "-"))
		if err != nil || !strings.HasPrefix(args[0], "-") {
			t.failAs(control.Usage, "Error: bad argument %s", args[0])
			return nil
		}
		bytes = n
	}
	text, err := t.call(ctx, "readLog", -bytes, 0)
	if t.own {
		return err // which has the words for where the log is
	}
	return t.logResult("supervisord", text, err, "")
}

func (t *theirs) clear(ctx context.Context, arg string) error {
	names, err := t.named(ctx, "clear", "Error: clear requires a process name", arg, theirGeneric)
	if err != nil {
		return err
	}
	o := theirOrder{done: "cleared", words: map[int]string{faultBadName: "no such process", faultFailed: "failed"}}
	if slices.Contains(names, "all") {
		results, err := t.call(ctx, "clearAllProcessLogs")
		for _, i := range infosOf(results) {
			t.result(o, i)
		}
		return err
	}
	for _, name := range names {
		group, process := splitSpec(name)
		i := processInfo{group: group, name: process, status: faultSuccess}
		if _, err := t.call(ctx, "clearProcessLogs", name); err != nil {
			if i.status = code(err); i.status == 0 {
				return err
			}
		}
		t.result(o, i)
	}
	return nil
}

// none refuses arguments.
func (t *theirs) none(verb, arg string) bool {
	if arg == "" {
		return true
	}
	t.fail("Error: %s accepts no arguments", verb)
	t.help(verb)
	return false
}

// difference is what reloadConfig answers.
func difference(value any) (added, changed, removed []string) {
	outer, _ := value.([]any)
	if len(outer) != 1 {
		return nil, nil, nil
	}
	lists, _ := outer[0].([]any)
	var all [3][]string
	for i, list := range lists {
		names, _ := list.([]any)
		for _, name := range names {
			if text, ok := name.(string); ok && i < len(all) {
				all[i] = append(all[i], text)
			}
		}
	}
	return all[0], all[1], all[2]
}

func (t *theirs) reread(ctx context.Context, arg string) error {
	if !t.none("reread", arg) {
		return nil
	}
	value, err := t.call(ctx, "reloadConfig")
	switch code(err) {
	case faultShutdownPending:
		t.failAs(control.Unreachable, "ERROR: supervisor shutting down")
		return nil
	case faultCantReread:
		t.failAs(control.Rejected, "ERROR: %s", textOf(err))
		return nil
	}
	if err != nil {
		return err
	}
	words := make(map[string]string)
	added, changed, removed := difference(value)
	for word, names := range map[string][]string{"available": added, "changed": changed, "disappeared": removed} {
		for _, name := range names {
			words[name] = word
		}
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		t.say("%s: %s", name, words[name])
	}
	if len(words) == 0 {
		t.say("No config updates to processes")
	}
	return nil
}

func (t *theirs) update(ctx context.Context, arg string) error {
	value, err := t.call(ctx, "reloadConfig")
	if code(err) == faultShutdownPending {
		t.failAs(control.Unreachable, "ERROR: already shutting down")
		return nil
	}
	if err != nil {
		return err
	}
	added, changed, removed := difference(value)
	wanted := strings.Fields(arg)
	if slices.Contains(wanted, "all") {
		wanted = nil
	}
	if err := t.knownGroups(ctx, wanted, added); err != nil {
		return err
	}
	is := func(name string) bool { return len(wanted) == 0 || slices.Contains(wanted, name) }
	for _, name := range slices.DeleteFunc(removed, func(n string) bool { return !is(n) }) {
		if err := t.updateOne(ctx, name, "removed", "stopProcessGroup", "removeProcessGroup"); err != nil {
			return err
		}
	}
	for _, name := range slices.DeleteFunc(changed, func(n string) bool { return !is(n) }) {
		if err := t.updateOne(ctx, name, "updated", "stopProcessGroup", "removeProcessGroup", "addProcessGroup"); err != nil {
			return err
		}
	}
	for _, name := range slices.DeleteFunc(added, func(n string) bool { return !is(n) }) {
		if err := t.updateOne(ctx, name, "added", "addProcessGroup"); err != nil {
			return err
		}
	}
	return nil
}

// knownGroups complains of groups that there are not.
func (t *theirs) knownGroups(ctx context.Context, wanted, added []string) error {
	if len(wanted) == 0 {
		return nil
	}
	value, err := t.call(ctx, "getAllProcessInfo")
	groups := slices.Clone(added)
	for _, i := range infosOf(value) {
		groups = append(groups, i.group)
	}
	for _, name := range wanted {
		if err == nil && !slices.Contains(groups, name) {
			t.failAs(control.NotFound, "ERROR: no such group: %s", name)
		}
	}
	return err
}

// updateOne calls the methods for a group, one after the other.
func (t *theirs) updateOne(ctx context.Context, name, what string, methods ...string) error {
	for _, method := range methods {
		value, err := t.call(ctx, method, name)
		if err != nil {
			return err
		}
		if method != "stopProcessGroup" {
			continue
		}
		t.say("%s: stopped", name)
		failed := slices.ContainsFunc(infosOf(value), func(i processInfo) bool { return i.status == faultFailed })
		if failed && what == "removed" {
			t.fail("%s: has problems; not removing", name)
			return nil
		}
	}
	t.say("%s: %s process group", name, what)
	return nil
}

func (t *theirs) add(ctx context.Context, arg string) error {
	for name := range strings.FieldsSeq(arg) {
		_, err := t.call(ctx, "addProcessGroup", name)
		switch code(err) {
		case faultShutdownPending:
			t.failAs(control.Unreachable, "ERROR: shutting down")
		case faultAlreadyAdded:
			t.say("ERROR: process group already active")
		case faultBadName:
			t.failAs(control.NotFound, "ERROR: no such process/group: %s", name)
		default:
			if err != nil {
				return err
			}
			t.say("%s: added process group", name)
		}
	}
	return nil
}

func (t *theirs) remove(ctx context.Context, arg string) error {
	for name := range strings.FieldsSeq(arg) {
		_, err := t.call(ctx, "removeProcessGroup", name)
		switch code(err) {
		case faultStillRunning:
			t.failAs(control.Conflict, "ERROR: process/group still running: %s", name)
		case faultBadName:
			t.failAs(control.NotFound, "ERROR: no such process/group: %s", name)
		default:
			if err != nil {
				return err
			}
			t.say("%s: removed process group", name)
		}
	}
	return nil
}

func (t *theirs) avail(ctx context.Context, arg string) error {
	if !t.none("avail", arg) {
		return nil
	}
	value, err := t.call(ctx, "getAllConfigInfo")
	if err != nil {
		return err
	}
	all, _ := value.([]any)
	for _, one := range all {
		members, _ := one.(map[string]any)
		words := func(key, yes, no string) string {
			if members[key] == true {
				return yes
			}
			return no
		}
		t.say("%-32s %-9s %-9s %v:%v", infoOf(one).spec(), words("inuse", "in use", "avail"), words("autostart", "auto", "manual"), members["group_prio"], members["process_prio"])
	}
	return nil
}

func (t *theirs) reload(ctx context.Context, arg string) error {
	if !t.none("reload", arg) || !t.confirm("Really restart the remote supervisord process y/N? ") {
		return nil
	}
	if _, err := t.call(ctx, "restart"); err != nil {
		return err
	}
	t.say("Restarted supervisord")
	return nil
}

func (t *theirs) shutdown(ctx context.Context, arg string) error {
	if !t.none("shutdown", arg) || !t.confirm("Really shut the remote supervisord process down y/N? ") {
		return nil
	}
	_, err := t.call(ctx, "shutdown")
	if code(err) == faultShutdownPending {
		t.say("ERROR: already shutting down")
		return nil
	}
	if err != nil {
		return err
	}
	t.say("Shut down")
	return nil
}

func (t *theirs) version(ctx context.Context, arg string) error {
	if !t.none("version", arg) {
		return nil
	}
	if err := t.up(ctx); err != nil {
		return err
	}
	version, err := t.call(ctx, "getSupervisorVersion")
	if err == nil {
		t.say("%v", version)
	}
	return err
}

// open goes on with another socket.
func (t *theirs) open(ctx context.Context, arg string) error {
	path, isUnix := strings.CutPrefix(arg, "unix://")
	switch {
	case !isUnix && strings.HasPrefix(arg, "http://"):
		t.fail("ERROR: superd is on unix sockets only")
		return nil
	case !isUnix:
		t.fail("ERROR: url must be http:// or unix://")
		return nil
	}
	t.cli.socket = path
	was := t.exit
	err := t.status(ctx, "")
	t.exit = was
	return err
}

// fg shows what a process writes, and gives it what is typed.
func (t *theirs) fg(ctx context.Context, arg string) error {
	if err := t.up(ctx); err != nil {
		return err
	}
	names := strings.Fields(arg)
	if len(names) != 1 {
		t.fail("ERROR: %s supplied", map[bool]string{true: "no process name", false: "too many process names"}[len(names) == 0])
		if len(names) == 0 {
			t.help("fg")
		}
		return nil
	}
	value, err := t.call(ctx, "getProcessInfo", names[0])
	switch {
	case code(err) == faultBadName:
		t.failAs(control.NotFound, "ERROR: bad process name supplied")
		return nil
	case err != nil:
		return err
	case infoOf(value).statename != "RUNNING":
		t.failAs(control.Conflict, "ERROR: process not running")
		return nil
	}
	ctx, leave := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() {
		if err := t.follow(ctx, names[0], "stdout"); err != nil && ctx.Err() == nil {
			t.say("ERROR: %v", err)
		}
	})
	defer following.Wait()
	defer leave()
	t.typed(ctx, names[0])
	return nil
}

// typed gives lines to a process until there are none, or it is gone.
func (t *theirs) typed(ctx context.Context, name string) {
	err := eachTyped(ctx, os.Stdin, func(line string) error {
		_, err := t.call(ctx, "sendProcessStdin", name, line)
		return err
	})
	switch {
	case code(err) == faultNotRunning:
		t.say("Process got killed")
	case err != nil && ctx.Err() == nil:
		t.say("ERROR: %s", textOf(err))
	}
	t.say("Exiting foreground")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"superd/control"
	"superd/control/xmlrpc"
)

// superctl --compat VERB prints and exits as supervisorctl 4.2 does, so that playbooks
// and scripts go on working. It is the same program written anew, over the same calls:
// what is odd in it is odd there.

// Exit codes of supervisorctl: several of them mean two things.
const (
	theirGeneric       = 1
	theirInvalidArgs   = 2
	theirStatusStopped = 3
	theirStatusUnknown = 4
	theirRefused       = 4
	theirNotRunning    = 7
)

// The faults that it tells apart.
const (
	faultBadName         = 10
	faultBadSignal       = 11
	faultNoFile          = 20
	faultNotExecutable   = 21
	faultFailed          = 30
	faultAbnormal        = 40
	faultSpawn           = 50
	faultAlreadyStarted  = 60
	faultNotRunning      = 70
	faultSuccess         = 80
	faultAlreadyAdded    = 90
	faultStillRunning    = 91
	faultCantReread      = 92
	faultShutdownPending = 6
)

// theirs is supervisorctl: one for a command line, or for all lines of a prompt.
type theirs struct {
	cli         *cli
	interactive bool
	ask         func(question string) string // at a prompt
	exit        int
	own         bool // without --compat: complaints go where superctl's go, exit codes are superctl's
}

// compatArgs finds --compat before the verb; the rest of the line is supervisorctl's.
func (c *cli) compatArgs(args []string) (rest []string, found bool) {
	c.socket = usualSocket()
	for i := 0; i < len(args); i++ {
		value, hasValue := strings.CutPrefix(args[i], "--socket=")
		switch {
		case args[i] == "--compat":
			return append(rest, args[i+1:]...), true
		case hasValue:
			c.socket = value
		case args[i] == "--socket" && i+1 < len(args):
			i++
			c.socket = args[i]
		default:
			return nil, false
		}
	}
	return nil, false
}

// compat runs one line of supervisorctl's.
func (c *cli) compat(ctx context.Context, args []string) int {
	t := &theirs{cli: c}
	for len(args) > 1 && (args[0] == "--socket" || args[0] == "-s" || args[0] == "-c") {
		if args[0] != "-c" {
			c.socket = strings.TrimPrefix(args[1], "unix://")
		}
		args = args[2:]
	}
	if len(args) == 0 {
		return c.prompt(ctx)
	}
	t.line(ctx, strings.Join(args, " "))
	return t.exit
}

func (t *theirs) say(format string, args ...any) { fmt.Fprintf(t.cli.out, format+"\n", args...) }

// fail says something and exits with 1.
func (t *theirs) fail(format string, args ...any) { t.failAs(control.Internal, format, args...) }

// failAs is fail where superctl's own exit code is another.
func (t *theirs) failAs(kind control.Kind, format string, args ...any) {
	if t.own {
		fmt.Fprintln(t.cli.talk, "superctl:", tame(fmt.Sprintf(format, args...)))
	} else {
		t.say(format, args...)
	}
	t.exitAs(kind, theirGeneric)
}

// exitAs sets the exit code: superctl's is that of the first failure, supervisorctl's of
// the last.
func (t *theirs) exitAs(kind control.Kind, theirs int) {
	switch {
	case !t.own:
		t.exit = theirs
	case t.exit == 0:
		t.exit = kind.Exit()
	}
}

func (t *theirs) url() string { return "unix://" + t.cli.socket }

// line does what one line says. True ends a prompt.
func (t *theirs) line(ctx context.Context, line string) bool {
	line = strings.TrimSpace(line)
	if line == "" {
		return false
	}
	if line[0] == '?' {
		line = "help " + line[1:]
	}
	verb, arg, _ := strings.Cut(line, " ")
	arg = strings.TrimSpace(arg)
	do, ok := theirVerbs()[verb]
	switch {
	case verb == "exit" || verb == "quit":
		return true
	case verb == "help":
		t.help(arg)
	case !ok:
		t.fail("*** Unknown syntax: %s", line)
	default:
		if err := do(t, ctx, arg); err != nil {
			t.failed(err)
		}
	}
	return false
}

// failed tells of an error that the verb has no words for.
func (t *theirs) failed(err error) {
	if f, ok := errors.AsType[*xmlrpc.Fault](err); ok {
		t.fail("error: <Fault %d: '%s'>", f.Code, f.Text)
		return
	}
	if errors.Is(err, errTold) {
		return
	}
	t.fail("error: %v", err)
}

// errTold: it was said already, and the exit code set.
var errTold = errors.New("it was told")

// call calls a method of supervisord's.
func (t *theirs) call(ctx context.Context, method string, params ...any) (any, error) {
	return t.cli.client().Supervisor(ctx, "supervisor."+method, params...)
}

// up tells first whether superd is there, as supervisorctl does.
func (t *theirs) up(ctx context.Context) error {
	_, err := t.call(ctx, "getVersion")
	if err == nil || t.own {
		return err
	}
	if failed, ok := errors.AsType[*control.Error](err); !ok || failed.Kind != control.Unreachable {
		return err
	}
	if _, missing := os.Stat(t.cli.socket); missing != nil {
		t.say("%s no such file", t.url())
		t.exit = theirNotRunning
		return errTold
	}
	t.say("%s refused connection", t.url())
	t.exit = theirRefused
	return errTold
}

// A processInfo is what it looks at of getProcessInfo, or of the result of a verb.
type processInfo struct {
	group, name, statename, description string
	state, pid, status                  int
}

func infoOf(value any) processInfo {
	members, _ := value.(map[string]any)
	text := func(key string) string { s, _ := members[key].(string); return s }
	number := func(key string) int { n, _ := members[key].(int); return n }
	return processInfo{text("group"), text("name"), text("statename"), text("description"), number("state"), number("pid"), number("status")}
}

func infosOf(value any) []processInfo {
	all, _ := value.([]any)
	infos := make([]processInfo, len(all))
	for i, one := range all {
		infos[i] = infoOf(one)
	}
	return infos
}

func (i processInfo) spec() string {
	if i.group == i.name {
		return i.name
	}
	return i.group + ":" + i.name
}

// splitSpec is split_namespec: the process is "" for a whole group.
func splitSpec(spec string) (group, process string) {
	group, process, grouped := strings.Cut(spec, ":")
	switch {
	case !grouped:
		return spec, spec
	case process == "*":
		return group, ""
	}
	return group, process
}

// code is the fault in an error, 0 for none.
func code(err error) int {
	if f, ok := errors.AsType[*xmlrpc.Fault](err); ok {
		return f.Code
	}
	return 0
}

// exitFor is set_exitstatus_from_xmlrpc_fault.
func (t *theirs) exitFor(fault, ignored int) {
	switch fault {
	case faultSuccess, ignored:
	case faultSpawn, faultAbnormal, faultNotRunning:
		t.exit = theirNotRunning
	default:
		t.exit = theirGeneric
	}
}

// confirm asks before something that cannot be undone, at a prompt only.
func (t *theirs) confirm(question string) bool {
	if !t.interactive {
		return true
	}
	return strings.HasPrefix(strings.ToLower(t.ask(question)), "y")
}

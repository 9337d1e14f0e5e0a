package main

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"superd/control"
	"superd/control/xmlrpc"
)

// Verbs of supervisorctl that superctl has no other word for. They do and print what
// they do there, also without --compat; then they complain and exit as superctl does.

// A habit is one of them.
type habit struct {
	use, short  string
	least, most int
	takes       string
	json        string // what has JSON in its stead
}

var habits = []habit{
	{"pid [NAME…|all]", "print the PID of superd, or of processes", 0, -1, "names", "superctl status --json"},
	{"tail [-f|-BYTES] NAME [stdout|stderr]", "print the end of what a process wrote; see also logs", 1, 3, "NAME and stdout or stderr", "superctl logs --json NAME"},
	{"maintail [-f|-BYTES]", "tell where superd's own log is", 0, 1, "-f or -BYTES", "superctl events --json"},
	{"fg NAME", "show what a process writes, and give it what is typed; see also attach", 1, 1, "one NAME of a process", "superctl logs -f --json NAME"},
	{"avail", "print every process by supervisord's name for it", 0, 0, "no argument", "superctl status --json"},
	{"reread", "tell what a new configuration would change; see also reload --plan", 0, 0, "no argument", "superctl reload --plan --json"},
	{"update [GROUP…|all]", "make a new configuration hold, stopping what it changes; reload does not stop it", 0, -1, "names of groups", "superctl reload --json"},
	{"add GROUP…", "make a new configuration hold, and start a group", 1, -1, "GROUP", "superctl reload --json"},
	{"remove GROUP…", "make a new configuration hold that has a group no longer", 1, -1, "GROUP", "superctl reload --json"},
}

func (c *cli) habits() []*cobra.Command {
	var all []*cobra.Command
	for _, h := range habits {
		all = append(all, &cobra.Command{
			Use: h.use, Short: h.short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				args = c.ownFlags(args)
				if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
					return cmd.Help()
				}
				if c.json {
					return &control.Error{Kind: control.Usage, Message: cmd.CommandPath() + " has no JSON to print", Hint: h.json}
				}
				if err := arguments(h.least, h.most, h.takes)(cmd, args); err != nil {
					return err
				}
				t := &theirs{cli: c, own: true}
				err := theirVerbs()[cmd.Name()](t, cmd.Context(), strings.Join(args, " "))
				return t.ownError(err)
			},
		})
	}
	return all
}

// ownFlags takes superctl's own flags away: --socket stands before what is the verb's,
// --json anywhere.
func (c *cli) ownFlags(args []string) []string {
	c.json = c.json || slices.Contains(args, "--json")
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "--json" })
	for len(args) > 0 {
		socket, isSocket := strings.CutPrefix(args[0], "--socket=")
		switch {
		case isSocket:
			c.socket, args = socket, args[1:]
		case args[0] == "--socket" && len(args) > 1:
			c.socket, args = args[1], args[2:]
		default:
			return args
		}
	}
	return args
}

// ownError is what superctl says and exits with when a verb of supervisorctl's ended so.
func (t *theirs) ownError(err error) error {
	if f, ok := errors.AsType[*xmlrpc.Fault](err); ok {
		_, about, _ := strings.Cut(f.Text, ": ") // behind supervisord's word for it
		return &control.Error{Kind: kindOfFault(f.Code), Message: cmp.Or(about, f.Text)}
	}
	if err == nil && t.exit != 0 {
		return exit(t.exit)
	}
	return err
}

func kindOfFault(fault int) control.Kind {
	switch fault {
	case faultBadName, faultNoFile:
		return control.NotFound
	case faultShutdownPending:
		return control.Unreachable
	case faultNotRunning, faultStillRunning:
		return control.Conflict
	case faultCantReread:
		return control.Rejected
	}
	return control.Internal
}

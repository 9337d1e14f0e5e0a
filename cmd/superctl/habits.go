package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// Verbs of supervisorctl that superctl has no other word for. They do and print what
// they do there, also without --compat.

func (c *cli) habits() []*cobra.Command {
	var all []*cobra.Command
	for _, v := range []struct{ use, short string }{
		{"pid [NAME…|all]", "print the PID of superd, or of processes"},
		{"tail [-f|-BYTES] NAME [stdout|stderr]", "print the end of what a process wrote; see also logs"},
		{"maintail [-f|-BYTES]", "tell where superd's own log is"},
		{"fg NAME", "show what a process writes, and give it what is typed; see also attach"},
		{"avail", "print every process by supervisord's name for it"},
		{"reread", "tell what a new configuration would change; see also reload --plan"},
		{"update [GROUP…|all]", "make a new configuration hold, stopping what it changes; reload does not stop it"},
		{"add GROUP…", "make a new configuration hold, and start a group"},
		{"remove GROUP…", "make a new configuration hold that has a group no longer"},
	} {
		verb, _, _ := strings.Cut(v.use, " ")
		all = append(all, &cobra.Command{
			Use: v.use, Short: v.short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				args = c.ownFlags(args)
				if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
					return cmd.Help()
				}
				t := &theirs{cli: c}
				t.line(cmd.Context(), strings.Join(append([]string{verb}, args...), " "))
				if t.exit != 0 {
					return exit(t.exit)
				}
				return nil
			},
		})
	}
	return all
}

// ownFlags takes superctl's own flags away, which stand before what is the verb's.
func (c *cli) ownFlags(args []string) []string {
	for len(args) > 0 {
		socket, isSocket := strings.CutPrefix(args[0], "--socket=")
		switch {
		case isSocket:
			c.socket, args = socket, args[1:]
		case args[0] == "--socket" && len(args) > 1:
			c.socket, args = args[1], args[2:]
		case args[0] == "--json":
			args = args[1:] // they have no other form
		default:
			return args
		}
	}
	return args
}

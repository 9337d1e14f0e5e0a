// Command superctl talks to a running superd over its control socket: it shows what
// runs, switches apps between releases and back, and controls single processes.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"superd/config"
	"superd/control"
)

// Set by the linker.
var version, commit, date = "devel", "unknown", "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &cli{out: os.Stdout, talk: os.Stderr, terminal: term.IsTerminal(int(os.Stdout.Fd()))}
	os.Exit(c.run(ctx, os.Args[1:]))
}

// cli is one invocation: where it prints and how. Data goes to out, talk to talk.
type cli struct {
	out, talk io.Writer
	terminal  bool // out is one

	socket string
	json   bool
	app    string
}

// run executes one command line and returns its exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	if rest, compat := c.compatArgs(args); compat {
		return c.compat(ctx, rest)
	}
	root := c.command()
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.talk)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if said, ok := errors.AsType[exit](err); ok {
		return int(said)
	}
	failed, ok := errors.AsType[*control.Error](err)
	if !ok {
		failed = &control.Error{Kind: control.KindOf(err), Message: err.Error()}
	}
	c.complain(failed)
	return failed.Kind.Exit()
}

// exit is an error that has been told already, and only has its code left to say.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func (c *cli) complain(e *control.Error) {
	if c.json {
		_ = json.NewEncoder(c.out).Encode(control.ErrorAnswer{Error: *e}) // nobody is left to tell
		return
	}
	fmt.Fprintln(c.talk, "superctl:", tame(e.Message))
	if e.Hint != "" {
		fmt.Fprintln(c.talk, "  hint:", tame(e.Hint))
	}
}

func usage(format string, args ...any) error {
	return &control.Error{Kind: control.Usage, Message: fmt.Sprintf(format, args...)}
}

func (c *cli) client() *control.Client { return control.NewClient(c.socket) }

func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "superctl",
		Short:         "control a running superd",
		Long:          "superctl controls a running superd: releases, processes, logs.\n\nExit codes: 0 as asked, 1 internal, 2 usage, 3 rolled back and the site is fine, 4 degraded,\n5 rejected and nothing changed, 6 conflict, 7 still going on, 8 superd not reachable,\n9 not permitted, 10 no such thing.",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &control.Error{Kind: control.Usage, Message: fmt.Sprintf("unknown command %q", args[0]), Hint: "superctl --help lists them"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.terminal && term.IsTerminal(int(os.Stdin.Fd())) {
				return exit(c.prompt(cmd.Context()))
			}
			return errors.Join(cmd.Help(), exit(control.Usage.Exit()))
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &control.Error{Kind: control.Usage, Message: err.Error(), Hint: cmd.CommandPath() + " --help"}
	})
	socket := usualSocket()
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", socket, "the control `SOCKET` of superd; also SUPERD_SOCKET")
	flags.BoolVar(&c.json, "json", false, "print JSON, for programs")
	flags.Bool("compat", false, "before the verb: take the verbs of supervisorctl, print and exit as it does")
	root.AddCommand(c.statusCommand(), c.switchCommand(), c.rollbackCommand(), c.abortCommand(), c.holdCommand(), c.resumeCommand(),
		c.releasesCommand(), c.historyCommand(), c.startCommand(), c.stopCommand(), c.restartCommand(), c.signalCommand(),
		c.scaleCommand(), c.logsCommand(), c.eventsCommand(), c.metricsCommand(), c.topCommand(), c.checkCommand(), c.reloadCommand(), c.doctorCommand(), c.shutdownCommand(), c.versionCommand())
	root.AddCommand(c.upgradeCommand())
	root.AddCommand(c.importCommand())
	root.AddCommand(c.attachCommand(), c.clearCommand())
	root.AddCommand(c.habits()...)
	return root
}

// usualSocket is where superd is spoken to unless --socket says something else.
func usualSocket() string { return cmp.Or(os.Getenv("SUPERD_SOCKET"), config.UsualSocket()) }

// arguments demands from least to most of them; what says which. None is empty: that is
// a script whose variable is not set, and must not mean the same as no argument.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch empty := slices.Index(args, ""); {
		case empty >= 0:
			return usage("%s was given an empty name as argument %d", cmd.CommandPath(), empty+1)
		case len(args) < least:
			return usage("%s needs %s", cmd.CommandPath(), what)
		case most >= 0 && len(args) > most:
			return usage("%s takes %s, got %q beside it", cmd.CommandPath(), what, args[most])
		}
		return nil
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the versions of superctl and, if it runs, superd",
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := c.client().Status(cmd.Context())
			if c.json {
				return c.print(map[string]string{"superctl": version, "commit": commit, "date": date, "superd": status.Version})
			}
			fmt.Fprintf(c.out, "superctl %s (commit %s, %s)\n", version, commit, date)
			if err == nil {
				fmt.Fprintf(c.out, "superd   %s (pid %d)\n", status.Version, status.PID)
			}
			return nil
		},
	}
}

// Command superd supervises PHP applications: it keeps PHP-FPM and the queue
// workers of each app up and moves both from one release to another and back.
//
// People start it as `superd run --config FILE`. That checks the configuration and
// becomes the keeper, by exec; the keeper starts `superd serve`, which is the
// daemon proper and may die and come back at any moment.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"superd/config"
	"superd/supervisor/keeper"
)

// Set by the linker.
var version, commit, date = "devel", "unknown", "unknown"

// Exit codes, as in the control contract.
const (
	exitInternal = 1
	exitUsage    = 2
	exitRejected = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, "superd:", err)
	}
	os.Exit(exitCode(err))
}

// coded is an error that knows its exit code.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

func exitCode(err error) int {
	var c coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c):
		return c.code
	}
	return exitInternal
}

func usage(err error) error { return coded{err, exitUsage} }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "superd",
		Short:         "supervise PHP applications and switch them between releases",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(fmt.Errorf("unknown command %q; see superd --help", args[0]))
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			return usage(errors.Join(c.Help(), errors.New("name a command, such as: superd run --config /etc/superd/superd.toml")))
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand(), serveCommand(), checkCommand(), versionCommand())
	return root
}

const defaultConfig = "/etc/superd/superd.toml"

func runCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "run", Short: "run superd in the foreground",
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return becomeKeeper(file) },
	}
	c.Flags().StringVarP(&file, "config", "c", defaultConfig, "the configuration `FILE`")
	return c
}

func serveCommand() *cobra.Command {
	var file, state string
	c := &cobra.Command{
		Use: "serve", Short: "the daemon proper, started by superd-keeper", Hidden: true,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), file, state) },
	}
	c.Flags().StringVarP(&file, "config", "c", defaultConfig, "the configuration `FILE`")
	c.Flags().StringVar(&state, "state", "", "the `DIRECTORY` where the last good configuration is")
	return c
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "tell everything that is wrong with a configuration file",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("name the configuration file: superd check FILE"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := load(args[0])
			if err != nil {
				return err
			}
			fmt.Printf("%s: fine (%d apps, %d files)\n", args[0], len(cfg.Apps), len(cfg.Files))
			return nil
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version",
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Printf("superd %s (commit %s, %s)\n", version, commit, date)
			return err
		},
	}
}

func noArgs(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case c.Flags().Lookup("config") != nil:
		return usage(fmt.Errorf("%s takes no argument, got %q; a configuration file is told with --config", c.CommandPath(), args[0]))
	}
	return usage(fmt.Errorf("%s takes no argument, got %q", c.CommandPath(), args[0]))
}

// load reads the configuration and prints what is wrong with it, or worth telling,
// one line each.
func load(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return nil, coded{errors.New("the configuration is refused; nothing was started or changed"), exitRejected}
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	for _, u := range cfg.Unset(os.LookupEnv) {
		fmt.Fprintln(os.Stderr, "warning:", u)
	}
	return cfg, nil
}

// becomeKeeper replaces this process by the keeper, which starts `superd serve`.
// The configuration is checked first, so that a bad one starts nothing.
func becomeKeeper(file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	cfg, err := load(file)
	if err != nil {
		return err
	}
	if err := tooFewDescriptors(mostProcesses(cfg, configuredSize)); err != nil {
		return coded{fmt.Errorf("%w; nothing was started", err), exitRejected}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find myself: %w", err)
	}
	program, err := findKeeper(self)
	if err != nil {
		return err
	}
	if err := makeDirectories(cfg); err != nil {
		return coded{fmt.Errorf("%w\nnothing was started", err), exitRejected}
	}
	argv := []string{program, "run", "--socket", keeperSocket(cfg), "--", self, "serve", "--config", file, "--state", cfg.StateDir}
	keeper.Relax()
	return fmt.Errorf("become %s: %w", program, syscall.Exec(program, argv, os.Environ()))
}

func keeperSocket(cfg *config.Config) string { return filepath.Join(cfg.RunDir, "keeper.sock") }

// findKeeper looks beside superd, then where packages put it.
func findKeeper(self string) (string, error) {
	places := []string{filepath.Join(filepath.Dir(self), "superd-keeper"), "/usr/lib/superd/superd-keeper"}
	for _, place := range places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return place, nil
		}
	}
	return "", fmt.Errorf("superd-keeper is neither %s nor %s; install it there", places[0], places[1])
}

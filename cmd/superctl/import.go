package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"superd/config/supervisord"
	"superd/control"
)

func (c *cli) importCommand() *cobra.Command {
	var output string
	var apps bool
	cmd := &cobra.Command{
		Use: "import SUPERVISORD.CONF", Short: "make a superd.toml of a supervisord.conf, and tell what will be different; needs no superd",
		Long: "import reads a supervisord.conf and what it includes as supervisord itself reads them, and\n" +
			"prints a superd.toml that means the same. What cannot mean the same, or is left out, is told\n" +
			"by file, line and key. Variables in %(ENV_NAME)s are those import is run with.",
		Args: arguments(1, 1, "one SUPERVISORD.CONF"),
		RunE: func(_ *cobra.Command, args []string) error { return c.importFile(args[0], output, apps) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to `FILE` instead of standard output, which is also -; a file that is there already is not overwritten")
	cmd.Flags().BoolVar(&apps, "apps", false, "make PHP workers below a link called current workers of an app, which superctl switch moves between releases")
	return cmd
}

func (c *cli) importFile(path, output string, apps bool) error {
	if output == "-" {
		output = ""
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("look up the name of this host: %w", err)
	}
	opts := supervisord.Options{LookupEnv: os.LookupEnv, Host: host, UserKnown: userKnown, GroupKnown: groupKnown, Apps: apps, Version: version}
	conf, err := supervisord.Read(path, opts)
	if refused, ok := errors.AsType[supervisord.Errors](err); ok {
		return c.importRefused(refused)
	}
	if err != nil {
		return err
	}
	result := supervisord.Convert(conf, opts)
	if err := write(output, result.TOML); err != nil {
		return err
	}
	if c.json {
		return c.importJSON(result, output)
	}
	for _, f := range result.Findings {
		fmt.Fprintln(c.talk, f)
	}
	fmt.Fprintf(c.talk, "%s, %s to read above; superctl check FILE tells whether the result is fine on this machine\n", counted(len(result.Programs), "program"), counted(len(result.Findings), "difference"))
	if output == "" {
		_, err = fmt.Fprint(c.out, result.TOML)
	}
	return err
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// importRefused tells why supervisord itself does not take the file.
func (c *cli) importRefused(refused supervisord.Errors) error {
	if c.json {
		err := c.print(struct {
			OK       bool               `json:"ok"`
			Problems supervisord.Errors `json:"problems"`
		}{Problems: refused})
		return errors.Join(err, exit(control.Rejected.Exit()))
	}
	for _, e := range refused {
		fmt.Fprintln(c.talk, e)
	}
	fmt.Fprintln(c.talk, "supervisord does not start from this file either; mend it, and import again")
	return exit(control.Rejected.Exit())
}

// importJSON leaves the TOML out when it is in a file.
func (c *cli) importJSON(r *supervisord.Result, output string) error {
	toml := r.TOML
	if output != "" {
		toml = ""
	}
	return c.print(struct {
		OK       bool                  `json:"ok"`
		TOML     string                `json:"toml,omitempty"`
		Programs map[string][]string   `json:"programs"`
		Refused  []string              `json:"refused"`
		Replaced []string              `json:"replaced"`
		Findings []supervisord.Finding `json:"findings"`
	}{true, toml, r.Programs, append([]string{}, r.Refused...), append([]string{}, r.Replaced...), append([]supervisord.Finding{}, r.Findings...)})
}

// write makes a file that only its owner reads, for env may have secrets in it. What
// is there already is not touched, unless it is no file, such as /dev/null.
func write(path, text string) error {
	if path == "" {
		return nil
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		flags = os.O_WRONLY
	}
	f, err := os.OpenFile(path, flags, 0o640)
	if errors.Is(err, os.ErrExist) {
		return &control.Error{Kind: control.Conflict, Message: path + " is there already, and is not overwritten", Hint: "name another file with -o, or move this one away"}
	}
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func userKnown(name string) bool {
	if _, err := user.Lookup(name); err == nil {
		return true
	}
	_, notNumber := strconv.ParseUint(name, 10, 32)
	_, err := user.LookupId(name)
	return notNumber == nil && err == nil
}

func groupKnown(name string) bool {
	if _, err := user.LookupGroup(name); err == nil {
		return true
	}
	_, notNumber := strconv.ParseUint(name, 10, 32)
	_, err := user.LookupGroupId(name)
	return notNumber == nil && err == nil
}

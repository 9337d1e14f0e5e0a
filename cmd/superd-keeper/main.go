// Command superd-keeper is the parent of superd and of everything superd runs. It
// is small and almost never replaced, so that superd may be, at any moment.
//
// People do not start it: `superd run` becomes it.
package main

import (
	"os"
	"strconv"

	"superd/supervisor/keeper"
)

// Set by the linker.
var version, commit, date = "devel", "unknown", "unknown"

const exitUsage = 2

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 0 {
		return usage("name a command")
	}
	switch args[0] {
	case "run":
		o, problem := options(args[1:])
		if problem != "" {
			return usage(problem)
		}
		code, err := keeper.Run(o)
		if err != nil {
			return fail(err.Error(), 1)
		}
		return code
	case "stage":
		if len(args) == 2 {
			if files, err := strconv.Atoi(args[1]); err == nil && files >= 0 {
				return keeper.Stage(files)
			}
		}
		return usage("stage is for the keeper itself")
	case "version":
		_, err := os.Stdout.WriteString("superd-keeper " + version + " (commit " + commit + ", " + date + ")\n")
		if err != nil {
			return 1
		}
		return 0
	}
	return usage("unknown command " + strconv.Quote(args[0]))
}

// options reads: --socket PATH -- PROGRAM ARGS…
func options(args []string) (o keeper.Options, problem string) {
	switch {
	case len(args) < 2 || args[0] != "--socket" || args[1] == "":
		return o, "name the socket with --socket PATH"
	case len(args) < 4 || args[2] != "--":
		return o, "name superd's command after --"
	}
	return keeper.Options{Socket: args[1], Argv: args[3:]}, ""
}

func usage(problem string) int {
	return fail(problem+"\nusage: superd-keeper run --socket PATH -- PROGRAM ARGS…\n       superd-keeper version", exitUsage)
}

func fail(text string, code int) int {
	_, _ = os.Stderr.WriteString("superd-keeper: " + text + "\n") // there is nobody else to tell
	return code
}

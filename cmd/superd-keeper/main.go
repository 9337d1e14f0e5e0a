// Command superd-keeper is the parent of superd and of everything superd runs. It
// is small and almost never replaced, so that superd may be, at any moment.
//
// People do not start it: `superd run` becomes it.
package main

import (
	"os"
	"strconv"
	"strings"

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
	case "resume":
		return resume(args[1:])
	case "check-state":
		if err := keeper.CheckState(3); err != nil {
			return fail(err.Error(), 1)
		}
		return 0
	case "stop-post":
		if err := keeper.Stopped(os.Getenv("SERVICE_RESULT")); err != nil {
			return fail(err.Error(), 1)
		}
		return 0
	case "version":
		_, err := os.Stdout.WriteString("superd-keeper " + version + " (commit " + commit + ", " + date + ")\n")
		if err != nil {
			return 1
		}
		return 0
	}
	return usage("unknown command " + strconv.Quote(args[0]))
}

// resume goes on in the place of an older program of this process.
func resume(args []string) int {
	if len(args) == 0 {
		return usage("resume is for the keeper itself")
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil || fd < 3 {
		return usage("resume is for the keeper itself")
	}
	o, problem := options(args[1:])
	if problem != "" {
		return usage(problem)
	}
	code, err := keeper.Resume(o, fd)
	if err != nil {
		return fail("go on in the place of another keeper: "+err.Error(), 1)
	}
	return code
}

// self is where this program is on disk, also when it was started by a name that is
// not a path.
func self() string {
	path, err := os.Executable()
	if err != nil || strings.HasPrefix(os.Args[0], "/") {
		return os.Args[0]
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// options reads: --socket PATH -- PROGRAM ARGS…
func options(args []string) (o keeper.Options, problem string) {
	switch {
	case len(args) < 2 || args[0] != "--socket" || args[1] == "":
		return o, "name the socket with --socket PATH"
	case len(args) < 4 || args[2] != "--":
		return o, "name superd's command after --"
	}
	return keeper.Options{Socket: args[1], Argv: args[3:], Self: self(), Version: version}, ""
}

func usage(problem string) int {
	return fail(problem+"\nusage: superd-keeper run --socket PATH -- PROGRAM ARGS…\n       superd-keeper version", exitUsage)
}

func fail(text string, code int) int {
	_, _ = os.Stderr.WriteString("superd-keeper: " + text + "\n") // there is nobody else to tell
	return code
}

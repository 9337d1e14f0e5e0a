package main

import (
	"os"
	"strings"
	"syscall"
)

// failpoint is where a test ends superd, its keeper, or both: see
// docs/decisions/0004-failpoints.md. The file has the name of a point and, after a space,
// who is to be killed there.
func failpoint() func(string) {
	file := os.Getenv("SUPERD_FAILPOINT")
	if file == "" {
		return nil
	}
	return func(name string) {
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		wanted, who, _ := strings.Cut(strings.TrimRight(string(text), " \n"), " ")
		if wanted != name || os.Remove(file) != nil {
			return
		}
		if who == "keeper" || who == "both" {
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL) // the test sees whether it is gone
		}
		if who != "keeper" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing is left to say so
			select {}
		}
	}
}

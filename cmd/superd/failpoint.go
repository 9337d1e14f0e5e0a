package main

import (
	"os"
	"strings"
	"syscall"
)

// failpoint is where a test ends superd, its keeper, or both, or holds superd: see
// docs/decisions/0004-failpoints.md. The file has the name of a point and, after a space,
// what is to happen there.
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
		wanted, what, _ := strings.Cut(strings.TrimRight(string(text), " \n"), " ")
		if wanted != name || os.Remove(file) != nil {
			return
		}
		switch what { // no error is told: the test sees who is gone
		case "stop":
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		case "panic":
			panic("failpoint " + name)
		case "keeper":
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
		case "both":
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
			fallthrough
		default:
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

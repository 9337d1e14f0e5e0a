package keeper

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Go raises the soft limit of open files when it starts, and puts it back in whatever
// package syscall execs. It tells nobody what the limit was (golang.org/issue/46279), and
// the stage, which execs by itself, has to put it back too.

// givenFiles is the limit of open files that the keeper was started with, or its own where
// that can't be found out.
func givenFiles() unix.Rlimit {
	given, err := askFiles()
	if err == nil {
		return given
	}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &given)
	say("the limit of open files that it was started with: " + err.Error() + ": children get " + itoa(int(given.Cur)))
	return given
}

// askFiles starts a program and looks at the limit that it was given. Package syscall
// gives it to every program that it starts, and a program of Go's that can't read
// GOMEMLIMIT ends before it raises it (runtime/mgcpacer.go, readGOMEMLIMIT): what is left
// of such a one until it is reaped has the limit still.
func askFiles() (unix.Rlimit, error) {
	const none = ^uintptr(0)
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"superd-keeper", "version"}, &syscall.ProcAttr{
		Env: []string{"GOMEMLIMIT=none", "GOTRACEBACK=none"}, Files: []uintptr{none, none, none},
	})
	if err != nil {
		return unix.Rlimit{}, err
	}
	for {
		err = unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var given unix.Rlimit
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &given)
	}
	var status syscall.WaitStatus
	for {
		_, gone := syscall.Wait4(pid, &status, 0, nil)
		if !errors.Is(gone, unix.EINTR) {
			err = errors.Join(err, gone)
			break
		}
	}
	const refused = 2 // of the runtime
	if err == nil && status.ExitStatus() != refused {
		err = errors.New("it ended with " + itoa(status.ExitStatus()))
	}
	return given, err
}

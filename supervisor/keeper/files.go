package keeper

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Go raises the soft limit of open files when it starts, and puts it back in whatever
// package syscall execs. It tells nobody what the limit was (golang.org/issue/46279), and
// the stage, which execs by itself, has to put it back too.

// openFiles are the limits of open files: that which this process was given, and that which
// Go has made of it.
type openFiles struct {
	given, raised unix.Rlimit
	known         bool
}

// learn finds out what there is to know. Where nothing can be started just now it is tried
// again with the next child, which gets the keeper's own limit if that fails too.
func (f *openFiles) learn() {
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &f.raised)
	if err == nil {
		f.given, err = askFiles()
	}
	if f.known = err == nil; !f.known {
		say("the limit of open files that it was started with: " + err.Error())
	}
}

// forChild is the limit that a child gets if its specification names none, and empty if that is
// the keeper's: also if somebody has set that since (prlimit(1)).
func (f *openFiles) forChild() []unix.Rlimit {
	if !f.known {
		f.learn()
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || !f.known || now != f.raised {
		return nil
	}
	return []unix.Rlimit{f.given}
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

package keeper

import (
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Go's runtime has a thread of its own (sysmon) that looks after the others: while
// anything is awake it sleeps for 20 µs, looks, and sleeps again. The keeper has nothing
// that needs it, and wakes for a moment only, a hundred times a second when children crash
// in a loop; half of its processor time was this thread's then.
//
// How much later than asked for the kernel may wake a thread is the thread's timer slack,
// 50 µs if nobody says otherwise (prctl(2)). A thread takes it over from the one that makes
// it, and exec leaves it as it is. That thread is there before main is, so it is who
// becomes the keeper that asks for more: see Relax. What the keeper starts gets what the
// keeper itself was given; only the main thread knows, which has kept it as its default.
// What it costs and what it brings: docs/decisions/0035-timer-slack.md.

// Slacks, in nanoseconds.
const (
	relaxed = 5_000_000 // the keeper's own: so late may a limit of the loop be

	// superd's, whose runtime gains a fifth by it. That thread also takes care that nobody
	// waits for one who waits for a disk, on a machine with one processor: so late may it
	// be. The few commands that superd itself runs, which are hooks and checks, have it too.
	thinking = 1_000_000
)

// Relax gives the calling thread, which is to exec the keeper and does nothing else any
// more, a slack that suits the keeper. That it can't be had costs processor time only.
func Relax() {
	runtime.LockOSThread()
	relax()
}

func relax() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, relaxed, 0, 0, 0) } // see Relax

// slack is taken while packages are initialised, which the main thread does.
var slack = mainSlack()

// slacks are that of this program's threads, and the one that it was given.
type slacks struct{ own, given int }

// mainSlack keeps the loop on the main thread: a keeper that execs its successor hands on
// the default of the thread that does.
func mainSlack() slacks {
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || own != relaxed {
		return slacks{}
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // its default
	given, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	relax()
	if err != nil {
		return slacks{}
	}
	runtime.LockOSThread()
	return slacks{own, given}
}

// forkExec is that of package syscall, see withSlack.
func forkExec(path string, argv []string, attr *syscall.ProcAttr, least int) (pid int, err error) {
	withSlack(least, func() { pid, err = syscall.ForkExec(path, argv, attr) })
	return pid, err
}

// withSlack forks something that gets the slack that the keeper was given, or at least so
// much.
func withSlack(least int, fork func()) {
	if slack.own != slack.given {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(max(slack.given, least)), 0, 0, 0)
		defer relax()
	}
	fork()
}

package keeper

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// superd is the process that thinks. The keeper starts one whenever none is there.
// Who is superd is said by the connection that commands: after an upgrade that is
// not the process the keeper has forked.
type superd struct {
	pid      int       // of our own fork, 0 when it has ended
	pidfd    int       // of our own fork
	since    time.Time // when the present one began
	heard    bool      // the present one has claimed the fleet
	stopping bool      // the keeper was told to end: each superd is told, once it commands
	fails    int       // short lives in a row
	due      time.Time // when the next one is started
}

// pauses are the waits between short lives. They begin anew after a healthy one: a
// superd that had the fleet for a second works, and whoever killed it wants the next
// one at once.
var pauses = [...]time.Duration{0, 100 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second}

const (
	healthyLife  = 60 * time.Second
	healthyReign = time.Second // once it has claimed
)

func (s *superd) claimed(c *conn) {
	s.heard, s.due = true, time.Time{}
	if c.pid != s.pid {
		s.since = time.Now()
	}
}

// startSuperd forks superd, in a process group of its own: what is typed at a
// terminal reaches the keeper alone, which passes it on.
func (k *Keeper) startSuperd() error {
	k.listen.restore()
	path, err := lookUp(k.options.Argv[0])
	if err != nil {
		return err
	}
	env := []string{"SUPERD_KEEPER=" + k.options.Socket}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SUPERD_KEEPER=") && !strings.HasPrefix(e, "LISTEN_") {
			env = append(env, e)
		}
	}
	pidfd := -1
	pid, err := forkExec(path, k.options.Argv, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	}, thinking)
	if err != nil {
		return failed("start "+path, err)
	}
	k.superd.pid, k.superd.pidfd, k.superd.since = pid, pidfd, time.Now()
	k.superd.heard, k.superd.due = false, time.Time{}
	return nil
}

func lookUp(name string) (string, error) {
	var last error
	for _, place := range candidates(name, os.Environ()) {
		if last = unix.Access(place, unix.X_OK); last == nil {
			return place, nil
		}
	}
	return "", failed("start "+name, last)
}

// superdEnded takes note of the end of our own fork.
func (k *Keeper) superdEnded(status unix.WaitStatus) {
	k.superd.pid = 0
	closeFD(&k.superd.pidfd)
	if k.leaving == nil {
		say("superd ended (" + ending(status) + ")")
	}
	unheard := status.Exited() && !k.superd.heard
	switch nothing := len(k.table.children) == 0 && k.commander == nil; {
	case nothing && (unheard || k.superd.stopping):
		k.depart(exitCode(status)) // it can't begin or has done its work, and there is nothing to keep
	case unheard && k.superd.stopping && k.superd.fails >= len(pauses)-1:
		say("nobody is left to stop the children in order; they are killed")
		k.depart(exitCode(status))
	}
	k.superdGone()
}

// exitCode is the keeper's own when it ends because superd did. It is no failure
// to die of the SIGTERM that was passed on.
func exitCode(status unix.WaitStatus) int {
	switch {
	case status.Exited():
		return status.ExitStatus()
	case status.Signal() == unix.SIGTERM:
		return 0
	}
	return 128 + int(status.Signal())
}

func ending(status unix.WaitStatus) string {
	if status.Exited() {
		return "exit " + itoa(status.ExitStatus())
	}
	return "signal " + unix.SignalName(status.Signal())
}

// superdGone plans the next superd if there is none.
func (k *Keeper) superdGone() {
	if k.superd.pid != 0 || k.commander != nil || k.leaving != nil || !k.superd.due.IsZero() {
		return
	}
	now := time.Now()
	lived := now.Sub(k.superd.since)
	if lived >= healthyLife || k.superd.heard && lived >= healthyReign {
		k.superd.fails = 0
	}
	k.superd.due = now.Add(pauses[min(k.superd.fails, len(pauses)-1)])
	k.superd.fails++
}

// keepSuperd starts the next superd when it is due.
func (k *Keeper) keepSuperd(now time.Time) {
	s := &k.superd
	if s.due.IsZero() || now.Before(s.due) || k.leaving != nil {
		return
	}
	s.due = time.Time{}
	if err := k.startSuperd(); err != nil {
		say(err.Error())
		s.since = now
		k.superdGone()
	}
}

// signals turns signals into something poll can watch.
type signals struct {
	read, write int
	stop        func()
}

// obeySignal passes a signal on to superd, or remembers it. A child's end needs
// nothing: reap looks at every round.
func (k *Keeper) obeySignal(sig unix.Signal) {
	switch sig { //nolint:exhaustive // signals has asked for no others
	case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
		k.stop()
	case unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2:
		k.signal(sig)
	}
}

// stop passes the wish for the end on. A superd that has not claimed yet may not
// listen yet: with children to be stopped in order it is told when it claims. With
// none it may as well die of it.
func (k *Keeper) stop() {
	k.superd.stopping = true
	nothing := len(k.table.children) == 0
	switch {
	case k.commander != nil, nothing && k.superd.pid != 0:
		k.signal(unix.SIGTERM)
	case nothing:
		k.depart(0)
	}
}

// signal goes to who commands, else to the superd that was forked.
func (k *Keeper) signal(sig unix.Signal) {
	pidfd := k.superd.pidfd
	if k.commander != nil {
		pidfd = k.commander.pidfd
	}
	if pidfd < 0 {
		return
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		say("signal superd: " + err.Error())
	}
}

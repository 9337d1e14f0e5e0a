package keeper

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// systemd leaves the children alone when the keeper ends (KillMode=process), because a
// keeper that was killed is followed by one that takes them over. After an end that was
// meant nobody follows, and what is left must go: that is the work of ExecStopPost=.

// clearTime is how long Stopped looks for what is left. A process that SIGKILL does not
// end for that long hangs in the kernel.
const clearTime = 10 * time.Second

// Stopped kills what is left in the unit's cgroup, with SIGKILL, unless the service ended
// by a crash. result is $SERVICE_RESULT (systemd.exec(5)).
func Stopped(result string) error {
	switch result {
	case "":
		return errors.New("stop-post is for ExecStopPost= of superd's unit: SERVICE_RESULT is not set")
	case "success", "timeout":
	default:
		say("the end was a crash (" + result + "); the children are left to the next keeper")
		return nil
	}
	unit, err := unitOf(os.Getpid())
	if err != nil {
		return err
	}
	ends := time.Now().Add(clearTime)
	for told := false; ; told = true {
		left, err := killUnit(unit, !told)
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(ends) {
			return errors.New(itoa(left) + " processes of " + unit + " cannot be killed")
		}
		_, _ = unix.Poll(nil, int(lookInterval/time.Millisecond)) // a wait; a signal may shorten it
	}
}

// unitOf is the cgroup of the unit that a process is in. systemd runs ExecStopPost= of a
// unit with Delegate= in a group of its own below that. Who is in no unit is refused: it
// would be the session of whoever has typed the command.
func unitOf(pid int) (string, error) {
	group, err := groupOf(pid)
	if err != nil {
		return "", err
	}
	unit := strings.TrimSuffix(group, "/.control")
	if !strings.HasSuffix(unit, ".service") {
		return "", errors.New("stop-post is for ExecStopPost= of superd's unit: " + group + " is no unit's cgroup")
	}
	return unit, nil
}

// groupOf is a process's cgroup where systemd keeps units: in the hierarchy of cgroup v2,
// or in the one named systemd if the machine has only v1.
func groupOf(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/cgroup")
	if err != nil {
		return "", failed("read the cgroup", err)
	}
	return groupIn(string(b)), nil
}

func groupIn(text string) string {
	group := "/"
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if path, ok := strings.CutPrefix(line, "0::"); ok && path != "/" {
			return path
		}
		if _, path, ok := strings.Cut(line, ":name=systemd:"); ok {
			group = path
		}
	}
	return group
}

// killUnit kills each process of a unit but this one and tells how many there were.
func killUnit(unit string, tell bool) (left int, err error) {
	procs, err := processes()
	if err != nil {
		return 0, failed("list processes", err)
	}
	for pid, s := range procs {
		group, err := groupOf(pid)
		if pid == os.Getpid() || s.state == 'Z' || err != nil || group != unit && !strings.HasPrefix(group, unit+"/") {
			continue
		}
		left++
		if tell {
			say("PID " + itoa(pid) + " was left behind and is killed")
		}
		kill(pid, s.start)
	}
	return left, nil
}

package keeper

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A departure is the end that is meant: everything below the keeper is killed
// until nothing is left. Double forks and sessions of their own do not help: who
// loses a parent below the keeper becomes the keeper's.
type departure struct {
	code   int
	next   time.Time // when to look for what is left
	asked  int       // PID of the superd that asked for it, or 0
	spare  time.Time // until then it may leave by itself
	report time.Time // when to say again who is holding things up
	empty  time.Time // since when nothing is left
}

const (
	lookInterval = 20 * time.Millisecond
	superdTime   = 5 * time.Second
	tellInterval = 10 * time.Second
)

// depart begins the end. The first code counts.
func (k *Keeper) depart(code int) {
	if k.leaving == nil {
		now := time.Now()
		k.superd.due = time.Time{}
		k.leaving = &departure{code: code, next: now, spare: now.Add(superdTime), report: now.Add(tellInterval)}
		if k.commander != nil {
			k.leaving.asked = k.commander.pid
		}
	}
}

func (d *departure) due() time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.next
}

// leave kills what is left and tells whether that was nothing.
func (k *Keeper) leave(now time.Time) (code int, gone bool) {
	d := k.leaving
	if d == nil || now.Before(d.next) {
		return 0, false
	}
	d.next = now.Add(lookInterval)
	procs, err := processes()
	if err != nil {
		say("list processes: " + err.Error())
		return 0, false
	}
	left := k.killOrphans()
	self := os.Getpid()
	for pid, s := range procs {
		if !descends(procs, pid, self) && !k.ofOrphan(procs, pid) {
			continue
		}
		left++
		if now.After(d.report) {
			say("waiting for PID " + itoa(pid) + " to go, it is in state " + string(s.state))
		}
		if pid != d.asked || now.After(d.spare) {
			kill(pid, s.start)
		}
	}
	if now.After(d.report) {
		d.report = now.Add(tellInterval)
	}
	return d.code, left == 0 && k.bequeath(now)
}

// bequeathTime is how long systemd may take to hear what it is to keep.
const bequeathTime = 5 * time.Second

// bequeath leaves with systemd what is held, and none of the children, which have ended:
// on a restart systemd gives it to the next keeper, after a stop it lets it go. It tells
// whether that is done, or cannot be done.
func (k *Keeper) bequeath(now time.Time) bool {
	d := k.leaving
	if d.empty.IsZero() {
		d.empty = now
	}
	for len(k.table.children) > 0 {
		c := k.table.children[0]
		k.store.forget(c.storedNames()...)
		k.table.forget(c)
	}
	if k.store.fd < 0 || k.storeSome() {
		return true
	}
	return now.Sub(d.empty) > bequeathTime
}

// kill ends exactly this process: not one that has got its PID since.
func kill(pid int, start uint64) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer closeFD(&fd)
	if s, err := readStat(pid); err != nil || s.start != start {
		return
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		say("kill PID " + itoa(pid) + ": " + err.Error())
	}
}

func processes() (map[int]stat, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]stat, len(names))
	for _, n := range names {
		name := n.Name()
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		pid := int(number(name))
		if s, err := readStat(pid); err == nil {
			all[pid] = s
		}
	}
	return all, nil
}

// descends follows the parents. A loop is a table that changed while it was read.
func descends(procs map[int]stat, pid, ancestor int) bool {
	for range 1000 {
		s, ok := procs[pid]
		if !ok {
			return false
		}
		if s.parent == ancestor {
			return true
		}
		pid = s.parent
	}
	return false
}

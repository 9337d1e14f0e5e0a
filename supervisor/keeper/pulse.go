package keeper

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// A superd that hangs is as bad as one that has died, only that nobody reaps it. So it
// gives a sign of life again and again, and says with each how long the next one may
// take. One that keeps quiet is killed; what follows is what follows every death.
//
// A superd that has never given a sign is of a version that gives none, and is left
// alone.

// pulse is the sign of life of one connection.
type pulse struct {
	within time.Duration // what it has allowed itself
	due    time.Time     // when the next sign is due; zero: none is
	doubt  bool          // the sign is late, and the rest of its time runs
}

// heard takes a sign of life. Zero milliseconds ask for no more of them.
func (p *pulse) heard(milliseconds uint32) {
	*p = pulse{within: time.Duration(milliseconds) * time.Millisecond}
	if p.within > 0 {
		p.due = time.Now().Add(p.within)
	}
}

// judgePulse kills a commander that gives no sign. Half of the time again is for a
// machine that was asleep or frozen: the keeper wakes up no later than superd does.
func (k *Keeper) judgePulse(now time.Time) {
	k.judgeBirth(now)
	c := k.commander
	if due := k.pulseDue(); c == nil || due.IsZero() || now.Before(due) {
		return
	}
	if !c.pulse.doubt {
		c.pulse.doubt, c.pulse.due = true, now.Add(c.pulse.within/2)
		return
	}
	say("superd, PID " + itoa(c.pid) + ", has given no sign of life for " + itoa(int(c.pulse.within*3/2/time.Millisecond)) + " ms; it is killed")
	c.pulse = pulse{} // its end is on its way
	if err := unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		say("kill superd: " + err.Error())
	}
}

// claimTime is how long a superd may take from its start to its claim while there are
// children that nobody looks after.
const claimTime = time.Minute

// judgeBirth kills a superd that hangs before it has claimed.
func (k *Keeper) judgeBirth(now time.Time) {
	if due := k.birthDue(); due.IsZero() || now.Before(due) {
		return
	}
	say("superd, PID " + itoa(k.superd.pid) + ", has not claimed its children for " + itoa(int(claimTime/time.Second)) + " s; it is killed")
	k.superd.heard = true // once is enough
	if err := unix.PidfdSendSignal(k.superd.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		say("kill superd: " + err.Error())
	}
}

func (k *Keeper) birthDue() time.Time {
	if k.commander != nil || k.leaving != nil || k.superd.pid == 0 || k.superd.heard || k.table.living() == 0 {
		return time.Time{}
	}
	return k.superd.since.Add(claimTime)
}

// pulseDue is when judgePulse has something to judge: never at the end of the keeper.
func (k *Keeper) pulseDue() time.Time {
	if k.leaving != nil {
		return time.Time{}
	}
	if k.commander == nil {
		return k.birthDue()
	}
	return k.commander.pulse.due
}

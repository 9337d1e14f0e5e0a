package keeper

import (
	"errors"
	"math/bits"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// yieldTime is how long a commander may take to yield. Then it keeps the fleet:
// two superds that both move output would tear it.
const yieldTime = 5 * time.Second

// obey carries out one frame. It owns the descriptors.
func (k *Keeper) obey(c *conn, f wire.Frame, fds []int) {
	defer func() { wire.CloseAll(fds) }()
	switch f.Op { //nolint:exhaustive // what the keeper says itself is not for it, see default
	case wire.Claim:
		k.claim(c, f)
		return
	case wire.Fenced:
		if c == k.commander && k.claimant != nil {
			k.commander = nil
			k.succeed()
		}
		return
	}
	commands := c == k.commander && f.Epoch == c.epoch
	if f.Op == wire.Beat {
		c.pulse.heard(f.Status)
		return
	}
	switch f.Op { //nolint:exhaustive // see above
	case wire.Ack:
		if commands {
			k.acknowledge(f)
		}
	case wire.Spawn, wire.SpawnIn, wire.Put, wire.Drop, wire.Shutdown, wire.Tell, wire.Renew:
		switch {
		case !commands:
			k.answer(c, f, wire.Stale, "another superd commands")
		case k.leaving != nil:
			k.answer(c, f, wire.Leaving, "the keeper is leaving")
		default:
			fds = k.order(c, f, fds)
		}
	default:
		k.answer(c, f, wire.Unknown, "this keeper does not know operation "+itoa(int(f.Op)))
	}
}

// order carries out an order of the commander. It returns the descriptors that
// nobody has taken.
func (k *Keeper) order(c *conn, f wire.Frame, fds []int) []int {
	switch f.Op { //nolint:exhaustive // obey sends these only
	case wire.Spawn, wire.SpawnIn:
		k.spawn(c, f, fds)
	case wire.Put:
		return k.put(c, f, fds)
	case wire.Drop:
		k.unhold(f.Slot)
		k.answer(c, f, wire.OK, "")
	case wire.Tell:
		k.tell(c, f)
	case wire.Renew:
		k.renew(c, f)
	case wire.Shutdown:
		k.answer(c, f, wire.OK, "")
		k.depart(int(f.Status))
	}
	return fds
}

func (k *Keeper) answer(c *conn, f wire.Frame, code wire.Code, text string) {
	if len(text) > wire.MaxData {
		text = text[:wire.MaxData]
	}
	k.send(c, message{frame: wire.Frame{Op: wire.Done, ID: f.ID, Code: code, Data: []byte(text)}, gate: -1})
}

// claim makes a superd the commander, or asks the one that commands to yield.
func (k *Keeper) claim(c *conn, f wire.Frame) {
	switch {
	case k.leaving != nil:
		k.answer(c, f, wire.Leaving, "the keeper is leaving")
	case c.epoch != 0 || c == k.claimant:
		k.drop(c, "claims twice")
	case k.claimant != nil:
		k.answer(c, f, wire.Busy, "another claim is being decided")
	case k.commander == nil:
		c.claim, c.knows = f.ID, f.Status
		k.grant(c)
	default:
		c.claim, c.knows = f.ID, f.Status
		k.claimant, k.patience = c, time.Now().Add(yieldTime)
		k.send(k.commander, message{frame: wire.Frame{Op: wire.Fence}, gate: -1})
	}
}

// judgeClaim refuses a claim to which the commander did not yield in time.
func (k *Keeper) judgeClaim(now time.Time) {
	if k.claimant == nil || now.Before(k.patience) {
		return
	}
	c := k.claimant
	k.claimant, k.patience = nil, time.Time{}
	k.answer(c, wire.Frame{ID: c.claim}, wire.Busy, "PID "+itoa(k.commander.pid)+" commands and did not yield")
}

// succeed is called when nobody commands any more.
func (k *Keeper) succeed() {
	if c := k.claimant; c != nil {
		k.claimant, k.patience = nil, time.Time{}
		k.grant(c)
		return
	}
	k.superdGone()
}

// grant makes c the commander and gives it the whole picture. Exits follow the
// picture, those from before too.
func (k *Keeper) grant(c *conn) {
	k.epoch++
	k.commander, c.epoch = c, k.epoch
	k.superd.claimed(c)
	c.waiting = append(c.waiting, message{frame: wire.Frame{Op: wire.Granted, ID: c.claim, Epoch: k.epoch}, gate: -1})
	for _, ch := range k.table.children {
		ch.told = false
		c.waiting = append(c.waiting, ch.message(wire.Child, c.knows, -1))
	}
	for _, h := range k.table.held {
		c.waiting = append(c.waiting, message{wire.Frame{Op: wire.Held, Slot: h.name}, []int{h.fd}, -1})
	}
	c.waiting = append(c.waiting, message{frame: wire.Frame{Op: wire.End, ID: c.claim}, gate: -1})
	k.flush(c)
	if k.superd.stopping && c == k.commander {
		k.signal(unix.SIGTERM)
	}
}

// tellExits sends what the commander does not know yet. How many may be under way
// is for the socket's buffer to say, not for a number of unacknowledged ones: a
// superd that keeps some for later still hears of the others.
func (k *Keeper) tellExits() {
	c := k.commander
	if c == nil || c.full || len(c.waiting) > 0 {
		return
	}
	for _, ch := range k.table.children {
		if !ch.dead || ch.told {
			continue
		}
		switch k.transmit(c, ch.exit(), nil) {
		case sent:
			ch.told = true
		case later:
			c.full = true
			return
		case lost:
			k.drop(c, "")
			return
		}
	}
}

// tell sends a child its stop signal, the first time it is asked to. That it is done
// here, and known here, makes it exact: a superd that dies in the middle leaves a
// child that was told once, or not at all, and the next one learns which.
func (k *Keeper) tell(c *conn, f wire.Frame) {
	ch := k.table.slots[f.Slot]
	if ch == nil || ch.pid != int(f.PID) || ch.dead || ch.asked != 0 {
		k.answer(c, f, wire.OK, "") // it is gone, or knows
		return
	}
	err := unix.PidfdSendSignal(ch.pidfd, unix.Signal(f.Status), nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		k.answer(c, f, wire.Failed, "signal "+itoa(int(f.Status))+" to PID "+itoa(ch.pid)+": "+err.Error())
		return
	}
	ch.asked, k.store.dirty = 1, true
	k.answer(c, f, wire.OK, "")
}

func (k *Keeper) acknowledge(f wire.Frame) {
	if ch := k.table.slots[f.Slot]; ch != nil && ch.pid == int(f.PID) && ch.dead {
		k.store.forget(ch.storedNames()...)
		k.table.forget(ch)
	}
}

func (k *Keeper) put(c *conn, f wire.Frame, fds []int) []int {
	if f.Slot == "" || len(fds) != 1 {
		k.answer(c, f, wire.Invalid, "to hold something takes a name and one descriptor")
		return fds
	}
	if !k.table.holds(f.Slot) {
		if len(k.table.held) >= maxHeld {
			k.answer(c, f, wire.Full, "the keeper holds "+itoa(maxHeld)+" descriptors and takes no more")
			return fds
		}
		if err := k.table.room(1); err != nil {
			k.answer(c, f, wire.Full, err.Error())
			return fds
		}
	}
	k.unhold(f.Slot)
	k.table.put(f.Slot, fds[0])
	k.store.dirty = true
	k.answer(c, f, wire.OK, "")
	return nil
}

// spawn checks what can be known before anything is begun, and forks.
func (k *Keeper) spawn(c *conn, f wire.Frame, fds []int) {
	if code, why := k.refusal(&f, fds); why != "" {
		k.answer(c, f, code, why)
		return
	}
	spec, err := readSpec(fds[0])
	if err != nil {
		k.answer(c, f, wire.Invalid, err.Error())
		return
	}
	b := birth{spec: spec, files: fds[1:], group: -1}
	refused := wire.Failed
	if f.Op == wire.SpawnIn {
		if len(b.files) == 0 {
			k.answer(c, f, wire.Invalid, "a child that is born in a cgroup needs the directory of it")
			return
		}
		b.group, b.files, refused = b.files[0], b.files[1:], wire.NoGroup
	}
	ch, gate, err := k.fork(&f, b)
	if err != nil {
		k.answer(c, f, refused, err.Error())
		return
	}
	answer := ch.message(wire.Spawned, f.Status, gate)
	answer.frame.ID = f.ID
	k.send(c, answer)
}

// refusal is why a child can't be begun, "" if it can.
func (k *Keeper) refusal(f *wire.Frame, fds []int) (wire.Code, string) {
	switch {
	case f.Slot == "":
		return wire.Invalid, "a child needs a slot"
	case len(fds) == 0:
		return wire.Invalid, "a child needs a specification"
	case k.table.slots[f.Slot] != nil:
		return wire.SlotTaken, "PID " + itoa(k.table.slots[f.Slot].pid) + " has slot " + f.Slot
	case len(k.table.children) >= maxChildren:
		return wire.Full, "the keeper has " + itoa(maxChildren) + " children and takes no more"
	}
	if err := k.table.room(3 + bits.OnesCount32(f.Status&wire.AllPipes)); err != nil {
		return wire.Full, err.Error()
	}
	return wire.OK, ""
}

func itoa(n int) string { return strconv.Itoa(n) }

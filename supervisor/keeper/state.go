package keeper

import (
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The state is what one keeper leaves to the next program of itself, in a memfd: the
// table, who commands, and the number of each descriptor, for exec keeps those.
//
// It is a list of records, each with its length, and each a list of fields. A later
// format appends fields and adds records; who reads passes over the fields that it does
// not know and takes those that are missing as zero, a descriptor as none. So a keeper
// reads every format that says it may be read by one of its own number.

// Set by the linker in tests, which need a keeper of another format.
var (
	stateFormat = "1" // of this keeper
	stateReader = "1" // the least format of a keeper that may read what this one writes
)

const stateMagic = "superd's keeper\n"

// The records.
const (
	recordKeeper  = 1
	recordChild   = 2
	recordHeld    = 3
	recordCommand = 4
	recordEnd     = 5 // nothing is missing
)

var (
	errState    = errors.New("the state is damaged")
	errNewState = errors.New("the state is of a newer keeper, which says that this one cannot read it")
)

// A writer makes records.
type writer struct{ b []byte }

func (w *writer) record(kind byte, fields func(f *writer)) {
	var f writer
	fields(&f)
	w.b = append(w.b, kind)
	w.text(f.b)
}

func (w *writer) number(n uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, n) }
func (w *writer) fd(fd int)       { w.number(uint64(fd + 1)) } // 0 is none

func (w *writer) text(b []byte) {
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(b)))
	w.b = append(w.b, b...)
}

func (w *writer) flag(f bool) {
	if f {
		w.number(1)
		return
	}
	w.number(0)
}

// A reader reads them. What is missing at the end is zero; what is cut is torn.
type reader struct {
	b    []byte
	torn bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) == 0 {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.torn, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) number() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (r *reader) fd() int    { return int(r.number()) - 1 }
func (r *reader) flag() bool { return r.number() != 0 }

func (r *reader) text() []byte {
	b := r.take(4)
	if b == nil {
		return nil
	}
	return append([]byte(nil), r.take(int(binary.LittleEndian.Uint32(b)))...)
}

// formatNumber reads what the linker has set; a test sees to it that it is a number.
func formatNumber(s string) uint64 { n, _ := strconv.ParseUint(s, 10, 32); return n }

// encode writes down all that the next program needs. It takes no connection but the
// commander's: others are refused anyway, and come again.
func (k *Keeper) encode() []byte {
	w := writer{b: []byte(stateMagic)}
	w.number(formatNumber(stateFormat))
	w.number(formatNumber(stateReader))
	w.record(recordKeeper, func(f *writer) {
		f.text([]byte(k.options.Version))
		f.number(k.epoch)
		f.fd(k.listen.fd)
		f.fd(k.listen.lock)
		f.number(k.listen.file)
		f.fd(k.null)
		f.number(uint64(k.superd.pid))
		f.fd(k.superd.pidfd)
		f.number(uint64(max(0, time.Since(k.superd.since))))
		f.flag(k.superd.heard)
		f.flag(k.superd.stopping)
		f.number(uint64(k.superd.fails))
	})
	for _, c := range k.table.children {
		w.record(recordChild, c.encode)
	}
	for _, h := range k.table.held {
		w.record(recordHeld, func(f *writer) { f.text([]byte(h.name)); f.fd(h.fd); f.number(h.key) })
	}
	if c := k.commander; c != nil {
		w.record(recordCommand, func(f *writer) {
			f.fd(c.fd)
			f.number(uint64(c.pid))
			f.fd(c.pidfd)
			f.number(c.epoch)
			f.number(uint64(c.knows))
			f.number(uint64(c.pulse.within / time.Millisecond))
			f.number(k.renewal.id)
		})
	}
	w.record(recordEnd, func(f *writer) { f.number(uint64(len(k.table.children))) })
	return w.b
}

func (c *child) encode(f *writer) {
	f.text([]byte(c.slot))
	f.text(c.note)
	f.number(uint64(c.pid))
	f.number(c.start)
	f.number(uint64(c.born))
	for _, fd := range c.fds() {
		f.fd(*fd)
	}
	f.text(c.said)
	f.flag(c.dead)
	f.number(uint64(c.status))
	f.number(uint64(c.at))
	f.text([]byte(c.reason))
	f.flag(c.told)
	f.number(uint64(c.asked))
	f.flag(c.orphan)
}

func (c *child) decode(f *reader) {
	c.slot, c.note, c.pid, c.start, c.born = string(f.text()), f.text(), int(f.number()), f.number(), int64(f.number())
	for _, fd := range c.fds() {
		*fd = f.fd()
	}
	c.said, c.dead, c.status, c.at, c.reason = f.text(), f.flag(), uint32(f.number()), int64(f.number()), string(f.text())
	c.told, c.asked, c.orphan = f.flag(), uint32(f.number()), f.flag()
}

// fds are the descriptors of a child, in the order of the state.
func (c *child) fds() [5]*int { return [...]*int{&c.pidfd, &c.out, &c.stage, &c.err, &c.in} }

// decode takes over what another keeper wrote. It touches no descriptor. The version
// of that keeper is the answer.
func (k *Keeper) decode(b []byte) (before string, err error) {
	r := reader{b: b}
	if string(r.take(len(stateMagic))) != stateMagic {
		return "", errState
	}
	_, least := r.number(), r.number()
	if least > formatNumber(stateFormat) || least == 0 {
		return "", errNewState
	}
	whole := false
	for len(r.b) > 0 && !whole {
		kind := r.take(1)[0]
		f := reader{b: r.text()}
		switch kind {
		case recordKeeper:
			before = k.decodeSelf(&f)
		case recordChild:
			c := new(child)
			c.decode(&f)
			if c.slot == "" || c.pid <= 0 || k.table.slots[c.slot] != nil {
				return "", errState
			}
			k.table.add(c)
			if c.dead {
				delete(k.table.pids, c.pid)
			}
		case recordHeld:
			k.table.held = append(k.table.held, held{name: string(f.text()), fd: f.fd(), key: f.number()})
		case recordCommand:
			k.decodeCommander(&f)
		case recordEnd:
			whole = f.number() == uint64(len(k.table.children))
		}
		if f.torn || r.torn {
			return "", errState
		}
	}
	if !whole || k.listen.fd < 0 || k.listen.lock < 0 || k.null < 0 {
		return "", errState
	}
	return before, nil
}

func (k *Keeper) decodeSelf(f *reader) (before string) {
	before = string(f.text())
	k.epoch = f.number()
	k.listen.fd, k.listen.lock, k.listen.file, k.null = f.fd(), f.fd(), f.number(), f.fd()
	s := &k.superd
	s.pid, s.pidfd = int(f.number()), f.fd()
	s.since = time.Now().Add(-time.Duration(f.number()))
	s.heard, s.stopping, s.fails = f.flag(), f.flag(), int(f.number())
	return before
}

func (k *Keeper) decodeCommander(f *reader) {
	c := &conn{fd: f.fd(), pid: int(f.number()), pidfd: f.fd(), epoch: f.number(), knows: uint32(f.number())}
	c.pulse.heard(uint32(f.number()))
	k.conns, k.commander, k.renewal.id = []*conn{c}, c, f.number()
}

// inherited are all descriptors that the state names.
func (k *Keeper) inherited() []int {
	all := []int{k.listen.fd, k.listen.lock, k.null, k.superd.pidfd}
	for _, c := range k.table.children {
		for _, fd := range c.fds() {
			all = append(all, *fd)
		}
	}
	for _, h := range k.table.held {
		all = append(all, h.fd)
	}
	if k.commander != nil {
		all = append(all, k.commander.fd, k.commander.pidfd)
	}
	return all
}

// closeOnExec sets or clears the flag of all of them.
func (k *Keeper) closeOnExec(flag int) error {
	for _, fd := range k.inherited() {
		if fd < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return failed("prepare descriptor "+itoa(fd), err)
		}
	}
	return nil
}

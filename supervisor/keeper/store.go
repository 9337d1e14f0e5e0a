package keeper

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Under systemd everything that the keeper holds lies in the service manager's store of
// descriptors too (sd_notify(3), FDSTORE=1), with the table in a memfd beside it. A
// keeper that was killed is followed by one that gets all of it back by LISTEN_FDS and
// goes on: children, their output, listening sockets. One that was restarted is followed
// by one that gets what was held. Without systemd nobody keeps anything, and the next
// superd ends what is left.
//
// Nothing waits for systemd: what it does not take now is offered again.

// The names under which things are stored. Whatever else comes by LISTEN_FDS is a
// socket that systemd listens on, and is held for superd under listenName and its name.
const (
	storeName  = "superd-"
	stateName  = storeName + "state"
	listenName = "listen:"
)

// store is the keeper's side of it.
type store struct {
	fd      int // a socket to send from, -1: there is no systemd
	to      unix.SockaddrUnix
	state   int // the memfd with the table
	stored  bool
	dirty   bool // the table is not as the memfd says
	version uint64
	removed []string // names that are to be taken out
	keys    uint64   // of what is held

	every time.Duration // how often systemd wants to hear that the keeper lives; 0: never
	next  time.Time
}

// open prepares the store if somebody keeps one.
func (s *store) open() error {
	s.fd, s.state, s.dirty, s.version = -1, -1, true, uint64(time.Now().UnixNano())
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" || path[0] != '/' && path[0] != '@' {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return failed("make a socket", err)
	}
	s.fd, s.to = fd, unix.SockaddrUnix{Name: path}
	s.removed = []string{stateName} // of a program before this one
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == itoa(os.Getpid()) {
		s.every = time.Duration(number(os.Getenv("WATCHDOG_USEC"))) * time.Microsecond / 2
		s.next = time.Now()
	}
	return nil
}

// live tells systemd that the keeper does (WatchdogSec=). It is asked before the store
// fills systemd's queue, ten messages, as an upgrade does; what did not go is said again.
func (s *store) live(now time.Time) {
	if due := s.due(); due.IsZero() || now.Before(due) {
		return
	}
	s.next = now.Add(s.every)
	if !s.offer("WATCHDOG=1", -1) {
		s.next = now.Add(min(s.every, 20*time.Millisecond))
	}
}

// due is when live has something to tell. Once systemd is lost, that is never.
func (s *store) due() time.Time {
	if s.fd < 0 || s.every <= 0 {
		return time.Time{}
	}
	return s.next
}

// offer sends one message, with a descriptor or without, and tells whether it went.
func (s *store) offer(text string, fd int) bool {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		_, err := unix.SendmsgN(s.fd, []byte(text), rights, &s.to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ETOOMANYREFS):
			return false
		case err != nil:
			say("systemd's store of descriptors is lost: " + err.Error())
			closeFD(&s.fd)
			return false
		default:
			return true
		}
	}
}

func (s *store) keep(name string, fd int) bool {
	return s.offer("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// forget has what was stored of a child or of something held taken out.
func (s *store) forget(names ...string) {
	if s.fd >= 0 {
		s.removed = append(s.removed, names...)
	}
	s.dirty = true
}

// names are those of a child's descriptors, in the order of fds.
func (c *child) names() []string {
	base := storeName + "c" + itoa(c.pid) + "." + itoa(int(c.start)) + "."
	names := make([]string, len(c.fds()))
	for i := range names {
		names[i] = base + itoa(i)
	}
	return names
}

// storedNames are those that systemd has.
func (c *child) storedNames() (names []string) {
	for i, name := range c.names() {
		if c.stored&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// unhold lets go of what is held under a name, here and in the store.
func (k *Keeper) unhold(name string) {
	for _, h := range k.table.held {
		if h.name == name && h.stored {
			k.store.forget(heldKey(h.key))
		}
	}
	k.table.drop(name)
	k.store.dirty = true
}

func heldKey(key uint64) string { return storeName + "h" + itoa(int(key)) }

// storeAll offers what is not stored yet. What does not go now goes soon.
func (k *Keeper) storeAll() {
	s := &k.store
	if s.fd < 0 {
		return
	}
	if !k.storeSome() && s.fd >= 0 {
		k.soon = time.Now().Add(20 * time.Millisecond)
	}
}

func (k *Keeper) storeSome() bool {
	s := &k.store
	for len(s.removed) > 0 {
		if !s.offer("FDSTOREREMOVE=1\nFDNAME="+s.removed[0], -1) {
			return false
		}
		s.removed = s.removed[1:]
	}
	for _, c := range k.table.children {
		names := c.names()
		for i, fd := range c.fds() {
			if fd == &c.stage || *fd < 0 || c.stored&(1<<i) != 0 {
				continue
			}
			if !s.keep(names[i], *fd) {
				return false
			}
			c.stored |= 1 << i
		}
	}
	for i := range k.table.held {
		h := &k.table.held[i]
		if h.key == 0 {
			s.keys++
			h.key, s.dirty = s.keys, true
		}
		if !h.stored && !s.keep(heldKey(h.key), h.fd) {
			return false
		}
		h.stored = true
	}
	return k.storeState()
}

// Two places of the memfd take turns, so that one is whole whenever the keeper dies.
const (
	statePlace  = 16 << 20
	stateHeader = 24 // version, length, sum
)

// storeState writes the table down, last of all: what it names is stored.
func (k *Keeper) storeState() bool {
	s := &k.store
	if s.state < 0 {
		fd, err := unix.MemfdCreate("superd-keeper-table", unix.MFD_CLOEXEC)
		if err != nil {
			say("make a memfd: " + err.Error())
			return false
		}
		s.state = fd
	}
	if s.dirty {
		s.version++
		if err := writePlace(s.state, s.version, k.encode()); err != nil {
			say("write the table for systemd's store: " + err.Error())
			return false
		}
		s.dirty = false
	}
	if !s.stored {
		s.stored = s.keep(stateName, s.state)
	}
	return s.stored
}

func writePlace(fd int, version uint64, b []byte) error {
	at := int64(version%2) * statePlace
	le := binary.LittleEndian
	header := le.AppendUint64(le.AppendUint64(le.AppendUint64(nil, version), uint64(len(b))), sum(b))
	for _, w := range []struct {
		b  []byte
		at int64
	}{{b, at + stateHeader}, {header, at}} {
		for len(w.b) > 0 {
			n, err := unix.Pwrite(fd, w.b, w.at)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			w.b, w.at = w.b[max(n, 0):], w.at+int64(max(n, 0))
		}
	}
	return nil
}

func sum(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b) // never fails
	return h.Sum64()
}

// readPlaces is the later of the two that is whole.
func readPlaces(fd int) (b []byte, version uint64) {
	le := binary.LittleEndian
	for place := range int64(2) {
		var header [stateHeader]byte
		if n, err := unix.Pread(fd, header[:], place*statePlace); err != nil || n != len(header) {
			continue
		}
		v, length := le.Uint64(header[:]), le.Uint64(header[8:])
		if v <= version || length > statePlace-stateHeader {
			continue
		}
		text := make([]byte, length)
		n, err := unix.Pread(fd, text, place*statePlace+stateHeader)
		if err == nil && uint64(n) == length && sum(text) == le.Uint64(header[16:]) {
			b, version = text, v
		}
	}
	return b, version
}

// takeBack takes over what systemd has passed to this process.
func (k *Keeper) takeBack() error {
	named := passedOn()
	state, found := named[stateName]
	var failure error
	if found {
		b, version := readPlaces(state)
		delete(named, stateName)
		k.store.state, k.store.version, k.store.stored = state, max(version, k.store.version), true
		k.store.removed = nil
		if err := k.takeTable(b, named); err != nil {
			failure = failed("take back what systemd has stored", err)
		}
	}
	for name, fd := range named {
		if strings.HasPrefix(name, storeName) {
			_ = unix.Close(fd) // of a birth that never got into the table
			k.store.forget(name)
			continue
		}
		k.table.put(listenName+name, fd)
	}
	return failure
}

// takeTable gives each child and each name its descriptors.
func (k *Keeper) takeTable(b []byte, named map[string]int) error {
	old := &Keeper{}
	old.table.init(k.table.limit)
	before, err := old.decode(b)
	if err != nil {
		return err
	}
	take := func(name string) int {
		fd, ok := named[name]
		if !ok {
			return -1
		}
		delete(named, name)
		return fd
	}
	k.epoch = old.epoch
	for _, c := range old.table.children {
		for i, name := range c.names() {
			*c.fds()[i] = take(name)
		}
		c.told, c.stored = false, ^uint32(0)
		if c.orphan = !c.dead; c.pidfd < 0 || c.out < 0 {
			c.close() // the next superd finds it in its ledger
			k.store.forget(c.names()...)
			continue
		}
		k.table.add(c)
		if c.dead {
			delete(k.table.pids, c.pid)
		}
	}
	for _, h := range old.table.held {
		k.store.keys = max(k.store.keys, h.key)
		if h.fd = take(heldKey(h.key)); h.fd >= 0 {
			h.stored = true
			k.table.held = append(k.table.held, h)
		}
	}
	say("a keeper of version " + before + " has left " + itoa(k.table.living()) + " children, which are taken over, and " + itoa(len(k.table.held)) + " descriptors")
	return nil
}

// passedOn are the descriptors that systemd has passed to this process, by name
// (sd_listen_fds(3)). Nobody below inherits them.
func passedOn() map[string]int {
	named := map[string]int{}
	if os.Getenv("LISTEN_PID") != itoa(os.Getpid()) {
		return named
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range int(number(os.Getenv("LISTEN_FDS"))) {
		fd := 3 + i
		unix.CloseOnExec(fd)
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		if twin, ok := named[name]; ok {
			_ = unix.Close(twin) // one of a name is enough
		}
		named[name] = fd
	}
	return named
}

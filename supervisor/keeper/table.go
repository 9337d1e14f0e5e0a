package keeper

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// Limits of the table. With three descriptors for a child that is being made and
// two for one that runs, RLIMIT_NOFILE is usually met before.
const (
	maxChildren = 4096
	maxHeld     = 512
	maxConns    = 16

	// spareDescriptors stay free whatever the table holds: one frame full of
	// descriptors, a fork, a look into /proc.
	spareDescriptors = wire.MaxRights + 32
)

// A child is one process that superd asked for, from its fork until its exit is
// acknowledged.
type child struct {
	slot  string
	note  []byte
	pid   int
	start uint64
	born  int64
	pidfd int
	out   int // read end of its output
	err   int // read end of its standard error, -1 where that is the output
	in    int // write end of its standard input, -1 where that is /dev/null

	stage int    // read end of what the stage has to say; -1 once it has ended
	said  []byte // by the stage, see stage.go

	dead   bool
	status uint32
	at     int64
	reason string // why it never became its program
	told   bool   // the present commander knows of the exit

	asked uint32 // 1 once the stop signal was sent, see tell

	stored  uint32    // those of fds that systemd has too, by bit
	orphan  bool      // not a child of this process: see orphan.go
	ended   time.Time // of an orphan: when its end was seen
	resting bool      // of an orphan: do not ask at once again

	silent, mute bool // out, err: nothing will come any more that would have to be drained
}

// held is a descriptor superd has left here.
type held struct {
	name   string
	fd     int
	key    uint64 // its name in systemd's store; 0: it has none yet
	stored bool
}

// table is everything that outlives superd.
type table struct {
	children []*child // by birth
	slots    map[string]*child
	pids     map[int]*child // those that are not reaped
	held     []held
	limit    int // of descriptors
}

func (t *table) init(limit int) {
	t.slots, t.pids, t.limit = map[string]*child{}, map[int]*child{}, limit
}

// descriptorLimit is how many descriptors this process may have. Go has raised the
// soft limit to the hard one.
func descriptorLimit() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur > 1<<30 {
		return 1 << 30
	}
	return int(lim.Cur)
}

// room tells why n more descriptors can't be had, before anything is begun: a
// keeper that runs out in the middle can't even receive.
func (t *table) room(n int) error {
	used := 16 + 2*maxConns + 2*len(t.children) + len(t.held)
	for _, c := range t.children {
		for _, fd := range [...]int{c.stage, c.err, c.in} {
			if fd >= 0 {
				used++
			}
		}
	}
	if used+n > t.limit-spareDescriptors {
		return errors.New("the keeper's limit of " + itoa(t.limit) + " open files is reached (LimitNOFILE, ulimit -n)")
	}
	return nil
}

func (t *table) add(c *child) {
	t.children = append(t.children, c)
	t.slots[c.slot], t.pids[c.pid] = c, c
}

// forget closes what belongs to a child whose exit is acknowledged.
func (t *table) forget(c *child) {
	t.children = slices.DeleteFunc(t.children, func(o *child) bool { return o == c })
	delete(t.slots, c.slot)
	c.close()
}

func (c *child) close() {
	closeFD(&c.pidfd)
	closeFD(&c.out)
	closeFD(&c.err)
	closeFD(&c.in)
	closeFD(&c.stage)
}

// living counts the children that run.
func (t *table) living() int { return len(t.pids) }

// put keeps fd under name and closes the one that was there.
func (t *table) put(name string, fd int) {
	for i := range t.held {
		if t.held[i].name == name {
			closeFD(&t.held[i].fd)
			t.held[i].fd = fd
			return
		}
	}
	t.held = append(t.held, held{name: name, fd: fd})
}

func (t *table) holds(name string) bool {
	for _, h := range t.held {
		if h.name == name {
			return true
		}
	}
	return false
}

func (t *table) drop(name string) {
	for i := range t.held {
		if t.held[i].name == name {
			closeFD(&t.held[i].fd)
			t.held = slices.Delete(t.held, i, i+1)
			return
		}
	}
}

// message describes the child to a superd that knows these pipes. gate is that of a
// child that was made just now, else -1.
func (c *child) message(op wire.Op, knows uint32, gate int) message {
	m := message{
		frame: wire.Frame{Op: op, Slot: c.slot, Data: c.note, PID: uint32(c.pid), Start: c.start, Time: c.born, Status: c.asked},
		fds:   []int{c.pidfd, c.out}, gate: gate,
	}
	if gate >= 0 {
		m.fds = append(m.fds, gate)
	}
	if c.err >= 0 && knows&wire.PipeErr != 0 {
		m.fds, m.frame.Code = append(m.fds, c.err), m.frame.Code|wire.Code(wire.PipeErr)
	}
	if c.in >= 0 && knows&wire.PipeIn != 0 {
		m.fds, m.frame.Code = append(m.fds, c.in), m.frame.Code|wire.Code(wire.PipeIn)
	}
	return m
}

// exit tells no more of the reason than a frame holds: what is not sent is never acknowledged.
func (c *child) exit() wire.Frame {
	return wire.Frame{
		Op: wire.Exit, Slot: c.slot, PID: uint32(c.pid), Start: c.start,
		Status: c.status, Time: c.at, Data: []byte(c.reason[:min(len(c.reason), wire.MaxData)]),
	}
}

// closeFD closes once; Linux frees the descriptor whatever close answers.
func closeFD(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd) // see above
	}
	*fd = -1
}

// Package client is superd's side of the keeper: it claims the fleet, asks for
// children to be made, hears of their ends and leaves descriptors in safe hands.
//
// One Client is one connection. At most one superd commands at a time; the keeper
// gives each commander an epoch and refuses orders of an older one.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

var (
	// ErrSlotTaken tells that a child of that slot lives, or its exit was never acknowledged.
	ErrSlotTaken = errors.New("slot is taken")
	// ErrBusy tells that another superd commands and did not yield.
	ErrBusy = errors.New("another superd commands and does not yield")
	// ErrStale tells that another superd has claimed the fleet since.
	ErrStale = errors.New("another superd commands now")
	// ErrNoGroup tells that nothing can be born in the cgroup of a Spec. Nothing was made.
	ErrNoGroup = errors.New("a child cannot be born in that cgroup")
	// ErrClosed tells that the connection to the keeper is gone.
	ErrClosed = errors.New("connection to the keeper is closed")
)

// Spec is what the keeper needs to make a child.
type Spec struct {
	Slot   string // uniqueness key; at most 200 bytes
	Note   []byte // opaque, at most MaxNote; comes back in the snapshot
	Argv   []string
	Path   string // the executable; "" looks Argv[0] up in the PATH of Env
	Env    []string
	Dir    string
	UID    uint32
	GID    uint32
	Groups []uint32
	Umask  int
	Nice   int
	Limits []Limit
	Files  []*os.File // become descriptors 3, 4, … of the child

	// Group is the directory of the cgroup that it is born in, or nil: the keeper's own.
	Group *os.File

	// Pipes of its own for standard error and standard input. A keeper that is too
	// old to know them makes none: then Err and In of the child are nil.
	Err, In bool
}

// MaxNote is how many bytes a note may have.
const MaxNote = wire.MaxData

// OwnPID is an entry of Spec.Env to which a child adds its own PID.
const OwnPID = wire.OwnPID

// A Limit is one resource limit (getrlimit(2)).
type Limit struct {
	Resource   int
	Soft, Hard uint64
}

// A Child is one process as the keeper knows it. PID and Start together (and the
// boot) are its identity.
type Child struct {
	Slot  string
	Note  []byte
	PID   int
	Start uint64    // /proc/PID/stat field 22, clock ticks since boot
	Born  time.Time // wall clock
	Pidfd *os.File
	Out   *os.File // read end of stdout, and of stderr where Err is nil; non-blocking
	Err   *os.File // read end of stderr, non-blocking, or nil
	In    *os.File // write end of stdin, non-blocking, or nil: then stdin is /dev/null
	Told  bool     // its stop signal was sent, see Tell; in the snapshot only
	gate  *os.File // nil once open, and for a child from the snapshot
}

// An Exit is how a child ended. Failure is not empty when it never became the
// program: it names the step ("exec /bin/nothing: no such file or directory", "setuid 33: …").
type Exit struct {
	Slot    string
	PID     int
	Start   uint64
	Status  syscall.WaitStatus
	Failure string
	At      time.Time
}

// patience is how long the keeper may take to answer. It never waits for anybody,
// so this is generous; a claim may wait 5 s for the commander to yield.
const patience = 10 * time.Second

// Dial connects to the keeper and claims the fleet. When it returns, the caller
// is the commander and Children, Exits and Held are complete. A commander that
// lives is fenced first; if it does not yield within 5 s Dial fails with ErrBusy.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", path)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	}
	c := &Client{
		conn:    conn.(*net.UnixConn),
		held:    map[string]*os.File{},
		exits:   make(chan Exit),
		fenced:  make(chan struct{}),
		closing: make(chan struct{}),
		more:    make(chan struct{}, 1),
		waiting: map[uint64]chan answer{},
		strays:  map[life]bool{},
	}
	if err := c.claim(ctx); err != nil {
		c.release()
		return nil, errors.Join(err, conn.Close())
	}
	ended := make(chan struct{})
	c.running.Go(func() { c.read(); close(ended) })
	c.running.Go(func() { c.deliver(ended) })
	return c, nil
}

// Client is one claimed connection. Its methods may be called from any goroutine.
type Client struct {
	conn     *net.UnixConn
	epoch    uint64
	children []*Child
	held     map[string]*os.File

	exits   chan Exit
	fenced  chan struct{}
	closing chan struct{} // closed by Close
	closed  sync.Once
	running sync.WaitGroup // read and deliver

	mu      sync.Mutex
	id      uint64
	waiting map[uint64]chan answer // who asked and was not answered yet
	strays  map[life]bool          // children made for somebody who no longer waited
	ends    []Exit                 // read and not delivered
	more    chan struct{}          // ends has grown
	lost    error                  // why the connection ended
}

// Epoch is this commander's number.
func (c *Client) Epoch() uint64 { return c.epoch }

// Children are the children that lived, or whose exit was not acknowledged, when
// the fleet was claimed.
func (c *Client) Children() []*Child { return c.children }

// Held are the descriptors left with the keeper, by name. The caller owns them.
func (c *Client) Held() map[string]*os.File { return c.held }

// Exits delivers each exit at least once, also those kept from before. It is
// closed when the connection ends. Nothing else waits for who reads it.
func (c *Client) Exits() <-chan Exit { return c.exits }

// Fenced is closed when another superd claims the fleet: give no more orders,
// move no more output, then Yield or Close. Until then the other one waits, for 5 s;
// Put and Drop still work, so that it finds all that is to be known.
func (c *Client) Fenced() <-chan struct{} { return c.fenced }

// Spawn makes a child that waits at its gate: it runs nothing of its own until
// Open. A Child that is dropped without Open leaves with status 111. When ctx ends
// first, whatever was made is dropped and its exit acknowledged. ErrNoGroup is also
// what a keeper answers that is too old to know cgroups.
func (c *Client) Spawn(ctx context.Context, s Spec) (*Child, error) {
	op, most := wire.Spawn, wire.MaxFiles
	if s.Group != nil {
		op, most = wire.SpawnIn, wire.MaxFiles-1 // what an older keeper can receive, to say that it does not know this
	}
	if len(s.Files) > most {
		return nil, fmt.Errorf("%d files, a child may be given %d", len(s.Files), most)
	}
	fds, err := s.descriptors()
	defer wire.CloseAll(fds)
	if err != nil {
		return nil, err
	}
	a, err := c.ask(ctx.Done(), wire.Frame{Op: op, Slot: s.Slot, Data: s.Note, Status: s.pipes()}, fds)
	if errors.Is(err, errGaveUp) {
		err = context.Cause(ctx)
	}
	if older := unknown(""); op == wire.SpawnIn && errors.As(err, &older) {
		err = fmt.Errorf("%w: %w", ErrNoGroup, err)
	}
	if err != nil {
		return nil, err
	}
	return newChild(a.frame, a.fds)
}

// Open lets a spawned child become its program. A child that has left is no
// error: its exit tells.
func (ch *Child) Open() error {
	if ch.gate == nil {
		return nil
	}
	_, err := ch.gate.Write([]byte{1})
	if errors.Is(err, syscall.EPIPE) {
		err = nil
	}
	err = errors.Join(err, ch.gate.Close())
	ch.gate = nil
	return err
}

// Drop closes the gate of a child that shall not run after all: it leaves with
// status 111. After Open it does nothing.
func (ch *Child) Drop() {
	if ch.gate != nil {
		_ = ch.gate.Close() // nothing was written
	}
	ch.gate = nil
}

// Acknowledge frees the slot; the keeper forgets the exit.
func (c *Client) Acknowledge(slot string, pid int) error {
	if c.isFenced() {
		return ErrStale
	}
	return c.send(wire.Frame{Op: wire.Ack, Slot: slot, PID: uint32(pid)}, nil)
}

// Tell has the keeper send sig to the main process of a child, once in its life: a
// second Tell, also by a later superd, does nothing. When it returns nil the child was
// told, or is gone.
func (c *Client) Tell(done <-chan struct{}, slot string, pid int, sig syscall.Signal) error {
	_, err := c.ask(done, wire.Frame{Op: wire.Tell, Slot: slot, PID: uint32(pid), Status: uint32(sig)}, nil)
	return err
}

// A Renewal is what became of Renew.
type Renewal struct {
	Before, After string // versions
	Changed       bool   // false: the program at the keeper's path is the one it runs
	PID           int    // of the keeper, before and after
}

// Renew has the keeper become the program that is at its path now, with nothing that
// it keeps touched. An error means that nothing has changed.
func (c *Client) Renew(ctx context.Context) (Renewal, error) {
	pid, err := c.Keeper()
	if err != nil {
		return Renewal{}, fmt.Errorf("find the keeper: %w", err)
	}
	a, err := c.ask(ctx.Done(), wire.Frame{Op: wire.Renew}, nil)
	if errors.Is(err, errGaveUp) {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Renewal{}, err
	}
	before, after, _ := strings.Cut(string(a.frame.Data), "\n")
	return Renewal{before, after, a.frame.Status == 1, pid}, nil
}

// Keeper is the PID of the keeper, by the kernel's word.
func (c *Client) Keeper() (pid int, err error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if asked = err; err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(err, asked)
}

// Beat is a sign of life. From then on the keeper expects another one within that
// time, and kills this superd when half of it again has passed without one.
func (c *Client) Beat(within time.Duration) error {
	return c.send(wire.Frame{Op: wire.Beat, Status: uint32(within.Milliseconds())}, nil)
}

// Put leaves a duplicate of f with the keeper under name, replacing an older one.
func (c *Client) Put(name string, f *os.File) error {
	fd, err := duplicate(f)
	if err != nil {
		return fmt.Errorf("duplicate %s: %w", name, err)
	}
	defer wire.CloseAll([]int{fd})
	_, err = c.ask(nil, wire.Frame{Op: wire.Put, Slot: name}, []int{fd})
	return err
}

// Drop makes the keeper close what it holds under name.
func (c *Client) Drop(name string) error {
	_, err := c.ask(nil, wire.Frame{Op: wire.Drop, Slot: name}, nil)
	return err
}

// Shutdown tells the keeper that the end of this superd is meant: it then kills
// what is left and leaves, instead of starting another superd. It waits some
// seconds for this superd to leave by itself.
func (c *Client) Shutdown(code int) error {
	_, err := c.ask(nil, wire.Frame{Op: wire.Shutdown, Status: uint32(code)}, nil)
	return err
}

// Yield answers the fence: this superd gives no more orders and moves no output,
// so that the next one may begin.
func (c *Client) Yield() error {
	return c.send(wire.Frame{Op: wire.Fenced}, nil)
}

// Close ends the connection. Children are not touched.
func (c *Client) Close() error {
	var err error
	c.closed.Do(func() {
		close(c.closing)
		err = c.conn.Close()
	})
	c.running.Wait()
	return err
}

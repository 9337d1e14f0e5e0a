// Package client is superd's side of the keeper: it claims the fleet, asks for
// children to be made, hears of their ends and leaves descriptors in safe hands.
//
// One Client is one connection. At most one superd commands at a time; the keeper
// gives each commander an epoch and refuses orders of an older one.
package client

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

var (
	// ErrSlotTaken: a child of that slot lives, or its exit was never acknowledged.
	ErrSlotTaken = errors.New("slot is taken")
	// ErrStale: another superd has claimed the fleet since.
	ErrStale = errors.New("another superd commands now")
	// ErrClosed: the connection to the keeper is gone.
	ErrClosed = errors.New("connection to the keeper is closed")
)

// Spec is what the keeper needs to make a child.
type Spec struct {
	Slot   string // uniqueness key; at most 200 bytes
	Note   []byte // opaque, at most 4 KiB; comes back in the snapshot
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
}

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
	Out   *os.File // read end of stdout and stderr, non-blocking
	gate  *os.File // nil once open, and for a child from the snapshot
}

// An Exit is how a child ended. Failure is not empty when it never became the
// program: it names the step ("exec: no such file or directory", "setuid: …").
type Exit struct {
	Slot    string
	PID     int
	Start   uint64
	Status  syscall.WaitStatus
	Failure string
	At      time.Time
}

// Dial connects to the keeper and claims the fleet. When it returns, the caller
// is the commander and Children, Exits and Held are complete. A commander that
// lives is fenced first; if it does not answer within 2 s Dial fails.
func Dial(ctx context.Context, path string) (*Client, error)

// Client is one claimed connection.
type Client struct{}

// Epoch is this commander's number.
func (c *Client) Epoch() uint64

// Children are the children that lived, or whose exit was not acknowledged, when
// the fleet was claimed.
func (c *Client) Children() []*Child

// Spawn makes a child that waits at its gate: it runs nothing of its own until
// Open. A Child that is dropped without Open leaves with status 111.
func (c *Client) Spawn(ctx context.Context, s Spec) (*Child, error)

// Open lets a spawned child become its program.
func (ch *Child) Open() error

// Exits delivers each exit at least once, also those kept from before. It is
// closed when the connection ends.
func (c *Client) Exits() <-chan Exit

// Acknowledge frees the slot; the keeper forgets the exit.
func (c *Client) Acknowledge(slot string, pid int) error

// Put leaves a duplicate of f with the keeper under name, replacing an older one.
func (c *Client) Put(name string, f *os.File) error

// Held are the descriptors left with the keeper, by name. The caller owns them.
func (c *Client) Held() map[string]*os.File

// Drop makes the keeper close what it holds under name.
func (c *Client) Drop(name string) error

// Shutdown tells the keeper that the end of this superd is meant: it then kills
// what is left and leaves, instead of starting another superd.
func (c *Client) Shutdown(code int) error

// Fenced is closed when another superd has taken the fleet over.
func (c *Client) Fenced() <-chan struct{}

// Close ends the connection. Children are not touched.
func (c *Client) Close() error

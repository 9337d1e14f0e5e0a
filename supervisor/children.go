// Package supervisor keeps child processes up. It knows no PHP and no release.
//
// The invariant: a child belongs to the keeper, never to superd. superd may be
// killed between any two lines of this package and the next superd finds every
// child again, with its exit status, its output and whether it was told to stop.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"superd/supervisor/keeper/client"
	"superd/supervisor/notify"
	"superd/supervisor/output"
)

// Options are what Open needs.
type Options struct {
	Keeper string         // path of the keeper's socket
	State  string         // directory of the ledger of births
	Notify *notify.Server // where children say READY=1; nil: nobody listens
	Output *output.Store  // where their output goes
	Log    *slog.Logger
}

// Children starts children through the keeper and knows every one that lives.
// There is one per superd; its methods may be called from any goroutine.
type Children struct {
	keeper *client.Client
	ledger *ledger
	notify *notify.Server
	output *output.Store
	log    *slog.Logger

	tending sync.WaitGroup // one goroutine per child, see Child.tend
	stopped chan struct{}  // closed when Run ends: the tending goroutines let go

	mu    sync.Mutex
	kids  map[string]*Child // by slot
	first []*Child          // those found at Open
	held  map[string]*os.File
}

// Open claims the fleet from the keeper. What lives, or has ended unnoticed, is
// in Adopted; nothing is delivered before Run.
func Open(ctx context.Context, o Options) (*Children, error) {
	keeper, err := client.Dial(ctx, o.Keeper)
	if err != nil {
		return nil, fmt.Errorf("claim the fleet from the keeper at %s: %w", o.Keeper, err)
	}
	l, err := openLedger(filepath.Join(o.State, "births.ndjson"), o.Log)
	if err != nil {
		return nil, errors.Join(err, keeper.Close())
	}
	c := &Children{
		keeper: keeper, ledger: l, notify: o.Notify, output: o.Output, log: o.Log,
		stopped: make(chan struct{}), kids: map[string]*Child{}, held: keeper.Held(),
	}
	for _, k := range keeper.Children() {
		ch := c.add(k, "")
		ch.told, ch.adopted = l.told(k.PID, k.Start), true
		c.first = append(c.first, ch)
	}
	return c, l.compact(c.first)
}

// Run delivers exits, output and readiness until ctx ends or another superd takes
// the fleet over. The children live on.
func (c *Children) Run(ctx context.Context) error {
	defer c.tending.Wait()
	defer close(c.stopped)
	var hears sync.WaitGroup
	defer hears.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.notify != nil {
		hears.Go(func() { c.hear(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.keeper.Fenced():
			return client.ErrStale
		case exit, ok := <-c.keeper.Exits():
			if !ok {
				return client.ErrClosed
			}
			c.ended(exit)
		}
	}
}

// Close gives the fleet back. Children are not touched.
func (c *Children) Close() error {
	return errors.Join(c.ledger.Close(), c.keeper.Close())
}

// Start makes a child: it is in the ledger, synced, before it runs its first
// instruction, and the program has been asked for when Start returns. A program
// that can't be executed arrives as an Exit with a Failure.
// ErrSlotTaken tells that a child of that slot lives or is not acknowledged.
func (c *Children) Start(ctx context.Context, s Spec) (*Child, error) {
	note, err := packNote(s)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	k, err := c.keeper.Spawn(ctx, client.Spec{
		Slot: s.Slot, Note: note, Argv: s.Argv, Env: append(s.Env[:len(s.Env):len(s.Env)], slotMark+s.Slot),
		Dir: s.Dir, UID: s.User.UID, GID: s.User.GID, Groups: s.User.Groups,
		Umask: s.Umask, Nice: s.Nice, Limits: s.Limits, Files: s.Files,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	c.ledger.born(k.Slot, k.PID, k.Start)
	ch := c.add(k, s.Log)
	if err := k.Open(); err != nil {
		return ch, fmt.Errorf("start %s: open its gate: %w", s.Name, err)
	}
	return ch, nil
}

// ErrSlotTaken is what Start answers when the slot is not free.
var ErrSlotTaken = client.ErrSlotTaken

// Adopted are the children that were there when this superd came, those whose
// exit nobody had acknowledged included. Each needs an owner.
func (c *Children) Adopted() []*Child { return c.first }

// Living are all children whose exit has not been acknowledged.
func (c *Children) Living() []*Child {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Child, 0, len(c.kids))
	for _, k := range c.kids {
		all = append(all, k)
	}
	return all
}

// Hold leaves a duplicate of f with the keeper, where it outlives superd.
func (c *Children) Hold(name string, f *os.File) error { return c.keeper.Put(name, f) }

// Held is what an earlier superd left with the keeper under name. The caller owns
// it from then on; a second call finds nothing.
func (c *Children) Held(name string) (*os.File, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.held[name]
	delete(c.held, name)
	return f, ok
}

// HeldNames are the names Held still answers to.
func (c *Children) HeldNames() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.held))
	for n := range c.held {
		names = append(names, n)
	}
	return names
}

// Drop makes the keeper close what it holds under name.
func (c *Children) Drop(name string) error { return c.keeper.Drop(name) }

// Shutdown tells the keeper that the end of this superd is meant: it kills what
// is left and leaves with code.
func (c *Children) Shutdown(code int) error { return c.keeper.Shutdown(code) }

// Epoch is the number of this superd's claim on the fleet.
func (c *Children) Epoch() uint64 { return c.keeper.Epoch() }

// NotifySocket is the value of NOTIFY_SOCKET for children that speak sd_notify,
// empty when nobody listens.
func (c *Children) NotifySocket() string {
	if c.notify == nil {
		return ""
	}
	return c.notify.Path()
}

func (c *Children) add(k *client.Child, log string) *Child {
	ch := newChild(c, k, log)
	c.mu.Lock()
	c.kids[k.Slot] = ch
	c.mu.Unlock()
	c.tending.Go(ch.tend)
	return ch
}

func (c *Children) ended(e client.Exit) {
	c.mu.Lock()
	ch := c.kids[e.Slot]
	c.mu.Unlock()
	if ch == nil || ch.proc.PID != e.PID || ch.proc.Start != e.Start {
		return // told twice: exits come at least once
	}
	select {
	case ch.end <- e:
	default: // told twice before the first was read
	}
}

func (c *Children) forget(ch *Child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kids[ch.proc.Slot] == ch {
		delete(c.kids, ch.proc.Slot)
	}
}

// hear gives each message to the child whose process, or whose session, it came
// from; the kernel vouches for the sender's PID.
func (c *Children) hear(ctx context.Context) {
	err := c.notify.Run(ctx, func(m notify.Message) {
		if ch := c.sender(m.PID); ch != nil {
			ch.heard(m)
		}
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("notify socket is lost", "error", err)
	}
}

func (c *Children) sender(pid int) *Child {
	session, err := notify.SessionOf(pid)
	if err != nil {
		session = pid
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.kids {
		if ch.proc.PID == pid || ch.proc.PID == session {
			return ch
		}
	}
	return nil
}

// Package supervisor keeps child processes up. It knows no PHP and no release.
//
// The invariant: a child belongs to the keeper, never to superd. superd may be
// killed between any two lines of this package and the next superd finds every
// child again, with its exit status, its output and whether it was told to stop.
package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"superd/supervisor/cgroup"
	"superd/supervisor/keeper/client"
	"superd/supervisor/notify"
	"superd/supervisor/output"
)

// Options are what Open needs.
type Options struct {
	Keeper string         // path of the keeper's socket
	State  string         // directory of the ledger of births; no other superd may have it
	Notify *notify.Server // where children say READY=1; nil: nobody listens
	Output *output.Store  // where their output goes
	Log    *slog.Logger
	Groups *cgroup.Tree // where each child gets a cgroup; nil: none does

	Starved func(Starved) // is told of them, from Run, and must not block; nil: nobody is

	Patience time.Duration // how long another superd may take to let go of State
	Refused  int           // the keeper's exit code if it does not, and nothing is kept
}

// Children starts children through the keeper and knows every one that lives.
// There is one per superd; its methods may be called from any goroutine.
type Children struct {
	keeper *client.Client
	lock   *os.File // of the state directory
	ledger *ledger
	notify *notify.Server
	output *output.Store
	log    *slog.Logger

	groups   *cgroup.Tree // nil: there are none
	leafless atomic.Bool  // that a child got no leaf was told
	littered chan struct{}
	shortage *shortage
	starved  func(Starved)
	came     time.Time // when the fleet was claimed

	censuses censuses
	starts   pace               // a ceiling over all starts
	tending  sync.WaitGroup     // one goroutine per child, see Child.moveOutput
	stopped  chan struct{}      // closed when Run ends: the tending goroutines let go
	moving   context.Context    //nolint:containedctx // ends with stopped, not with a call
	halt     context.CancelFunc // of moving

	mu    sync.Mutex
	left  bool                   // stopped is closed
	kids  map[string]*Child      // by slot
	early map[string]client.Exit // by slot; of children that Start does not know yet
	first []*Child               // those found at Open
	held  map[string]*os.File

	litter map[string]*cgroup.Leaf // those that could not be removed yet, by name

	leftovers []*leftover   // of a keeper that is gone
	cleared   chan struct{} // closed when they have ended: nothing is started before
}

// No more than this many starts a second, after those of a large server at once: whoever
// boots waits for nothing, and children that crash in a loop are held down all the same.
const (
	startsPerSecond = 200
	startsAtOnce    = 1000
)

// Open claims the fleet from the keeper. What lives, or has ended unnoticed, is
// in Adopted; nothing is delivered before Run. ErrStateInUse tells that another superd
// has the state directory.
func Open(ctx context.Context, o Options) (*Children, error) {
	keeper, err := client.Dial(ctx, o.Keeper)
	if err != nil {
		return nil, fmt.Errorf("claim the fleet from the keeper at %s: %w", o.Keeper, err)
	}
	c := &Children{
		keeper: keeper, notify: o.Notify, output: o.Output, log: o.Log,
		starts:  pace{every: time.Second / startsPerSecond, burst: startsAtOnce},
		stopped: make(chan struct{}), kids: map[string]*Child{}, early: map[string]client.Exit{}, held: keeper.Held(),
		cleared: make(chan struct{}),
		groups:  o.Groups, litter: map[string]*cgroup.Leaf{}, littered: make(chan struct{}, 1),
		shortage: newShortage(o.Groups), starved: o.Starved, came: time.Now(),
	}
	if c.starved == nil {
		c.starved = func(Starved) {}
	}
	if err := c.own(ctx, o); err != nil {
		return nil, errors.Join(err, keeper.Close())
	}
	c.keepMarks()
	c.moving, c.halt = context.WithCancel(context.WithoutCancel(ctx))
	for _, k := range keeper.Children() {
		ch := newChild(c, k, unpackNote(k.Note, k.Slot))
		ch.adopt(whenTold(c.ledger, k))
		ch.recall(c.ledger.words(k.PID, k.Start))
		c.add(ch)
		c.first = append(c.first, ch)
	}
	if o.Notify != nil {
		c.keepEars()
	}
	c.leftovers = c.findLeftovers(keeper.Children())
	c.tidy(keeper.Children())
	if len(c.leftovers) == 0 {
		close(c.cleared)
	}
	c.ledger.compact(c.first, c.leftovers)
	return c, nil
}

// earsName is what the notify socket is held under.
const earsName = "notify socket"

// keepEars leaves the notify socket with the keeper: a child that says READY=1 while
// there is no superd is heard by the next one.
func (c *Children) keepEars() {
	if before, ok := c.Held(earsName); ok {
		err := c.notify.Inherit(before)
		if err = errors.Join(err, before.Close()); err != nil {
			c.log.Warn("what children have said meanwhile is not heard", "error", err)
		}
	}
	f, err := c.notify.File()
	if err == nil {
		err = errors.Join(c.Hold(earsName, f), f.Close())
	}
	if err != nil {
		c.log.Warn("what children say while there is no superd will not be heard", "error", err)
	}
}

// whenTold is when a child of an earlier superd was told to stop, zero if it was not.
// Whether it was is for the keeper to say: the ledger is written before.
func whenTold(l *ledger, k *client.Child) time.Time {
	if !k.Told && l.words(k.PID, k.Start).Main != 0 {
		return l.told(k.PID, k.Start) // the keeper tells only those that it has started
	}
	if !k.Told {
		return time.Time{}
	}
	if at := l.told(k.PID, k.Start); !at.IsZero() {
		return at
	}
	return time.Now() // on a full disk: its time begins anew
}

// Run delivers exits and readiness until ctx ends or another superd wants the fleet,
// which is ErrStale. The children live on, and the other one has to wait for Close.
func (c *Children) Run(ctx context.Context) error {
	defer c.letGo()
	var hears sync.WaitGroup
	defer hears.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.notify != nil {
		hears.Go(func() { c.hear(ctx) })
	}
	if len(c.leftovers) > 0 {
		hears.Go(func() { c.clear(ctx) })
	}
	if c.groups != nil {
		hears.Go(func() { c.sweep(ctx) })
	}
	hears.Go(func() { c.watchMemory(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.keeper.Fenced():
			return client.ErrStale // and yields in Close: two writers would spoil a file
		case exit, ok := <-c.keeper.Exits():
			if !ok {
				return client.ErrClosed
			}
			c.ended(exit)
		}
	}
}

// letGo ends the tending of all children and waits until no output is moved.
func (c *Children) letGo() {
	c.mu.Lock()
	if !c.left {
		c.left = true
		close(c.stopped)
		c.halt()
	}
	c.mu.Unlock()
	c.tending.Wait()
}

// Fenced is closed when another superd wants the fleet: it waits for Close, for some
// seconds.
func (c *Children) Fenced() <-chan struct{} { return c.keeper.Fenced() }

// Close gives the fleet back. Children are not touched.
func (c *Children) Close() error {
	c.letGo()
	return errors.Join(c.ledger.Close(), c.lock.Close(), c.keeper.Close())
}

// Start makes a child: it is in the ledger before it runs its first
// instruction, and the program has been asked for when Start returns. A program
// that can't be executed arrives as an Exit with a Failure.
// ErrSlotTaken tells that a child of that slot lives or is not acknowledged.
func (c *Children) Start(ctx context.Context, s Spec) (*Child, error) {
	select {
	case <-c.cleared:
	case <-ctx.Done():
		return nil, fmt.Errorf("start %s: processes of a lost keeper have to end first: %w", s.Name, context.Cause(ctx))
	}
	if err := c.starts.wait(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	n := note{Name: s.Name, Mark: rand.Text(), Log: s.Log, Labels: s.Labels, Watchdog: interval(s.Watchdog), Own: s.Note}
	if s.past != (history{}) {
		n.Past = &s.past
	}
	packed, err := n.pack()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	k, err := c.spawn(ctx, client.Spec{
		Slot: s.Slot, Note: packed, Argv: s.Argv, Env: s.environ(n.Mark, c.NotifySocket()),
		Dir: s.Dir, UID: s.User.UID, GID: s.User.GID, Groups: s.User.Groups,
		Umask: s.Umask, Nice: s.Nice, Limits: s.Limits, Files: s.Files, Err: c.output.Apart(s.Name), In: s.Stdin,
	}, n.Mark, s.Alone)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	c.ledger.born(line{Slot: k.Slot, PID: k.PID, Start: k.Start, Mark: n.Mark, Signal: int(s.StopSignal), Timeout: int64(s.StopTimeout)})
	ch := newChild(c, k, n)
	c.add(ch)
	if err := k.Open(); err != nil {
		return ch, fmt.Errorf("start %s: open its gate: %w", s.Name, err)
	}
	return ch, nil
}

// ErrSlotTaken is what Start answers when the slot is not free.
var ErrSlotTaken = client.ErrSlotTaken

// ErrStale is what Run answers when another superd wants the fleet.
var ErrStale = client.ErrStale

// LostKeeper tells whether err is that this superd commands no keeper any longer: it has
// ended, or another superd has it. What failed for that is nobody's fault, and Run ends.
func LostKeeper(err error) bool {
	return errors.Is(err, client.ErrClosed) || errors.Is(err, client.ErrStale)
}

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

// A Renewal is what became of Renew.
type Renewal = client.Renewal

// Renew has the keeper become the program at its path: see client.Client.
func (c *Children) Renew(ctx context.Context) (Renewal, error) { return c.keeper.Renew(ctx) }

// Beat is a sign of life; the keeper kills a superd that owes it one: see
// client.Client.
func (c *Children) Beat(within time.Duration) error { return c.keeper.Beat(within) }

// Shutdown tells the keeper that the end of this superd is meant: it kills what
// is left and leaves with code.
func (c *Children) Shutdown(code int) error {
	c.endGroups()
	return c.keeper.Shutdown(code)
}

// KeeperPID is the process that everything is a child of, and that stays when superd goes.
func (c *Children) KeeperPID() (int, error) { return c.keeper.Keeper() }

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

// add makes a child known, with its end if that came before.
func (c *Children) add(ch *Child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kids[ch.proc.Slot] = ch
	if e, ok := c.early[ch.proc.Slot]; ok && ch.is(e) {
		delete(c.early, ch.proc.Slot)
		c.finish(ch, e)
	}
	if !c.left {
		c.tending.Go(ch.moveOutput)
		if h := ch.heir; h != nil && h.fd != nil {
			c.tending.Go(func() { h.watch(ch) })
		}
	}
}

// tend runs one more goroutine until superd lets go; false: it does already.
func (c *Children) tend(one func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left {
		c.tending.Go(one)
	}
	return !c.left
}

// ended gives an exit to its child. It may be told twice, and it may be told of a
// child that Start has made and not added yet.
func (c *Children) ended(e client.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.kids[e.Slot]
	if ch == nil || !ch.is(e) {
		c.early[e.Slot] = e
		return
	}
	c.finish(ch, e)
}

// finish makes an exit the child's. The caller holds c.mu.
func (c *Children) finish(ch *Child, e client.Exit) {
	if !c.left && !ch.ending {
		ch.ending = true
		c.tending.Go(func() { ch.finish(e) })
	}
}

func (c *Children) forget(ch *Child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kids[ch.proc.Slot] == ch {
		delete(c.kids, ch.proc.Slot)
	}
}

// hear gives each message to the child whose tree it came from; the kernel vouches for
// the sender's PID.
func (c *Children) hear(ctx context.Context) {
	err := c.notify.Run(ctx, func(m notify.Message) {
		if ch := c.sender(m.PID); ch != nil {
			if m.MainPID > 0 {
				ch.name(m.MainPID)
			}
			ch.heard(m)
		}
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("notify socket is lost", "error", err)
	}
}

// sender is the child of whose tree a process is, nil if it is of none, or gone: then
// nobody can tell any more.
func (c *Children) sender(pid int) *Child {
	if ch := c.leader(pid); ch != nil {
		return ch
	}
	if ch := c.ofLeaf(pid); ch != nil {
		return ch
	}
	if mark := markOf(pid); mark != "" { // it has made a session of its own
		if ch := c.find(func(ch *Child) bool { return ch.note.Mark == mark }); ch != nil {
			return ch
		}
	}
	for p, depth := pid, 0; p > 1 && depth < 64; depth++ { // and no environment
		s, err := readStat(p)
		if err != nil {
			return nil
		}
		p = s.parent
		if ch := c.leader(p); ch != nil {
			return ch
		}
	}
	return nil
}

// leader is the child that a process is, or of whose session it is.
func (c *Children) leader(pid int) *Child {
	session, err := notify.SessionOf(pid)
	if err != nil {
		session = pid
	}
	return c.find(func(ch *Child) bool { return ch.proc.PID == pid || ch.proc.PID == session })
}

func (c *Children) find(is func(*Child) bool) *Child {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.kids {
		if is(ch) {
			return ch
		}
	}
	return nil
}

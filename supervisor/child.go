package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
	"superd/supervisor/keeper/client"
	"superd/supervisor/output"
)

// Forever is a stop timeout that never ends.
const Forever time.Duration = math.MaxInt64

// A Child is one life of a process.
type Child struct {
	children *Children
	proc     *client.Child
	note     note
	output   *output.Stream
	leaf     *cgroup.Leaf // nil: it has no cgroup of its own
	made     time.Time    // as Born, but by the clock that nobody can set
	adopted  bool         // an earlier superd started it

	ending bool          // the keeper has told of its end; guarded by children.mu
	moved  chan struct{} // closed when its output is not moved any more
	exited chan struct{}
	exit   Exit // valid once exited is closed

	words // what it has said of itself

	writing sync.Mutex // to its standard input
	telling sync.Mutex // it is told once

	mu     sync.Mutex // of the words too
	told   time.Time  // when the stop signal was sent; zero: never
	killed bool       // superd asked for SIGKILL
	alone  bool       // its end is that of its main process, whatever that has started
}

func newChild(c *Children, k *client.Child, n note) *Child {
	return &Child{
		children: c, proc: k, note: n, made: time.Now(), leaf: c.leafOf(k.Slot, n.Mark),
		output: c.output.Attach(output.Life{Name: n.Name, Log: n.Log, Mark: n.Mark, Labels: n.Labels, Out: k.Out, Err: k.Err}),
		moved:  make(chan struct{}),
		exited: make(chan struct{}),
		words:  newWords(n.Watchdog),
	}
}

// adopt makes it a child of an earlier superd, who told it to stop at told, or
// not. Both times come from a clock that may have been set since.
func (c *Child) adopt(told time.Time) {
	c.adopted, c.told = true, told
	c.made = c.made.Add(-max(0, time.Since(c.proc.Born)))
	c.output.Recall()
}

// is tells whether e is the end of this life.
func (c *Child) is(e client.Exit) bool { return c.proc.PID == e.PID && c.proc.Start == e.Start }

// Name is what people call it.
func (c *Child) Name() string { return c.note.Name }

// Slot is its place among the living.
func (c *Child) Slot() string { return c.proc.Slot }

// Note is what Spec.Note was, also when another superd started the child.
func (c *Child) Note() []byte { return c.note.Own }

// PID is its main process: the one that was started, unless it has named another.
func (c *Child) PID() int {
	if h := c.main(); h != nil {
		return h.pid
	}
	return c.proc.PID
}

// FirstPID is the process that was started, which never changes. Its session and process
// group have the same number.
func (c *Child) FirstPID() int { return c.proc.PID }

// Born is when it was made, by the wall clock.
func (c *Child) Born() time.Time { return c.proc.Born }

// Exited is closed when the main process has ended and its output is stored.
func (c *Child) Exited() <-chan struct{} { return c.exited }

func (c *Child) hasExited() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// Exit is how it ended; valid once Exited is closed.
func (c *Child) Exit() Exit { return c.exit }

// Told is when the stop signal was sent, by this superd or an earlier one; zero
// if it was not.
func (c *Child) Told() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told
}

// Tail is the last n lines the child wrote, also after its end.
func (c *Child) Tail(n int) []string { return c.output.Tail(n) }

// Acknowledge says that the owner has taken note of the exit: the keeper forgets
// it and the slot is free. Before the exit it is an error.
func (c *Child) Acknowledge() error {
	select {
	case <-c.exited:
	default:
		return fmt.Errorf("acknowledge %s: it lives", c.Name())
	}
	err := c.children.keeper.Acknowledge(c.proc.Slot, c.proc.PID)
	c.children.ledger.gone(c.proc.PID, c.proc.Start) // only now: an exit that is still to be told needs what the ledger knows
	c.children.forget(c)
	c.children.trim(c.leaf)
	return errors.Join(err, c.proc.Close())
}

// Signal sends sig to the main process, by pidfd. A process that is gone already
// is no error.
func (c *Child) Signal(sig syscall.Signal) error {
	if h := c.main(); h != nil {
		return named(h.signal(sig), c)
	}
	return named(signalTo(c.proc.Pidfd, sig), c)
}

func named(err error, c *Child) error {
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	return nil
}

// Stop sends sig once to the main process, waits timeout for its end, and then
// kills the whole tree until it is empty. A child that has been told before, by
// this superd or an earlier one, is not told again and its time counts from then;
// it may ask for more by EXTEND_TIMEOUT_USEC. What the main process leaves behind
// when it ends in time, a program behind a shell for one, gets sig too and what is
// left of the time. Closing now cuts the wait short. When ctx ends Stop returns
// ctx's error and does nothing more: the child goes on stopping.
// The bool tells that it had to be killed.
func (c *Child) Stop(ctx context.Context, sig syscall.Signal, timeout time.Duration, now <-chan struct{}) (Exit, bool, error) {
	if err := c.tell(ctx, sig); err != nil {
		return Exit{}, false, err
	}
	return c.await(ctx, sig, timeout, now)
}

// await is Stop for a child that needs no word any more; sig is for what it leaves behind.
func (c *Child) await(ctx context.Context, sig syscall.Signal, timeout time.Duration, now <-chan struct{}) (Exit, bool, error) {
	end := c.deadline(timeout)
	inTime, err := c.leaves(ctx, sig, &end, now)
	if err != nil {
		return Exit{}, false, err
	}
	switch alone := c.isAlone(); {
	case inTime && alone:
		return c.exit, false, nil
	case inTime:
		return c.exit, false, c.endRest(ctx, sig, end, now)
	case alone:
		err = c.killMain(ctx)
	default:
		err = c.KillTree(ctx)
	}
	if err != nil {
		return Exit{}, true, err
	}
	select {
	case <-c.exited:
		return c.exit, true, nil
	case <-ctx.Done():
		return Exit{}, true, context.Cause(ctx)
	}
}

// tell sends the stop signal the first time it is called in the child's life. The
// keeper sends it, and knows whether it has: so superd may die anywhere in here, and
// the child is told once. The ledger knows when, from just before. Who is stopped hears
// nothing but SIGKILL, so it is told to go on, too.
func (c *Child) tell(ctx context.Context, sig syscall.Signal) error {
	c.telling.Lock() // not mu: who hears the children must never wait for a disk
	defer c.telling.Unlock()
	if !c.Told().IsZero() || c.hasExited() {
		return nil
	}
	now := time.Now()
	c.children.ledger.tell(c.proc.PID, c.proc.Start, now)
	var err error
	h := c.main()
	if h != nil {
		err = h.signal(sig)
	} else {
		err = c.tellFirst(ctx, sig)
	}
	if err != nil {
		return fmt.Errorf("signal %s to %s: %w", unix.SignalName(sig), c.Name(), err)
	}
	c.mu.Lock()
	c.told, c.toldHeir = now, h
	c.mu.Unlock()
	return c.Signal(syscall.SIGCONT)
}

// tellFirst tells the process that was started, once.
func (c *Child) tellFirst(ctx context.Context, sig syscall.Signal) error {
	return c.children.keeper.Tell(ctx.Done(), c.proc.Slot, c.proc.PID, sig)
}

// deadline is when the time of a child that was told is over; zero: never. A clock
// that was set back meanwhile does not make it longer than timeout from now.
func (c *Child) deadline(timeout time.Duration) time.Time {
	if timeout == Forever {
		return time.Time{}
	}
	left := timeout
	if told := c.Told(); !told.IsZero() {
		left = min(timeout, timeout-time.Since(told))
	}
	return time.Now().Add(left)
}

// leaves waits for the end of the main process. It is false when the time was over
// first. When that was one that was named, the one that was started is told then.
func (c *Child) leaves(ctx context.Context, sig syscall.Signal, end *time.Time, now <-chan struct{}) (bool, error) {
	for {
		gone, err := c.tellHeir(sig)
		if err != nil {
			return false, err
		}
		select {
		case <-c.stir: // perhaps by the very word that it goes
			c.record()
		case <-gone:
			if err := c.tellFirst(ctx, sig); err != nil {
				return false, fmt.Errorf("signal %s to %s: %w", unix.SignalName(sig), c.Name(), err)
			}
			c.followed()
		case <-c.exited:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case later := <-c.more:
			if !end.IsZero() && later.After(*end) {
				*end = later
			}
		case <-after(*end):
			return false, nil
		case <-now:
			return false, nil
		}
	}
}

// endRest tells what the main process has left behind to go, once, and kills what
// is there still at the end. Nobody reports the ends of these, so they are waited
// for in short steps.
func (c *Child) endRest(ctx context.Context, sig syscall.Signal, end time.Time, now <-chan struct{}) error {
	rest, err := c.rest()
	if err != nil || len(rest) == 0 {
		return err
	}
	defer rest.release()
	if err := rest.signal(sig); err != nil {
		return fmt.Errorf("stop what %s has left behind: %w", c.Name(), err)
	}
	late := after(end)
	for !rest.waitGone(50 * time.Millisecond) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			return c.KillTree(ctx)
		case <-now:
			return c.KillTree(ctx)
		default:
		}
	}
	return c.KillTree(ctx) // finds nobody, or who was born meanwhile
}

func after(end time.Time) <-chan time.Time {
	if end.IsZero() {
		return nil
	}
	return time.After(time.Until(end))
}

// moveOutput moves the child's output until it has ended. It lets go, leaving everything
// as it is, when superd does. It is all that a silent child costs superd's scheduler.
func (c *Child) moveOutput() {
	defer close(c.moved)
	c.output.Run(c.children.moving)
}

// finish says that the child has ended, after its last output. It lets go when superd
// does: an end that nobody has acknowledged is told to the next one.
func (c *Child) finish(e client.Exit) {
	if !c.hearOut() {
		return
	}
	main, ended := c.lastOf()
	if !ended {
		return
	}
	c.output.Finish()
	<-c.moved
	if c.children.moving.Err() != nil {
		return // its last output may be in the pipe still, for the next superd
	}
	c.exit = c.judge(e, main)
	close(c.exited)
}

// hearOut waits until its last words have been heard: they and its end come by two ways,
// and one of them may name an heir, so that this is no end. False: superd lets go before.
func (c *Child) hearOut() bool {
	if c.children.notify == nil {
		return true
	}
	select {
	case <-c.children.notify.Settled():
		return true
	case <-c.children.stopped:
		return false
	}
}

// judge is how the child has ended: as its main process did, if it has named one.
func (c *Child) judge(e client.Exit, main *heir) Exit {
	x, who := Exit{Status: e.Status, Failure: e.Failure, At: e.At}, identity{c.proc.PID, c.proc.Start}
	if main != nil {
		who = identity{main.pid, main.start}
		x.Status, x.Unknown, x.At = main.status, !main.known, main.at
	}
	x.Ran = max(0, x.At.Sub(c.proc.Born))
	c.mu.Lock()
	x.Killed = c.killed && (x.Unknown || x.Status.Signaled() && x.Status.Signal() == unix.SIGKILL)
	x.Fault = c.said.Fault
	c.mu.Unlock()
	if e.Failure == "" {
		x.OOM = c.children.shortage.part(c, who, x.Status, x.At, x.Killed)
	}
	return x
}

// An Exit is how a child ended. The names in JSON are read by the next superd.
type Exit struct {
	Status  syscall.WaitStatus `json:"status"`
	Failure string             `json:"failure,omitempty"` // not empty: it never became the program, and why
	Unknown bool               `json:"unknown,omitempty"` // Status is not known: the kernel did not tell how its main process ended
	At      time.Time          `json:"at"`
	Ran     time.Duration      `json:"ran"`
	Killed  bool               `json:"killed,omitempty"` // superd killed it
	OOM     OOM                `json:"oom,omitempty"`    // the part that want of memory had in it
	Fault   string             `json:"fault,omitempty"`  // why superd ended it when nobody had asked for that: "watchdog"; else empty
}

// Code is the exit code, -1 after a signal or a failure to start.
func (e Exit) Code() int {
	if e.Failure != "" || e.Unknown || !e.Status.Exited() {
		return -1
	}
	return e.Status.ExitStatus()
}

// String is how a person is told: "exit 255 after 300ms", "signal SIGKILL after 2s",
// "watchdog: signal SIGABRT after 5m0s", "out of memory: killed by the kernel after 2s".
func (e Exit) String() string {
	ran := e.Ran.Round(time.Millisecond)
	if e.OOM == OOMKill {
		return fmt.Sprintf("out of memory: killed by the kernel after %s", ran)
	}
	how := e.manner(ran) + e.OOM.remark()
	if e.Fault != "" {
		return e.Fault + ": " + how
	}
	return how
}

func (e Exit) manner(ran time.Duration) string {
	switch {
	case e.Failure != "":
		return e.Failure
	case e.Unknown && !e.Killed:
		return fmt.Sprintf("its main process ended after %s, and the kernel does not tell how", ran)
	case e.Unknown:
		return fmt.Sprintf("killed by superd after %s", ran)
	case e.Status.Signaled() && e.Killed:
		return fmt.Sprintf("killed by superd after %s", ran)
	case e.Status.Signaled():
		return fmt.Sprintf("signal %s after %s", unix.SignalName(e.Status.Signal()), ran)
	}
	return fmt.Sprintf("exit %d after %s", e.Status.ExitStatus(), ran)
}

// Planned reports whether the exit code is one of those that are no failure.
func (e Exit) Planned(codes []int) bool {
	return e.Failure == "" && !e.Unknown && e.Status.Exited() && slices.Contains(codes, e.Status.ExitStatus())
}

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

	"superd/supervisor/keeper/client"
	"superd/supervisor/notify"
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

	end     chan client.Exit // from the keeper, at most one
	exited  chan struct{}
	exit    Exit // valid once exited is closed
	adopted bool // an earlier superd started it

	mu     sync.Mutex
	ready  chan struct{}
	isUp   bool
	status string
	told   time.Time // when the stop signal was sent; zero: never
	killed bool      // superd asked for SIGKILL
}

func newChild(c *Children, k *client.Child, log string) *Child {
	n := unpackNote(k.Note, k.Slot)
	if log == "" {
		log = n.Log
	}
	return &Child{
		children: c, proc: k, note: n,
		output: c.output.Attach(n.Name, log, k.Out),
		end:    make(chan client.Exit, 1),
		exited: make(chan struct{}),
		ready:  make(chan struct{}),
	}
}

// Name is what people call it.
func (c *Child) Name() string { return c.note.Name }

// Slot is its place among the living.
func (c *Child) Slot() string { return c.proc.Slot }

// Note is what Spec.Note was, also when another superd started the child.
func (c *Child) Note() []byte { return c.note.Own }

// PID is its main process, and its session and process group too.
func (c *Child) PID() int { return c.proc.PID }

// Born is when it was made, by the wall clock.
func (c *Child) Born() time.Time { return c.proc.Born }

// Exited is closed when the main process has ended and its output is stored.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Exit is how it ended; valid once Exited is closed.
func (c *Child) Exit() Exit { return c.exit }

// Ready is closed when the child has said READY=1.
func (c *Child) Ready() <-chan struct{} { return c.ready }

// StatusText is the last STATUS= the child sent.
func (c *Child) StatusText() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

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
	c.children.forget(c)
	c.children.ledger.gone(c.proc.PID, c.proc.Start)
	return errors.Join(c.children.keeper.Acknowledge(c.proc.Slot, c.proc.PID), c.proc.Pidfd.Close(), c.proc.Out.Close())
}

// Signal sends sig to the main process, by pidfd. A process that is gone already
// is no error.
func (c *Child) Signal(sig syscall.Signal) error {
	conn, err := c.proc.Pidfd.SyscallConn()
	if err != nil {
		return nil // acknowledged: long gone
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err != nil || sent == nil || errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("signal %s to %s: %w", unix.SignalName(sig), c.Name(), sent)
}

// Stop sends sig once to the main process, waits timeout for its end, and then
// kills the whole tree until it is empty. A child that has been told before, by
// this superd or an earlier one, is not told again and its time counts from then.
// Closing now cuts the wait short. When ctx ends Stop returns ctx's error and
// does nothing more: the child goes on stopping.
// The bool tells that it had to be killed.
func (c *Child) Stop(ctx context.Context, sig syscall.Signal, timeout time.Duration, now <-chan struct{}) (Exit, bool, error) {
	if err := c.tell(sig); err != nil {
		return Exit{}, false, err
	}
	var late <-chan time.Time
	if timeout != Forever {
		late = time.After(time.Until(c.Told().Add(timeout)))
	}
	select {
	case <-c.exited:
		return c.exit, false, nil
	case <-ctx.Done():
		return Exit{}, false, context.Cause(ctx)
	case <-late:
	case <-now:
	}
	if err := c.KillTree(ctx); err != nil {
		return Exit{}, true, err
	}
	select {
	case <-c.exited:
		return c.exit, true, nil
	case <-ctx.Done():
		return Exit{}, true, context.Cause(ctx)
	}
}

// tell sends the stop signal the first time it is called in the child's life.
// The ledger knows before the child does: a superd that dies in between leaves a
// child that is killed at its deadline, never one that is told twice.
func (c *Child) tell(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.told.IsZero() {
		return nil
	}
	c.told = time.Now()
	c.children.ledger.tell(c.proc.PID, c.proc.Start, c.told)
	return c.Signal(sig)
}

// heard takes a message of the child's own.
func (c *Child) heard(m notify.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Status != "" {
		c.status = m.Status
	}
	if m.Ready && !c.isUp {
		c.isUp = true
		close(c.ready)
	}
}

// tend moves the child's output until it has ended, then says so. It lets go,
// leaving everything as it is, when superd does.
func (c *Child) tend() {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // lives as long as the child, not as a request
	defer cancel()
	var moving sync.WaitGroup
	moving.Go(func() { c.output.Run(ctx) })
	select {
	case e := <-c.end:
		c.output.Finish()
		moving.Wait()
		c.mu.Lock()
		c.exit = Exit{Status: e.Status, Failure: e.Failure, At: e.At, Ran: e.At.Sub(c.proc.Born), Killed: c.killed}
		c.mu.Unlock()
		close(c.exited)
	case <-c.children.stopped:
		cancel()
		moving.Wait()
	}
}

// An Exit is how a child ended.
type Exit struct {
	Status  syscall.WaitStatus
	Failure string // not empty: it never became the program, and why
	At      time.Time
	Ran     time.Duration
	Killed  bool // superd killed it
}

// Code is the exit code, -1 after a signal or a failure to start.
func (e Exit) Code() int {
	if e.Failure != "" || !e.Status.Exited() {
		return -1
	}
	return e.Status.ExitStatus()
}

// String is how a person is told: "exit 255 after 300ms", "signal SIGKILL after 2s".
func (e Exit) String() string {
	ran := e.Ran.Round(time.Millisecond)
	switch {
	case e.Failure != "":
		return e.Failure
	case e.Status.Signaled() && e.Killed:
		return fmt.Sprintf("killed by superd after %s", ran)
	case e.Status.Signaled():
		return fmt.Sprintf("signal %s after %s", unix.SignalName(e.Status.Signal()), ran)
	}
	return fmt.Sprintf("exit %d after %s", e.Status.ExitStatus(), ran)
}

// Planned reports whether the exit code is one of those that are no failure.
func (e Exit) Planned(codes []int) bool {
	return e.Failure == "" && e.Status.Exited() && slices.Contains(codes, e.Status.ExitStatus())
}

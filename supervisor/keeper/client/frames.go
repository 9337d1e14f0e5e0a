package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// Two goroutines serve a connection. read takes every frame off the socket and
// never waits for anybody in superd; deliver hands the exits out at the pace of
// who reads them. So a slow reader of exits can't hold up the answer to a Spawn.

// An answer is a frame and the descriptors that came with it.
type answer struct {
	frame wire.Frame
	fds   []int
}

// A life tells one child from the next in its slot.
type life struct {
	slot string
	pid  uint32
}

var errGaveUp = errors.New("the answer was not waited for")

// claim asks for the fleet and reads the picture of it.
func (c *Client) claim(ctx context.Context) error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) }) // fails only once closed
	defer stop()
	err := c.picture()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return c.conn.SetDeadline(time.Time{})
}

func (c *Client) picture() error {
	if err := c.write(wire.Frame{Op: wire.Claim, Status: wire.AllPipes}, nil); err != nil {
		return err
	}
	for {
		a, err := c.receive()
		if err != nil {
			return err
		}
		switch f := a.frame; f.Op { //nolint:exhaustive // anything else ends in the default, by design
		case wire.Granted:
			c.epoch = f.Epoch
		case wire.Child:
			child, err := newChild(f, a.fds)
			if err != nil {
				return err
			}
			c.children = append(c.children, child)
		case wire.Held:
			if len(a.fds) != 1 {
				wire.CloseAll(a.fds)
				return fmt.Errorf("held %s came with %d descriptors", f.Slot, len(a.fds))
			}
			c.held[f.Slot] = os.NewFile(uintptr(a.fds[0]), f.Slot)
		case wire.End:
			return nil
		default:
			wire.CloseAll(a.fds)
			if f.Op == wire.Done {
				return refusal(f)
			}
			return fmt.Errorf("operation %d in the middle of the picture", f.Op)
		}
	}
}

// release closes what a claim that failed halfway has brought.
func (c *Client) release() {
	for _, ch := range c.children {
		ch.close()
	}
	for _, f := range c.held {
		_ = f.Close() // never used
	}
}

// read takes frames off the socket until it ends.
func (c *Client) read() {
	for {
		a, err := c.receive()
		if err != nil {
			c.end(err)
			return
		}
		switch a.frame.Op { //nolint:exhaustive // every answer goes the same way
		case wire.Exit:
			wire.CloseAll(a.fds)
			c.exit(a.frame)
		case wire.Fence:
			wire.CloseAll(a.fds)
			if !c.isFenced() {
				close(c.fenced)
			}
		default:
			c.answered(a)
		}
	}
}

// end wakes everybody who waits for an answer that will not come.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = ErrClosed
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.lost = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	for id, ch := range c.waiting {
		delete(c.waiting, id)
		close(ch)
	}
	_ = c.conn.CloseRead() // nobody reads any more; the keeper shall see it
}

func (c *Client) exit(f wire.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = append(c.ends, Exit{
		Slot: f.Slot, PID: int(f.PID), Start: f.Start, Status: syscall.WaitStatus(f.Status),
		Failure: string(f.Data), At: time.Unix(0, f.Time),
	})
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// answered gives an answer to who waits for it. A child nobody waits for any more
// loses its gate here and leaves; its exit is acknowledged when it comes.
func (c *Client) answered(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.waiting[a.frame.ID]; ok {
		delete(c.waiting, a.frame.ID)
		ch <- a
		return
	}
	if a.frame.Op == wire.Spawned {
		c.strays[life{a.frame.Slot, a.frame.PID}] = true
	}
	wire.CloseAll(a.fds)
}

// deliver hands out the exits in order. The exits that were read are delivered
// also after the connection has ended.
func (c *Client) deliver(ended <-chan struct{}) {
	defer close(c.exits)
	for {
		c.mu.Lock()
		ready := c.ends
		c.ends = nil
		c.mu.Unlock()
		for _, e := range ready {
			if c.stray(e) {
				_ = c.Acknowledge(e.Slot, e.PID) // unheard, the keeper tells the next superd
				continue
			}
			select {
			case c.exits <- e:
			case <-c.closing:
				return
			}
		}
		if len(ready) > 0 {
			continue
		}
		select {
		case <-c.more:
		case <-ended:
			select {
			case <-c.more:
			default:
				return
			}
		}
	}
}

func (c *Client) stray(e Exit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := life{e.Slot, uint32(e.PID)}
	known := c.strays[l]
	delete(c.strays, l)
	return known
}

// ask sends a request and waits for its answer, until done.
func (c *Client) ask(done <-chan struct{}, f wire.Frame, fds []int) (answer, error) {
	if c.isFenced() && f.Op != wire.Put && f.Op != wire.Drop { // what it knows it may still leave for the next one
		return answer{}, ErrStale
	}
	reply := make(chan answer, 1)
	c.mu.Lock()
	if c.lost != nil {
		defer c.mu.Unlock()
		return answer{}, c.lost
	}
	c.id++
	f.ID = c.id
	c.waiting[f.ID] = reply
	c.mu.Unlock()
	if err := c.send(f, fds); err != nil {
		c.forget(f.ID)
		return answer{}, err
	}
	var gaveUp error
	select {
	case a, ok := <-reply:
		return c.accept(a, ok)
	case <-done:
		gaveUp = errGaveUp
	case <-time.After(patience):
		gaveUp = fmt.Errorf("the keeper did not answer within %s", patience)
	}
	c.forget(f.ID)
	select {
	case a, ok := <-reply: // it came all the same, and only here can it be taken
		return c.accept(a, ok)
	default:
		return answer{}, gaveUp
	}
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Client) accept(a answer, ok bool) (answer, error) {
	if !ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		return answer{}, c.lost
	}
	if a.frame.Op == wire.Done && a.frame.Code != wire.OK {
		wire.CloseAll(a.fds)
		return answer{}, refusal(a.frame)
	}
	return a, nil
}

// unknown is the answer of a keeper that does not know the operation.
type unknown string

func (u unknown) Error() string { return string(u) }

// refusal is the error behind a Done that is not OK.
func refusal(f wire.Frame) error {
	text := string(f.Data)
	if text == "" {
		text = fmt.Sprintf("the keeper refuses with code %d", f.Code)
	}
	switch f.Code {
	case wire.SlotTaken:
		return ErrSlotTaken
	case wire.Stale:
		return ErrStale
	case wire.Busy:
		return ErrBusy
	case wire.NoGroup:
		return fmt.Errorf("%w: %s", ErrNoGroup, text)
	case wire.Unknown:
		return unknown(text)
	case wire.Full:
		return lacking{text, syscall.ENFILE}
	case wire.OK, wire.Invalid, wire.Failed, wire.Leaving:
	}
	for _, of := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC} {
		if strings.HasSuffix(text, of.Error()) {
			return lacking{text, of}
		}
	}
	return errors.New(text)
}

// lacking is that the keeper cannot do something for want of a resource of the machine,
// which the error also is.
type lacking struct {
	text string
	of   syscall.Errno
}

func (l lacking) Error() string { return l.text }
func (l lacking) Unwrap() error { return l.of }

func (c *Client) isFenced() bool {
	select {
	case <-c.fenced:
		return true
	default:
		return false
	}
}

// send writes one frame. The keeper reads all the time, so a send that can't go
// out means that it is gone or stuck.
func (c *Client) send(f wire.Frame, fds []int) error {
	err := c.write(f, fds)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return ErrClosed
	}
	return err
}

func (c *Client) write(f wire.Frame, fds []int) error {
	f.Epoch = c.epoch
	b, err := f.Append(nil)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, _, err = c.conn.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one frame with its descriptors, which the caller owns.
func (c *Client) receive() (answer, error) {
	b, oob := make([]byte, wire.MaxFrame+1), make([]byte, wire.RightsSpace())
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return answer{}, err
	}
	fds, err := wire.Rights(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("descriptors of a frame are lost: the limit of open files is reached (RLIMIT_NOFILE)")
	}
	var f wire.Frame
	if err == nil {
		f, err = wire.Decode(b[:n])
	}
	if err != nil {
		wire.CloseAll(fds)
		return answer{}, fmt.Errorf("receive from the keeper: %w", err)
	}
	return answer{f, fds}, nil
}

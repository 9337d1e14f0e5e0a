// Package keeper is the parent of everything superd runs. It forks, reaps, keeps
// each exit status until it is acknowledged, holds what must outlive superd, and
// starts superd again when it is gone. It decides nothing.
//
// The invariant: whatever superd does, dying between two lines included, the
// keeper never waits for it, loses no exit status and gives no slot away twice.
//
// One loop does everything, in the order things arrive. All state belongs to it,
// so there is no lock. It imports neither net nor fmt nor os/exec: the less there
// is of it, the less there is to replace.
package keeper

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// Options are what Run needs.
type Options struct {
	Socket  string   // its directory exists
	Argv    []string // superd
	Self    string   // where the keeper's own program is, for renewals; absolute
	Version string   // of this keeper
}

// Keeper is the state of the loop.
type Keeper struct {
	options Options
	listen  listener
	signals *signals
	null    int // /dev/null: the children's standard input, and a drain
	files   openFiles
	apart   apart

	table table
	conns []*conn

	epoch     uint64
	commander *conn
	claimant  *conn     // waits until the commander yields
	patience  time.Time // when it no longer waits

	superd superd

	renewal renewal
	store   store

	alone    time.Time // since when children live and nobody commands
	draining bool

	leaving *departure // not nil once the end is meant

	polled  []unix.PollFd
	sources []source
	soon    time.Time // look again then, although nothing happened
	buffer  [wire.MaxFrame + 1]byte
	rights  []byte
}

// Run keeps until it is told to leave and returns the exit code that was asked
// for. An error tells why it could not begin.
func Run(o Options) (int, error) {
	k, err := newKeeper(o)
	if err != nil {
		return 0, err
	}
	// Before anybody can see that it is there, and tell it to go.
	if k.signals, err = catchSignals(); err != nil {
		return 0, err
	}
	defer k.signals.close()
	if k.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return 0, failed("open "+os.DevNull, err)
	}
	if err := k.takeBack(); err != nil {
		say(err.Error()) // the next superd finds the children in its ledger
	}
	if err := k.listen.open(o.Socket); err != nil {
		return 0, err
	}
	defer k.listen.close()
	if err := k.startSuperd(); err != nil {
		return 0, err
	}
	return k.run(), nil
}

func newKeeper(o Options) (*Keeper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, failed("become the parent of orphans", err)
	}
	k := &Keeper{options: o, apart: apart{off: kernelWrites}, rights: make([]byte, wire.RightsSpace()), renewal: renewal{pidfd: -1, words: -1}}
	k.files.learn()
	k.table.init(descriptorLimit())
	return k, k.store.open()
}

// run is the loop.
func (k *Keeper) run() int {
	for {
		now := k.wait()
		k.reap()
		k.tellExits()
		k.judgeClaim(now)
		k.judgePulse(now)
		k.keepSuperd(now)
		k.tryRenewal(now)
		k.store.live(now)
		k.storeAll()
		k.watchPipes(now)
		if code, gone := k.leave(now); gone {
			return code
		}
	}
}

// A source is something that poll watches. ready must do nothing when the thing
// was closed earlier in the same round.
type source interface {
	ready(k *Keeper, events int16)
}

// wait sleeps until something happens or a limit is reached, and lets every source
// that is ready do its part.
func (k *Keeper) wait() time.Time {
	k.polled, k.sources = k.polled[:0], k.sources[:0]
	k.watch(k.signals.read, unix.POLLIN, k.signals)
	if !time.Now().Before(k.listen.pause) {
		k.listen.pause = time.Time{}
	}
	if k.listen.pause.IsZero() && len(k.conns) < maxConns {
		k.watch(k.listen.fd, unix.POLLIN, &k.listen)
	}
	for _, c := range k.conns {
		k.watch(c.fd, c.events(k), c)
	}
	for _, c := range k.table.children {
		k.watchChild(c)
	}
	n, err := unix.Poll(k.polled, k.timeout(time.Now()))
	k.soon = time.Time{}
	for _, c := range k.table.children {
		c.listen()
	}
	if err != nil && !errors.Is(err, unix.EINTR) {
		say("poll: " + err.Error())
		k.soon = time.Now().Add(time.Second)
	}
	for i := 0; n > 0 && i < len(k.polled); i++ {
		if k.polled[i].Revents != 0 {
			k.sources[i].ready(k, k.polled[i].Revents)
		}
	}
	return time.Now()
}

// watchChild watches what a child has to say of itself: its end if it is nobody's here,
// and its output if nobody else reads that. Its stage wakes nobody: what that says is
// needed at its end, which is told by a signal.
func (k *Keeper) watchChild(c *child) {
	if c.orphan && !c.dead && !c.resting {
		k.watch(c.pidfd, unix.POLLIN, orphanEnd{c})
	}
	c.resting = false
	if k.draining && !c.dead && !c.silent {
		k.watch(c.out, unix.POLLIN, outputPipe{&c.out, &c.silent})
	}
	if k.unread() && !c.dead && !c.mute && c.err >= 0 {
		k.watch(c.err, unix.POLLIN, outputPipe{&c.err, &c.mute})
	}
}

func (k *Keeper) watch(fd int, events int16, s source) {
	k.polled = append(k.polled, unix.PollFd{Fd: int32(fd), Events: events})
	k.sources = append(k.sources, s)
}

// timeout is how many milliseconds may pass until the next limit, -1 for none.
func (k *Keeper) timeout(now time.Time) int {
	next := time.Time{}
	limits := [...]time.Time{k.soon, k.patience, k.superd.due, k.drainTime(), k.listen.pause, k.leaving.due(), k.pulseDue(), k.renewal.due(), k.store.due()}
	for _, t := range limits {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		return -1
	}
	return max(0, int(next.Sub(now)/time.Millisecond)+1)
}

// say tells the operator. It must not wait either: what does not fit into a pipe
// nobody reads is lost.
func say(text string) {
	fds := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 || fds[0].Revents&unix.POLLOUT == 0 {
		return
	}
	// Not os.Stderr: it ends the program when the reader is gone.
	_, _ = unix.Write(2, []byte("superd-keeper: "+strings.TrimSpace(text)+"\n")) // there is nobody else to tell
}

// A failure is an error with what was being done; fmt would double the binary.
type failure struct {
	doing string
	err   error
}

func failed(doing string, err error) error { return &failure{doing, err} }

func (f *failure) Error() string { return f.doing + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

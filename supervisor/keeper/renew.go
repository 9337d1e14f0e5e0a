package keeper

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// The keeper is replaced in place: it becomes the program that is at its path now, by
// exec, with the same PID, the same children and the same descriptors. Before that the
// new program is asked, as a child that looks at the state, whether it can read it; up
// to there nothing has changed, and whatever goes wrong is told to who asked. A child
// that ends meanwhile stays a zombie until the new program looks.

// trialTime is how long the new program may take to say that it can read the state.
const trialTime = 5 * time.Second

// A renewal is an order to become the program at the keeper's path, while the new
// program is asked.
type renewal struct {
	id    uint64 // of the order; its answer carries the same
	pid   int    // of the program that is asked, 0: none is
	pidfd int
	words int // what it says
	file  unix.Stat_t
	until time.Time
	late  bool // it was killed for that
	tried bool // it can read the state
}

// renew carries out the order.
func (k *Keeper) renew(c *conn, f wire.Frame) {
	var now, next unix.Stat_t
	switch {
	case k.renewal.pid != 0 || k.claimant != nil:
		k.answer(c, f, wire.Failed, "something else is going on: try again")
		return
	case unix.Stat("/proc/self/exe", &now) == nil && unix.Stat(k.options.Self, &next) == nil && now.Ino == next.Ino && now.Dev == next.Dev:
		k.answer(c, f, wire.OK, k.options.Version+"\n"+k.options.Version)
		return
	}
	k.renewal = renewal{id: f.ID, pidfd: -1, words: -1}
	if err := k.tryProgram(); err != nil {
		k.renewal.close()
		k.answer(c, f, wire.Failed, err.Error())
	}
}

// tryProgram starts the new program, to look at the state.
func (k *Keeper) tryProgram() error {
	r := &k.renewal
	if err := unix.Stat(k.options.Self, &r.file); err != nil {
		return failed("find "+k.options.Self, err)
	}
	state, err := k.stateFile()
	if err != nil {
		return err
	}
	defer closeFD(&state)
	var words [2]int
	if err := unix.Pipe2(words[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return failed("make a pipe", err)
	}
	defer closeFD(&words[1])
	r.words = words[0]
	pid, err := syscall.ForkExec(k.options.Self, []string{k.options.Self, "check-state"}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{uintptr(k.null), uintptr(words[1]), uintptr(words[1]), uintptr(state)},
		Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &r.pidfd},
	})
	if err != nil {
		return failed("start "+k.options.Self, err)
	}
	r.pid, r.until = pid, time.Now().Add(trialTime)
	return nil
}

// stateFile is a memfd with the state.
func (k *Keeper) stateFile() (int, error) {
	fd, err := unix.MemfdCreate("superd-keeper", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, failed("make a memfd", err)
	}
	if err := writeAll(fd, k.encode()); err != nil {
		closeFD(&fd)
		return -1, failed("write the state", err)
	}
	return fd, nil
}

func (r *renewal) close() {
	closeFD(&r.pidfd)
	closeFD(&r.words)
	*r = renewal{pidfd: -1, words: -1}
}

func (r *renewal) due() time.Time {
	if r.pid == 0 {
		return time.Time{}
	}
	return r.until
}

// programEnded is called when the program that was asked has ended.
func (k *Keeper) programEnded(status unix.WaitStatus) {
	r := &k.renewal
	if status.Exited() && status.ExitStatus() == 0 {
		r.pid, r.tried = 0, true
		return
	}
	why := "it ended with " + ending(status)
	if r.late {
		why = "it did not answer within " + itoa(int(trialTime/time.Second)) + " s"
	}
	k.refuseRenewal(k.options.Self+" cannot take the keeper's place: "+why, said(r.words))
}

// said is what is in a pipe, for people.
func said(fd int) string {
	var b [1024]byte
	n, err := unix.Read(fd, b[:])
	if err != nil || n <= 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(b[:n]))
}

func (k *Keeper) refuseRenewal(why, words string) {
	id := k.renewal.id
	k.renewal.close()
	say(why + words)
	if k.commander != nil {
		k.answer(k.commander, wire.Frame{ID: id}, wire.Failed, why+words)
	}
}

// tryRenewal goes on with a renewal: it ends a program that hangs, and becomes one that
// can read the state. On success it does not return.
func (k *Keeper) tryRenewal(now time.Time) {
	r := &k.renewal
	if r.pid != 0 && !now.Before(r.until) {
		if err := unix.PidfdSendSignal(r.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			say("kill PID " + itoa(r.pid) + ": " + err.Error())
		}
		r.late, r.until = true, now.Add(trialTime)
		return
	}
	if !r.tried {
		return
	}
	if k.commander == nil || k.leaving != nil || k.claimant != nil || len(k.commander.waiting) > 0 {
		k.refuseRenewal("something else is going on: try again", "")
		return
	}
	err := k.become()
	k.refuseRenewal(err.Error(), "")
}

// become is exec. It returns why that did not happen, with everything as it was.
func (k *Keeper) become() error {
	var file unix.Stat_t
	if err := unix.Stat(k.options.Self, &file); err != nil || file.Ino != k.renewal.file.Ino || file.Dev != k.renewal.file.Dev {
		return errors.New(k.options.Self + " was replaced again meanwhile: try again")
	}
	state, err := k.stateFile()
	if err != nil {
		return err
	}
	defer closeFD(&state)
	// From here on signals wait in the kernel for the next program: the default would
	// be to die of them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, forwarded(), &was); err != nil {
		return failed("block signals", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &was, nil) //nolint:errcheck // it was so before
	k.signals.ready(k, unix.POLLIN)
	defer k.closeOnExec(unix.FD_CLOEXEC) //nolint:errcheck // as it was made
	if _, err = unix.FcntlInt(uintptr(state), unix.F_SETFD, 0); err == nil {
		err = k.closeOnExec(0)
	}
	if err != nil {
		return err
	}
	argv := append([]string{k.options.Self, "resume", itoa(state), "--socket", k.options.Socket, "--"}, k.options.Argv...)
	return failed("become "+k.options.Self, syscall.Exec(k.options.Self, argv, os.Environ()))
}

// forwarded are the signals that the keeper handles.
func forwarded() *unix.Sigset_t {
	var set unix.Sigset_t
	for _, s := range handled {
		set.Val[(s-1)/64] |= 1 << ((s - 1) % 64)
	}
	return &set
}

// CheckState tells whether this program can take the place of a keeper that has written
// its state to fd.
func CheckState(fd int) error {
	b, err := readState(fd)
	if err != nil {
		return err
	}
	var k Keeper
	k.table.init(descriptorLimit())
	_, err = k.decode(b)
	return err
}

func readState(fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, failed("look at the state", err)
	}
	b := make([]byte, st.Size)
	for done := 0; done < len(b); {
		n, err := unix.Pread(fd, b[done:], int64(done))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, failed("read the state", err)
		}
		if n == 0 && err == nil {
			return nil, errState
		}
		done += max(n, 0)
	}
	return b, nil
}

// Resume goes on as the keeper whose state is in fd, and which this process was. It
// returns as Run does.
func Resume(o Options, fd int) (int, error) {
	k, err := newKeeper(o)
	if err != nil {
		return 0, err
	}
	b, err := readState(fd)
	if err != nil {
		return 0, err
	}
	closeFD(&fd)
	before, err := k.decode(b)
	if err != nil {
		return 0, err
	}
	if err := k.closeOnExec(unix.FD_CLOEXEC); err != nil {
		return 0, err
	}
	k.listen.path = o.Socket
	defer k.listen.close()
	if k.signals, err = catchSignals(); err != nil {
		return 0, err
	}
	defer k.signals.close()
	// This thread starts what is started, and must not pass on that signals were blocked.
	runtime.LockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return 0, failed("unblock signals", err)
	}
	say("keeper " + o.Version + " goes on in the place of " + before)
	if k.commander != nil && k.renewal.id != 0 {
		k.send(k.commander, message{frame: wire.Frame{Op: wire.Done, ID: k.renewal.id, Status: 1, Data: []byte(before + "\n" + o.Version)}, gate: -1})
	}
	k.renewal = renewal{pidfd: -1, words: -1}
	k.superdGone()      // it may have ended in between
	k.soon = time.Now() // and so may a child, before signals were caught
	return k.run(), nil
}

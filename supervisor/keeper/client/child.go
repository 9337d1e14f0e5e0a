package client

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// newChild takes the descriptors: pidfd, output, of a new child the gate, and the
// pipes that the frame names.
func newChild(f wire.Frame, fds []int) (*Child, error) {
	want, pipes := 2, uint32(f.Code)&wire.AllPipes
	if f.Op == wire.Spawned {
		want = 3
	}
	if len(fds) != want+bits.OnesCount32(pipes) || uint32(f.Code) != pipes {
		wire.CloseAll(fds)
		return nil, fmt.Errorf("child %s came with %d descriptors", f.Slot, len(fds))
	}
	ch := &Child{
		Slot: f.Slot, Note: f.Data, PID: int(f.PID), Start: f.Start, Born: time.Unix(0, f.Time), Told: f.Status != 0,
		Pidfd: os.NewFile(uintptr(fds[0]), "pidfd of "+f.Slot),
		Out:   os.NewFile(uintptr(fds[1]), "output of "+f.Slot),
	}
	if want == 3 {
		ch.gate = os.NewFile(uintptr(fds[2]), "gate of "+f.Slot)
	}
	fds = fds[want:]
	if pipes&wire.PipeErr != 0 {
		ch.Err, fds = os.NewFile(uintptr(fds[0]), "standard error of "+f.Slot), fds[1:]
	}
	if pipes&wire.PipeIn != 0 {
		ch.In = os.NewFile(uintptr(fds[0]), "standard input of "+f.Slot)
	}
	return ch, nil
}

// close gives the descriptors of a child back that nobody has seen.
func (ch *Child) close() {
	_ = errors.Join(ch.Close(), ch.gate.Close()) // never used; a nil file only says so
}

// Close gives back the descriptors of a child that is done with.
func (ch *Child) Close() error {
	var errs []error
	for _, f := range []*os.File{ch.Pidfd, ch.Out, ch.Err, ch.In} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// pipes are those that s asks for, as the wire has them.
func (s *Spec) pipes() uint32 {
	var p uint32
	if s.Err {
		p |= wire.PipeErr
	}
	if s.In {
		p |= wire.PipeIn
	}
	return p
}

// descriptors are the sealed specification and duplicates of the files, in the
// order of the wire. The caller closes them, also after an error.
func (s *Spec) descriptors() ([]int, error) {
	w := wire.Spec{
		Argv: s.Argv, Path: s.Path, Env: s.Env, Dir: s.Dir, UID: s.UID, GID: s.GID, Groups: s.Groups,
		Umask: uint32(s.Umask), Nice: int32(s.Nice),
	}
	for _, l := range s.Limits {
		w.Limits = append(w.Limits, wire.Limit{Resource: uint32(l.Resource), Soft: l.Soft, Hard: l.Hard})
	}
	b, err := w.Encode()
	if err != nil {
		return nil, err
	}
	fd, err := sealed(b)
	if err != nil {
		return nil, fmt.Errorf("write specification: %w", err)
	}
	fds, files := []int{fd}, s.Files
	if s.Group != nil {
		files = append([]*os.File{s.Group}, files...)
	}
	for _, f := range files {
		fd, err := duplicate(f)
		if err != nil {
			return fds, fmt.Errorf("duplicate %s: %w", f.Name(), err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// sealed is a memfd that holds b and can't be changed by anybody.
func sealed(b []byte) (int, error) {
	fd, err := unix.MemfdCreate("superd-spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	for len(b) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, b)
		b = b[max(n, 0):]
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, wire.Seals)
	}
	if err != nil {
		wire.CloseAll([]int{fd})
		return -1, err
	}
	return fd, nil
}

// duplicate is a descriptor of our own of the same open file. File.Fd would make
// the file blocking.
func duplicate(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	cerr := conn.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if cerr != nil {
		return -1, cerr
	}
	return fd, err
}

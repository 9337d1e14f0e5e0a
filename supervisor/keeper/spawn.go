package keeper

import (
	"errors"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// A child is born in two steps. The keeper forks the stage (stage.go), which waits at
// its gate and has touched nothing; superd writes it down; then one byte through the
// gate lets it become its program. When superd dies in between, the gate closes and the
// stage leaves: nothing ever runs that is not written down.

// pipeSize is what a child may write while nobody reads. More than the system
// allows to this user is not to be had; it then stays at what it is.
const pipeSize = 1 << 20

// pipes are those of a child that is being made. The ends that are not taken out are
// closed by close.
type pipes struct {
	out, gate, stage [2]int // read end, write end
	err, in          [2]int // only if they were asked for, see wire.PipeErr
}

func (p *pipes) all() [5]*[2]int { return [...]*[2]int{&p.out, &p.gate, &p.stage, &p.err, &p.in} }

func (p *pipes) open(more uint32) error {
	for _, ends := range p.all() {
		*ends = [2]int{-1, -1}
	}
	for _, ends := range p.all() {
		if ends == &p.err && more&wire.PipeErr == 0 || ends == &p.in && more&wire.PipeIn == 0 {
			continue
		}
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return failed("make a pipe", err)
		}
	}
	for _, fd := range []int{p.out[0], p.err[0]} {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize) // see pipeSize; -1 is no pipe
	}
	for _, fd := range []int{p.out[0], p.stage[0], p.err[0], p.in[1]} {
		if fd < 0 {
			continue
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return failed("prepare a pipe", err)
		}
	}
	return nil
}

func (p *pipes) close() {
	for _, ends := range p.all() {
		closeFD(&ends[0])
		closeFD(&ends[1])
	}
}

func take(fd *int) int {
	v := *fd
	*fd = -1
	return v
}

// A birth is what comes with the order to make a child.
type birth struct {
	spec  wire.Spec
	files []int
	group int // directory of the cgroup that it is born in, -1: the keeper's own
}

// fork makes a child that waits at its gate. The caller owns the gate.
//
// Into a cgroup it is cloned (CLONE_INTO_CGROUP, Linux 5.7): to move a process that is
// there already the kernel waits for all processors, some 10 ms.
func (k *Keeper) fork(f *wire.Frame, b birth) (*child, int, error) {
	var p pipes
	defer p.close()
	if err := p.open(f.Status); err != nil {
		return nil, -1, err
	}
	k.apart.keep()
	r, err := newRoom()
	if err != nil {
		return nil, -1, err
	}
	defer r.close()
	s, err := newStage(r, &b.spec, p.given(k.null, b.files), k.files.forChild())
	if err != nil {
		return nil, -1, failed("prepare a child", err)
	}
	var pid, pidfd int
	var errno unix.Errno
	withSlack(0, func() { pid, pidfd, errno = s.fork(r.stack(unsafe.Pointer(s)), b.group) })
	if errno != 0 {
		return nil, -1, failed("fork", errno)
	}
	if pidfd < 0 {
		return nil, -1, failed("fork", unix.ENOSYS) // without pidfds; the gate is closed and it leaves
	}
	start, err := startTime(pid)
	if err != nil {
		closeFD(&pidfd)
		return nil, -1, err // likewise
	}
	c := &child{
		slot: f.Slot, note: f.Data, pid: pid, start: start, born: time.Now().UnixNano(), pidfd: pidfd,
		out: take(&p.out[0]), err: take(&p.err[0]), in: take(&p.in[1]), stage: take(&p.stage[0]),
	}
	k.table.add(c)
	k.store.dirty = true
	return c, take(&p.gate[1]), nil
}

// given are the descriptors that a child gets, in their order.
func (p *pipes) given(null int, files []int) []int {
	all := []int{null, p.out[1], p.out[1]}
	if p.in[0] >= 0 {
		all[0] = p.in[0]
	}
	if p.err[1] >= 0 {
		all[2] = p.err[1]
	}
	return append(append(all, files...), p.gate[0], p.stage[1])
}

// readSpec reads what a child is to become from a sealed memfd, which nobody can change any
// more.
func readSpec(fd int) (wire.Spec, error) {
	var none wire.Spec
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&wire.Seals != wire.Seals {
		return none, errors.New("the specification is not a sealed memfd")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return none, failed("look at the specification", err)
	}
	if st.Size > wire.MaxSpec {
		return none, wire.ErrSpecBig
	}
	b := make([]byte, st.Size)
	for done := 0; done < len(b); {
		n, err := unix.Pread(fd, b[done:], int64(done))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return none, failed("read the specification", err)
		}
		done += max(n, 0)
	}
	return wire.DecodeSpec(b)
}

// startTime is field 22 of /proc/PID/stat. The name before it may hold anything,
// so fields count from the last ')'.
func startTime(pid int) (uint64, error) {
	s, err := readStat(pid)
	return s.start, err
}

// stat is what the keeper reads of /proc/PID/stat, see proc(5).
type stat struct {
	parent int
	state  byte
	start  uint64
}

func readStat(pid int) (stat, error) {
	line, err := readLine("/proc/" + itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(f) < 20 {
		return stat{}, failed("read /proc/"+itoa(pid)+"/stat", wire.ErrShort)
	}
	return stat{parent: int(number(f[1])), state: f[0][0], start: number(f[19])}, nil
}

// readLine reads a file of one line below /proc. Package os would have the file watched
// first, which is twice as dear.
func readLine(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", failed("open "+path, err)
	}
	defer closeFD(&fd)
	var b [1024]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return "", failed("read "+path, err)
	}
	return string(b[:n]), nil
}

// number reads digits of the kernel's.
func number(s string) uint64 {
	var n uint64
	for _, c := range []byte(s) {
		n = n*10 + uint64(c-'0')
	}
	return n
}

// listen reads what the stage of a child says went wrong, and closes the pipe at its end:
// when the stage becomes the program, or dies.
func (c *child) listen() {
	var b [512]byte
	for c.stage >= 0 {
		n, err := unix.Read(c.stage, b[:])
		switch {
		case n > 0:
			c.said = append(c.said, b[:n]...)
			if len(c.said) > wire.MaxData {
				c.said = c.said[:wire.MaxData]
			}
		case n == 0:
			closeFD(&c.stage)
		case errors.Is(err, unix.EINTR):
		default:
			return // nothing more for now
		}
	}
}

// whyNot is why the child never became its program, "" if it did. A stage that says
// it is about to execute, and nothing after that, has succeeded.
func (c *child) whyNot() string {
	after, launched := strings.CutPrefix(string(c.said), launching)
	if !launched && after == "" {
		return "ended before it ran its program"
	}
	return reported(after)
}

// reported is what the stage has said, in words.
func reported(said string) string {
	record, is := strings.CutPrefix(said, errnoFollows)
	if !is || len(record) < 2 {
		return said
	}
	return failed(record[2:], unix.Errno(record[0])|unix.Errno(record[1])<<8).Error()
}

package keeper

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// The stage is the child between its fork and its program: a copy of the keeper that has
// one thread, waits at its gate, becomes who it is to be, and execs. A Go program in its
// place takes a hundred pages and a millisecond to begin, for each child; see
// docs/decisions/0036-stage.md. Of the keeper's memory it has next to nothing: room.go.
//
// Of Go's runtime only what needs no other thread works there: no allocation, no growing
// stack, no lock. So it is as the child in package syscall (exec_linux.go,
// forkAndExecInChild1): the keeper lays out everything before the fork, and after it
// there are system calls, nothing else. Every function from staged on is nosplit, and calls
// only such ones; the linker proves that their stack suffices. Pointers are read there
// and never written, for the sake of the write barrier.

// NeverRan is the exit status of a child that never became its program.
const NeverRan = 111

// What the stage reports. launching comes just before execve: what follows it says why
// that came back; what comes without it says which step failed before. A failed step is
// errnoFollows, two bytes of the error number, low one first, and what was being done.
const (
	launching    = "!"
	errnoFollows = "\x00"
)

// A stage is a child as it is laid out. It lies in a room, and all that it points to.
type stage struct {
	files        []int // what becomes 0, 1, 2 and so on; the last two are gate and report
	gate, report int

	given    []unix.Rlimit // one: of open files, see openFiles; none: as it is
	nice     int
	niceness cstring // the same for people
	limits   []wire.Limit

	regroup  bool // groups are to be set
	groups   []uint32
	uid, gid uintptr

	umask      uintptr
	dir        cstring
	argv, env  []*byte
	own        []byte  // room in env for its PID; empty: it is not asked for
	name       cstring // as people say it
	candidates []cstring

	nothing [4]uint64 // a struct sigaction of zeros is SIG_DFL; an empty signal set
	word    [3]byte
	ids     [3]uint32   // real, effective, saved
	limit   unix.Rlimit // the one that is being set

	into cloneArgs // how it is forked
	made int32     // its pidfd
}

// longestName is NAME_MAX of limits.h: no file that could be looked up has a longer one.
const longestName = 255

// pidDigits is room for a PID.
const pidDigits = "0000000000"

// newStage lays out a child that has files.
func newStage(r *room, spec *wire.Spec, files []int, given []unix.Rlimit) (*stage, error) {
	name, places := spec.Path, []string{spec.Path}
	if name == "" {
		name = spec.Argv[0]
		if len(name) > longestName && !strings.Contains(name, "/") {
			return nil, failed("exec "+name[:longestName]+"…", unix.ENAMETOOLONG)
		}
		places = candidates(name, spec.Env)
	}
	s := (*stage)(r.take(int(unsafe.Sizeof(stage{}))))
	*s = stage{
		files: placed(r, files), gate: files[len(files)-2], report: files[len(files)-1],
		given: placed(r, given), limits: placed(r, spec.Limits),
		nice: int(spec.Nice), niceness: r.text(itoa(int(spec.Nice))),
		// Without privilege there is no choice; then the groups must be those we have.
		regroup: os.Geteuid() == 0 || len(spec.Groups) > 0 && !haveGroups(spec.Groups),
		groups:  placed(r, spec.Groups), uid: uintptr(spec.UID), gid: uintptr(spec.GID),
		umask: uintptr(spec.Umask & 0o777), dir: r.text(cmp.Or(spec.Dir, "/")),
		argv: r.vector(spec.Argv), name: r.text(name),
		candidates: array[cstring](r, len(places)),
	}
	for i, place := range places {
		s.candidates[i] = r.text(place)
	}
	s.layOutEnv(r, spec.Env)
	return s, r.err
}

func (s *stage) layOutEnv(r *room, env []string) {
	i := slices.Index(env, wire.OwnPID)
	if i >= 0 {
		env[i] += pidDigits
	}
	s.env = r.vector(env)
	if i >= 0 {
		s.own = unsafe.Slice(s.env[i], len(env[i])+1)[len(wire.OwnPID):]
	}
}

func haveGroups(want []uint32) bool {
	have, err := unix.Getgroups()
	if err != nil || len(have) != len(want) {
		return false
	}
	for _, g := range have {
		if !slices.Contains(want, uint32(g)) {
			return false
		}
	}
	return true
}

// These are what package syscall itself calls around a fork. They are for others too:
// runtime/proc.go, golang.org/issue/67401.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// fork makes the child, in the cgroup of which group is a directory unless it is -1, and
// tells its PID and a pidfd, which is -1 where the kernel knows none. It returns in the keeper
// only: the child goes on in staged, with a stack of its own.
//
//go:noinline
//go:norace
func (s *stage) fork(stack []byte, group int) (pid, pidfd int, err unix.Errno) {
	// The child of a thread has the thread's local storage, where Go keeps an address: see
	// staged. It is the keeper's own memory, so it gets another: below the end of the stack.
	const flags = unix.CLONE_PIDFD | unix.CLONE_SETTLS
	bottom, size := uintptr(unsafe.Pointer(unsafe.SliceData(stack))), uintptr(len(stack)-stackEnd)
	end := bottom + size
	s.made = -1
	made := uintptr(unsafe.Pointer(&s.made))
	call, args := uintptr(unix.SYS_CLONE), oldClone(flags|uintptr(unix.SIGCHLD), end, made, end)
	if group >= 0 { // otherwise without clone3: some sandboxes refuse it
		s.into = cloneArgs{
			flags: flags | unix.CLONE_INTO_CGROUP, pidfd: uint64(made), exitSignal: uint64(unix.SIGCHLD),
			stack: uint64(bottom), stackSize: uint64(size), tls: uint64(end), cgroup: uint64(group),
		}
		call, args = unix.SYS_CLONE3, [5]uintptr{uintptr(unsafe.Pointer(&s.into)), unsafe.Sizeof(s.into)}
	}
	beforeFork()
	result := int(begin(call, &args))
	afterFork()
	if result < 0 {
		return 0, -1, unix.Errno(-result)
	}
	return result, int(s.made), 0
}

// begin makes a system call that makes a process. In the new one, which has a stack with the
// stage in its first words, it calls staged. In assembly, as no function of Go's can return
// on another stack than it was called on.
//
//go:noescape
func begin(call uintptr, args *[5]uintptr) uintptr

// staged is where the child begins. On amd64 a call from assembly loads the address of the
// goroutine from the thread's local storage; nothing that is called from here uses it.
//
//go:nosplit
//go:norace
func staged(s *stage) { s.run() }

var _ = staged // linters do not read assembly

// cloneArgs is struct clone_args of clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// run is the way from the fork to the program. It never returns.
//
//go:nosplit
//go:norace
func (s *stage) run() {
	s.resetSignals()
	_, _, _ = unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0) // the child of a fork leads no group, so it can
	s.place()
	s.wait()
	s.spare()
	s.restrict()
	s.become()
	_, _, _ = unix.RawSyscall(unix.SYS_UMASK, s.umask, 0, 0) // which always succeeds
	if _, _, err := unix.RawSyscall(unix.SYS_CHDIR, s.dir.pointer(), 0, 0); err != 0 {
		s.failAt("chdir ", s.dir, "", err)
	}
	s.execute()
}

// resetSignals gives every signal its default and blocks none. What the keeper, or who
// started it, ignores or blocks would otherwise be ignored by the child too.
//
//go:nosplit
//go:norace
func (s *stage) resetSignals() {
	const last, setSize = 64, 8
	nothing := uintptr(unsafe.Pointer(&s.nothing))
	for sig := uintptr(1); sig <= last; sig++ { // SIGKILL and SIGSTOP are refused
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, nothing, 0, setSize, 0, 0)
	}
	_, _, err := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, nothing, 0, setSize, 0, 0)
	if err != 0 {
		s.fail("reset signals", err)
	}
}

// place gives the descriptors their numbers and closes everything else, the keeper's end of
// its own gate with it. Only what is in the way is copied: the table may be almost full.
//
//go:nosplit
//go:norace
func (s *stage) place() {
	n := len(s.files)
	for i, fd := range s.files {
		if fd >= n { // it is in nobody's way
			continue
		}
		up, _, err := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, uintptr(n))
		if err != 0 {
			s.fail("dup", err)
		}
		s.files[i] = int(up)
	}
	for i, fd := range s.files {
		flags := uintptr(0)
		if i >= n-2 {
			flags = unix.O_CLOEXEC
		}
		if _, _, err := unix.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(i), flags); err != 0 {
			s.fail("dup3", err)
		}
	}
	s.gate, s.report = n-2, n-1
	if _, _, err := unix.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(n), ^uintptr(0)>>32, 0); err != 0 {
		s.fail("close_range", err)
	}
}

// wait reads the byte that opens the gate.
//
//go:nosplit
//go:norace
func (s *stage) wait() {
	for {
		n, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(s.gate), uintptr(unsafe.Pointer(&s.word)), 1)
		switch {
		case err == unix.EINTR:
		case err != 0:
			s.fail("gate", err)
		case n == 1:
			return
		default:
			s.say("gate: closed before it was opened")
			s.leave()
		}
	}
}

// spare undoes what keeps the kernel from ending the keeper when memory is short. Best
// effort: where it can't be written (no /proc, a container's read-only one) the keeper
// could not have changed it for itself either.
//
//go:nosplit
//go:norace
func (s *stage) spare() {
	const here = ^uintptr(99) // AT_FDCWD, which an absolute path does not need
	fd, _, err := unix.RawSyscall6(unix.SYS_OPENAT, here, pointer("/proc/self/oom_score_adj\x00"), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
	if err == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, fd, pointer("0"), 1)
		_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
}

// restrict sets priority and limits. Of the priority it asks only for what is not so already:
// a user may not always ask.
//
//go:nosplit
//go:norace
func (s *stage) restrict() {
	// The system call answers 20-nice, so that it is never negative.
	now, _, err := unix.RawSyscall(unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0, 0)
	if err != 0 || 20-int(now) != s.nice {
		if _, _, err := unix.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(s.nice)); err != 0 {
			s.failAt("nice ", s.niceness, "", err)
		}
	}
	for i := range s.given { // if it can't be had, what the keeper has must do
		_, _, _ = unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&s.given[i])), 0, 0, 0)
	}
	for i := range s.limits {
		l := &s.limits[i]
		s.limit = unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		_, _, err := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(&s.limit)), 0, 0, 0)
		if err != 0 {
			s.fail(limiting[l.Resource&15], err) // there are 16, so that no index is to be checked
		}
	}
}

// limiting is what a limit that cannot be set was to be, by its number.
var limiting = [16]string{
	unix.RLIMIT_CPU: "setrlimit cpu", unix.RLIMIT_FSIZE: "setrlimit fsize", unix.RLIMIT_DATA: "setrlimit data",
	unix.RLIMIT_STACK: "setrlimit stack", unix.RLIMIT_CORE: "setrlimit core", unix.RLIMIT_RSS: "setrlimit rss",
	unix.RLIMIT_NPROC: "setrlimit nproc", unix.RLIMIT_NOFILE: "setrlimit nofile", unix.RLIMIT_MEMLOCK: "setrlimit memlock",
	unix.RLIMIT_AS: "setrlimit as", unix.RLIMIT_LOCKS: "setrlimit locks", unix.RLIMIT_SIGPENDING: "setrlimit sigpending",
	unix.RLIMIT_MSGQUEUE: "setrlimit msgqueue", unix.RLIMIT_NICE: "setrlimit nice", unix.RLIMIT_RTPRIO: "setrlimit rtprio",
	unix.RLIMIT_RTTIME: "setrlimit rttime",
}

// become takes the user and groups of the child, and makes sure that there is no
// way back.
//
//go:nosplit
//go:norace
func (s *stage) become() {
	if s.regroup {
		_, _, err := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.groups)), uintptr(unsafe.Pointer(unsafe.SliceData(s.groups))), 0)
		if err != 0 {
			s.fail("setgroups", err)
		}
	}
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESGID, s.gid, s.gid, s.gid); err != 0 {
		s.failID("setgid ", s.gid, err)
	}
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, s.uid, s.uid, s.uid); err != 0 {
		s.failID("setuid ", s.uid, err)
	}
	if !s.are(unix.SYS_GETRESUID, s.uid) || !s.are(unix.SYS_GETRESGID, s.gid) {
		s.say("setuid: the kernel says it is somebody else")
		s.leave()
	}
	if s.uid == 0 {
		return
	}
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); err == 0 {
		s.say("setuid: it can become root again")
		s.leave()
	}
}

// are tells whether all three of its IDs are id.
//
//go:nosplit
//go:norace
func (s *stage) are(call, id uintptr) bool {
	at := uintptr(unsafe.Pointer(&s.ids))
	_, _, err := unix.RawSyscall(call, at, at+4, at+8)
	for _, is := range s.ids {
		if err != 0 || uintptr(is) != id {
			return false
		}
	}
	return true
}

// execute tries what execvp(3) would try.
//
//go:nosplit
//go:norace
func (s *stage) execute() {
	s.say(launching)
	if len(s.own) > 0 {
		pid, _, _ := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
		s.own[digits(s.own, pid)] = 0
	}
	last := unix.ENOENT
	for i := range s.candidates {
		place := s.candidates[i]
		_, _, err := unix.RawSyscall(unix.SYS_EXECVE, place.pointer(), vector(s.argv), vector(s.env))
		switch {
		case err == unix.ENOENT && exists(place):
			s.failAt("exec ", place, ": its interpreter", err)
		case err == unix.EACCES:
			last = err // tell this one unless another place has it
		case err != unix.ENOENT && err != unix.ENOTDIR:
			s.failAt("exec ", place, "", err)
		}
	}
	s.failAt("exec ", s.name, "", last)
}

//go:nosplit
//go:norace
func exists(place cstring) bool {
	const here = ^uintptr(99) // AT_FDCWD
	_, _, err := unix.RawSyscall6(unix.SYS_FACCESSAT, here, place.pointer(), unix.F_OK, 0, 0, 0)
	return err == 0
}

// digits writes n in decimal and tells how many digits that took.
//
//go:nosplit
//go:norace
func digits(to []byte, n uintptr) int {
	size := 1
	for rest := n; rest >= 10; rest /= 10 {
		size++
	}
	for i := size - 1; i >= 0; i-- {
		to[i] = byte('0' + n%10)
		n /= 10
	}
	return size
}

// toldPath is how much of a path is told: a report wakes nobody, so that all of it has to
// fit into the pipe.
const toldPath = 1000

// failAt says that a step failed, and at which path or name.
//
//go:nosplit
//go:norace
func (s *stage) failAt(doing string, path cstring, more string, err unix.Errno) {
	s.sayNumber(err)
	s.say(doing)
	s.write(path.pointer(), min(len(path)-1, toldPath))
	s.say(more)
	s.leave()
}

//go:nosplit
//go:norace
func (s *stage) failID(doing string, id uintptr, err unix.Errno) {
	s.sayNumber(err)
	s.say(doing)
	var text [len(pidDigits)]byte
	s.write(uintptr(unsafe.Pointer(&text)), digits(text[:], id))
	s.leave()
}

//go:nosplit
//go:norace
func (s *stage) fail(doing string, err unix.Errno) {
	s.sayNumber(err)
	s.say(doing)
	s.leave()
}

//go:nosplit
//go:norace
func (s *stage) sayNumber(err unix.Errno) {
	s.word = [3]byte{errnoFollows[0], byte(err), byte(err >> 8)}
	s.write(uintptr(unsafe.Pointer(&s.word)), len(s.word))
}

//go:nosplit
//go:norace
func (s *stage) say(text string) { s.write(pointer(text), len(text)) }

// write reports. If that is lost the exit status still says that the program never ran.
//
//go:nosplit
//go:norace
func (s *stage) write(from uintptr, n int) {
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(s.report), from, uintptr(n))
}

//go:nosplit
//go:norace
func (s *stage) leave() {
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, NeverRan, 0, 0)
	}
}

// A room does not move, and neither do the constants of the program. Any other string is
// nowhere in the child.

//go:nosplit
//go:norace
func (c cstring) pointer() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(c))) }

//go:nosplit
//go:norace
func pointer(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

//go:nosplit
//go:norace
func vector(v []*byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(v))) }

// standardPath is searched when the environment of a child has no PATH.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// candidates are the places where execvp(3) would look for a program.
func candidates(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := standardPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var places []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		places = append(places, dir+"/"+name)
	}
	return places
}

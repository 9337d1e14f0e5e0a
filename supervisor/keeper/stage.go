package keeper

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// The stage is the child between its fork and its program: this very binary, so
// always of the keeper's version. Its descriptors are 0 /dev/null, 1 and 2 the
// output, 3 … the files of the child, then specification, gate and report.
//
// It runs on one thread, and credentials, priority and signal mask are those of
// that thread until execve makes it the whole process.

// NeverRan is the exit status of a child that never became its program.
const NeverRan = 111

// launching is what the stage reports just before execve. What follows it says why
// execve came back; what comes without it says which step failed before.
const launching = "!"

// Stage is the main function of a child. files is how many descriptors from 3 on
// are the child's own. It returns only when the program does not run.
func Stage(files int) int {
	runtime.LockOSThread()
	s := stage{spec: 3 + files, gate: 4 + files, report: 5 + files}
	if err := s.run(); err != nil {
		_ = writeAll(s.report, []byte(err.Error())) // the exit status says that it never ran
	}
	return NeverRan
}

type stage struct{ spec, gate, report int }

// run is the way from the gate to the program. Limits come as late as possible:
// Go itself needs memory and threads.
func (s *stage) run() error {
	if err := unix.CloseRange(uint(s.spec), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return failed("close_range", err)
	}
	if err := s.wait(); err != nil {
		return err
	}
	spec, err := s.read()
	if err != nil {
		return failed("read specification", err)
	}
	// Best effort: where it can't be written (no /proc, a container's read-only
	// one) the keeper could not have changed it for itself either.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	if err := setNice(int(spec.Nice)); err != nil {
		return err
	}
	if err := setLimits(spec.Limits); err != nil {
		return err
	}
	if err := become(&spec); err != nil {
		return err
	}
	unix.Umask(int(spec.Umask & 0o777))
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return failed("chdir "+dir, err)
	}
	if err := cleanSignals(); err != nil {
		return failed("reset signals", err)
	}
	return s.execute(&spec)
}

// wait reads the byte that opens the gate.
func (s *stage) wait() error {
	var b [1]byte
	for {
		n, err := unix.Read(s.gate, b[:])
		switch {
		case n == 1:
			return nil
		case err == nil:
			return errors.New("gate: closed before it was opened")
		case !errors.Is(err, unix.EINTR):
			return failed("gate", err)
		}
	}
}

func (s *stage) read() (wire.Spec, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.spec, &st); err != nil {
		return wire.Spec{}, err
	}
	b := make([]byte, min(st.Size, wire.MaxSpec+1))
	for done := 0; done < len(b); {
		n, err := unix.Pread(s.spec, b[done:], int64(done))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return wire.Spec{}, err
		}
		if n == 0 && err == nil {
			return wire.Spec{}, wire.ErrSpec
		}
		done += max(n, 0)
	}
	return wire.DecodeSpec(b)
}

// setNice asks only for what is not so already: a user may not always ask.
func setNice(nice int) error {
	// The system call answers 20-nice, so that it is never negative.
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-now == nice {
		return nil
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil {
		return failed("nice "+itoa(nice), err)
	}
	return nil
}

// setLimits uses package syscall for the sake of RLIMIT_NOFILE: Go has raised the
// soft limit for itself and puts it back at execve unless it hears of another one.
func setLimits(limits []wire.Limit) error {
	for _, l := range limits {
		if err := syscall.Setrlimit(int(l.Resource), &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return failed("setrlimit "+itoa(int(l.Resource)), err)
		}
	}
	return nil
}

// become takes the user and groups of the child, and makes sure that there is no
// way back.
func become(s *wire.Spec) error {
	groups := make([]int, 0, len(s.Groups))
	for _, g := range s.Groups {
		groups = append(groups, int(g))
	}
	// Without privilege there is no choice; then the groups must be those we have.
	if os.Geteuid() == 0 || len(groups) > 0 && !haveGroups(groups) {
		if err := setGroups(s.Groups); err != nil {
			return failed("setgroups", err)
		}
	}
	uid, gid := int(s.UID), int(s.GID)
	if err := setAll(unix.SYS_SETRESGID, gid); err != nil {
		return failed("setgid "+itoa(gid), err)
	}
	if err := setAll(unix.SYS_SETRESUID, uid); err != nil {
		return failed("setuid "+itoa(uid), err)
	}
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	if ruid != uid || euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid {
		return errors.New("setuid " + itoa(uid) + ": the kernel says it is somebody else")
	}
	if uid != 0 && setIDs(unix.SYS_SETRESUID, -1, 0, -1) == nil {
		return errors.New("setuid " + itoa(uid) + ": it can become root again")
	}
	return nil
}

// The calls of package unix stop every thread of Go and change each. The other threads of
// a stage end at execve, so that this one is enough: that is half a millisecond for each
// child.

func setAll(call uintptr, id int) error { return setIDs(call, id, id, id) }

func setIDs(call uintptr, real, effective, saved int) error {
	if _, _, err := unix.RawSyscall(call, uintptr(real), uintptr(effective), uintptr(saved)); err != 0 {
		return err
	}
	return nil
}

func setGroups(groups []uint32) error {
	_, _, err := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if err != 0 {
		return err
	}
	return nil
}

func haveGroups(want []int) bool {
	have, err := unix.Getgroups()
	if err != nil || len(have) != len(want) {
		return false
	}
	known := map[int]bool{}
	for _, g := range have {
		known[g] = true
	}
	for _, g := range want {
		if !known[g] {
			return false
		}
	}
	return true
}

// cleanSignals gives every signal its default and blocks none. What the keeper, or
// who started it, ignores or blocks would otherwise be ignored by the child too.
func cleanSignals() error {
	var standard [4]uint64 // a struct sigaction of zeros: SIG_DFL
	const lastSignal = 64
	for sig := uintptr(1); sig <= lastSignal; sig++ {
		if sig == uintptr(unix.SIGKILL) || sig == uintptr(unix.SIGSTOP) {
			continue
		}
		_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, lastSignal/8, 0, 0)
		if e != 0 {
			return e
		}
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
}

// execute returns why the program does not run.
func (s *stage) execute(spec *wire.Spec) error {
	name := spec.Path
	places := []string{name}
	if name == "" {
		name = spec.Argv[0]
		places = candidates(name, spec.Env)
	}
	if err := writeAll(s.report, []byte(launching)); err != nil {
		return err
	}
	if i := slices.Index(spec.Env, wire.OwnPID); i >= 0 {
		spec.Env[i] += itoa(os.Getpid())
	}
	var last error = unix.ENOENT
	for _, place := range places {
		err := syscall.Exec(place, spec.Argv, spec.Env)
		switch {
		case errors.Is(err, unix.ENOENT) && unix.Access(place, unix.F_OK) == nil:
			return failed("exec "+place+": its interpreter", err)
		case errors.Is(err, unix.EACCES):
			last = err // tell this one unless another place has it
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
			return failed("exec "+place, err)
		}
	}
	return failed("exec "+name, last)
}

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

package keeper

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// apart is the memory of the keeper that no child gets a copy of, see room.go.
type apart struct {
	off    bool // none of it may be, see kernelWrites
	births int
}

// everyBirths is how often what the keeper has taken since is kept apart too. Go takes memory
// by 4 MiB.
const everyBirths = 64

// keep is called before each birth.
func (a *apart) keep() {
	if !a.off && a.births%everyBirths == 0 {
		keepApart()
	}
	a.births++
}

// kernelWrites tells whether the kernel writes to memory of this program whenever it returns
// to the main thread (rseq(2)). It does so in the child of a fork too, and ends it if it can't.
// libc asks for that, and the loader of a program that is linked dynamically, before main;
// packages are initialised on the main thread. That somebody has asked already is what the
// kernel says first, before it says that an address is none (kernel/rseq.c).
var kernelWrites = func() bool {
	const nowhere, size = ^uintptr(63), 32
	_, _, err := unix.Syscall6(unix.SYS_RSEQ, nowhere, size, 0, 0, 0, 0)
	return !errors.Is(err, unix.EFAULT) && !errors.Is(err, unix.ENOSYS)
}()

// keepApart keeps apart what is nobody's but Go's. What belongs to the program without being
// in its file is not: functions that are called after a fork may use that.
func keepApart() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // best effort, see room.go
	}
	program := uintptr(unsafe.Pointer(&kernelWrites))
	for line := range strings.Lines(string(maps)) {
		begin, end, is := anonymous(line)
		if is && (program < begin || end <= program) {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTFORK)
		}
	}
}

// anonymous is the memory of which a line of /proc/PID/maps tells, if that is private, can be
// written to, and is not that of a file, of the main thread's stack or of brk(2). Some kernels
// know what Go calls it (prctl(2), PR_SET_VMA_ANON_NAME).
func anonymous(line string) (begin, end uintptr, is bool) {
	f := strings.Fields(line) // addresses, permissions, offset, device, inode and perhaps a name
	if len(f) < 5 || f[1] != "rw-p" || len(f) > 5 && f[5] != "[anon:" {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	return address(from), address(to), true
}

func address(hexadecimal string) uintptr {
	n, _ := strconv.ParseUint(hexadecimal, 16, 64) // what the kernel writes is a number
	return uintptr(n)
}

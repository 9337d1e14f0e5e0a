package keeper

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// apart is the memory of the keeper that no child gets a copy of, see room.go. In a program
// with libc this would end every child: libc has the kernel write to its memory (rseq(2)).
type apart struct{ births int }

// everyBirths is how often what the keeper has taken since is kept apart too. Go takes memory
// by 4 MiB.
const everyBirths = 64

// keep is called before each birth.
func (a *apart) keep() {
	if a.births%everyBirths == 0 {
		keepApart()
	}
	a.births++
}

// keepApart keeps apart what is nobody's but Go's. What belongs to the program without being
// in its file is not: functions that are called after a fork may use that.
func keepApart() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return // best effort, see room.go
	}
	program := uintptr(unsafe.Pointer(&slack))
	for line := range strings.Lines(string(maps)) {
		if begin, end := anonymous(line); end < program || program < begin {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTFORK)
		}
	}
}

// anonymous is the memory of which a line of /proc/PID/maps tells, if that is private, can be
// written to, and is not that of a file, of the main thread's stack or of brk(2). Some kernels
// know what Go calls it (prctl(2), PR_SET_VMA_ANON_NAME).
func anonymous(line string) (begin, end uintptr) {
	f := strings.Fields(line) // addresses, permissions, offset, device, inode and perhaps a name
	if len(f) < 5 || f[1] != "rw-p" || len(f) > 5 && f[5] != "[anon:" {
		return 0, 0
	}
	from, to, _ := strings.Cut(f[0], "-")
	return address(from), address(to)
}

func address(digits string) uintptr {
	n, _ := strconv.ParseUint(digits, 16, 64) // the kernel's
	return uintptr(n)
}

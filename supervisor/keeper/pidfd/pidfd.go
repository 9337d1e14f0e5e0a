// Package pidfd asks the kernel how a process has ended that is nobody's child here. Only
// its parent is told; but since Linux 6.15 whoever has had a pidfd of it can read it there
// once it was reaped.
package pidfd

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// info is struct pidfd_info of linux/pidfd.h, as long as it was in Linux 6.15.
type info struct {
	mask     uint64
	_        [12]uint32 // cgroup, ids
	_        uint32
	exitCode int32
}

const (
	getInfo  = 0xc040ff0b // _IOWR(0xff, 11, 64 bytes)
	infoExit = 1 << 3
)

// Both are 64 bytes; this fails to compile otherwise.
var _ [64 - unsafe.Sizeof(info{})]struct{}

// Exit is the wait status of a process that was reaped by somebody.
func Exit(fd int) (status uint32, known bool) {
	i := info{mask: infoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getInfo, uintptr(unsafe.Pointer(&i)))
	if errno != 0 || i.mask&infoExit == 0 {
		return 0, false
	}
	return uint32(i.exitCode), true
}

package keeper

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An exit is in the table before the process leaves the kernel's: first waitid
// with WNOWAIT, then the table, then wait4. Between any two of them one of the two
// knows of it.

// siginfo is siginfo_t(3) for SIGCHLD on 64-bit Linux.
type siginfo struct {
	_      [4]int32 // signo, errno, code, padding
	pid    int32
	_      uint32 // uid
	status int32
	_      [100]byte
}

// Both are the same memory; this fails to compile if one grows.
var _ [unsafe.Sizeof(unix.Siginfo{}) - unsafe.Sizeof(siginfo{})]struct{}

// reap takes every process that has ended, ours and orphans that became ours.
func (k *Keeper) reap() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		end := (*siginfo)(unsafe.Pointer(&info))
		if err != nil || end.pid == 0 {
			return // none, or none that has ended
		}
		pid, status := int(end.pid), waitStatus(info.Code, end.status)
		if c := k.table.pids[pid]; c != nil {
			c.listen()
			c.dead, c.status, c.at, c.reason = true, status, time.Now().UnixNano(), c.whyNot()
			closeFD(&c.stage)
			delete(k.table.pids, pid)
			k.store.dirty = true
		}
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if pid == k.renewal.pid {
			k.programEnded(unix.WaitStatus(status))
		}
		if pid == k.superd.pid {
			k.superdEnded(unix.WaitStatus(status))
		}
	}
}

// The codes of SIGCHLD, see sigaction(2).
const (
	cldExited = 1
	cldDumped = 3
	coreFlag  = 0x80
)

// waitStatus is the word that wait4 would have given.
func waitStatus(code, status int32) uint32 {
	switch code {
	case cldExited:
		return uint32(status&0xff) << 8
	case cldDumped:
		return uint32(status) | coreFlag
	}
	return uint32(status)
}

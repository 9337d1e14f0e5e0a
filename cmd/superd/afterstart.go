package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// giveBack returns to the kernel what only the start has needed: the heap that it took to
// start hundreds of programs, and the pages of superd's own file that read the
// configuration and made the tables of the metrics. What is used again is mapped again,
// out of the page cache, where the kernel now finds it among the first to take. See
// docs/decisions/0034-give-back.md.
func giveBack() error {
	debug.FreeOSMemory()
	self, err := procfs.Self()
	if err != nil {
		return fmt.Errorf("find own mappings: %w", err)
	}
	maps, err := self.ProcMaps()
	if err != nil {
		return fmt.Errorf("find own mappings: %w", err)
	}
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own file: %w", err)
	}
	for _, m := range maps {
		// What was written to is not in the file: MADV_DONTNEED would undo it.
		if m.Pathname == file && !m.Perms.Write {
			err = errors.Join(err, drop(m.StartAddr, m.EndAddr))
		}
	}
	return err
}

func drop(start, end uintptr) error {
	_, _, err := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
	if err != 0 {
		return fmt.Errorf("give back pages of the program: %w", err)
	}
	return nil
}

package keeper

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the keeper takes later is kept apart with some later birth, and what belongs to the
// program never is.
func TestLaterMemoryIsKeptApart(t *testing.T) {
	var a apart
	a.keep()
	later, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(later) }()
	at := uintptr(unsafe.Pointer(unsafe.SliceData(later)))
	for birth := 0; !isApart(t, at); birth++ {
		if birth > everyBirths {
			t.Fatal("it is not kept apart")
		}
		a.keep()
	}
	if isApart(t, uintptr(unsafe.Pointer(&kernelWrites))) {
		t.Error("the child has not all of the program")
	}
}

func TestAnonymousMemory(t *testing.T) {
	for line, is := range map[string]bool{
		"c000000000-c000400000 rw-p 00000000 00:00 0 ":                                         true,
		"c000000000-c000400000 rw-p 00000000 00:00 0                  [anon: Go: heap]":        true,
		"c000400000-c004000000 ---p 00000000 00:00 0 ":                                         false,
		"7f0000000000-7f0000001000 rw-s 00000000 00:01 3076           /dev/zero (deleted)":     false,
		"005d6000-005e2000 rw-p 001d6000 fe:00 10010850               /usr/sbin/superd-keeper": false,
		"7ffd8e0ec000-7ffd8e10d000 rw-p 00000000 00:00 0              [stack]":                 false,
		"": false,
	} {
		begin, end, was := anonymous(line)
		if was != is || is && (begin != 0xc000000000 || end != 0xc000400000) {
			t.Errorf("%q: %x to %x", line, begin, end)
		}
	}
}

// A program that has a loader has memory that the kernel writes to.
func TestMemoryThatTheKernelWritesTo(t *testing.T) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if dynamic := strings.Contains(string(maps), "/ld-"); dynamic != kernelWrites {
		t.Errorf("it has a loader: %t, and the kernel writes: %t", dynamic, kernelWrites)
	}
	later, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(later) }()
	(&apart{off: true}).keep()
	if isApart(t, uintptr(unsafe.Pointer(unsafe.SliceData(later)))) {
		t.Error("memory is kept apart although the kernel writes to some")
	}
}

// isApart tells whether the kernel says of the memory at an address that it is not copied by
// a fork ("dc" of proc_pid_smaps(5)).
func isApart(t *testing.T, at uintptr) bool {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here := false
	for line := range strings.Lines(string(smaps)) {
		f := strings.Fields(line)
		if from, to, is := strings.Cut(f[0], "-"); is {
			here = address(from) <= at && at < address(to)
		}
		if here && f[0] == "VmFlags:" {
			return slices.Contains(f, "dc")
		}
	}
	t.Fatalf("nothing is mapped at %x", at)
	return false
}

package keeper

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A fork copies memory lazily: both sides may only read a page, until one of them writes to
// it and gets a copy. The keeper has several threads, so that each such page stops them all
// for a moment, and it went on writing to some seventy while a child waited at its gate: more
// than a third of the work of a birth. So the stage has a room of its own, and of the keeper's
// memory the child of a fork gets what belongs to the program, and the main thread's stack: the
// rest is kept apart (MADV_DONTFORK of madvise(2)).
//
// Keeping apart is best effort, and of what the keeper has taken since the child gets a copy.
// What matters is that the stage never touches what is not in its room.

// A room is the memory in which a stage is laid out, with its stack. The keeper leaves it when
// the child is born; the child has it until it execs.
type room struct {
	chunks [][]byte   // the first begins with the stack
	used   int        // of the last
	err    error      // why there is no more memory
	lost   [][]uint64 // what was taken since; the collector does not look into a room
}

// chunkSize is enough for most stages. Of memory that is not touched there is none.
const chunkSize = 64 << 10

func newRoom() (*room, error) {
	r := &room{}
	r.grow(os.Getpagesize() + chunkSize)
	r.used = os.Getpagesize()
	return r, r.err
}

func (r *room) grow(size int) {
	chunk, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		r.err = failed("map memory", err)
		return
	}
	r.chunks, r.used = append(r.chunks, chunk), 0
}

func (r *room) close() {
	for _, c := range r.chunks {
		_ = unix.Munmap(c) // should the kernel refuse, that much is lost
	}
	r.chunks = nil
}

// stack is the first page, which a stack fills from its end. A function in assembly finds what
// it is called with at the end, in the first word on amd64 and in the second on arm64.
func (r *room) stack(with unsafe.Pointer) []byte {
	stack := r.chunks[0][:os.Getpagesize()]
	end := (*[2]unsafe.Pointer)(unsafe.Pointer(&stack[len(stack)-stackEnd]))
	end[0], end[1] = with, with
	return stack
}

// stackEnd is what of a stack is used before anything is called. Both processors want a
// multiple of 16 bytes.
const stackEnd = 16

// take returns zeroed memory on which any type may lie.
func (r *room) take(size int) unsafe.Pointer {
	const word = 8
	size = (size + word - 1) &^ (word - 1)
	if r.err == nil && r.used+size > len(r.chunks[len(r.chunks)-1]) {
		r.grow(max(size, chunkSize))
	}
	if r.err != nil {
		r.lost = append(r.lost, make([]uint64, size/word))
		return unsafe.Pointer(unsafe.SliceData(r.lost[len(r.lost)-1]))
	}
	at := unsafe.Pointer(&r.chunks[len(r.chunks)-1][r.used : r.used+size][0])
	r.used += size
	return at
}

// array is room for n of a type. What they point to must be in the room too.
func array[T any](r *room, n int) []T {
	if n == 0 {
		return nil
	}
	var one T
	return unsafe.Slice((*T)(r.take(n*int(unsafe.Sizeof(one)))), n)
}

// placed copies a slice into the room.
func placed[T any](r *room, from []T) []T {
	to := array[T](r, len(from))
	copy(to, from)
	return to
}

// A cstring ends with NUL.
type cstring []byte

// text copies a string, which holds no NUL byte (wire.DecodeSpec), into the room.
func (r *room) text(s string) cstring {
	to := array[byte](r, len(s)+1)
	copy(to, s)
	return to
}

// vector makes one of those that execve takes, which ends with a null pointer.
func (r *room) vector(all []string) []*byte {
	to := array[*byte](r, len(all)+1)
	for i, s := range all {
		to[i] = unsafe.SliceData(r.text(s))
	}
	return to
}

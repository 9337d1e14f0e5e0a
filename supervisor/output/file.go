package output

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A file is one log file. Several streams may write to it, one at a time; superd
// is its only writer, which is what makes "at the end" a place that splice can be
// told (it refuses O_APPEND). Should somebody else append or cut it all the same,
// the end is looked up before each move.
type file struct {
	store *Store
	path  string
	ports int // that write to it; under store.mu
	trouble

	mu      sync.Mutex
	rules   Rules
	out     *os.File
	inode   uint64
	begun   time.Time // when out was made
	fresh   bool      // nothing was appended to out yet
	checked time.Time // when the name was last seen to lead to out
	marked  mark      // the last that was written for this file

	packing bool // rotated files are being compressed
}

const (
	checkEvery = time.Second
	lineRoom   = 1 << 20 // how far past its size a file may grow to end with a line
)

// A rawFile is a file as the sink of bytes that are stored as they came.
type rawFile struct{ *file }

// take moves bytes from the pipe to the end of the file and shows them.
func (f rawFile) take(p *port, pipe, limit int, _ bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, err := f.ready()
	if err != nil {
		return 0, f.failed(err)
	}
	if end, err = f.confess(end); err != nil {
		return 0, f.failed(err)
	}
	f.mark(p, end)
	to := end
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(pipe, nil, int(f.out.Fd()), &to, limit, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, err
	case err != nil:
		return 0, f.failed(err)
	case n == 0:
		return 0, io.EOF
	}
	f.well()
	if n <= chunk || p.ahead > 0 || !f.showRecent(p, end, n) {
		f.show(end, n, p.saw)
	}
	return n, nil
}

func (f *file) leave() { f.store.close(f) }

// append writes b to the end of the file, whole or not at all.
func (f *file) append(p *port, format Format, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, err := f.ready()
	if err != nil {
		return err
	}
	if f.fresh {
		if end, err = f.mend(format, end); err != nil {
			return err
		}
		f.fresh = false
	}
	f.mark(p, end)
	if _, err := f.out.WriteAt(b, end); err != nil {
		return errors.Join(err, f.out.Truncate(end))
	}
	return nil
}

// mend makes the file end with a line, and returns where it ends. A superd that was
// killed in the middle of a write leaves a torn line. What it was made of is in the pipe
// still, so it is cut off. Anything else that has no end is given one.
func (f *file) mend(format Format, end int64) (int64, error) {
	if f.endsLine(end) {
		return end, nil
	}
	b := make([]byte, min(end, mostTorn))
	if _, err := f.out.ReadAt(b, end-int64(len(b))); err != nil {
		return end, err
	}
	begin := bytes.LastIndexByte(b, '\n') + 1
	if whole := begin > 0 || int64(len(b)) == end; whole && format.begins(b[begin:]) {
		end -= int64(len(b) - begin)
		return end, f.out.Truncate(end)
	}
	_, err := f.out.WriteAt([]byte{'\n'}, end)
	return end + 1, err
}

// mostTorn is less than the shortest piece of a line that is stored in pieces, which may
// be without an end and is not in the pipe any more.
const mostTorn = 8 << 10

// follow makes the file obey rules that may be new.
func (f *file) follow(r Rules) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = r
}

// ready makes sure that the name leads to an open file with room, and returns
// where it ends.
func (f *file) ready() (int64, error) {
	size, err := f.look()
	if err != nil {
		return 0, err
	}
	if !f.isDue(size) {
		return size, nil
	}
	if err := f.rotate(); err != nil {
		return 0, fmt.Errorf("rotate %s: %w", f.path, err)
	}
	return f.look()
}

// isDue tells whether the file is to be rotated before more is written. It is let
// grow a little to end with a line.
func (f *file) isDue(size int64) bool {
	r := f.rules
	long := r.MaxSize > 0 && size >= r.MaxSize
	old := r.MaxAge > 0 && size > 0 && time.Since(f.begun) >= r.MaxAge
	return (long || old) && (f.endsLine(size) || r.MaxSize > 0 && size >= r.MaxSize+lineRoom)
}

func (f *file) look() (int64, error) {
	if f.out != nil {
		info, err := f.out.Stat()
		if err == nil && f.isOurs(info) {
			return info.Size(), nil
		}
		_ = f.shutLocked() // whatever it is now, it is not our file any more
	}
	if err := f.open(); err != nil {
		return 0, err
	}
	info, err := f.out.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// isOurs tells whether the name still leads to the open file: others remove,
// rename and rotate.
func (f *file) isOurs(open os.FileInfo) bool {
	if s, ok := open.Sys().(*syscall.Stat_t); ok && s.Nlink == 0 {
		return false
	}
	if time.Since(f.checked) < checkEvery {
		return true
	}
	named, err := os.Lstat(f.path)
	if err != nil || !os.SameFile(named, open) {
		return false
	}
	f.checked = time.Now()
	return true
}

// open follows no link and takes nothing but a regular file: who may write to the
// directory must not make root write elsewhere, nor wait for a reader of a fifo.
func (f *file) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o750); err != nil {
		return err
	}
	out, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	info, err := out.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.path)
	}
	if err != nil {
		return errors.Join(err, out.Close())
	}
	f.out, f.checked = out, time.Now()
	f.begun, f.inode, f.fresh = birth(out), inode(info), true
	return nil
}

// birth is when a file was made, or on a file system that does not tell, when it was
// opened.
func birth(f *os.File) time.Time {
	var s unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &s)
	if err != nil || s.Mask&unix.STATX_BTIME == 0 {
		return time.Now()
	}
	return time.Unix(s.Btime.Sec, int64(s.Btime.Nsec))
}

func inode(info os.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func (f *file) endsLine(size int64) bool {
	var last [1]byte
	n, _ := f.out.ReadAt(last[:], size-1) // an unreadable byte ends no line
	return size == 0 || n == 1 && last[0] == '\n'
}

// show reads back what was moved. A failure costs the lines people see, and only
// those.
func (f *file) show(from int64, n int, to func([]byte)) {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	for n > 0 {
		got, err := f.out.ReadAt(b[:min(n, chunk)], from)
		to(b[:got])
		if err != nil || got == 0 {
			return
		}
		from, n = from+int64(got), n-got
	}
}

// showRecent shows of a flood what will be remembered of it, and tells whether that was
// enough: not if somebody wants to see every line as it comes.
func (f *file) showRecent(p *port, end int64, n int) bool {
	from := f.recent(end, n)
	return from > end && p.life.tail.flooded(p, func(see func([]byte)) { f.show(from, n-int(from-end), see) })
}

// recent is where in the n bytes from there the lines begin that are remembered of them
// once all were seen, or before. The others need not be made into lines, which costs several
// times what storing them does.
func (f *file) recent(from int64, n int) int64 {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	var lines, size int
	behind := int64(-1) // where the line behind ends; what has no end is no line yet
	for end := from + int64(n); end > from; end = max(from, end-chunk) {
		begin := max(from, end-chunk)
		if _, err := f.out.ReadAt(b[:end-begin], begin); err != nil {
			return from
		}
		for i := bytes.LastIndexByte(b[:end-begin], '\n'); i >= 0; i = bytes.LastIndexByte(b[:i], '\n') {
			at := begin + int64(i)
			if behind >= 0 {
				lines++
				size += leastKept(int(behind - at - 1))
			}
			if lines == maxLines || size > maxBytes {
				return at + 1
			}
			behind = at
		}
	}
	return from
}

// leastKept is how much is remembered of a line at least: see text, which may take a carriage
// return off, and of a long line almost anything.
func leastKept(size int) int {
	if size > maxLine {
		return 0
	}
	return max(0, size-1)
}

// confess writes into the file how much is missing there, before anything else is
// written after it. It is whole or not there.
func (f *file) confess(end int64) (int64, error) {
	word, lost := f.confession()
	if lost == 0 {
		return end, nil
	}
	word += "\n"
	if !f.endsLine(end) {
		word = "\n" + word
	}
	if _, err := f.out.WriteAt([]byte(word), end); err != nil {
		return end, errors.Join(err, f.out.Truncate(end))
	}
	f.confessed(lost)
	return end + int64(len(word)), nil
}

func (f *file) shut() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shutLocked()
}

func (f *file) shutLocked() error {
	if f.out == nil {
		return nil
	}
	err := f.out.Close()
	f.out = nil
	return err
}

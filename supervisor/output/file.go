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
	store   *Store
	path    string
	streams int // under store.mu

	mu      sync.Mutex
	out     *os.File
	checked time.Time // when the name was last seen to lead to out

	since  time.Time // of the first failure in a row; zero: the last move went well
	why    error     // the last failure
	told   time.Time // when superd's log last spoke of it
	lost   int64     // bytes, not yet told in the file
	lostAt time.Time // of the first of them

	packing bool // rotated files are being compressed
}

const (
	checkEvery = time.Second
	tellEvery  = time.Minute
	lineRoom   = 1 << 20 // how far past its size a file may grow to end with a line
)

// take moves at most limit bytes from the pipe to the end of the file and shows
// them.
func (f *file) take(pipe, limit int, show func([]byte)) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, err := f.ready()
	if err != nil {
		return 0, f.failed(err)
	}
	if end, err = f.confess(end); err != nil {
		return 0, f.failed(err)
	}
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
	f.since = time.Time{}
	f.show(end, n, show)
	return n, nil
}

// ready makes sure that the name leads to an open file with room, and returns
// where it ends.
func (f *file) ready() (int64, error) {
	size, err := f.look()
	if err != nil {
		return 0, err
	}
	if size < f.store.MaxSize || size < f.store.MaxSize+lineRoom && !f.endsLine(size) {
		return size, nil
	}
	if err := f.rotate(); err != nil {
		return 0, fmt.Errorf("rotate %s: %w", f.path, err)
	}
	return f.look()
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
	return nil
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

// end is what people may want to see of an earlier superd's time: at most the last
// 64 KiB, from the beginning of a line on. What can't be read is not seen.
func (f *file) end() ([]byte, time.Time) {
	in, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, time.Time{}
	}
	defer func() { _ = in.Close() }() // only read
	info, err := in.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, time.Time{}
	}
	from := max(0, info.Size()-chunk)
	b := make([]byte, info.Size()-from)
	n, _ := in.ReadAt(b, from) // what was read before an error is good
	b = b[:n]
	if from > 0 {
		_, b, _ = bytes.Cut(b, []byte{'\n'})
	}
	return b, info.ModTime()
}

// failed takes note of a failure in a row.
func (f *file) failed(err error) error {
	if f.since.IsZero() {
		f.since = time.Now()
	}
	f.why = err
	return err
}

func (f *file) failedFor() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() {
		return 0
	}
	return time.Since(f.since)
}

// lose counts bytes that were thrown away, and says so once.
func (f *file) lose(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > 0 && f.lost == 0 {
		f.lostAt = time.Now()
	}
	f.lost += int64(n)
	if n > 0 && (f.told.IsZero() || time.Since(f.told) >= tellEvery) {
		f.told = time.Now()
		f.store.Log.Error("output cannot be written and is thrown away", "file", f.path, "error", f.why)
	}
}

// confess writes into the file how much is missing there, before anything else is
// written after it. It is whole or not there.
func (f *file) confess(end int64) (int64, error) {
	if f.lost == 0 {
		return end, nil
	}
	word := fmt.Sprintf("[superd: %d bytes of output lost from %s to %s: %v]\n",
		f.lost, f.lostAt.Format(time.RFC3339), time.Now().Format(time.RFC3339), f.why)
	if !f.endsLine(end) {
		word = "\n" + word
	}
	if _, err := f.out.WriteAt([]byte(word), end); err != nil {
		return end, errors.Join(err, f.out.Truncate(end))
	}
	f.store.Log.Info("output is written again", "file", f.path, "lost_bytes", f.lost)
	f.lost = 0
	return end + int64(len(word)), nil
}

// close is for a file that no stream writes to any more. It tells whether it may
// be forgotten.
func (f *file) close() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.shutLocked() // nothing of ours is in a buffer
	return f.lost == 0
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

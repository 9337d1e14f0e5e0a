package output

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// rotate moves file to file.1, file.1 to file.2 and so on, and drops the oldest.
// Each step is a rename, so a superd that dies among them leaves at worst a gap,
// which the next rotation fills. The caller holds f.mu.
func (f *file) rotate() error {
	if f.rules.Keep == 0 {
		f.prune()
		return errors.Join(os.Remove(f.path), f.shutLocked())
	}
	free := f.gap()
	for n := free - 1; n >= 1; n-- {
		for _, end := range []string{"", ".gz"} {
			err := os.Rename(f.old(n)+end, f.old(n+1)+end)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if err := os.Rename(f.path, f.old(1)); err != nil {
		return err
	}
	err := f.shutLocked()
	f.prune()
	f.pack()
	return err
}

// prune removes the oldest of the rotated files while all together are too long, and
// those that more were kept of once.
func (f *file) prune() {
	for n := f.rules.Keep + 1; f.remove(n); n++ {
	}
	if f.rules.MaxTotal <= 0 {
		return
	}
	left := f.rules.MaxTotal - f.rules.MaxSize // room for the present one
	for n := 1; n <= f.rules.Keep; n++ {
		for _, end := range []string{"", ".gz"} {
			if info, err := os.Lstat(f.old(n) + end); err == nil {
				left -= info.Size()
			}
		}
		if left < 0 {
			f.remove(n)
		}
	}
}

// remove removes a rotated file and tells whether there was one.
func (f *file) remove(n int) bool {
	there := false
	for _, end := range []string{"", ".gz"} {
		there = os.Remove(f.old(n)+end) == nil || there
	}
	return there
}

// gap is the first number nobody has; when all are taken it makes the last one free.
func (f *file) gap() int {
	for n := 1; n < f.rules.Keep; n++ {
		if !exists(f.old(n)) && !exists(f.old(n)+".gz") {
			return n
		}
	}
	for _, end := range []string{"", ".gz"} {
		_ = os.Remove(f.old(f.rules.Keep) + end) // one that stays is replaced by the rename
	}
	return f.rules.Keep
}

func (f *file) old(n int) string { return fmt.Sprintf("%s.%d", f.path, n) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// pack compresses what is rotated, in the background, one file at a time, those
// that a superd which died has left included. The caller holds f.mu.
func (f *file) pack() {
	if !f.rules.Compress || f.packing {
		return
	}
	f.packing = true
	keep := f.rules.Keep
	f.store.packing.Go(func() {
		for n := keep; n >= 1; n-- {
			if err := f.packOne(n); err != nil && !errors.Is(err, errClosing) {
				f.store.Log.Warn("rotated output stays uncompressed", "file", f.old(n), "error", err)
			}
		}
		f.mu.Lock()
		f.packing = false
		f.mu.Unlock()
	})
}

var errClosing = errors.New("superd is leaving")

// packOne writes beside the file and takes its place when done. Numbers move while
// it writes; the file itself is known by its inode.
func (f *file) packOne(n int) error {
	in, err := os.Open(f.old(n))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	part := f.path + ".gz.part"
	if err := f.squeeze(in, part); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	info, err := in.Stat()
	if err == nil {
		err = os.Chtimes(part, info.ModTime(), info.ModTime()) // when its last line was written, see History
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := 1; n <= f.rules.Keep; n++ {
		now, err := os.Lstat(f.old(n))
		if err == nil && os.SameFile(now, info) {
			return errors.Join(os.Rename(part, f.old(n)+".gz"), os.Remove(f.old(n)))
		}
	}
	return os.Remove(part) // it was the oldest and is gone by now
}

func (f *file) squeeze(in io.Reader, part string) error {
	_ = os.Remove(part) // left by a superd that died, or nothing
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	_, err = io.Copy(z, leaving{in, f.store.closing})
	return errors.Join(err, z.Close(), out.Sync(), out.Close())
}

// leaving is a reader that ends with an error when superd leaves.
type leaving struct {
	io.Reader
	closing <-chan struct{}
}

func (l leaving) Read(b []byte) (int, error) {
	select {
	case <-l.closing:
		return 0, errClosing
	default:
		return l.Reader.Read(b)
	}
}

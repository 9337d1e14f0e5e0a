package output

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A mark says that from an offset of a file on one life has written. Several lives may
// share a file, two generations of PHP-FPM do, and raw bytes do not tell whose they
// are. Marks are written before the bytes, so a superd that is killed in between
// leaves one that the next bytes make true, or the next mark.
type mark struct {
	inode uint64
	from  int64
	life  uint64
	seq   uint64 // from 1
}

// A mark has 32 bytes, and is written by one call: it is whole or not there.
const (
	markSize  = 32
	mostMarks = 4096
)

// marks are the last marks of all files, in a ring that outlives superd: a memfd that
// the keeper holds. Nothing here needs the disk.
type marks struct {
	mu   sync.Mutex
	in   *os.File // nil: nobody keeps them
	all  []mark   // by seq
	last uint64
}

// NewMarks is an empty place for marks, see Store.KeepMarks.
func NewMarks() (*os.File, error) {
	fd, err := unix.MemfdCreate("superd-marks", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a place for marks: %w", err)
	}
	return os.NewFile(uintptr(fd), "marks"), nil
}

// KeepMarks gives the store a place for its marks, with those of an earlier superd in it.
// The store owns it from then on. Call it before Attach.
func (s *Store) KeepMarks(f *os.File) {
	m := &s.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	m.in = f
	b := make([]byte, mostMarks*markSize)
	n, _ := f.ReadAt(b, 0) // what can't be read is not known
	for b := range slices.Chunk(b[:n-n%markSize], markSize) {
		le := binary.LittleEndian
		k := mark{le.Uint64(b), int64(le.Uint64(b[8:])), le.Uint64(b[16:]), le.Uint64(b[24:])}
		if k.seq > 0 {
			m.all = append(m.all, k)
			m.last = max(m.last, k.seq)
		}
	}
	slices.SortFunc(m.all, func(a, b mark) int { return cmp.Compare(a.seq, b.seq) })
}

// put writes k down and returns it with its number.
func (m *marks) put(k mark) mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.in == nil {
		return mark{}
	}
	m.last++
	k.seq = m.last
	var b [markSize]byte
	le := binary.LittleEndian
	le.PutUint64(b[:], k.inode)
	le.PutUint64(b[8:], uint64(k.from))
	le.PutUint64(b[16:], k.life)
	le.PutUint64(b[24:], k.seq)
	_, _ = m.in.WriteAt(b[:], int64(k.seq%mostMarks)*markSize) // memory; what is not there is not known
	return k
}

// fading tells whether a mark will soon be written over.
func (m *marks) fading(k mark) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last-k.seq > mostMarks/2
}

// of are the marks that an earlier superd left of one file, in the order of the file.
// Bytes are only ever added, so one at a lower place than others says that the file was
// cut since.
func (m *marks) of(inode uint64) []mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []mark
	for _, k := range m.all {
		if k.inode == inode {
			all = append(slices.DeleteFunc(all, func(o mark) bool { return o.from >= k.from }), k)
		}
	}
	return all
}

func (m *marks) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.in == nil {
		return nil
	}
	err := m.in.Close()
	m.in = nil
	return err
}

// mark says whose the bytes are that come at end. The caller holds f.mu.
func (f *file) mark(p *port, end int64) {
	m, life := &f.store.marks, p.life.mark
	same := f.marked.life == life && f.marked.inode == f.inode && end >= f.marked.from
	switch {
	case !same:
		f.marked = m.put(mark{inode: f.inode, from: end, life: life})
	case f.marked.seq > 0 && m.fading(f.marked):
		f.marked = m.put(f.marked)
	}
}

func hash(life string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(life)) // never fails
	return h.Sum64()
}

// recall shows p the end of its file, as far as its life has written it.
func (s *Store) recall(p *port) {
	set := s.settings(p.life.life.Name, p.life.life.Labels)
	to, path := set.target(s, p.stream, p.life.life.Log)
	if to != ToFile {
		return
	}
	b, from, id, at := endOf(path)
	for part := range s.ofLife(p.life.mark, id, from, b) {
		for line := range bytes.Lines(part) {
			text, when, _ := set.Format.parse(line)
			if when.IsZero() {
				when = at
			}
			p.life.tail.wrote(p, text, when)
		}
	}
}

// ofLife are the parts of b, which is at from in the file of that inode, that one life
// has written; all of it where nothing is known of the file.
func (s *Store) ofLife(life, inode uint64, from int64, b []byte) func(func([]byte) bool) {
	known := s.marks.of(inode)
	return func(yield func([]byte) bool) {
		if len(known) == 0 {
			yield(b)
			return
		}
		for i, k := range known {
			end := from + int64(len(b))
			if i+1 < len(known) {
				end = min(end, known[i+1].from)
			}
			begin := max(k.from, from)
			if k.life == life && begin < end && !yield(b[begin-from:end-from]) {
				return
			}
		}
	}
}

// endOf is at most the last 64 KiB of a file, from the beginning of a line on, and where
// that is. What can't be read is not seen.
func endOf(path string) (b []byte, from int64, id uint64, at time.Time) {
	in, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, 0, at
	}
	defer func() { _ = in.Close() }() // only read
	info, err := in.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, 0, at
	}
	from = max(0, info.Size()-chunk)
	b = make([]byte, info.Size()-from)
	n, _ := in.ReadAt(b, from) // what was read before an error is good
	b = b[:n]
	if from > 0 {
		cut := bytes.IndexByte(b, '\n') + 1
		b, from = b[cut:], from+int64(cut)
	}
	return b, from, inode(info), info.ModTime()
}

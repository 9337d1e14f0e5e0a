package release

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that neither slot of a file can be believed. The file has been kept aside,
// under the name in the message, and an empty one is in its place.
var ErrDamaged = errors.New("both copies are damaged")

// slots is a small document on disk that needs no space to be changed: two slots of
// one size, all of it written when the file is made, so that a full disk stops no
// later write (a file system that copies on write excepted). A write goes to the
// slot that does not hold the last one, so a torn write costs nothing but itself.
type slots struct {
	path string
	file *os.File
	seq  uint64 // of the document that is valid
}

const (
	slotSize    = 64 << 10
	slotHead    = 4 + 4 + 8 + 4 // crc32c of all that follows, magic, sequence, length of the document
	maxDocument = slotSize - slotHead
)

const slotMagic = "sud1"

// openSlots opens or makes the file at path and reads the document in it, unless
// there is none yet. With ErrDamaged the slots are usable, and what was read is not.
func openSlots(path string, document any) (*slots, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return makeSlots(path)
	}
	if err != nil {
		return nil, err
	}
	text, seq, err := readSlots(file)
	if err == nil && len(text) > 0 && json.Unmarshal(text, document) != nil {
		err = ErrDamaged // whole, and not understood: the site must come up all the same
	}
	if err == nil {
		return &slots{path, file, seq}, nil
	}
	_ = file.Close()
	if !errors.Is(err, ErrDamaged) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("%s: %w, keep it aside: %w", path, ErrDamaged, err)
	}
	s, err := makeSlots(path)
	if err != nil {
		return nil, err
	}
	return s, fmt.Errorf("%s: %w; kept as %s", path, ErrDamaged, aside)
}

// makeSlots writes both slots in full: real blocks, not holes and not blocks that
// would have to be marked as written later.
func makeSlots(path string) (*slots, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(append(encodeSlot(0, nil), encodeSlot(1, nil)...))
	if err = errors.Join(err, file.Sync()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err = errors.Join(err, syncDir(dir)); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return &slots{path, file, 1}, nil
}

// store returns when document is safe on disk. After an error the last one still
// is; the slot that failed is the next one to be written.
func (s *slots) store(document []byte) error {
	if len(document) > maxDocument {
		return fmt.Errorf("write %s: %d bytes are too many", s.path, len(document))
	}
	seq := s.seq + 1
	if _, err := s.file.WriteAt(encodeSlot(seq, document), int64(seq%2)*slotSize); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := unix.Fdatasync(int(s.file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.seq = seq
	return nil
}

func (s *slots) close() error { return s.file.Close() }

func readSlots(file *os.File) (document []byte, seq uint64, err error) {
	all, err := io.ReadAll(io.LimitReader(file, 2*slotSize+1))
	if err != nil {
		return nil, 0, err
	}
	if len(all) != 2*slotSize {
		return nil, 0, ErrDamaged // it is never made longer or shorter
	}
	a, aSeq, aOK := decodeSlot(all[:slotSize])
	b, bSeq, bOK := decodeSlot(all[slotSize:])
	switch {
	case aOK && (!bOK || aSeq > bSeq):
		return a, aSeq, nil
	case bOK:
		return b, bSeq, nil
	}
	return nil, 0, ErrDamaged
}

func encodeSlot(seq uint64, document []byte) []byte {
	slot := make([]byte, slotSize)
	copy(slot[4:], slotMagic)
	binary.LittleEndian.PutUint64(slot[8:], seq)
	binary.LittleEndian.PutUint32(slot[16:], uint32(len(document)))
	copy(slot[slotHead:], document)
	binary.LittleEndian.PutUint32(slot, crc32.Checksum(slot[4:], crc32.MakeTable(crc32.Castagnoli)))
	return slot
}

// decodeSlot accepts nothing but what encodeSlot makes. The checksum covers the
// slot to its last byte.
func decodeSlot(slot []byte) (document []byte, seq uint64, ok bool) {
	if len(slot) != slotSize || string(slot[4:8]) != slotMagic ||
		binary.LittleEndian.Uint32(slot) != crc32.Checksum(slot[4:], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, 0, false
	}
	length := binary.LittleEndian.Uint32(slot[16:])
	if length > maxDocument {
		return nil, 0, false
	}
	return slot[slotHead : slotHead+length], binary.LittleEndian.Uint64(slot[8:]), true
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

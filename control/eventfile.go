package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// eventFile is events on disk, one line of JSON each. It is appended to, and made
// anew from what is kept in memory when it has grown to twice that. Beside it, at
// path+".seq", are a few bytes made in advance, which a full disk has room for: the
// number of the last event that could only be told.
type eventFile struct {
	path string

	file  *os.File
	lines int
	size  int64
	seq   *os.File

	broken error     // why it lacks what is in memory; nil when it does not
	retry  time.Time // when to try again
}

// retryEvents is how often a disk that was full is tried again; each time all of the
// events are written.
const retryEvents = 10 * time.Second

// open reads the file and is ready to append. last is the number after which to go
// on, if it is more than that of the last line.
func (f *eventFile) open() (lines []kept, last uint64, err error) {
	err = os.MkdirAll(filepath.Dir(f.path), 0o755)
	lines, read := f.read()
	last, side := f.openSeq()
	if err = errors.Join(err, read, side); err != nil {
		f.broken = err
	}
	return lines, last, err
}

// read takes the whole lines there are. One that was torn in half by the end of a
// superd is cut off.
func (f *eventFile) read() ([]kept, error) {
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	f.file = file
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-4*maxEventBytes) // longer than it is ever made
	text, err := io.ReadAll(io.NewSectionReader(file, from, info.Size()-from))
	if err != nil {
		return nil, err
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	if f.size = from + int64(whole); f.size < info.Size() {
		err = file.Truncate(f.size)
	}
	var lines []kept
	var last uint64
	for line := range bytes.Lines(text[:whole]) {
		f.lines++
		var e Event
		if json.Unmarshal(line, &e) == nil && e.Seq > last && e.Seq <= maxSeq {
			last = e.Seq
			lines = append(lines, newKept(e))
		}
	}
	return lines, err
}

// openSeq reads the bytes beside the file, or makes them.
func (f *eventFile) openSeq() (uint64, error) {
	file, err := os.OpenFile(f.path+".seq", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	f.seq = file
	text := make([]byte, seqWidth)
	if n, err := file.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	} else if n < seqWidth {
		return 0, f.noteSeq(0)
	}
	last, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err == nil && last > maxSeq {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return last, nil
}

// maxSeq is what no count of events comes to, and what every reader of JSON can still
// count beyond: a number above it is damage.
const maxSeq = 1 << 52

const seqWidth = 20 // digits of the largest number there is

func (f *eventFile) noteSeq(last uint64) error {
	if f.seq == nil {
		return fs.ErrInvalid
	}
	_, err := f.seq.WriteAt(fmt.Appendf(nil, "%*d", seqWidth, last), 0)
	return err
}

// append adds lines. all is what the file should be if it has to be made anew, with
// lines at its end. After an error the lines are not in it, but their last number is
// noted if that is possible at all.
func (f *eventFile) append(lines []kept, all func() []kept) error {
	grown := f.lines+len(lines) > 2*maxEvents || f.size > 2*maxEventBytes
	switch {
	case f.broken != nil && time.Now().Before(f.retry):
	case f.broken != nil || grown:
		f.broken = f.rewrite(all())
	default:
		f.broken = f.write(lines)
	}
	if f.broken == nil {
		return nil
	}
	if !time.Now().Before(f.retry) {
		f.retry = time.Now().Add(retryEvents)
	}
	return errors.Join(f.broken, f.noteSeq(lines[len(lines)-1].seq))
}

func (f *eventFile) healthy() bool { return f.broken == nil }

func (f *eventFile) write(lines []kept) error {
	if f.file == nil {
		return fs.ErrInvalid
	}
	var text []byte
	for _, k := range lines {
		text = append(text, k.line...)
	}
	n, err := f.file.Write(text)
	f.size += int64(n)
	f.lines += len(lines)
	return err
}

// rewrite makes the file anew.
func (f *eventFile) rewrite(all []kept) (err error) {
	name := f.path + ".new"
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fresh := &eventFile{path: f.path, file: file}
	if err := errors.Join(fresh.write(all), file.Sync()); err != nil {
		return errors.Join(err, file.Close(), os.Remove(name))
	}
	if err := os.Rename(name, f.path); err != nil {
		return errors.Join(err, file.Close())
	}
	if f.file != nil {
		_ = f.file.Close() // nothing was left in it
	}
	f.file, f.lines, f.size = file, fresh.lines, fresh.size
	return nil
}

func (f *eventFile) close() error {
	var errs []error
	for _, file := range []*os.File{f.file, f.seq} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

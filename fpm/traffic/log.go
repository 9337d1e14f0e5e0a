package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Format is what PHP-FPM must have as access.format: the status, what it took, and
// the mark of a request that superd made itself. It is short on purpose: while no
// superd reads, the file grows by twelve bytes a request or so.
const Format = "%s %{milliseconds}d %{SUPERD_CHECK}e"

// Saved is the end of the name of what has been counted, behind that of the log.
const Saved = ".counts"

// A Log is the access log of one PHP-FPM, a regular file that it appends to. What
// has been read is given back to the file system by punching a hole, which, unlike
// cutting the file short, can't take away a line that is written meanwhile. So the
// file looks ever longer and takes no more than a page.
type Log struct {
	path string

	mu    sync.Mutex
	file  *os.File // nil: not opened yet, or gone
	freed int64    // up to here the file is a hole
	saved time.Time
	dirty bool // there is more to be saved
	known kept
}

// kept is what has been counted and from where on. The two are saved together: that
// is why no line counts twice.
type kept struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
	Total  Counts `json:"total"`
	Last   ring   `json:"last"`
}

// Open goes on with what an earlier superd has counted of the log of that path.
// Neither needs to be there.
func Open(path string) *Log {
	l := &Log{path: path}
	if b, err := os.ReadFile(path + Saved); err == nil && json.Unmarshal(b, &l.known) != nil {
		l.known = kept{} // it is replaced as a whole, so nothing of ours wrote that
	}
	return l
}

// Read counts what has been written since the last time. The error is fs.ErrNotExist
// when the log is gone; what was counted stays.
func (l *Log) Read() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reopen(); err != nil {
		return fmt.Errorf("read the access log: %w", err)
	}
	if err := l.count(); err != nil {
		return fmt.Errorf("read the access log: %w", err)
	}
	if l.dirty && time.Since(l.saved) >= time.Second {
		return l.settle()
	}
	return nil
}

// Kill counts a worker that a signal has ended.
func (l *Log) Kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.Total.Killed++
	l.known.Last.at(time.Now()).Killed++
	l.dirty = true
}

// Figures are what has been counted.
func (l *Log) Figures() Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Figures{Total: l.known.Total, Recent: l.known.Last.sum()}
}

// Close saves what has been counted, for the next superd, and lets go of the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	var err error
	if l.dirty {
		err = l.settle()
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil
	return err
}

// reopen makes sure that file is the one that the path leads to.
func (l *Log) reopen() error {
	info, err := os.Stat(l.path)
	if err != nil {
		l.forget()
		return err
	}
	if l.file != nil {
		if mine, err := l.file.Stat(); err == nil && os.SameFile(mine, info) {
			return l.rewind(info)
		}
		l.forget()
	}
	if l.file, err = os.OpenFile(l.path, os.O_RDWR, 0); err != nil {
		return err
	}
	if info, err = l.file.Stat(); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		l.forget()
		return fmt.Errorf("%s is not a file", l.path)
	}
	return l.rewind(info)
}

func (l *Log) forget() {
	if l.file != nil {
		_ = l.file.Close() // it was only read
	}
	l.file, l.freed = nil, 0
}

// rewind begins anew with a file that is another one, or was cut short, or of which what
// was saved says something impossible.
func (l *Log) rewind(info fs.FileInfo) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.file.Fd()), &st); err != nil {
		return err
	}
	if l.known.Inode != st.Ino || l.known.Offset > info.Size() || l.known.Offset < 0 {
		l.known.Inode, l.known.Offset, l.freed = st.Ino, 0, 0
	}
	return nil
}

const chunk = 64 << 10

// count reads whole lines to the end of the file.
func (l *Log) count() error {
	buffer := make([]byte, 0, chunk)
	for {
		if err := l.skipHole(); err != nil {
			return err
		}
		n, err := l.file.ReadAt(buffer[:chunk], l.known.Offset)
		whole := bytes.LastIndexByte(buffer[:n], '\n') + 1
		if whole == 0 && n == chunk {
			whole = n // no line is that long: PHP-FPM did not write it
		}
		now := time.Now()
		for line := range bytes.Lines(buffer[:whole]) {
			l.line(line, now)
		}
		l.known.Offset += int64(whole)
		l.dirty = l.dirty || whole > 0
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err != nil || whole == 0 {
			return nil
		}
	}
}

// skipHole passes what an earlier superd has freed and could not save that it had
// read: better not counted than counted twice.
func (l *Log) skipHole() error {
	at, err := unix.Seek(int(l.file.Fd()), l.known.Offset, unix.SEEK_DATA)
	switch {
	case err == nil:
		l.known.Offset = max(l.known.Offset, at)
		return nil
	case errors.Is(err, unix.ENXIO): // the end
		return nil
	}
	return err
}

// line counts one line. One that is no line of ours says nothing: on a full disk
// there are halves.
func (l *Log) line(line []byte, now time.Time) {
	fields := bytes.Fields(bytes.TrimLeft(line, "\x00"))
	if len(fields) != 3 || !bytes.Equal(fields[2], []byte("-")) {
		return
	}
	status, err := strconv.Atoi(string(fields[0]))
	if err != nil || status < 100 || status > 999 {
		return
	}
	took, err := strconv.ParseFloat(string(fields[1]), 64)
	if err != nil || !(took >= 0) {
		return
	}
	duration := time.Duration(min(took, 1e9) * float64(time.Millisecond))
	l.known.Total.Add(status, duration)
	l.known.Last.at(now).Add(status, duration)
}

// settle saves what is known, and then frees what has been read. When it can't be
// saved the room is given back all the same: a full disk does harm to others, and a
// superd that is killed just then loses nothing but figures.
func (l *Log) settle() error {
	l.saved = time.Now()
	err := l.save()
	if err == nil {
		l.dirty = false
	} else {
		err = fmt.Errorf("save what was counted: %w", err)
	}
	return errors.Join(err, l.free())
}

func (l *Log) save() error {
	b, err := json.Marshal(l.known)
	if err != nil {
		return err
	}
	next := l.path + Saved + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		_ = os.Remove(next) // half of it would take room that there is none of
		return err
	}
	return os.Rename(next, l.path+Saved)
}

const page = 4096

// free gives whole pages back.
func (l *Log) free() error {
	end := l.known.Offset / page * page
	if end <= l.freed {
		return nil
	}
	err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, l.freed, end-l.freed)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return l.cut()
	}
	if err != nil {
		return fmt.Errorf("free what was read of the access log: %w", err)
	}
	l.freed = end
	return nil
}

// tooLong is when a file is cut short that can't have holes.
const tooLong = 1 << 20

// cut begins the file anew once it has been read to its end. A line that is written
// in this very moment is lost.
func (l *Log) cut() error {
	info, err := l.file.Stat()
	if err != nil || l.known.Offset < tooLong || info.Size() != l.known.Offset {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	l.known.Offset, l.freed, l.dirty = 0, 0, true
	return nil
}

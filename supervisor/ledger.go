package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A ledger is the file of births and of stop signals sent: one JSON line each, written
// before the thing itself happens. Nothing waits for the disk: what is written outlives
// superd and the keeper, and a machine that goes down takes along whom it is about. The keeper's table is the truth about
// what lives and who was told to stop; the ledger adds when, and is the last witness
// when the keeper is gone too.
//
// Its blocks are allocated in advance, so a full disk does not stop a child from
// being told. Should a write fail all the same, superd says so and goes on: a
// rollback must not wait for a disk.
type ledger struct {
	log  *slog.Logger
	path string

	boot string

	mu    sync.Mutex
	file  *os.File
	tolds map[identity]time.Time
	live  map[identity]line
	bad   bool  // the last write failed, and was told
	torn  bool  // the file may end in the middle of a line
	limit int64 // a file this long is rewritten
}

type identity struct {
	PID   int
	Start uint64
}

type line struct {
	Event string    `json:"event"` // born | said | told | gone
	Boot  string    `json:"boot,omitempty"`
	Slot  string    `json:"slot,omitempty"`
	PID   int       `json:"pid"`
	Start uint64    `json:"start"`
	At    time.Time `json:"at"`

	// Of births: who it is and how it is ended, should the keeper be lost.
	Mark    string `json:"mark,omitempty"`
	Signal  int    `json:"signal,omitempty"`
	Timeout int64  `json:"timeout,omitempty"` // nanoseconds

	Said *account `json:"said,omitempty"` // by the child, of itself
}

const (
	ledgerRoom  = 1 << 20 // bytes allocated in advance
	ledgerLimit = ledgerRoom / 2
)

func openLedger(path string, log *slog.Logger) (*ledger, error) {
	l := &ledger{
		log: log, path: path, boot: bootID(), limit: ledgerLimit,
		tolds: map[identity]time.Time{}, live: map[identity]line{},
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l.replay(b)
	l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return l, nil
}

// replay takes what was written in this boot; PIDs of another one mean nothing. A
// line that makes no sense is what a crash or a full disk has torn, and is passed
// over.
func (l *ledger) replay(b []byte) {
	for text := range bytes.Lines(b) {
		var x line
		if json.Unmarshal(text, &x) == nil && x.Boot == l.boot {
			l.apply(x)
		}
	}
	l.torn = len(b) > 0 && b[len(b)-1] != '\n'
}

func (l *ledger) apply(x line) {
	id := identity{x.PID, x.Start}
	switch x.Event {
	case "born":
		l.live[id] = x
	case "said":
		if known, ok := l.live[id]; ok {
			known.Said = x.Said
			l.live[id] = known
		}
	case "told":
		l.tolds[id] = x.At
	case "gone":
		delete(l.live, id)
		delete(l.tolds, id)
	}
}

func (l *ledger) born(x line) {
	x.Event, x.At = "born", time.Now()
	l.add(x)
}

// living are the births of this boot whose end nobody has written down.
func (l *ledger) living() map[identity]line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.live)
}

func (l *ledger) tell(pid int, start uint64, at time.Time) {
	l.add(line{Event: "told", PID: pid, Start: start, At: at})
}

func (l *ledger) said(pid int, start uint64, s account) {
	l.add(line{Event: "said", PID: pid, Start: start, At: time.Now(), Said: &s})
}

// words are what a child has said to an earlier superd.
func (l *ledger) words(pid int, start uint64) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.live[identity{pid, start}]; x.Said != nil {
		return *x.Said
	}
	return account{}
}

func (l *ledger) gone(pid int, start uint64) {
	l.add(line{Event: "gone", PID: pid, Start: start, At: time.Now()})
}

func (l *ledger) told(pid int, start uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tolds[identity{pid, start}]
}

func (l *ledger) add(x line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.Boot = l.boot
	l.apply(x)
	err := l.write(x)
	if err != nil && !l.bad {
		l.log.Error("ledger of births cannot be written; going on without it", "path", l.path, "error", err)
	}
	l.bad = err != nil
	if size, err := l.file.Seek(0, io.SeekEnd); err == nil && size > l.limit {
		l.shrink()
	}
}

// write begins on a line of its own, whatever a failure has left before it.
func (l *ledger) write(x line) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if l.torn {
		b = append([]byte{'\n'}, b...)
	}
	_, err = l.file.Write(b)
	l.torn = err != nil
	return err
}

// compact forgets everything but the children that are there.
func (l *ledger) compact(there []*Child, left []*leftover) {
	for _, x := range left {
		there = append(there, x.Child)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	live, tolds := map[identity]line{}, map[identity]time.Time{}
	for _, c := range there {
		id := identity{c.proc.PID, c.proc.Start}
		live[id] = line{Event: "born", Boot: l.boot, Slot: c.proc.Slot, PID: id.PID, Start: id.Start, At: c.proc.Born, Mark: c.note.Mark}
		if x, ok := l.live[id]; ok {
			live[id] = x
		}
		if at, ok := l.tolds[id]; ok {
			tolds[id] = at
		}
	}
	l.live, l.tolds = live, tolds
	l.shrink()
}

// shrink rewrites the file without those who are gone. The next time is when it
// has grown by half a room again: a failure is not repeated at every line, and a
// thousand children that live are not written anew for each birth.
func (l *ledger) shrink() {
	if err := l.rewrite(); err != nil {
		l.log.Error("ledger of births cannot be compacted", "path", l.path, "error", err)
	}
	size, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		size = l.limit
	}
	l.limit = size + ledgerLimit
}

// rewrite puts a new file in place of the old one; either is whole at any time.
func (l *ledger) rewrite() error {
	fresh, err := os.OpenFile(l.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	old, torn := l.file, l.torn
	l.file, l.torn = fresh, false
	err = l.fill()
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	if err != nil {
		l.file, l.torn = old, torn
		return errors.Join(err, fresh.Close(), os.Remove(l.path+".new"))
	}
	return errors.Join(old.Close(), syncDir(filepath.Dir(l.path)))
}

func (l *ledger) fill() error {
	if err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, ledgerRoom); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for id, x := range l.live {
		if err := l.write(x); err != nil {
			return err
		}
		if at, ok := l.tolds[id]; ok {
			if err := l.write(line{Event: "told", Boot: x.Boot, PID: id.PID, Start: id.Start, At: at}); err != nil {
				return err
			}
		}
	}
	return l.file.Sync()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the file.
func (l *ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// bootID tells one boot of the machine from another (random(4)).
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

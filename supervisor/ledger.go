package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A ledger is the file of births and of stop signals sent: one JSON line each,
// synced before the thing itself happens. The keeper's table is the truth about
// what lives; the ledger adds what the keeper does not know (who has been told to
// stop) and is the last witness when the keeper is gone too.
//
// Its blocks are allocated in advance, so a full disk does not stop a child from
// being told. Should a write fail all the same, superd says so and goes on: a
// rollback must not wait for a disk.
type ledger struct {
	log  *slog.Logger
	path string

	mu    sync.Mutex
	file  *os.File
	tolds map[identity]time.Time
	live  map[identity]line
	bad   bool // the last write failed, and was told
}

type identity struct {
	PID   int
	Start uint64
}

type line struct {
	Event string    `json:"event"` // born | told | gone
	Boot  string    `json:"boot,omitempty"`
	Slot  string    `json:"slot,omitempty"`
	PID   int       `json:"pid"`
	Start uint64    `json:"start"`
	At    time.Time `json:"at"`
}

const (
	ledgerRoom    = 1 << 20 // bytes allocated in advance
	ledgerCompact = ledgerRoom / 2
)

func openLedger(path string, log *slog.Logger) (*ledger, error) {
	l := &ledger{log: log, path: path, tolds: map[identity]time.Time{}, live: map[identity]line{}}
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
// torn last line is what a crash leaves and is passed over.
func (l *ledger) replay(b []byte) {
	boot := bootID()
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var x line
		if json.Unmarshal(lines.Bytes(), &x) == nil && x.Boot == boot {
			l.apply(x)
		}
	}
}

func (l *ledger) apply(x line) {
	id := identity{x.PID, x.Start}
	switch x.Event {
	case "born":
		l.live[id] = x
	case "told":
		l.tolds[id] = x.At
	case "gone":
		delete(l.live, id)
		delete(l.tolds, id)
	}
}

func (l *ledger) born(slot string, pid int, start uint64) {
	l.add(line{Event: "born", Slot: slot, PID: pid, Start: start, At: time.Now()}, true)
}

func (l *ledger) tell(pid int, start uint64, at time.Time) {
	l.add(line{Event: "told", PID: pid, Start: start, At: at}, true)
}

func (l *ledger) gone(pid int, start uint64) {
	l.add(line{Event: "gone", PID: pid, Start: start, At: time.Now()}, false)
}

func (l *ledger) told(pid int, start uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tolds[identity{pid, start}]
}

func (l *ledger) add(x line, sync bool) {
	x.Boot = bootID()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply(x)
	err := l.write(x)
	if err == nil && sync {
		err = unix.Fdatasync(int(l.file.Fd()))
	}
	if err != nil && !l.bad {
		l.log.Error("ledger of births cannot be written; going on without it", "path", l.path, "error", err)
	}
	l.bad = err != nil
	if size, err := l.file.Seek(0, 2); err == nil && size > ledgerCompact && len(l.live) < 1000 {
		if err := l.rewrite(); err != nil {
			l.log.Error("ledger of births cannot be compacted", "path", l.path, "error", err)
		}
	}
}

func (l *ledger) write(x line) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = l.file.Write(append(b, '\n'))
	return err
}

// compact forgets everything but the children that are there.
func (l *ledger) compact(there []*Child) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	live, tolds := map[identity]line{}, map[identity]time.Time{}
	for _, c := range there {
		id := identity{c.proc.PID, c.proc.Start}
		live[id] = line{Event: "born", Boot: bootID(), Slot: c.proc.Slot, PID: id.PID, Start: id.Start, At: c.proc.Born}
		if at, ok := l.tolds[id]; ok {
			tolds[id] = at
		}
	}
	l.live, l.tolds = live, tolds
	if err := l.rewrite(); err != nil {
		l.log.Error("ledger of births cannot be compacted", "path", l.path, "error", err)
	}
	return nil
}

// rewrite puts a new file in place of the old one; either is whole at any time.
func (l *ledger) rewrite() error {
	fresh, err := os.OpenFile(l.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	old := l.file
	l.file = fresh
	err = l.fill()
	if err == nil {
		err = os.Rename(l.path+".new", l.path)
	}
	if err != nil {
		l.file = old
		_ = fresh.Close() // nothing of worth is in it
		return err
	}
	_ = old.Close() // replaced
	return nil
}

func (l *ledger) fill() error {
	if err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, ledgerRoom); err != nil && err != unix.EOPNOTSUPP {
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

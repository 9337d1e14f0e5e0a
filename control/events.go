package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Events is everything that has happened lately, for those who follow. An event is
// on disk before anyone can read it, so that no number is given twice whatever superd
// dies of. A disk that is full costs only the memory over the next start, and none
// but Run ever waits for it.
type Events struct {
	log  *slog.Logger
	file *eventFile // Run's alone

	mu      sync.Mutex
	pending []Event       // appended, not yet written
	lost    int           // could not even be pending
	wake    chan struct{} // has room for one: there is something pending
	kept    []kept        // written, oldest first
	size    int           // of their lines together
	last    uint64        // number of the last one that was written
	more    chan struct{} // closed, and made anew, when there is another
	counts  map[counted]uint64
}

// counted is what events are counted by, for the metrics.
type counted struct{ kind, app string }

// kept is an event as it is sent, and what it is chosen by.
type kept struct {
	seq  uint64
	kind string
	app  string
	of   string // the switch
	line []byte // with its line end
}

// What is kept: months of an app that is switched daily, minutes of one that falls
// apart. On disk there may be twice as much.
const (
	maxEvents     = 10_000
	maxEventBytes = 4 << 20
	maxPending    = 4_096 // while the disk hangs
)

// OpenEvents reads what earlier superds have left at path, which need not exist. The
// Events are usable in spite of an error, which says why they begin empty.
func OpenEvents(path string, log *slog.Logger) (*Events, error) {
	e := &Events{log: log, file: &eventFile{path: path}, wake: make(chan struct{}, 1), more: make(chan struct{}), counts: map[counted]uint64{}}
	lines, last, err := e.file.open()
	for _, line := range lines {
		e.keep(line)
	}
	e.last = max(e.last, last)
	if err != nil {
		return e, fmt.Errorf("open events: %w", err)
	}
	return e, nil
}

// Append adds an event, which is given its number, and its time if it has none. It
// never waits: Run writes it.
func (e *Events) Append(event Event) {
	if event.At.IsZero() {
		event.At = time.Now()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[counted{event.Kind, event.App}]++
	if len(e.pending) >= maxPending {
		e.lost++
		return
	}
	e.pending = append(e.pending, event)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// count adds to sums how many of each kind there were since this superd began, of the
// apps that may be seen.
func (e *Events) count(sums map[string]uint64, sees func(app string) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for of, n := range e.counts {
		if sees(of.app) {
			sums[of.kind] += n
		}
	}
}

// Last is the number of the last event that can be read.
func (e *Events) Last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// Run writes what is appended until ctx ends, and then what is left.
func (e *Events) Run(ctx context.Context) error {
	for {
		select {
		case <-e.wake:
			e.write()
		case <-ctx.Done():
			e.write()
			return e.file.close()
		}
	}
}

// write puts what is pending on disk and lets it be read.
func (e *Events) write() {
	batch := e.take()
	if len(batch) == 0 {
		return
	}
	seq := e.Last()
	lines := make([]kept, 0, len(batch))
	for _, event := range batch {
		seq++
		event.Seq = seq
		lines = append(lines, newKept(event))
	}
	healthy := e.file.healthy()
	err := e.file.append(lines, func() []kept { return append(e.all(), lines...) })
	switch {
	case err != nil && healthy:
		e.log.Warn("events are in memory only", "path", e.file.path, "error", err)
	case err == nil && !healthy:
		e.log.Info("events are on disk again", "path", e.file.path)
	}
	e.publish(lines)
}

// maxEventLine is more than any event of a switch needs.
const maxEventLine = 64 << 10

// newKept writes an event as it will be sent. One that cannot be written, or is far
// too long, is kept without what is only for people.
func newKept(e Event) kept {
	line, err := json.Marshal(e)
	if err != nil || len(line) > maxEventLine {
		e = Event{Seq: e.Seq, Kind: e.Kind, App: e.App, Switch: e.Switch, Verdict: e.Verdict, Exit: e.Exit, Message: "the rest of it is too long to be kept"}
		line, _ = json.Marshal(e)
	}
	return kept{seq: e.Seq, kind: e.Kind, app: e.App, of: e.Switch, line: append(line, '\n')}
}

// take is what is pending. What was lost before it is told in the first place.
func (e *Events) take() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	batch := e.pending
	if e.lost > 0 {
		batch = append(batch, lagged(time.Now(), 0, "%d events were not written: the disk was too slow", e.lost))
	}
	e.pending, e.lost = nil, 0
	return batch
}

// lagged stands where events are missing.
func lagged(at time.Time, seq uint64, format string, args ...any) Event {
	return Event{Seq: seq, At: at, Kind: EventLagged, Message: fmt.Sprintf(format, args...)}
}

func (e *Events) all() []kept {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.kept)
}

// publish lets lines be read.
func (e *Events) publish(lines []kept) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range lines {
		e.keep(k)
	}
	close(e.more)
	e.more = make(chan struct{})
}

func (e *Events) keep(k kept) {
	e.kept = append(e.kept, k)
	e.size += len(k.line)
	e.last = k.seq
	for len(e.kept) > maxEvents || e.size > maxEventBytes && len(e.kept) > 1 {
		e.size -= len(e.kept[0].line)
		e.kept[0] = kept{}
		e.kept = e.kept[1:]
	}
}

// batchSize is how many events a follower takes at a time.
const batchSize = 256

// after is the next events after a number, the number that they really come after,
// and a channel that is closed when there are more. The two numbers differ when
// events between them are not kept, or when no event had the number yet: then it is
// of another life of this log.
func (e *Events) after(seq uint64) (next []kept, from uint64, more <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from = seq
	switch {
	case len(e.kept) == 0, seq > e.last: // of another count, or made up: what is kept is not what was missed
		from = e.last
	case seq < e.kept[0].seq-1:
		from = e.kept[0].seq - 1
	}
	at, _ := slices.BinarySearchFunc(e.kept, from+1, func(k kept, s uint64) int { return cmp.Compare(k.seq, s) })
	return slices.Clone(e.kept[at:min(len(e.kept), at+batchSize)]), from, e.more
}

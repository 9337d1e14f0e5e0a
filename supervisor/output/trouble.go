package output

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// trouble is a row of failures of a sink and what it has cost. superd's log tells of it
// once a minute at most, and of its end.
type trouble struct {
	log   *slog.Logger
	place string

	mu     sync.Mutex
	since  time.Time // of the first failure in a row; zero: the last take went well
	why    error     // the last failure
	told   time.Time // when superd's log last spoke of it
	lost   int64     // bytes, not yet told where they are missing
	lostAt time.Time // of the first of them
}

const tellEvery = time.Minute

// failed takes note of a failure in a row.
func (t *trouble) failed(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.why = err
	return err
}

func (t *trouble) well() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since = time.Time{}
}

func (t *trouble) failedFor() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return 0
	}
	return time.Since(t.since)
}

// lose counts bytes that were thrown away, and says so.
func (t *trouble) lose(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n > 0 && t.lost == 0 {
		t.lostAt = time.Now()
	}
	t.lost += int64(n)
	if n > 0 && (t.told.IsZero() || time.Since(t.told) >= tellEvery) {
		t.told = time.Now()
		t.log.Error("output cannot be written and is thrown away", "to", t.place, "error", t.why)
	}
}

// confession is what is to be written where bytes are missing, and how many these are.
func (t *trouble) confession() (string, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == 0 {
		return "", 0
	}
	return fmt.Sprintf("[superd: %d bytes of output lost from %s to %s: %v]",
		t.lost, t.lostAt.Format(time.RFC3339), time.Now().Format(time.RFC3339), t.why), t.lost
}

// confessed is called when the confession is written.
func (t *trouble) confessed(lost int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log.Info("output is written again", "to", t.place, "lost_bytes", lost)
	t.lost -= lost
}

// owes tells whether there is something to be confessed.
func (t *trouble) owes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost > 0
}

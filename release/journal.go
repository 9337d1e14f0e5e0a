package release

import (
	"encoding/json"
	"fmt"
)

// FileJournal is a Journal in one pre-allocated file: see slots. It has one owner,
// the Switcher of its app.
type FileJournal struct {
	slots *slots
	last  Record
}

// OpenJournal opens the journal at path, or makes it. With ErrDamaged the journal
// is usable and empty: what was going on is not known, the link tells what is live.
func OpenJournal(path string) (*FileJournal, error) {
	var last Record
	slots, err := openSlots(path, &last)
	if slots == nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err != nil {
		return &FileJournal{slots: slots}, fmt.Errorf("open journal: %w", err)
	}
	return &FileJournal{slots, last}, nil
}

// Enter returns when r is safe on disk.
func (j *FileJournal) Enter(r Record) error {
	r.Seq = j.slots.seq + 1
	document, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := j.slots.store(document); err != nil {
		return err
	}
	j.last = r
	return nil
}

// Last is the last record that was entered, zero if there was none.
func (j *FileJournal) Last() Record { return j.last }

// Close closes the file.
func (j *FileJournal) Close() error { return j.slots.close() }

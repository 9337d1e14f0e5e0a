package release

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// History is the finished switches of an app, oldest first: one line of JSON each,
// only ever appended to, until there is twice as much as is kept.
type History struct {
	path    string
	mu      sync.Mutex
	records []Record
	lines   int // in the file
}

// maxHistory is how many finished switches are kept.
const maxHistory = 200

// OpenHistory reads the history at path; it need not exist. A line that is torn or
// not understood is passed over.
func OpenHistory(path string) (*History, error) {
	h := &History{path: path}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open history: %w", err)
	}
	for line := range bytes.Lines(text) {
		h.lines++
		var r Record
		if json.Unmarshal(line, &r) == nil && r.ID != "" {
			h.records = append(h.records, r)
		}
	}
	h.trim()
	return h, nil
}

// Records are the finished switches, oldest first. The slice is the caller's.
func (h *History) Records() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.records)
}

// find is the finished switch with that id.
func (h *History) find(id string) (Record, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.records, func(r Record) bool { return r.ID == id })
	if i < 0 {
		return Record{}, false
	}
	return h.records[i], true
}

// has tells whether the switch is in already.
func (h *History) has(id string) bool {
	_, ok := h.find(id)
	return ok
}

// append adds a finished switch. After an error it is in memory only.
func (h *History) append(r Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, r)
	h.trim()
	var err error
	if h.lines >= 2*maxHistory {
		err = h.rewrite()
	} else {
		err = h.write(r)
	}
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

// write puts one line at the end, on a line of its own whatever was torn before it.
func (h *History) write(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(h.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if info, err := file.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, info.Size()-1); err != nil || last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	_, err = file.Write(append(line, '\n'))
	h.lines++
	return errors.Join(err, file.Sync(), file.Close())
}

// rewrite makes the file anew with what is kept.
func (h *History) rewrite() error {
	file, err := os.OpenFile(h.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriter(file)
	lines := json.NewEncoder(buffer)
	for _, r := range h.records {
		err = errors.Join(err, lines.Encode(r))
	}
	if err = errors.Join(err, buffer.Flush(), file.Sync(), file.Close()); err != nil {
		return err
	}
	h.lines = len(h.records)
	return errors.Join(os.Rename(h.path+".new", h.path), syncDir(filepath.Dir(h.path)))
}

func (h *History) trim() {
	h.records = h.records[max(0, len(h.records)-maxHistory):]
}

// good are the releases that were live, last first, each once.
func (h *History) good() []Generation {
	h.mu.Lock()
	defer h.mu.Unlock()
	var good []Generation
	seen := map[string]bool{}
	add := func(g Generation) {
		if !g.IsZero() && !seen[g.Release] {
			good = append(good, g)
		}
		seen[g.Release] = true
	}
	for _, r := range slices.Backward(h.records) {
		if r.Verdict == Live {
			add(r.To)
		}
		add(r.From) // also the very first, which no switch has made live
	}
	return good
}

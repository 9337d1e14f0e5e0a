// Package output keeps what children write. Bytes go from a child's pipe to its
// file inside the kernel, by splice(2), and are never in superd's memory only: a
// superd that is killed loses nothing and doubles nothing, and the next one goes
// on at the end of the file. The lines that people see are read behind that.
//
// The invariant: nothing here holds a child up. A disk that is full, a directory
// that is gone and a reader who is slow cost lines, which are counted, never time
// and never memory.
package output

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Options are what Open needs.
type Options struct {
	Dir      string // the log directory; made when it is not there
	MaxSize  int64  // a file this long is rotated; 0: 50 MiB
	Keep     int    // rotated files kept beside it; 0: 10
	Compress bool   // gzip the rotated ones
	Log      *slog.Logger
}

// A Store is where the output of all children goes. Its methods may be called
// from any goroutine.
type Store struct {
	Options
	packing sync.WaitGroup // compression of rotated files
	closing chan struct{}  // closed by Close: compression stops

	mu     sync.Mutex
	closed bool
	files  map[string]*file
	tails  map[string]*tail
	idle   []string // names without a stream, the longest idle first
}

// idleNames is how many names that no living child has are remembered.
const idleNames = 200

// Open returns the store of a directory. It touches no disk: trouble shows, and
// is told, when there is something to write.
func Open(o Options) *Store {
	if o.MaxSize <= 0 {
		o.MaxSize = 50 << 20
	}
	if o.Keep <= 0 {
		o.Keep = 10
	}
	return &Store{Options: o, closing: make(chan struct{}), files: map[string]*file{}, tails: map[string]*tail{}}
}

// Attach takes the output of one life of name: pipe is the read end, non-blocking,
// and stays the caller's to close once Run has returned. log is the file below the
// log directory; several streams may share one. An empty log, or one that leads
// out of the directory, keeps the last lines only.
func (s *Store) Attach(name, log string, pipe *os.File) *Stream {
	if log != "" && !filepath.IsLocal(log) {
		s.Log.Error("log file is not below the log directory; only the last lines are kept", "name", name, "log", log)
		log = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tails[name]
	if t == nil {
		t = &tail{name: name, followers: map[*follower]struct{}{}}
		s.tails[name] = t
	}
	s.idle = slices.DeleteFunc(s.idle, func(n string) bool { return n == name })
	st := newStream(s, t, s.open(log), pipe)
	t.attach(st)
	return st
}

func (s *Store) open(log string) *file {
	if log == "" {
		return nil
	}
	f := s.files[log]
	if f == nil {
		f = &file{store: s, path: filepath.Join(s.Dir, log)}
		s.files[log] = f
	}
	f.streams++
	return f
}

// detach lets go of what a stream that has ended used. A file that owes its
// readers a word about lost bytes is kept in mind for the next stream.
func (s *Store) detach(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := st.file; f != nil {
		if f.streams--; f.streams == 0 && f.close() {
			maps.DeleteFunc(s.files, func(_ string, have *file) bool { return have == f })
		}
	}
	if !st.tail.detach(st) {
		return
	}
	s.idle = append(s.idle, st.tail.name)
	if len(s.idle) > idleNames {
		s.tails[s.idle[0]].close()
		delete(s.tails, s.idle[0])
		s.idle = slices.Delete(s.idle, 0, 1)
	}
}

// ErrUnknown is what Follow answers for a name that has no output yet.
var ErrUnknown = errors.New("has written nothing that is known here")

// Tail is the last n lines of name, over all its lives, an unfinished one included.
func (s *Store) Tail(name string, n int) []string {
	t := s.tail(name)
	if t == nil {
		return nil
	}
	return t.ofName(n)
}

// Follow sends the last n lines of name and then each new one. The channel is
// closed when ctx ends, when the store closes, and after a Line with Lagged set:
// that reader was too slow and has to ask again.
func (s *Store) Follow(ctx context.Context, name string, n int) (<-chan Line, error) {
	t := s.tail(name)
	if t == nil {
		return nil, fmt.Errorf("%s: %w", name, ErrUnknown)
	}
	return t.follow(ctx, n), nil
}

func (s *Store) tail(name string) *tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tails[name]
}

// Names are all whose last lines are in memory, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.tails))
}

// Close ends all followers and waits for what runs in the background. Call it when
// every Run has returned.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	var errs []error
	for _, t := range s.tails {
		t.close()
	}
	for _, f := range s.files {
		errs = append(errs, f.shut())
	}
	s.mu.Unlock()
	s.packing.Wait()
	return errors.Join(errs...)
}

// A Line is one line for people. What is on disk is never cut; this is.
type Line struct {
	At     time.Time
	Name   string
	Text   string
	Lagged bool // no line: the reader was too slow and this is the last it gets
}

// Tail is the last n lines of this life, an unfinished one included.
func (s *Stream) Tail(n int) []string { return s.tail.ofStream(s, n) }

// Wrote returns a channel that is closed when a line of this life matches. Lines
// that are written already count, as far back as they are remembered. The watch
// ends with ctx.
func (s *Stream) Wrote(ctx context.Context, line *regexp.Regexp) <-chan struct{} {
	return s.tail.watch(ctx, s, line)
}

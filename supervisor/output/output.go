// Package output keeps what children write: pipe to file in the kernel, the last
// lines in memory.
package output

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"time"
)

// Options are what Open needs.
type Options struct {
	Dir      string // the log directory
	MaxSize  int64  // a file this long is rotated; 0: 50 MiB
	Keep     int    // rotated files kept; 0: 10
	Compress bool   // gzip the rotated ones
	Log      *slog.Logger
}

// Store is where the output of all children goes.
type Store struct{ o Options }

// Open returns the store of directory o.Dir.
func Open(o Options) *Store { return &Store{o} }

// Attach takes the output of one life of name.
func (s *Store) Attach(name, log string, pipe *os.File) *Stream { return &Stream{} }

// A Line is one line for people.
type Line struct {
	At     time.Time
	Name   string
	Text   string
	Lagged bool
}

// Tail is the last n lines of name, over its lives.
func (s *Store) Tail(name string, n int) []string { return nil }

// Follow gives the last n lines of name and then new ones until ctx ends.
func (s *Store) Follow(ctx context.Context, name string, n int) (<-chan Line, error) { return nil, nil }

// Names are those that have written.
func (s *Store) Names() []string { return nil }

// Close waits for what runs in the background.
func (s *Store) Close() error { return nil }

// Stream is the output of one life.
type Stream struct{}

// Run moves output until the end of the pipe, Finish or the end of ctx.
func (s *Stream) Run(ctx context.Context) { <-ctx.Done() }

// Finish says that the process has ended.
func (s *Stream) Finish() {}

// Tail is the last n lines of this life.
func (s *Stream) Tail(n int) []string { return nil }

// Wrote is closed when a line matches.
func (s *Stream) Wrote(ctx context.Context, line *regexp.Regexp) <-chan struct{} { return nil }

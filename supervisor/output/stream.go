package output

import (
	"context"
	"os"
	"regexp"
	"sync"
)

// A Stream is the output of one life of a child.
type Stream struct {
	store *Store
	tail  *tail
	life  Life
	mark  uint64 // of this life in the marks of files
	ports []*port

	finish sync.Once
	ended  chan struct{} // closed by Finish

	// Under tail.mu:
	lines    ring
	watchers map[*watcher]struct{}
}

// A Life is what Attach is told of one life of a child.
type Life struct {
	Name string
	Log  string // its file below the log directory; "": as the settings say
	Mark string // tells this life from every other, also for a later superd

	// Out is the read end of its output, Err that of its standard error where that
	// has a pipe of its own. Both are non-blocking, and stay the caller's to close
	// once Run has returned.
	Out, Err *os.File

	// Labels are who writes, for journald and JSON: "app", "release", "pool", …
	Labels map[string]string
}

func newStream(s *Store, t *tail, l Life) *Stream {
	st := &Stream{
		store: s, tail: t, life: l, mark: hash(l.Mark),
		ended: make(chan struct{}), watchers: map[*watcher]struct{}{},
	}
	if l.Err == nil {
		st.ports = []*port{newPort(st, "", l.Out)}
		return st
	}
	st.ports = []*port{newPort(st, Stdout, l.Out), newPort(st, Stderr, l.Err)}
	return st
}

// Run moves output until nobody can write any more, until Finish, or until ctx
// ends; in that last case what is in the pipes stays there for the next superd.
// It is called once.
func (s *Stream) Run(ctx context.Context) {
	defer s.store.detach(s)
	var moving sync.WaitGroup
	defer moving.Wait()
	for _, p := range s.ports[1:] {
		moving.Go(func() { p.run(ctx) })
	}
	s.ports[0].run(ctx)
}

// Recall takes the end of the files as if this life had written it just now: a
// superd that adopts a child so knows what the child said last, and whether it has
// said what Wrote waits for. What other lives wrote is left out as far as that is
// known, see Store.KeepMarks. Call it before Run.
func (s *Stream) Recall() {
	for _, p := range s.ports {
		s.store.recall(p)
	}
}

// Finish says that the process has ended: Run takes what is in the pipes now and
// returns, also when something that the process left behind keeps them open.
func (s *Stream) Finish() {
	s.finish.Do(func() { close(s.ended) })
	for _, p := range s.ports {
		p.interrupt()
	}
}

func (s *Stream) isFinished() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Tail is the last n lines of this life, an unfinished one included.
func (s *Stream) Tail(n int) []string { return s.tail.ofStream(s, n) }

// Wrote returns a channel that is closed when a line of this life matches. Lines
// that are written already count, as far back as they are remembered. The watch
// ends with ctx.
func (s *Stream) Wrote(ctx context.Context, line *regexp.Regexp) <-chan struct{} {
	return s.tail.watch(ctx, s, line)
}

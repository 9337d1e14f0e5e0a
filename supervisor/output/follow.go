package output

import (
	"context"
	"regexp"
)

// A follower is one reader of new lines. Its channel has room for the backlog; one
// place is kept for the word that it lagged. It is never waited for.
type follower struct {
	to   chan Line
	stop func() bool
}

func (t *tail) follow(ctx context.Context, n int) <-chan Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	past := t.lines.last(n) // an unfinished line comes when it is finished
	f := &follower{to: make(chan Line, len(past)+backlog+1)}
	for _, l := range past {
		f.to <- l
	}
	t.followers[f] = struct{}{}
	f.stop = context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.leave(f)
	})
	return f.to
}

// send gives a line to f, or cuts it off. The caller holds t.mu, as all do who
// send to or close f.to: the channel can only get emptier meanwhile.
func (t *tail) send(f *follower, l Line) {
	if len(f.to) < cap(f.to)-1 {
		f.to <- l
		return
	}
	f.to <- Line{At: l.At, Name: t.name, Lagged: true}
	t.leave(f)
}

func (t *tail) leave(f *follower) {
	if _, ok := t.followers[f]; !ok {
		return
	}
	delete(t.followers, f)
	f.stop()
	close(f.to)
}

// close ends all followers.
func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f := range t.followers {
		t.leave(f)
	}
}

// A watcher waits for one line.
type watcher struct {
	line *regexp.Regexp
	seen chan struct{}
	stop func() bool
}

func (t *tail) watch(ctx context.Context, s *Stream, line *regexp.Regexp) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &watcher{line: line, seen: make(chan struct{})}
	for _, l := range s.lines.lines {
		if line.MatchString(l.Text) {
			close(w.seen)
			return w.seen
		}
	}
	s.watchers[w] = struct{}{}
	w.stop = context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(s.watchers, w)
	})
	return w.seen
}

// saw ends a watch. The caller holds t.mu.
func (w *watcher) saw(s *Stream) {
	delete(s.watchers, w)
	w.stop()
	close(w.seen)
}

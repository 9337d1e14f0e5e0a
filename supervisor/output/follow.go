package output

import (
	"context"
	"regexp"
	"sync/atomic"
	"time"
)

// A follower is one reader of new lines, or with raw of bytes as they come. Its channel
// has room for the backlog; one place is kept for the word that it lagged. It is never
// waited for.
type follower struct {
	to     chan Line
	stream string // "": both
	raw    bool
	missed *lag // the word that is the last in the channel; nil: that is a line
	stop   func() bool
}

// A lag counts what a reader has missed, until he hears of it.
type lag struct{ n atomic.Int64 }

func (l *lag) take() int { return int(l.n.Load()) }

// rawBacklog is how many pieces of at most 64 KiB a reader of bytes may be behind.
const rawBacklog = 64

func (t *tail) follow(ctx context.Context, n int, stream string) <-chan Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	past := t.lines.of(stream, n) // an unfinished line comes when it is finished
	f := &follower{to: make(chan Line, len(past)+backlog+1), stream: stream}
	for _, l := range past {
		f.to <- l
	}
	return t.join(ctx, f)
}

func (t *tail) overhear(ctx context.Context) <-chan Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.join(ctx, &follower{to: make(chan Line, rawBacklog+1), raw: true})
}

func (t *tail) join(ctx context.Context, f *follower) <-chan Line {
	t.followers[f] = struct{}{}
	f.stop = context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.leave(f)
	})
	return f.to
}

// passOn sends bytes to those who read them as they come. The caller holds t.mu.
func (t *tail) passOn(p *port, b []byte, at time.Time) {
	for f := range t.followers {
		if f.raw {
			t.send(f, Line{At: at, Name: t.name, Stream: p.stream, Text: string(b)})
		}
	}
}

// send gives a line to f, or counts it as missed. The caller holds t.mu, as all do who
// send to or close f.to: the channel can only get emptier meanwhile.
func (t *tail) send(f *follower, l Line) {
	if len(f.to) < cap(f.to)-1 {
		f.to <- l
		f.missed = nil
		return
	}
	if f.missed == nil {
		f.missed = new(lag)
		f.missed.n.Store(1)
		f.to <- Line{At: l.At, Name: t.name, lagged: f.missed}
		return
	}
	f.missed.n.Add(1)
}

func (t *tail) leave(f *follower) {
	if _, ok := t.followers[f]; !ok {
		return
	}
	delete(t.followers, f)
	f.stop()
	close(f.to)
}

func (t *tail) isFollowed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.followers) > 0
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

package output

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLines = 1000      // remembered of each name and of each life
	maxBytes = 256 << 10 // in all
	maxLine  = 4 << 10   // longer ones are cut for people
	backlog  = 1024      // lines a follower may be behind
)

// A tail is the last lines of one name, over its lives and over lives side by side.
type tail struct {
	name string

	mu        sync.Mutex
	lines     ring
	streams   []*Stream // those that may still write
	newest    *Life     // the last that began
	followers map[*follower]struct{}
}

// A ring holds the last lines. Texts are shared between rings, not copied.
type ring struct {
	lines []Line
	room  []Line // in which they lie: behind the places of those that are gone
	bytes int
}

func (r *ring) add(l Line) {
	if len(r.lines) == cap(r.lines) {
		r.makeRoom()
	}
	r.lines = append(r.lines, l)
	r.bytes += len(l.Text)
	drop := 0
	for len(r.lines)-drop > maxLines || r.bytes > maxBytes {
		r.bytes -= len(r.lines[drop].Text)
		r.lines[drop] = Line{}
		drop++
	}
	r.lines = r.lines[drop:]
}

// makeRoom uses the places of lines that are gone, once they are a third of all: a child
// that writes without end is to make no garbage but its lines.
func (r *ring) makeRoom() {
	if gone := len(r.room) - len(r.lines); 2*gone > len(r.lines) {
		r.lines = r.room[:copy(r.room, r.lines)]
		clear(r.room[len(r.lines):])
		return
	}
	room := make([]Line, max(8, min(2*len(r.room), maxRoom)))
	r.lines, r.room = room[:copy(room, r.lines)], room
}

// maxRoom is so much that a third of it is gone before it is full.
const maxRoom = maxLines + maxLines/2 + 2

func (r *ring) last(n int) []Line {
	return r.lines[max(0, len(r.lines)-max(0, n)):]
}

// of is the last n of one stream, or of all.
func (r *ring) of(stream string, n int) []Line {
	if stream == "" {
		return r.last(n)
	}
	var own ring
	for _, l := range r.lines {
		if l.Stream == "" || l.Stream == stream {
			own.lines = append(own.lines, l)
		}
	}
	return own.last(n)
}

// wrote cuts bytes into lines. Of a line that has no end yet only as much is kept
// as people will be shown.
func (t *tail) wrote(p *port, b []byte, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passOn(p, b, at)
	t.cut(p, b, at)
}

// flooded is wrote for so much that its first lines would be pushed out at once by its last:
// it is shown the last only, which begin with a line. If somebody wants to see every line it
// does nothing, and says so. All is under one lock, so that nobody comes in between and
// misses lines, or finds the rings with a hole.
func (t *tail) flooded(p *port, last func(see func([]byte))) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.followers) > 0 || len(p.life.watchers) > 0 {
		return false
	}
	p.partial = p.partial[:0]
	at := time.Now()
	last(func(b []byte) { t.cut(p, b, at) })
	return true
}

// cut is wrote for who holds t.mu.
func (t *tail) cut(p *port, b []byte, at time.Time) {
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if room := maxLine + 1 - len(p.partial); room > 0 {
			p.partial = append(p.partial, line[:min(room, len(line))]...)
		}
		if whole {
			t.end(p, at)
		}
		b = rest
	}
}

// flush ends the line that the process has not: it may say why it died.
func (t *tail) flush(p *port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p.partial) > 0 {
		t.end(p, time.Now())
	}
}

// unfinished are the lines that s has begun. The caller holds t.mu.
func (t *tail) unfinished(s *Stream) []Line {
	var all []Line
	for _, p := range s.ports {
		if len(p.partial) > 0 {
			all = append(all, Line{At: time.Now(), Name: t.name, Stream: p.stream, Text: text(p.partial)})
		}
	}
	return all
}

// end makes a line of what is collected. The caller holds t.mu.
func (t *tail) end(p *port, at time.Time) {
	s, l := p.life, Line{At: at, Name: t.name, Stream: p.stream, Text: text(p.partial)}
	p.partial = p.partial[:0]
	s.lines.add(l)
	t.lines.add(l)
	for f := range t.followers {
		if !f.raw && (f.stream == "" || l.Stream == "" || f.stream == l.Stream) {
			t.send(f, l)
		}
	}
	for w := range s.watchers {
		if w.line.MatchString(l.Text) {
			w.saw(s)
		}
	}
}

func text(partial []byte) string {
	if len(partial) > maxLine {
		return strings.ToValidUTF8(string(partial[:maxLine]), "�") + "…"
	}
	return string(bytes.TrimSuffix(partial, []byte{'\r'}))
}

// ofName is the last n lines of all lives.
func (t *tail) ofName(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := ring{lines: slices.Clone(t.lines.last(n))}
	for _, s := range t.streams {
		r.lines = append(r.lines, t.unfinished(s)...)
	}
	return texts(r.last(n))
}

// ofStream is the last n lines of one life.
func (t *tail) ofStream(s *Stream, n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := ring{lines: append(slices.Clone(s.lines.last(n)), t.unfinished(s)...)}
	return texts(r.last(n))
}

func texts(lines []Line) []string {
	all := make([]string, 0, len(lines))
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return all
}

// attach and detach tell whose unfinished lines count. detach returns whether
// nobody writes under the name any more.
func (t *tail) attach(s *Stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams, t.newest = append(t.streams, s), &s.life
}

func (t *tail) detach(s *Stream) (idle bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams = slices.DeleteFunc(t.streams, func(x *Stream) bool { return x == s })
	return len(t.streams) == 0
}

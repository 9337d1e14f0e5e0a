// Package output keeps what children write. Bytes go from a child's pipe to its
// file inside the kernel, by splice(2), and are never in superd's memory only: a
// superd that is killed loses nothing and doubles nothing, and the next one goes
// on at the end of the file. The lines that people see are read behind that. Where
// lines are stored with something around them, or sent to journald, superd looks at
// what is in the pipe and takes it out when it is stored.
//
// The invariant: nothing here holds a child up. A disk that is full, a directory
// that is gone, a daemon that does not read and a follower who is slow cost lines,
// which are counted, never time and never memory.
package output

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Options are what Open needs.
type Options struct {
	Dir      string // the log directory; made when it is not there
	MaxSize  int64  // where Settings is nil: a file this long is rotated; 0: 50 MiB
	Keep     int    // likewise: rotated files kept beside it; 0: 10
	Compress bool   // likewise: gzip the rotated ones
	Log      *slog.Logger

	// Settings is how the output of a name is kept; nil: in a raw file. labels are those
	// of the life, nil where it is about none. It is asked when a life begins and after
	// Refresh, and must not call the store.
	Settings func(name string, labels map[string]string) Settings

	// Where the daemons listen and where Inherit goes; zero: where the system has
	// them, and superd's own standard output.
	Journal, Syslog string
	Console         *os.File
}

// A Store is where the output of all children goes. Its methods may be called
// from any goroutine.
type Store struct {
	Options
	packing sync.WaitGroup // compression of rotated files
	closing chan struct{}  // closed by Close: compression stops
	looking glass
	marks   marks
	journal remote
	syslog  remote
	console console

	mu     sync.Mutex
	closed bool
	files  map[string]*file // by path
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
	if o.Journal == "" {
		o.Journal = journalSocket
	}
	if o.Syslog == "" {
		o.Syslog = syslogSocket
	}
	if o.Console == nil {
		o.Console = os.Stdout
	}
	return &Store{
		Options: o, closing: make(chan struct{}), files: map[string]*file{}, tails: map[string]*tail{},
		journal: remote{path: o.Journal, encode: toJournal, limit: longest},
		syslog:  remote{path: o.Syslog, encode: toSyslog, limit: mostSyslog},
		console: console{own: o.Console, out: -1},
	}
}

func (s *Store) settings(name string, labels map[string]string) Settings {
	if s.Settings == nil {
		return Settings{Rules: Rules{MaxSize: s.MaxSize, Keep: s.Keep, Compress: s.Compress}}
	}
	return s.Settings(name, labels)
}

// Apart tells whether standard error of name goes elsewhere than its output, so that a
// life that begins now needs a pipe for it.
func (s *Store) Apart(name string) bool { return s.settings(name, nil).Apart() }

// Attach takes the output of one life. Files are named below the log directory;
// several streams may share one. Without one, or with one that leads out of the
// directory, the last lines are all that is kept.
func (s *Store) Attach(l Life) *Stream {
	if l.Log != "" && !filepath.IsLocal(l.Log) {
		s.Log.Error("log file is not below the log directory; only the last lines are kept", "name", l.Name, "log", l.Log)
		l.Log = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.named(l.Name)
	s.idle = slices.DeleteFunc(s.idle, func(n string) bool { return n == l.Name })
	st := newStream(s, t, l)
	t.attach(st)
	return st
}

// Refresh makes what is running obey settings that have changed, from its next line on.
// Nothing is waited for. Only whether standard error has a pipe of its own is decided
// when a life begins.
func (s *Store) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tails {
		t.mu.Lock()
		for _, st := range t.streams {
			for _, p := range st.ports {
				p.stale.Store(true)
			}
		}
		t.mu.Unlock()
	}
}

// sinkOf is where the settings of now send what comes through p.
func (s *Store) sinkOf(p *port) (sink, string) {
	set := s.settings(p.life.life.Name, p.life.life.Labels)
	to, path := set.target(s, p.stream, p.life.life.Log)
	line := func(k lineKeeper, place string) sink {
		return &lineSink{lineKeeper: k, looking: &s.looking, trouble: &trouble{log: s.Log, place: place + " of " + p.life.life.Name}}
	}
	switch to {
	case ToFile:
		f := s.file(path)
		f.follow(set.Rules)
		if set.Format == Raw || set.Format == "" {
			return rawFile{f}, path
		}
		return &lineSink{formattedFile{f, set.Format}, &s.looking, &f.trouble, f.leave}, path
	case ToJournal:
		return line(&s.journal, "the journal"), ""
	case ToSyslog:
		return line(&s.syslog, "syslog"), ""
	case Inherit:
		return line(formattedConsole{&s.console, set.Format}, "standard output"), ""
	case ToNone, WithStdout:
	}
	return nil, ""
}

// file is the file of a path, for one port more.
func (s *Store) file(path string) *file {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[path]
	if f == nil {
		f = &file{store: s, path: path, trouble: trouble{log: s.Log, place: path}}
		s.files[path] = f
	}
	f.ports++
	return f
}

// close lets go of a file that one port less writes to. A file that owes its readers a
// word about lost bytes is kept in mind for the next one.
func (s *Store) close(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.ports--; f.ports > 0 {
		return
	}
	_ = f.shut() // nothing of ours is in a buffer
	if !f.owes() {
		delete(s.files, f.path)
	}
}

// detach forgets a stream that has ended.
func (s *Store) detach(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.tail.detach(st) {
		s.rest(st.tail.name)
	}
}

// rest is for a name without a stream. The one that has been silent for longest is
// forgotten, but none that somebody follows. The caller holds s.mu, as for named.
func (s *Store) rest(name string) {
	s.idle = append(s.idle, name)
	for i := 0; i < len(s.idle) && len(s.idle) > idleNames; {
		if s.tails[s.idle[i]].isFollowed() {
			i++
			continue
		}
		delete(s.tails, s.idle[i])
		s.idle = slices.Delete(s.idle, i, i+1)
	}
}

func (s *Store) named(name string) *tail {
	t := s.tails[name]
	if t == nil {
		t = &tail{name: name, followers: map[*follower]struct{}{}}
		s.tails[name] = t
	}
	return t
}

// Tail is the last n lines of name, over all its lives, an unfinished one included.
func (s *Store) Tail(name string, n int) []string {
	t := s.tail(name)
	if t == nil {
		return nil
	}
	return t.ofName(n)
}

// Follow sends the last n lines of name and then each new one, those of one stream or,
// with "", of both. A name that has written nothing yet is waited for. The channel is
// closed when ctx ends and when the store closes. A reader who is too slow is not waited
// for: he gets a Line that says how many he has missed.
func (s *Store) Follow(ctx context.Context, name string, n int, stream string) <-chan Line {
	return s.join(name, func(t *tail) <-chan Line { return t.follow(ctx, n, stream) })
}

// Overhear sends what name writes from now on as it comes, not in lines: Text holds
// some bytes. Otherwise it is as Follow.
func (s *Store) Overhear(ctx context.Context, name string) <-chan Line {
	return s.join(name, func(t *tail) <-chan Line { return t.overhear(ctx) })
}

// join has somebody follow a name, which is not forgotten from then on.
func (s *Store) join(name string, as func(*tail) <-chan Line) <-chan Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.tails[name]
	lines := as(s.named(name))
	if !known {
		s.rest(name)
	}
	return lines
}

func (s *Store) tail(name string) *tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tails[name]
}

// Names are all whose last lines are in memory, or that somebody waits for, sorted.
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
	s.looking.shut()
	s.journal.close()
	s.syslog.close()
	s.console.close()
	return errors.Join(append(errs, s.marks.close())...)
}

// A Line is one line for people. What is on disk is never cut; this is.
type Line struct {
	At     time.Time
	Name   string
	Stream string // Stdout or Stderr, where they are apart
	Text   string

	lagged *lag // no line
	guess  bool // At is when the file was written last
}

// Missed is not 0 for a Line that is none: the reader was too slow for that many lines.
// It is asked once.
func (l Line) Missed() int {
	if l.lagged == nil {
		return 0
	}
	return l.lagged.take()
}

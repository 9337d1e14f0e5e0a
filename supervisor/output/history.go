package output

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Question asks for lines of the past.
type Question struct {
	Name   string
	Stream string // "": both
	Lines  int    // the last so many of those that fit the rest
	Since  time.Time
	Until  time.Time // zero: no limit, as in Since
	Whole  bool      // leave out a line that has no end yet
}

// An Answer is lines, the oldest first.
type Answer struct {
	Lines []Line
	// Note is what is not exact about them, "" if all is.
	Note string
}

// mostHistory is how many bytes of lines an answer may have.
const mostHistory = 32 << 20

// History answers from memory where that reaches back far enough, else from the files,
// the rotated ones too. Times are exact where they are stored (Timestamps, JSON) and of
// what is in memory; those of raw lines in files are known to be between the last
// writing of two files, no more.
func (s *Store) History(ctx context.Context, q Question) (Answer, error) {
	remembered, whole := s.remembered(q)
	if whole {
		return Answer{Lines: fitting(remembered, q)}, nil
	}
	sources := s.sources(q)
	if len(sources) == 0 {
		a := Answer{Lines: fitting(remembered, q)}
		if len(remembered) > 0 {
			a.Note = "older lines are not in a file of superd's"
		}
		return a, nil
	}
	var a Answer
	for _, from := range sources {
		lines, err := from.read(ctx, from.wide(q))
		if err != nil {
			return a, err
		}
		recognize(lines, of(remembered, from))
		a.add(lines, q)
	}
	if len(sources) > 1 {
		slices.SortStableFunc(a.Lines, func(x, y Line) int { return x.At.Compare(y.At) })
	}
	if fit := fitting(remembered, q); len(fit) > 0 && !holds(a.Lines, fit[0].Text) {
		a.Lines = append(a.Lines, fit...) // a disk that is full has not taken them
	}
	a.Lines = last(a.Lines, q.Lines)
	return a, nil
}

// add adds what fits of a source's lines.
func (a *Answer) add(lines []Line, q Question) {
	for _, l := range lines {
		if !l.guess && !q.covers(l.At) {
			continue
		}
		if l.guess && (!q.Since.IsZero() || !q.Until.IsZero()) {
			a.Note = "no times are stored with the lines: what was written shortly before or after may be among them"
		}
		a.Lines = append(a.Lines, l)
	}
}

// wide is q for reading a file whose times are known only afterwards.
func (from source) wide(q Question) Question {
	if !q.Until.IsZero() && from.format != Timestamps && from.format != JSON {
		q.Lines = mostLines
	}
	return q
}

const mostLines = 100_000

// of are the lines that came from a source.
func of(lines []Line, from source) []Line {
	var own []Line
	for _, l := range lines {
		if l.Stream == "" || l.Stream == from.stream {
			own = append(own, l)
		}
	}
	return own
}

// recognize gives lines at the end of a file the times that are remembered of them.
func recognize(lines, remembered []Line) {
	for i, k := len(lines)-1, len(remembered)-1; i >= 0 && k >= 0; i, k = i-1, k-1 {
		if lines[i].Text != remembered[k].Text {
			return // somebody else has written there, or the disk was full
		}
		if lines[i].guess {
			lines[i].At, lines[i].guess = remembered[k].At, false
		}
	}
}

// holds tells whether a line is among those that could be in memory too.
func holds(lines []Line, text string) bool {
	return slices.ContainsFunc(last(lines, 2*maxLines), func(l Line) bool { return l.Text == text })
}

// remembered are the lines in memory, and whether the answer is among them.
func (s *Store) remembered(q Question) ([]Line, bool) {
	t := s.tail(q.Name)
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := slices.Clone(t.lines.of(q.Stream, maxLines))
	for _, st := range t.streams {
		for _, l := range t.unfinished(st) {
			if q.Whole {
				continue
			}
			if q.Stream == "" || l.Stream == "" || l.Stream == q.Stream {
				lines = append(lines, l)
			}
		}
	}
	first := time.Now()
	if len(lines) > 0 {
		first = lines[0].At
	}
	whole := !q.Since.IsZero() && first.Before(q.Since) || len(fitting(lines, q)) >= q.Lines
	return lines, whole
}

// fitting are the last of lines that q asks for.
func fitting(lines []Line, q Question) []Line {
	var fit []Line
	for _, l := range lines {
		if q.covers(l.At) {
			fit = append(fit, l)
		}
	}
	return last(fit, q.Lines)
}

func (q *Question) covers(at time.Time) bool {
	return !at.Before(q.Since) && (q.Until.IsZero() || !at.After(q.Until))
}

func last(lines []Line, n int) []Line { return lines[max(0, len(lines)-max(0, n)):] }

// A source is the files of one stream.
type source struct {
	stream string
	format Format
	path   string
	apart  bool
}

// File is where a stream of a name goes now, "" where that is no file. Standard error that
// goes where the output goes has none of its own.
func (s *Store) File(name, stream string) string {
	for _, one := range s.sources(Question{Name: name}) {
		if one.stream == stream {
			return one.path
		}
	}
	return ""
}

// sources are the files that q is about.
func (s *Store) sources(q Question) []source {
	set, log := s.settings(q.Name, nil), ""
	if t := s.tail(q.Name); t != nil {
		t.mu.Lock()
		if t.newest != nil {
			set, log = s.settings(q.Name, t.newest.Labels), t.newest.Log
		}
		t.mu.Unlock()
	}
	var all []source
	for _, stream := range []string{Stdout, Stderr} {
		if stream == Stderr && !set.Apart() || set.Apart() && q.Stream != "" && q.Stream != stream {
			continue
		}
		if to, path := set.target(s, stream, log); to == ToFile {
			all = append(all, source{stream, set.Format, path, set.Apart()})
		}
	}
	return all
}

// read reads from the newest file back until there are enough lines.
func (from source) read(ctx context.Context, q Question) (lines []Line, err error) {
	files, err := from.open()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close() // only read
		}
	}()
	for i, f := range files { // the newest first
		info, err := f.Stat()
		if err != nil || info.ModTime().Before(q.Since) {
			break // and all that are older
		}
		if i+1 < len(files) && !q.Until.IsZero() {
			if before, err := files[i+1].Stat(); err == nil && before.ModTime().After(q.Until) {
				continue // begun after it
			}
		}
		part, err := from.file(ctx, f, info.ModTime(), q)
		if err != nil {
			return nil, err
		}
		lines = append(part, lines...)
		if len(lines) >= q.Lines || size(lines) > mostHistory {
			break
		}
	}
	return last(lines, q.Lines), nil
}

func size(lines []Line) (n int) {
	for _, l := range lines {
		n += len(l.Text)
	}
	return n
}

// open opens the file and its rotated ones, the newest first. All are opened before any
// is read, and each is there once: they may be moved meanwhile.
func (from source) open() ([]*os.File, error) {
	var files []*os.File
	var seen []os.FileInfo
	for n := 0; ; n++ {
		name, found := from.path, false
		if n > 0 {
			name = fmt.Sprintf("%s.%d", from.path, n)
		}
		for _, name := range []string{name, name + ".gz"} {
			f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return files, fmt.Errorf("read log: %w", err)
			}
			found = true
			info, err := f.Stat()
			if err != nil || !info.Mode().IsRegular() || slices.ContainsFunc(seen, func(o os.FileInfo) bool { return os.SameFile(o, info) }) {
				_ = f.Close() // only read
				continue
			}
			files, seen = append(files, f), append(seen, info)
			break
		}
		if !found && n > 0 {
			return files, nil
		}
	}
}

// file are the last lines of one file that fit q.
func (from source) file(ctx context.Context, f *os.File, modified time.Time, q Question) ([]Line, error) {
	var in io.Reader = f
	if strings.HasSuffix(f.Name(), ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("read log %s: %w", f.Name(), err)
		}
		in = z
	}
	var lines []Line
	r := bufio.NewReaderSize(in, chunk)
	kept := 0
	for {
		raw, err := oneOf(r)
		if len(raw) > 0 {
			whole := raw[len(raw)-1] == '\n' || !q.Whole
			if l, ok := from.line(raw, modified, q); ok && whole {
				lines, kept = append(lines, l), kept+len(l.Text)
			}
			for len(lines) > 2*q.Lines+1 || kept > 2*mostHistory {
				drop := max(1, len(lines)-max(q.Lines, 1))
				kept -= size(lines[:drop])
				lines = slices.Delete(lines, 0, drop)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return last(lines, q.Lines), nil
		case err != nil:
			return nil, fmt.Errorf("read log %s: %w", filepath.Base(f.Name()), err)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
	}
}

// oneOf is the next line, as much of it as is shown or taken apart.
func oneOf(r *bufio.Reader) (line []byte, err error) {
	line, err = r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	line = slices.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		var rest []byte
		if rest, err = r.ReadSlice('\n'); len(line) < 4*chunk {
			line = append(line, rest...) // an object of the longest piece in base64 is shorter
		}
	}
	return line, err
}

func (from source) line(raw []byte, modified time.Time, q Question) (Line, bool) {
	b, at, whose := from.format.parse(raw)
	guess := at.IsZero()
	if guess {
		at = modified
	} else if !q.covers(at) {
		return Line{}, false
	}
	if whose != "" && whose != q.Name {
		return Line{}, false
	}
	l := Line{At: at, guess: guess, Name: q.Name, Text: text([]byte(strings.TrimSuffix(string(b), "\n")))}
	if from.apart {
		l.Stream = from.stream
	}
	return l, true
}

// Clear empties the log of name, the rotated files and what is in memory too. One that
// has written nothing has nothing to lose.
func (s *Store) Clear(name string) error {
	if t := s.tail(name); t != nil {
		t.forget()
	}
	var errs []error
	for _, from := range s.sources(Question{Name: name}) {
		f := s.file(from.path)
		errs = append(errs, f.clear())
		s.close(f)
	}
	return errors.Join(errs...)
}

// clear cuts the file, where there is one, and removes the rotated ones. A line that is
// going on goes on at the beginning.
func (f *file) clear() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := 1; f.remove(n); n++ {
	}
	if _, err := os.Lstat(f.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := f.look(); err != nil {
		return fmt.Errorf("clear log: %w", err)
	}
	if err := f.out.Truncate(0); err != nil {
		return fmt.Errorf("clear log: %w", err)
	}
	return nil
}

func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = ring{}
	for _, s := range t.streams {
		s.lines = ring{}
	}
}

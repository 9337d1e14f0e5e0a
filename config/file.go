package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/BurntSushi/toml"
)

// maxFile bounds a configuration or environment file: what is larger was not
// written by a person, and would only keep the daemon busy.
const maxFile = 1 << 20

// maxSyntax is how many syntax errors of one file are told.
const maxSyntax = 20

// A file is one TOML file as it was read.
type file struct {
	path string
	root *spot
	tree map[string]any
	// broken: some of it could not be parsed, so nothing may be called missing.
	broken bool
}

// parse reads TOML and tells its syntax errors: all of those behind which the
// rest of the file can still be understood. A broken statement is blanked out
// and the parser asked again; a broken header takes its table with it, lest the
// keys below it be blamed for being in the wrong place.
func parse(path, text string) (*file, []Problem) {
	text = strings.TrimPrefix(text, "\ufeff") // or every column on its line would be off
	outline := scan(text)
	f := &file{path: path, root: outline.root}
	if outline.refused != "" {
		f.broken = true
		return f, []Problem{f.problem(outline.refusedAt, "", outline.refused+"; nothing of superd is")}
	}
	var problems []Problem
	for rest := text; len(problems) < maxSyntax; {
		_, err := toml.Decode(rest, &f.tree)
		if err == nil {
			break
		}
		f.broken = true // and nothing of it is in the tree
		problem, begin, end := f.syntax(outline, rest, err)
		problems = append(problems, problem)
		if begin == end {
			break
		}
		rest = rest[:begin] + blank(rest[begin:end]) + rest[end:]
	}
	return f, problems
}

// syntax describes what the parser refused, and which bytes to blank out so
// that it can go on: none when that cannot be told.
func (f *file) syntax(o *outline, text string, err error) (p Problem, begin, end int) {
	var failure toml.ParseError
	if !errors.As(err, &failure) {
		return f.problem(position{1, 1}, "", err.Error()), 0, 0
	}
	// The parser's own line is one too far when it stumbles over a line end.
	at := min(max(failure.Position.Start, 0), len(text))
	pos := advance(position{1, 1}, text[:at])
	what := "syntax error: " + strings.TrimSuffix(failure.Message, ".")
	for i, st := range o.statements {
		if at < st.begin || at > st.end {
			continue
		}
		if st.bare != "" && looksLikeText(st.bare) {
			what = fmt.Sprintf("text needs quotes: %s = %q", st.key, st.bare)
			pos = advance(position{1, 1}, text[:st.bareAt])
		}
		p = f.problem(pos, strings.TrimPrefix(st.table+"."+st.key, "."), what)
		if strings.Contains(strings.TrimSpace(text[st.begin:st.end]), "\n") {
			return p, 0, 0 // who knows where it should have ended
		}
		return p, st.begin, o.endOf(i)
	}
	return f.problem(pos, "", what), 0, 0
}

// endOf is where a statement ends; a header ends before the next header.
func (o *outline) endOf(i int) int {
	if !o.statements[i].header {
		return o.statements[i].end
	}
	for i+1 < len(o.statements) && !o.statements[i+1].header {
		i++
	}
	return o.statements[i].end
}

func (f *file) problem(at position, key, text string) Problem {
	return Problem{File: f.path, Line: at.line, Column: at.column, Key: key, Text: text}
}

// blank is text with every byte but the line ends made a space: what is behind it
// stays where it is.
func blank(text string) string {
	blanked := []byte(text)
	for i, c := range blanked {
		if c != '\n' {
			blanked[i] = ' '
		}
	}
	return string(blanked)
}

// looksLikeText reports whether a bare value that TOML refuses lacks its quotes: a
// word, a path, or a number with a unit.
func looksLikeText(bare string) bool {
	return strings.ContainsFunc(bare, func(r rune) bool { return r == '/' || r == '%' || unicode.IsLetter(r) })
}

// contents reads a regular file of at most maxFile bytes. It never waits: a
// FIFO or a device is refused, not read. A file that changes meanwhile is
// refused too, for half of the old and half of the new is often valid TOML.
func contents(path string) (string, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return "", nil, unreadable(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	return contentsOf(f)
}

func contentsOf(f *os.File) (string, os.FileInfo, error) {
	before, err := f.Stat()
	if err != nil {
		return "", nil, unreadable(err)
	}
	if !before.Mode().IsRegular() {
		return "", nil, errors.New("is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", nil, unreadable(err)
	}
	if len(text) > maxFile {
		return "", nil, errors.New("is larger than 1 MiB")
	}
	after, err := f.Stat()
	if err != nil || after.Size() != int64(len(text)) || !after.ModTime().Equal(before.ModTime()) {
		return "", nil, errors.New("changed while it was read; try again")
	}
	return string(text), after, nil
}

func unreadable(err error) error { return fmt.Errorf("cannot be read: %w", reason(err)) }

// reason is an error without the path, which the message has already.
func reason(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}

// Package supervisord reads a supervisord.conf as supervisord itself reads it, and
// writes a superd.toml that means the same, with everything that does not carry over
// told by file, line and key.
//
// The invariant: nothing is lost without a word. What supervisord would run is in
// the TOML, or is refused by name with the reason; a key that changes its meaning is
// a Finding; a file that supervisord refuses is refused here too, unless it is only
// this machine that lacks a user, a directory or a variable of the environment.
//
// It imports nothing of ours and starts nothing. It reads the files that are named,
// looks up users and home directories, and runs no command.
package supervisord

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"
)

// Options is what decides how a file is read, besides the file.
type Options struct {
	// LookupEnv is the environment supervisord is started in, for %(ENV_NAME)s.
	// Values that need no number or word now stay {env:NAME} in the TOML.
	LookupEnv func(string) (string, bool)
	Host      string // for %(host_node_name)s
	// Whether a user or a group, or a number of one, exists here; nil: all do.
	UserKnown, GroupKnown func(string) bool
	// Apps turns PHP workers below a link called current into apps of superd, which
	// can be switched between releases. Without it they are offered in comments.
	Apps bool
	// Version is told in the first line of the TOML.
	Version string
}

// An Error is why supervisord does not take a file.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Section string `json:"section,omitempty"`
	Key     string `json:"key,omitempty"`
	Text    string `json:"problem"`
}

func (e *Error) Error() string { return place(e.File, e.Line, e.Section, e.Key) + ": " + e.Text }

// Errors is everything for which supervisord does not take a file.
type Errors []*Error

func (e Errors) Error() string {
	var all []string
	for _, one := range e {
		all = append(all, one.Error())
	}
	return strings.Join(all, "\n")
}

// The kinds of a Finding.
const (
	Note      = "note"      // means the same; worth knowing
	Changed   = "changed"   // superd does it differently
	Ignored   = "ignored"   // had an effect in supervisord and has none now
	Refused   = "refused"   // a program or listener that is not in the TOML
	Unhelpful = "unhelpful" // had no effect in supervisord either
)

// A Finding is one difference in meaning.
type Finding struct {
	Kind    string `json:"kind"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Section string `json:"section,omitempty"`
	Key     string `json:"key,omitempty"`
	Text    string `json:"text"`
}

func (f Finding) String() string {
	if f.File == "" {
		return f.Kind + ": " + f.Text
	}
	return place(f.File, f.Line, f.Section, f.Key) + ": " + f.Kind + ": " + f.Text
}

func place(file string, line int, section, key string) string {
	var b strings.Builder
	b.WriteString(file)
	if line > 0 {
		fmt.Fprintf(&b, ":%d", line)
	}
	if section != "" {
		fmt.Fprintf(&b, ": [%s]", section)
	}
	if key != "" {
		b.WriteString(" " + key)
	}
	return b.String()
}

// maxFile bounds a configuration file, as it does those of superd.
const maxFile = 1 << 20

// contents reads a regular file of at most maxFile bytes of text, and never waits.
func contents(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", reason(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", reason(err))
	case !info.Mode().IsRegular():
		return "", errors.New("is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", reason(err))
	case len(text) > maxFile:
		return "", errors.New("is larger than 1 MiB")
	}
	return string(text), readable(string(text))
}

// readable refuses what is not text, and the characters that are used as marks.
func readable(text string) error {
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		return errors.New("is text in UTF-16, which supervisord could not read either; convert it, such as with iconv -f utf-16 -t utf-8")
	case strings.HasPrefix(text, "\ufeff"):
		return errors.New("begins with a byte order mark in line 1, for which supervisord does not take it; save it as UTF-8 without one")
	case !utf8.ValidString(text):
		valid := strings.ToValidUTF8(text, "\ufffd")
		line := strings.Count(text[:common(text, valid)], "\n") + 1
		return fmt.Errorf("is not text in UTF-8 in line %d, and supervisord could not read it either; convert it, such as with iconv -f latin1 -t utf-8", line)
	case strings.ContainsRune(text, 0):
		line := strings.Count(text[:strings.IndexByte(text, 0)], "\n") + 1
		return fmt.Errorf("has a NUL byte in line %d, which neither a command nor a variable can hold", line)
	case strings.ContainsRune(text, openMark), strings.ContainsRune(text, closeMark):
		return errors.New("has U+FDD0 or U+FDD1 in it, which are not characters; remove them")
	}
	return nil
}

// common is how many bytes two texts begin with alike.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// reason is an error without the path, which the message has already.
func reason(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return at.Err
	}
	return err
}

// globbed is Python's glob: sorted, * meets no hidden file, [!a] is not a, and a
// pattern without a meaning is a name.
func globbed(pattern string) []string {
	if !strings.ContainsAny(pattern, "*?[") {
		if _, err := os.Lstat(pattern); err != nil {
			return nil
		}
		return []string{pattern}
	}
	pattern = strings.NewReplacer(`\`, `\\`, "[!", "[^", "[^", `[\^`).Replace(pattern)
	if _, err := filepath.Match(pattern, ""); err != nil {
		pattern = strings.ReplaceAll(pattern, "[", `\[`)
	}
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return nil // it was escaped above
	}
	var shown []string
	wanted := strings.Split(pattern, "/")
	for _, path := range matches {
		if !hidden(strings.Split(path, "/"), wanted) {
			shown = append(shown, path)
		}
	}
	return shown
}

func hidden(parts, wanted []string) bool {
	for i, part := range parts {
		if i < len(wanted) && strings.HasPrefix(part, ".") && !strings.HasPrefix(wanted[i], ".") && part != wanted[i] {
			return true
		}
	}
	return false
}

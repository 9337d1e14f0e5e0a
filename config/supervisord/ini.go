package supervisord

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file reads one file the way Python's RawConfigParser does under
// supervisord: strict off, comments that begin with ; or # anywhere behind white
// space, values that go on in deeper lines. Where that is surprising the surprise
// is kept, for supervisord has it too, and what it made disappear is remembered.

// A setting is one key with its value, as it stands last in the files.
type setting struct {
	value string
	file  string
	line  int
	cut   string // what an inline comment took away, with its ; or #
}

// A section is everything under one header, from all files.
type section struct {
	name     string
	file     string
	line     int
	keys     []string // in the order of their first appearance
	settings map[string]setting
}

func (s *section) set(key string, to setting) {
	if _, ok := s.settings[key]; !ok {
		s.keys = append(s.keys, key)
	}
	s.settings[key] = to
}

// defaultSection holds what every section has; it is not one itself.
const defaultSection = "DEFAULT"

// An ini is the sections of all files read so far.
type ini struct {
	sections []*section // in the order of their first header
	named    map[string]*section
	defaults *section
	tell     func(file string, line int, section, key, text string)
}

func newINI(tell func(file string, line int, section, key, text string)) *ini {
	return &ini{
		named:    make(map[string]*section),
		defaults: &section{name: defaultSection, settings: make(map[string]setting)},
		tell:     tell,
	}
}

// get is the setting of a section, or of DEFAULT.
func (f *ini) get(s *section, key string) (setting, bool) {
	if v, ok := s.settings[key]; ok {
		return v, true
	}
	v, ok := f.defaults.settings[key]
	return v, ok
}

// keysOf is the keys of a section and, behind them, those only DEFAULT has.
func (f *ini) keysOf(s *section) []string {
	keys := slices.Clone(s.keys)
	for _, k := range f.defaults.keys {
		if _, ok := s.settings[k]; !ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// A lineReader is the state of reading one file.
type lineReader struct {
	into    *ini
	file    string
	section *section
	key     string
	parts   []string // the lines of the value in hand
	at      setting
	indent  int
	seen    map[string]int // "section\x00key" to the line it was set in, in this file
	bad     []*Error
}

// read adds a file. The errors are those for which supervisord refuses it.
func (f *ini) read(file, text string) []*Error {
	r := &lineReader{into: f, file: file, seen: make(map[string]int)}
	for i, line := range lines(text) {
		if !r.line(i+1, line) {
			break
		}
	}
	r.finish()
	return r.bad
}

// lines splits at \n, \r\n and \r, as Python reads text.
func lines(text string) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func strip(s string) string { return strings.TrimFunc(s, isSpace) }

// comment is where the comment of a line begins, -1 for none.
func comment(line string) int {
	if trimmed := strip(line); strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
		return 0
	}
	// Each of the two is looked for one occurrence at a time, in turns, and the first
	// turn that meets a comment ends the search: "a; ;b #c" is cut at the #.
	at := map[rune]int{';': -1, '#': -1}
	for len(at) > 0 {
		begin := -1
		for _, prefix := range ";#" {
			last, open := at[prefix]
			if !open {
				continue
			}
			next := strings.IndexRune(line[last+1:], prefix)
			if next < 0 {
				delete(at, prefix)
				continue
			}
			next += last + 1
			at[prefix] = next
			before, _ := utf8.DecodeLastRuneInString(line[:next])
			if (next == 0 || isSpace(before)) && (begin < 0 || next < begin) {
				begin = next
			}
		}
		if begin >= 0 {
			return begin
		}
	}
	return -1
}

// line takes one line; false ends the file.
func (r *lineReader) line(number int, line string) bool {
	code, cut := line, ""
	begin := comment(line)
	if begin >= 0 {
		code, cut = line[:begin], strip(line[begin:])
	}
	value := strip(code)
	if value == "" {
		if begin < 0 && r.key != "" {
			r.parts = append(r.parts, "")
		}
		return true
	}
	indent := len([]rune(line)) - len([]rune(strings.TrimLeftFunc(line, isSpace)))
	if r.key != "" && indent > r.indent {
		r.swallowed(number, value)
		r.parts = append(r.parts, value)
		r.at.cut = joined(r.at.cut, cut)
		return true
	}
	r.indent = indent
	if header, ok := headerOf(value); ok {
		r.header(number, header)
		return true
	}
	if r.section == nil {
		r.fail(number, "stands before the first [section]: %q", short(value))
		return false
	}
	r.option(number, value, cut)
	return true
}

// swallowed tells of a line that reads like a key and is none, for it is indented.
func (r *lineReader) swallowed(number int, value string) {
	key, _, assigned := strings.Cut(value, "=")
	if key = strings.TrimSpace(key); assigned && (slices.Contains(programKeys, key) || slices.Contains(daemonKeys, key)) {
		r.into.tell(r.file, number, r.section.name, r.key, fmt.Sprintf("goes on in this line, for it is indented: to supervisord too, %q is a part of the value and no key", short(value)))
	}
}

func joined(a, b string) string { return strings.TrimSpace(a + " " + b) }

// headerOf is greedy as supervisord is: [a]b] is the section "a]b".
func headerOf(value string) (string, bool) {
	end := strings.LastIndexByte(value, ']')
	if value[0] != '[' || end < 2 {
		return "", false
	}
	return value[1:end], true
}

func (r *lineReader) header(number int, name string) {
	r.finish()
	if name == defaultSection {
		r.section = r.into.defaults
		return
	}
	known, ok := r.into.named[name]
	if ok {
		r.into.tell(r.file, number, name, "", fmt.Sprintf("is there already (%s:%d); as in supervisord both count as one, and of a key that is in both the last counts", known.file, known.line))
		r.section = known
		return
	}
	r.section = &section{name: name, file: r.file, line: number, settings: make(map[string]setting)}
	r.into.sections = append(r.into.sections, r.section)
	r.into.named[name] = r.section
}

func (r *lineReader) option(number int, value, cut string) {
	r.finish()
	at := strings.IndexAny(value, "=:")
	if at < 0 {
		r.fail(number, "is neither a [section] nor key = value: %q", short(value))
		return
	}
	key := strings.ToLower(strings.TrimRightFunc(value[:at], isSpace))
	if key == "" {
		r.fail(number, "has no key before the %c: %q", value[at], short(value))
		return
	}
	r.key = key
	r.parts = []string{strip(value[at+1:])}
	r.at = setting{file: r.file, line: number, cut: cut}
}

// finish stores the value in hand.
func (r *lineReader) finish() {
	if r.key == "" {
		return
	}
	r.at.value = strings.TrimRightFunc(strings.Join(r.parts, "\n"), isSpace)
	id := r.section.name + "\x00" + r.key
	if first, ok := r.seen[id]; ok {
		r.into.tell(r.file, r.at.line, r.section.name, r.key, fmt.Sprintf("is set in line %d already; as in supervisord the last one counts", first))
	}
	r.seen[id] = r.at.line
	r.section.set(r.key, r.at)
	r.key, r.parts = "", nil
}

func (r *lineReader) fail(line int, format string, args ...any) {
	r.bad = append(r.bad, &Error{File: r.file, Line: line, Text: fmt.Sprintf(format, args...)})
}

// short is text that is safe to repeat in a message.
func short(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

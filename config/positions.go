package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A spot is where one value of a file is written, with those inside it. The
// TOML library tells positions of syntax errors only; these are for our own rules.
type spot struct {
	pos     position
	implied bool // seen only as the first part of a longer key so far
	keys    map[string]*spot
	items   []*spot
}

// position counts lines and characters from 1.
type position struct{ line, column int }

// A statement is one `key = value` or one `[header]`, possibly over several lines.
type statement struct {
	begin, end int // bytes
	header     bool
	table      string // the header it is under; empty for a header
	key        string // as people type it, without the table it is in
	bare       string // the value, when it is neither quoted nor an array or table
	bareAt     int    // where it begins
	pos        position
}

// An outline is a file as the scanner saw it. The scanner does not judge: on
// broken TOML it finds what it can, it always ends, and it never panics.
type outline struct {
	root       *spot
	statements []statement
	refused    string // why the file must not reach the parser; empty if it may
	refusedAt  position
}

// No key of ours has more than eight parts. Far deeper ones cost the parser
// quadratic time, so they are refused before it sees them.
const (
	maxDepth     = 16
	maxKeyLength = 256
)

// scan outlines text.
func scan(text string) *outline {
	s := &scanner{text: text, mark: position{1, 1}}
	s.root = &spot{pos: position{1, 1}}
	s.run()
	return &s.outline
}

type scanner struct {
	outline
	text   string
	at     int
	mark   position // of the byte markAt; positions are asked in rising order
	markAt int
}

func (s *scanner) run() {
	table, depth, under := s.root, 0, ""
	for s.skipBlank(); s.more(); s.skipBlank() {
		st := statement{begin: s.at, pos: s.here()}
		if s.next() == '[' {
			st.header = true
			table, depth, st.key = s.header()
			under = st.key
		} else {
			st.table, st.key = under, s.assignment(table, depth)
			st.bare, st.bareAt = s.bareSince(st.begin)
		}
		s.skipLine()
		st.end = s.at
		s.statements = append(s.statements, st)
	}
}

// header reads `[a.b]` or `[[a.b]]` and enters the table it names.
func (s *scanner) header() (table *spot, depth int, key string) {
	s.at++
	array := s.next() == '['
	if array {
		s.at++
	}
	parts := s.key(0)
	table = s.root
	for i, p := range parts {
		child := table.enter(p, i < len(parts)-1)
		last := len(child.items) - 1
		switch {
		case array && i == len(parts)-1:
			table = &spot{pos: p.pos}
			child.items = append(child.items, table)
		case last >= 0:
			table = child.items[last]
		default:
			table = child
		}
	}
	return table, len(parts), dotted(parts)
}

// assignment reads `a.b = value` into table.
func (s *scanner) assignment(table *spot, depth int) string {
	parts := s.key(depth)
	for i, p := range parts {
		table = table.enter(p, i < len(parts)-1)
	}
	s.skipSpace()
	if s.next() == '=' {
		s.at++
		s.value(table, depth+len(parts))
	}
	return dotted(parts)
}

func (s *scanner) value(into *spot, depth int) {
	s.skipSpace()
	if depth > maxDepth {
		s.refuse(fmt.Sprintf("is nested more than %d levels deep", maxDepth))
		return
	}
	switch s.next() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.at++
		s.list(']', func() {
			item := &spot{pos: s.here()}
			into.items = append(into.items, item)
			s.value(item, depth+1)
		})
	case '{':
		s.at++
		s.list('}', func() { s.assignment(into, depth) })
	default:
		for s.more() && !strings.ContainsRune(",]}#\n", rune(s.next())) {
			s.at++
		}
	}
}

// list reads elements up to the closing byte, or to the end of the file.
func (s *scanner) list(closing byte, element func()) {
	for s.skipBlank(); s.more(); s.skipBlank() {
		before := s.at
		switch s.next() {
		case closing:
			s.at++
			return
		case ',':
			s.at++
		default:
			element()
		}
		if s.at == before {
			s.at++ // not TOML; the parser says so, we only must not stay here
		}
	}
}

type part struct {
	name string
	pos  position
}

// key reads a key of one or more parts.
func (s *scanner) key(depth int) []part {
	var parts []part
	for s.more() {
		s.skipSpace()
		pos, begin := s.here(), s.at
		name := s.keyPart()
		if s.at == begin {
			return parts
		}
		if depth++; depth > maxDepth || len(name) > maxKeyLength {
			s.refuse(fmt.Sprintf("the key has more than %d parts or a part longer than %d bytes", maxDepth, maxKeyLength))
			return parts
		}
		parts = append(parts, part{name, pos})
		s.skipSpace()
		if s.next() != '.' {
			return parts
		}
		s.at++
	}
	return parts
}

func (s *scanner) keyPart() string {
	begin := s.at
	if c := s.next(); c == '"' || c == '\'' {
		s.quoted()
		return unquoted(s.text[begin:s.at])
	}
	for s.more() && !strings.ContainsRune(".=[]{}\"' \t\r\n#,", rune(s.next())) {
		s.at++
	}
	return s.text[begin:s.at]
}

// quoted moves past a string of any of the four kinds.
func (s *scanner) quoted() {
	mark := s.text[s.at : s.at+1]
	if strings.HasPrefix(s.text[s.at:], strings.Repeat(mark, 3)) {
		mark = strings.Repeat(mark, 3)
	}
	s.at += len(mark)
	for s.more() {
		switch {
		case strings.HasPrefix(s.text[s.at:], mark):
			s.at += len(mark)
			for n := 0; n < 2 && len(mark) == 3 && s.more() && s.next() == mark[0]; n++ {
				s.at++ // a multi-line string may end in up to two quotes of its own
			}
			return
		case s.next() == '\\' && mark[0] == '"':
			s.at = min(s.at+2, len(s.text))
		case s.next() == '\n' && len(mark) == 1:
			return
		default:
			s.at++
		}
	}
}

// refuse ends the scan: nothing behind the position is looked at.
func (s *scanner) refuse(why string) {
	if s.refused == "" {
		s.refused, s.refusedAt = why, s.here()
	}
	s.at = len(s.text)
}

func (s *scanner) more() bool { return s.at < len(s.text) }

// next is the byte ahead, 0 at the end.
func (s *scanner) next() byte {
	if !s.more() {
		return 0
	}
	return s.text[s.at]
}

func (s *scanner) skipSpace() {
	for s.next() == ' ' || s.next() == '\t' {
		s.at++
	}
}

func (s *scanner) skipLine() {
	for s.more() && s.next() != '\n' {
		s.at++
	}
}

// skipBlank moves past white space, line ends and comments.
func (s *scanner) skipBlank() {
	for s.more() {
		switch s.next() {
		case ' ', '\t', '\r', '\n':
			s.at++
		case '#':
			s.skipLine()
		default:
			return
		}
	}
}

// here is the position of the next byte.
func (s *scanner) here() position {
	s.mark = advance(s.mark, s.text[s.markAt:s.at])
	s.markAt = s.at
	return s.mark
}

// bareSince is the value of the statement that began there, if it is bare.
func (s *scanner) bareSince(begin int) (bare string, at int) {
	_, value, _ := strings.Cut(s.text[begin:s.at], "=")
	value = strings.TrimLeft(value, " \t")
	bare, at = strings.TrimSpace(value), s.at-len(value)
	if strings.ContainsAny(bare, "\"'[{\n") {
		return "", at
	}
	return bare, at
}

// advance is the position behind text when text begins at p.
func advance(p position, text string) position {
	if lines := strings.Count(text, "\n"); lines > 0 {
		p.line += lines
		p.column = 1
		text = text[strings.LastIndexByte(text, '\n')+1:]
	}
	p.column += utf8.RuneCountInString(text)
	return p
}

// enter is the spot of a key, made where it is new. A key that was only implied
// by a longer one is at its own definition once that comes.
func (s *spot) enter(p part, implied bool) *spot {
	child := s.keys[p.name]
	if child == nil {
		child = &spot{pos: p.pos, implied: implied}
		if s.keys == nil {
			s.keys = make(map[string]*spot)
		}
		s.keys[p.name] = child
	}
	if child.implied && !implied {
		child.pos, child.implied = p.pos, false
	}
	return child
}

// dotted is a key as people type it.
func dotted(parts []part) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = keyName(p.name)
	}
	return strings.Join(names, ".")
}

// keyName is one part of a key, quoted where TOML wants it quoted.
func keyName(name string) string {
	if name != "" && strings.Trim(name, nameCharacters) == "" {
		return name
	}
	return strconv.Quote(name)
}

// unquoted is the text of a quoted key. What cannot be read is left as it is:
// the parser refuses it anyway.
func unquoted(quoted string) string {
	if len(quoted) < 2 || quoted[0] != quoted[len(quoted)-1] {
		return quoted
	}
	inner := quoted[1 : len(quoted)-1]
	if quoted[0] == '\'' || !strings.Contains(inner, `\`) {
		return inner
	}
	text, err := strconv.Unquote(`"` + goEscapes(inner) + `"`)
	if err != nil {
		return inner
	}
	return text
}

// goEscapes writes the two escapes of TOML that Go has not, or has otherwise:
// \e, and \xHH, a code point here and a byte there.
func goEscapes(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		b.WriteByte(text[i])
		if text[i] != '\\' || i+1 == len(text) {
			continue
		}
		i++
		switch text[i] {
		case 'x':
			b.WriteString("u00")
		case 'e':
			b.WriteString("x1b")
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

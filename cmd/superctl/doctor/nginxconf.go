package doctor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// What `nginx -T` prints is every file that nginx has read, one after the other, each
// behind a comment with its name. The include directives are still there; what they
// stand for is put in their place here.

// A directive is one of nginx's, with what is between its braces.
type directive struct {
	name  string
	args  []string
	block []directive
	at    string // file:line
}

// dumpMark begins a file in the output of nginx -T.
const dumpMark = "# configuration file "

// maxInclude is deeper than nginx itself goes without looping.
const maxInclude = 16

type nginxFile struct {
	name string
	all  []directive
}

// parseNginx reads the output of nginx -T.
func parseNginx(dump string) ([]directive, error) {
	var files []nginxFile
	for part := range strings.SplitSeq("\n"+dump, "\n"+dumpMark) {
		name, text, ok := strings.Cut(part, ":\n")
		if !ok || strings.Contains(name, "\n") || !filepath.IsAbs(name) {
			continue // what is before the first file
		}
		l := &nginxLexer{file: name, rest: text, line: 1}
		all, err := l.block(0)
		if err != nil {
			return nil, err
		}
		files = append(files, nginxFile{filepath.Clean(name), all})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("nginx -T printed no configuration")
	}
	return included(files[0].all, files, filepath.Dir(files[0].name), 0)
}

// included is all with every include replaced by the files it stands for.
func included(all []directive, files []nginxFile, prefix string, depth int) ([]directive, error) {
	var out []directive
	for _, d := range all {
		if d.name != "include" || len(d.args) != 1 {
			var err error
			if d.block, err = included(d.block, files, prefix, depth); err != nil {
				return nil, err
			}
			out = append(out, d)
			continue
		}
		if depth == maxInclude {
			return nil, fmt.Errorf("%s: files include each other", d.at)
		}
		for _, f := range meant(d.args[0], files, prefix) {
			more, err := included(f.all, files, prefix, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// meant are the files that an include stands for.
func meant(pattern string, files []nginxFile, prefix string) []nginxFile {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(prefix, pattern)
	}
	pattern = filepath.Clean(pattern)
	var all []nginxFile
	for _, f := range files {
		if ok, err := filepath.Match(pattern, f.name); ok && err == nil || f.name == pattern {
			all = append(all, f)
		}
	}
	return all
}

type nginxLexer struct {
	file string
	rest string
	line int
}

func (l *nginxLexer) wrong(what string) error {
	return fmt.Errorf("%s:%d: cannot understand nginx's configuration: %s", l.file, l.line, what)
}

// block reads directives up to the closing brace, or the end of the file at depth 0.
func (l *nginxLexer) block(depth int) ([]directive, error) {
	if depth > 64 {
		return nil, l.wrong("too many braces")
	}
	var all []directive
	var words []string
	begun := 0
	for {
		word, mark, err := l.next()
		if err != nil {
			return nil, err
		}
		if mark == 0 && len(words) == 0 {
			begun = l.line
		}
		switch mark {
		case 0:
			words = append(words, word)
			continue
		case '}', endOfFile:
			if (mark == endOfFile) != (depth == 0) || len(words) > 0 {
				return nil, l.wrong("a block or a directive is not closed")
			}
			return all, nil
		}
		if len(words) == 0 {
			return nil, l.wrong(fmt.Sprintf("unexpected %q", mark))
		}
		d := directive{name: words[0], args: slices.Clip(words[1:]), at: fmt.Sprintf("%s:%d", l.file, begun)}
		if mark == '{' {
			if d.block, err = l.inner(d.name, depth); err != nil {
				return nil, err
			}
		}
		all, words = append(all, d), nil
	}
}

// inner reads a block. One in another language is skipped.
func (l *nginxLexer) inner(name string, depth int) ([]directive, error) {
	if !strings.HasSuffix(name, "_by_lua_block") {
		return l.block(depth + 1)
	}
	for open := 1; open > 0; {
		at := strings.IndexAny(l.rest, "{}")
		if at < 0 {
			return nil, l.wrong("a Lua block is not closed")
		}
		if l.rest[at] == '{' {
			open++
		} else {
			open--
		}
		l.skip(at + 1)
	}
	return nil, nil
}

const endOfFile = 'E'

func (l *nginxLexer) skip(n int) {
	l.line += strings.Count(l.rest[:n], "\n")
	l.rest = l.rest[n:]
}

// next is a word, or one of ; { } or the end of the file as a mark.
func (l *nginxLexer) next() (string, rune, error) {
	for {
		l.skip(len(l.rest) - len(strings.TrimLeft(l.rest, " \t\r\n")))
		if !strings.HasPrefix(l.rest, "#") {
			break
		}
		end := strings.IndexByte(l.rest, '\n')
		if end < 0 {
			end = len(l.rest)
		}
		l.skip(end)
	}
	if l.rest == "" {
		return "", endOfFile, nil
	}
	switch c := l.rest[0]; c {
	case ';', '{', '}':
		l.skip(1)
		return "", rune(c), nil
	case '"', '\'':
		return l.quoted(c)
	}
	return l.bare(), 0, nil
}

func (l *nginxLexer) quoted(quote byte) (string, rune, error) {
	var word strings.Builder
	for i := 1; i < len(l.rest); i++ {
		switch c := l.rest[i]; {
		case c == quote:
			l.skip(i + 1)
			return word.String(), 0, nil
		case c == '\\' && i+1 < len(l.rest):
			i++
			word.WriteString(unescaped(l.rest[i]))
		default:
			word.WriteByte(c)
		}
	}
	return "", 0, l.wrong("a quoted text is not closed")
}

// bare reads a word without quotes. ${name} in it has braces that open no block.
func (l *nginxLexer) bare() string {
	var word strings.Builder
	i := 0
	for ; i < len(l.rest); i++ {
		c := l.rest[i]
		if c == '\\' && i+1 < len(l.rest) {
			i++
			word.WriteString(unescaped(l.rest[i]))
			continue
		}
		if end := strings.IndexByte(l.rest[i:], '}'); strings.HasPrefix(l.rest[i:], "${") && end > 0 {
			word.WriteString(l.rest[i : i+end+1])
			i += end
			continue
		}
		if strings.IndexByte(" \t\r\n;{", c) >= 0 {
			break
		}
		word.WriteByte(c)
	}
	l.skip(i)
	return word.String()
}

// unescaped is what a backslash and c stand for. Before anything but these nginx
// keeps the backslash.
func unescaped(c byte) string {
	switch c {
	case '"', '\'', '\\', ' ', ';', '{', '}':
		return string(c)
	case 't':
		return "\t"
	case 'r':
		return "\r"
	case 'n':
		return "\n"
	}
	return `\` + string(c)
}

package supervisord

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// This file splits text as Python's shlex does: commands by shlex.split, and
// environment= by the older lexer that supervisord sets up for it.

// A lexer is shlex.shlex over a text.
type lexer struct {
	text  []rune
	posix bool
	split bool // whitespace_split: only white space ends a word
	words string
	notes string // what begins a comment
	state rune   // ' ' between words, 'a' in one, a quote or \ inside those, 0 at the end
	back  []string
	token []rune
}

const (
	letters   = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	quotes    = `'"`
	shlexGaps = " \t\r\n"
)

// commandWords is shlex.split(line).
func commandWords(line string) ([]string, error) {
	return (&lexer{text: []rune(line), posix: true, split: true, state: ' '}).all()
}

// environment is supervisord's dict_of_key_value_pairs: KEY=val,KEY2="v 2".
func environment(text string) (map[string]string, error) {
	// The marks stand for a value that is not known yet; see holdEnv.
	tokens, err := (&lexer{text: []rune(text), words: letters + "/.+-():" + string(openMark) + string(closeMark), notes: "#", state: ' '}).all()
	if err != nil {
		return nil, fmt.Errorf("cannot be split into KEY=value pairs: %w", err)
	}
	pairs := make(map[string]string)
	for i := 0; i < len(tokens); i += 4 {
		if i+2 >= len(tokens) || tokens[i+1] != "=" {
			return nil, fmt.Errorf(`must be KEY="value",KEY2="value", with quotes around what is more than letters, digits and /.+-():, ends unexpectedly behind %q`,
				short(strings.Join(tokens[i:min(i+3, len(tokens))], "")))
		}
		pairs[tokens[i]] = strings.Trim(tokens[i+2], quotes)
	}
	return pairs, nil
}

func (l *lexer) all() ([]string, error) {
	var all []string
	for {
		token, ok, err := l.next()
		if err != nil || !ok {
			return all, err
		}
		all = append(all, token)
	}
}

// next is one token; false is the end.
func (l *lexer) next() (string, bool, error) {
	if len(l.back) > 0 {
		token := l.back[0]
		l.back = l.back[1:]
		return token, true, nil
	}
	quoted, escaped := false, ' '
	for l.state != 0 {
		c, more := l.char()
		done, err := l.step(c, more, &quoted, &escaped)
		if err != nil {
			return "", false, err
		}
		if done {
			break
		}
	}
	token := string(l.token)
	l.token = nil
	return token, token != "" || l.posix && quoted, nil
}

func (l *lexer) char() (rune, bool) {
	if len(l.text) == 0 {
		return 0, false
	}
	c := l.text[0]
	l.text = l.text[1:]
	return c, true
}

// step takes one character; true ends the token.
func (l *lexer) step(c rune, more bool, quoted *bool, escaped *rune) (bool, error) {
	switch {
	case l.state == ' ':
		return l.between(c, more, *quoted, escaped), nil
	case strings.ContainsRune(quotes, l.state):
		*quoted = true
		return l.inQuotes(c, more, escaped)
	case l.state == '\\':
		if !more {
			return false, errors.New("ends in a backslash")
		}
		// Inside quotes only the quote and the backslash can be escaped.
		if strings.ContainsRune(quotes, *escaped) && c != l.state && c != *escaped {
			l.token = append(l.token, l.state)
		}
		l.token = append(l.token, c)
		l.state = *escaped
		return false, nil
	}
	return l.inWord(c, more, *quoted, escaped), nil
}

// between is white space before a token.
func (l *lexer) between(c rune, more, quoted bool, escaped *rune) bool {
	switch {
	case !more:
		l.state = 0
		return true
	case strings.ContainsRune(shlexGaps, c):
		return len(l.token) > 0 || l.posix && quoted
	case strings.ContainsRune(l.notes, c):
		l.skipLine()
	case l.posix && c == '\\':
		*escaped, l.state = 'a', c
	case strings.ContainsRune(quotes, c):
		if !l.posix {
			l.token = []rune{c}
		}
		l.state = c
	case l.split || strings.ContainsRune(l.words, c):
		l.token, l.state = []rune{c}, 'a'
	default:
		l.token = []rune{c}
		return true
	}
	return false
}

func (l *lexer) inQuotes(c rune, more bool, escaped *rune) (bool, error) {
	switch {
	case !more:
		return false, fmt.Errorf("has a %c that is not closed", l.state)
	case c == l.state && l.posix:
		l.state = 'a'
	case c == l.state:
		l.token = append(l.token, c)
		l.state = ' '
		return true, nil
	case l.posix && c == '\\' && l.state == '"':
		*escaped, l.state = l.state, c
	default:
		l.token = append(l.token, c)
	}
	return false, nil
}

func (l *lexer) inWord(c rune, more, quoted bool, escaped *rune) bool {
	switch {
	case !more:
		l.state = 0
		return true
	case strings.ContainsRune(shlexGaps, c):
		l.state = ' '
		return len(l.token) > 0 || l.posix && quoted
	case strings.ContainsRune(l.notes, c):
		l.skipLine()
	case l.posix && strings.ContainsRune(quotes, c):
		l.state = c
	case l.posix && c == '\\':
		*escaped, l.state = 'a', c
	case l.split || strings.ContainsRune(l.words, c) || strings.ContainsRune(quotes, c):
		l.token = append(l.token, c)
	default:
		l.back = append([]string{string(c)}, l.back...)
		l.state = ' '
		return len(l.token) > 0 || l.posix && quoted
	}
	return false
}

// skipLine drops a comment. Python goes on in the same word behind it.
func (l *lexer) skipLine() {
	end := slices.Index(l.text, '\n')
	if end < 0 {
		l.text = nil
		return
	}
	l.text = l.text[end+1:]
}

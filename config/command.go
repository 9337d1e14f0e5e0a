package config

import (
	"errors"
	"fmt"
	"strings"
)

// words splits a command as a shell would split words: at white space, with
// '…', "…" and \ to keep it. There is no shell behind it, so whatever only a
// shell can do is an error instead of an argument that looks right and is not.
func words(line string) ([]string, error) {
	s := &splitter{rest: line}
	for s.rest != "" {
		if err := s.step(); err != nil {
			return nil, err
		}
	}
	s.finish()
	if len(s.words) == 0 {
		return nil, errors.New("is empty; write the program and its arguments")
	}
	return s.words, nil
}

type splitter struct {
	rest   string
	word   strings.Builder
	open   bool // a word has begun, if only with quotes
	quoted bool // some of the word was quoted
	words  []string
}

func (s *splitter) step() error {
	c := s.rest[0]
	s.rest = s.rest[1:]
	switch c {
	case ' ', '\t', '\r':
		s.finish()
		return nil
	case '\'', '"':
		s.open, s.quoted = true, true
		if c == '\'' {
			return s.single()
		}
		return s.double()
	case '\\':
		if s.rest == "" {
			return errors.New("ends in a backslash")
		}
		c = s.rest[0]
		s.rest = s.rest[1:]
	default:
		if err := s.shellOnly(c); err != nil {
			return err
		}
	}
	s.open = true
	s.word.WriteByte(c)
	return nil
}

// finish ends the word in hand, if there is one.
func (s *splitter) finish() {
	if s.open {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.open, s.quoted = false, false
}

// single takes what is between single quotes as it is.
func (s *splitter) single() error {
	inner, rest, closed := strings.Cut(s.rest, "'")
	if !closed {
		return errors.New("has a ' that is not closed")
	}
	s.word.WriteString(inner)
	s.rest = rest
	return nil
}

// double takes what is between double quotes; \ keeps its meaning before \ " $ `.
func (s *splitter) double() error {
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.rest = s.rest[i+1:]
			return nil
		case c == '$' || c == '`':
			return needsShell(string(c), "is expanded by a shell only")
		case c == '\\' && i+1 < len(s.rest) && strings.IndexByte("\\\"$`", s.rest[i+1]) >= 0:
			i++
			s.word.WriteByte(s.rest[i])
		default:
			s.word.WriteByte(c)
		}
	}
	return errors.New(`has a " that is not closed`)
}

// shellOnly is the error for a bare character that means something to a shell.
func (s *splitter) shellOnly(c byte) error {
	switch c {
	case '|', '&', ';', '\n':
		return needsShell(string(c), "joins commands")
	case '<', '>':
		return needsShell(string(c), "redirects")
	case '(', ')':
		return needsShell(string(c), "groups commands")
	case '$', '`':
		return needsShell(string(c), "is expanded by a shell only")
	case '*', '?', '[':
		return needsShell(string(c), "is a pattern of file names")
	case '~', '#':
		if !s.open {
			return needsShell(string(c), "means something at the start of a word")
		}
	case '=':
		if len(s.words) == 0 && !s.quoted && isEnvName(s.word.String()) {
			return needsShell(s.word.String()+"=…", "sets a variable, which is what the key env is for")
		}
	}
	return nil
}

func needsShell(what, why string) error {
	return fmt.Errorf(`needs a shell, and none is started: %q %s; put it in '…' if it is meant as it is, or write ["sh", "-c", "…"] or a script`, what, why)
}

// isEnvName reports whether name can be the name of an environment variable.
func isEnvName(name string) bool {
	return name != "" && (name[0] < '0' || name[0] > '9') && strings.Trim(name, envCharacters) == ""
}

const (
	nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	envCharacters  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
)

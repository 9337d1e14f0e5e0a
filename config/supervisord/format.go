package supervisord

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// This file is Python's % on a dictionary, which supervisord does to every value:
// %(program_name)s, %(process_num)02d, %%.

// The marks are around a template of superd that a value stands for while it is
// still being split into words. No text has them: they are not characters, and a
// file that has them is refused.
const (
	openMark  = '\ufdd0'
	closeMark = '\ufdd1'
)

// mark is the template {name}, to be written as one when the words are known.
func mark(name string) string { return string(openMark) + name + string(closeMark) }

// values is what the names in a format stand for: text, or a number.
type values map[string]any

// with is values and more, the latter first.
func (v values) with(more values) values {
	all := maps.Clone(v)
	maps.Copy(all, more)
	return all
}

// A missing is a name that a format has and nothing stands for.
type missing struct {
	name  string
	known []string
}

func (m *missing) Error() string {
	known := slices.DeleteFunc(slices.Clone(m.known), func(k string) bool { return strings.HasPrefix(k, "ENV_") })
	return fmt.Sprintf("%%(%s)s stands for nothing; known are %s, and %%(ENV_NAME)s for the environment that supervisord is started in", short(m.name), strings.Join(known, ", "))
}

// formatWith expands s; env stands for ENV_ names that v has not.
func (v values) formatWith(s string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(s, "%")
		b.WriteString(text)
		if !found {
			return b.String(), nil
		}
		value, after, err := v.conversion(rest, env)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		s = after
	}
}

// conversion expands what is behind one %.
func (v values) conversion(s string, env func(string) (string, bool)) (value, rest string, err error) {
	if after, ok := strings.CutPrefix(s, "%"); ok {
		return "%", after, nil
	}
	if s == "" {
		return "", "", errors.New("ends in a single %; write %% for one that is meant")
	}
	if s[0] != '(' {
		return "", "", fmt.Errorf("has a %% that is none of supervisord's names, %q; write %%%% for one that is meant", short("%"+s))
	}
	name, after, ok := nameIn(s)
	if !ok {
		return "", "", fmt.Errorf("has a %%( that is not closed, %q", short("%"+s))
	}
	stands, ok := v[name]
	if variable, isEnv := strings.CutPrefix(name, "ENV_"); isEnv && !ok {
		stands, ok = env(variable)
	}
	if !ok {
		return "", "", &missing{name, slices.Sorted(maps.Keys(v))}
	}
	letters := len(after) - len(strings.TrimLeft(after, "0123456789#-+ ."))
	spec, after := after[:letters], strings.TrimLeft(after[letters:], "hlL")
	if after == "" {
		return "", "", fmt.Errorf("has no letter behind %%(%s), such as s", short(name))
	}
	value, err = convert(stands, spec, after[0])
	if err != nil {
		return "", "", fmt.Errorf("%%(%s)%s%c %w", short(name), short(spec), after[0], err)
	}
	return value, after[1:], nil
}

// nameIn is what is between the parentheses s begins with. They may be nested.
func nameIn(s string) (name, rest string, ok bool) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return s[1:i], s[i+1:], true
			}
		}
	}
	return "", "", false
}

// widest bounds how far a value is padded; what is more is a mistake.
const widest = 1000

func convert(stands any, spec string, letter byte) (string, error) {
	for _, digits := range strings.FieldsFunc(spec, func(r rune) bool { return r < '0' || r > '9' }) {
		if n, err := strconv.Atoi(digits); err != nil || n > widest {
			return "", fmt.Errorf("is wider than %d characters", widest)
		}
	}
	if strings.Contains(spec, "#") || strings.Count(spec, ".") > 1 {
		return "", errors.New("is a format that superd does not know")
	}
	if slot, ok := stands.(slotNumber); ok {
		return slot.format(spec, letter)
	}
	if text, _ := stands.(string); spec != "" && strings.ContainsRune(text, openMark) {
		return "", errors.New("has a width or a precision, which superd cannot give to a variable; write %(NAME)s")
	}
	number, isNumber := stands.(int)
	switch letter {
	case 'd', 'i', 'u':
		if !isNumber {
			return "", errors.New("wants a number, and this is text; write s")
		}
		return fmt.Sprintf("%"+spec+"d", number), nil
	case 'x', 'X', 'o':
		if !isNumber {
			return "", errors.New("wants a number, and this is text; write s")
		}
		return fmt.Sprintf("%"+spec+string(letter), number), nil
	case 's':
		return fmt.Sprintf("%"+strings.NewReplacer("0", "", "+", "").Replace(leading(spec))+spec[len(leading(spec)):]+"s", fmt.Sprint(stands)), nil
	case '%':
		return "%", nil
	}
	return "", errors.New("is a format that superd does not know")
}

// leading is the flags of a format, before its width.
func leading(spec string) string { return spec[:len(spec)-len(strings.TrimLeft(spec, "#0-+ "))] }

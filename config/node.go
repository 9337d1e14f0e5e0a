package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A node is one value of a file together with where it is written, so that
// whoever looks at it can say what is wrong with it. A node of a key that is
// not there has no value and the place of the table that lacks it.
type node struct {
	in    *reading
	file  *file
	key   string // "app.shop.fpm"
	name  string // "fpm"
	place *spot
	value any
}

// wrong adds a problem about the node.
func (n node) wrong(format string, args ...any) {
	n.in.problems = append(n.in.problems, n.problem(format, args...))
}

// warn adds a warning about the node.
func (n node) warn(format string, args ...any) {
	n.in.warnings = append(n.in.warnings, n.problem(format, args...))
}

// missing says that the table lacks a key. Behind a syntax error nothing is
// called missing: it may be what could not be read. Nor is a key that was only
// misspelled: that is one mistake, and it has been told.
func (n node) missing(key, format string, args ...any) {
	misspelled := slices.ContainsFunc(n.in.problems, func(p Problem) bool {
		return p.File == n.file.path && strings.HasPrefix(p.Key, n.key+".") && strings.HasSuffix(p.Text, didYouMean(key))
	})
	if !n.file.broken && !misspelled {
		n.at(key).wrong("is missing: "+format, args...)
	}
}

func (n node) problem(format string, args ...any) Problem {
	return n.file.problem(n.place.pos, n.key, fmt.Sprintf(format, args...))
}

// at is the value of a key of a table.
func (n node) at(name string) node {
	child := node{in: n.in, file: n.file, key: keyName(name), name: name, place: n.place}
	if n.key != "" {
		child.key = n.key + "." + child.key
	}
	if table, ok := n.value.(map[string]any); ok {
		child.value = table[name]
	}
	if place := n.place.keys[name]; place != nil {
		child.place = place
	}
	return child
}

// item is an element of an array.
func (n node) item(i int, value any) node {
	child := node{in: n.in, file: n.file, key: fmt.Sprintf("%s[%d]", n.key, i), place: n.place, value: value}
	if i < len(n.place.items) {
		child.place = n.place.items[i]
	}
	return child
}

// has reports whether the key is written, whatever its value.
func (n node) has(name string) bool {
	table, _ := n.value.(map[string]any)
	_, ok := table[name]
	return ok
}

// names are the keys of a table, sorted. A value that is not a table is a problem.
func (n node) names() []string {
	table, ok := n.value.(map[string]any)
	if !ok {
		n.mistyped("a table")
	}
	return slices.Sorted(maps.Keys(table))
}

// items are the elements of an array. A value that is not an array is a problem.
func (n node) items(want string) []node {
	var items []node
	switch list := n.value.(type) {
	case []any:
		for i, value := range list {
			items = append(items, n.item(i, value))
		}
	case []map[string]any:
		for i, value := range list {
			items = append(items, n.item(i, value))
		}
	default:
		n.mistyped(want)
	}
	return items
}

// mistyped says that the value is of the wrong type.
func (n node) mistyped(want string) { n.wrong("must be %s, is %s", want, describe(n.value)) }

// text is the value if it is text. Control characters are refused wherever text
// is read: they would end a line in the php-fpm.conf or the log they get into.
func (n node) text(want string) (string, bool) {
	text, ok := n.value.(string)
	if !ok {
		n.mistyped(want)
		return "", false
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		n.wrong("has a control character in it: line ends and the like are not allowed here")
		return "", false
	}
	return text, true
}

// read fills what the keys of a table point at, and refuses those it does not know.
func (n node) read(keys []key) {
	names := n.names()
	for _, k := range keys {
		if !n.has(k.name) {
			continue
		}
		child := n.at(k.name)
		k.kind.set(child)
		if k.later && asks(child.value) {
			child.warn("has no effect in this version yet")
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(keys, func(k key) bool { return k.name == name }) {
			n.at(name).wrong("unknown key `%s`; %s", name, suggest(name, namesOf(keys)))
		}
	}
}

// describe names a value for a message.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "missing"
	case string:
		return fmt.Sprintf("the text %q", short(v))
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case bool:
		return fmt.Sprint(v)
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	}
	return "an array"
}

// short keeps a value from filling the screen.
func short(text string) string {
	if len(text) <= 60 {
		return text
	}
	return strings.ToValidUTF8(text[:60], "") + "…"
}

// asks reports whether a value asks for an effect, rather than for none.
func asks(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != "" && v != "0" && v != "0s"
	}
	return true
}

package config

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A kind is what the value of a key must be. Its set checks the value and puts
// it where the kind points, or says what is wrong and leaves the default.
type kind interface{ set(n node) }

// maxCount bounds every count: above it there is a typing mistake, not a wish.
const maxCount = 100_000

type text struct {
	into *string
	want string
}

func (k text) set(n node) {
	if s, ok := n.text(k.want); ok {
		*k.into = s
	}
}

type choice struct {
	into  *string
	known []string
}

func (k choice) set(n node) {
	want := "one of " + quotedList(k.known)
	s, ok := n.text(want)
	if !ok {
		return
	}
	if !slices.Contains(k.known, s) {
		n.wrong("must be %s, is %q", want, short(s))
		return
	}
	*k.into = s
}

func quotedList(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

// absolute is the path of something on this machine.
type absolute struct {
	into  *string
	known map[string]string // templates that can be expanded when the file is read
}

func (k absolute) set(n node) {
	s, ok := n.text(fmt.Sprintf("an absolute path, such as %q", "/srv/shop"))
	if !ok {
		return
	}
	s, err := expandKnown(s, k.known)
	switch {
	case err != nil:
		n.wrong("%v", err)
	case !filepath.IsAbs(s):
		n.wrong("must be an absolute path, one that begins with /, is %q", short(s))
	default:
		*k.into = filepath.Clean(s)
	}
}

// expandKnown expands the templates of a text that is needed before any release is known.
func expandKnown(s string, known map[string]string) (string, error) {
	return expand(s, func(name string) (string, error) {
		value, ok := known[name]
		if !ok {
			return "", fmt.Errorf("template {%s} is not known yet when the file is read, and cannot be used here", name)
		}
		return value, nil
	})
}

// inside is one path, or an array of them, inside something else.
type inside struct {
	one  *string
	into *[]string
	want string
}

func (k inside) set(n node) {
	if k.one != nil {
		if s, ok := localPath(n, k.want); ok {
			*k.one = s
		}
		return
	}
	list(n, k.want, k.into, func(item node) (string, bool) {
		return localPath(item, `a file inside the release, such as "vendor/autoload.php"`)
	})
}

func localPath(n node, want string) (string, bool) {
	s, ok := n.text(want)
	if !ok {
		return "", false
	}
	if s == "" {
		return ".", true
	}
	if !filepath.IsLocal(s) {
		n.wrong(`must be %s: a relative path without "..", is %q`, want, short(s))
		return "", false
	}
	return filepath.Clean(s), true
}

type texts struct {
	into *[]string
	want string
}

func (k texts) set(n node) {
	list(n, k.want, k.into, func(item node) (string, bool) { return item.text("text in quotes") })
}

// list fills into with the elements of an array. If one of them is wrong it is
// left alone, so that an index into it is always one into what is written.
func list[T any](n node, want string, into *[]T, read func(node) (T, bool)) {
	before := len(n.in.problems)
	all := []T{}
	for _, item := range n.items(want) {
		if one, ok := read(item); ok {
			all = append(all, one)
		}
	}
	if len(n.in.problems) == before {
		*into = all
	}
}

// template is text that is expanded when a process starts.
type template struct {
	into *string
	want string
}

func (k template) set(n node) {
	s, ok := n.text(k.want)
	if !ok {
		return
	}
	if err := checkTemplate(s); err != nil {
		n.wrong("%v", err)
		return
	}
	n.needs(s)
	*k.into = s
}

// command is an array of arguments, or a line that is split into them.
type command struct{ into *[]string }

const wantCommand = `a command: an array of arguments, such as ["php", "artisan", "queue:work"]`

func (k command) set(n node) {
	argv, ok := k.argv(n)
	if !ok {
		return
	}
	for i, arg := range argv {
		if err := checkTemplate(arg); err != nil {
			n.item(i, nil).wrong("%v", err)
			ok = false
		}
		n.item(i, nil).needs(arg)
	}
	if ok {
		*k.into = argv
	}
}

func (k command) argv(n node) (argv []string, ok bool) {
	if line, isText := n.value.(string); isText {
		argv, err := words(line)
		if err == nil {
			err = checkProgram(argv)
		}
		if err != nil {
			n.wrong("%v", err)
		}
		return argv, err == nil
	}
	before := len(n.in.problems)
	for _, item := range n.items(wantCommand) {
		argv = append(argv, argument(item))
	}
	if len(n.in.problems) > before {
		return nil, false
	}
	if err := checkProgram(argv); err != nil {
		n.wrong("%v", err)
		return nil, false
	}
	return argv, true
}

// argument is one argument of a command. Line ends are fine in it: sh -c "…".
func argument(n node) string {
	arg, ok := n.value.(string)
	if !ok {
		n.mistyped(`text in quotes, such as "8080"`)
	}
	if strings.Contains(arg, "\x00") {
		n.wrong("has a NUL byte in it, which no argument can hold")
	}
	return arg
}

func checkProgram(argv []string) error {
	if len(argv) == 0 || strings.TrimSpace(argv[0]) == "" {
		return fmt.Errorf("has no program; write %s", wantCommand)
	}
	if len(argv) == 1 && strings.ContainsAny(argv[0], " \t") {
		return fmt.Errorf("is one single argument with spaces, %q; write each argument in quotes of its own, or no array", short(argv[0]))
	}
	return nil
}

type flag struct{ into *bool }

func (k flag) set(n node) {
	b, ok := n.value.(bool)
	if !ok {
		n.mistyped("true or false, without quotes")
		return
	}
	*k.into = b
}

type number struct {
	into  *int
	least int
	most  int
}

func (k number) set(n node) {
	if i, ok := whole(n, k.least, k.most); ok {
		*k.into = i
	}
}

func whole(n node, least, most int) (int, bool) {
	i, ok := n.value.(int64)
	if !ok {
		n.mistyped(fmt.Sprintf("a whole number without quotes, such as %d", max(least, min(8, most))))
		return 0, false
	}
	if i < int64(least) || i > int64(most) {
		n.wrong("must be from %d to %d, is %d", least, most, i)
		return 0, false
	}
	return int(i), true
}

type numbers struct {
	into  *[]int
	least int
	most  int
	want  string
}

func (k numbers) set(n node) {
	list(n, k.want, k.into, func(item node) (int, bool) { return whole(item, k.least, k.most) })
}

// fraction is a number from 0 to 1.
type fraction struct{ into *float64 }

func (k fraction) set(n node) {
	decimal{k.into, 0, 1, "a number from 0 to 1, such as 0.05 for five in a hundred"}.set(n)
}

// decimal is a number with or without a fraction.
type decimal struct {
	into        *float64
	least, most float64
	want        string
}

func (k decimal) set(n node) {
	f, ok := n.value.(float64)
	if i, isInt := n.value.(int64); isInt {
		f, ok = float64(i), true
	}
	switch {
	case !ok:
		n.mistyped(k.want)
	case !(f >= k.least && f <= k.most): // NaN too
		n.wrong("must be %s, is %v", k.want, f)
	default:
		*k.into = f
	}
}

// percentage is a part of a whole, and neither nothing nor all of it; "" is none.
type percentage struct{ into *float64 }

func (k percentage) set(n node) {
	const want = `a percentage above 0% and below 100%, such as "10%"`
	s, ok := n.text(want)
	if !ok || s == "" {
		return
	}
	share, err := parseShare(s)
	if err != nil || share.Percent == 0 || share.Percent == 100 {
		n.wrong("must be %s, is %q", want, short(s))
		return
	}
	*k.into = share.Percent
}

// optionalDuration is a duration; "" is none, as "0s" is.
type optionalDuration struct{ into *time.Duration }

func (k optionalDuration) set(n node) {
	if n.value == "" {
		*k.into = 0
		return
	}
	duration{into: k.into}.set(n)
}

type duration struct {
	into     *time.Duration
	positive bool // "0s" makes no sense
	infinity bool // "infinity" does
	whole    bool // php-fpm counts in seconds
}

func (k duration) set(n node) {
	if i, isInt := n.value.(int64); isInt {
		n.wrong(`must be a duration with its unit, such as "%ds", is the number %d`, max(i, 1), i)
		return
	}
	s, ok := n.text(`a duration, such as "90s"`)
	if !ok {
		return
	}
	d, err := parseDuration(s)
	switch {
	case err != nil:
		n.wrong("%v", err)
	case d == Infinity && !k.infinity:
		n.wrong(`cannot be "infinity"; write a duration, such as "1h"`)
	case d == 0 && k.positive:
		n.wrong("must be longer than 0s")
	case k.whole && d%time.Second != 0:
		n.wrong(`must be whole seconds, for php-fpm counts in seconds, is %q`, s)
	default:
		*k.into = d
	}
}

type size struct{ into *int64 }

func (k size) set(n node) {
	if i, isInt := n.value.(int64); isInt && i >= 0 {
		*k.into = i
		return
	}
	s, ok := n.text(`a size, such as "256MiB"`)
	if !ok {
		return
	}
	bytes, err := parseSize(s)
	if err != nil {
		n.wrong("%v", err)
		return
	}
	*k.into = bytes
}

type share struct{ into *Share }

func (k share) set(n node) {
	written, ok := n.value.(string)
	if i, isInt := n.value.(int64); isInt {
		written, ok = strconv.FormatInt(i, 10), true
	}
	if !ok {
		n.mistyped(`a number or a percentage, such as 2 or "25%"`)
		return
	}
	s, err := parseShare(written)
	if err != nil {
		n.wrong("%v, is %q", err, short(written))
		return
	}
	*k.into = s
}

type signal struct {
	into *syscall.Signal
	any  bool // it need not ask a process to end
}

func (k signal) set(n node) {
	s, ok := n.text(`the name of a signal, such as "TERM"`)
	if !ok {
		return
	}
	parse := parseStopSignal
	if k.any {
		parse = parseSignal
	}
	sig, err := parse(s)
	if err != nil {
		n.wrong("%v", err)
		return
	}
	*k.into = sig
}

type mode struct {
	into *fs.FileMode
	mask bool // the bits that are taken away
}

func (k mode) set(n node) {
	want := `the rights of a file in octal and in quotes, such as "0660"`
	if k.mask {
		want = `the rights that new files do not get, in octal and in quotes, such as "022"`
	}
	s, ok := n.text(want)
	if !ok {
		return
	}
	m, err := parseMode(s)
	if err != nil {
		n.wrong("%v", err)
		return
	}
	*k.into = m
}

// pattern is a regular expression; "" is none.
type pattern struct{ into **regexp.Regexp }

func (k pattern) set(n node) {
	s, ok := n.value.(string)
	if !ok {
		n.mistyped(`a regular expression, such as "^ok"`)
		return
	}
	if s != "" {
		*k.into = compile(n, s)
	}
}

func compile(n node, s string) *regexp.Regexp {
	re, err := regexp.Compile(s)
	if err != nil {
		n.wrong("must be a regular expression (RE2): %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return nil
	}
	return re
}

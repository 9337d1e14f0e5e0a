package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong, or worth telling, and where.
type Problem struct {
	File   string // as Load was given it, or as its include found it
	Line   int    // from 1; 0 when it concerns the file as a whole
	Column int    // from 1, in characters
	Key    string // "app.shop.fpm.listen"; empty when there is none
	Text   string // what is wrong and what would be right
}

// String is the problem as one line: file:line:column: key: text.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.Text)
	return b.String()
}

// Problems is everything that is wrong with a configuration, by file and line.
// It is the only error that Load returns, and it is never empty then.
type Problems []Problem

// Error prints each problem on a line of its own.
func (p *Problems) Error() string {
	lines := make([]string, len(*p))
	for i, one := range *p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// inOrder sorts problems by file and line and drops repetitions.
func inOrder(all []Problem) []Problem {
	slices.SortStableFunc(all, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
	return slices.Compact(all)
}

package config

import (
	"slices"
	"strings"
)

// suggest ends a message about an unknown name: with the known name that was
// probably meant, or with all of them when none is near.
func suggest(name string, known []string) string {
	best, distance := "", max(2, len(name)/2)+1
	for _, candidate := range known {
		if d := edits(strings.ToLower(name), candidate); d < distance {
			best, distance = candidate, d
		}
	}
	if best != "" {
		return didYouMean(best)
	}
	if len(known) == 0 {
		return "there is none"
	}
	return "known here: " + strings.Join(once(known), ", ")
}

// once is the names without those that were there before: an app and a program of
// the same name are one word to choose.
func once(names []string) []string {
	var all []string
	for _, name := range names {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func didYouMean(name string) string { return "did you mean `" + name + "`?" }

// edits counts the letters to add, drop, change or swap with their neighbour
// that turn a into b.
func edits(a, b string) int {
	var before, last []int
	line := make([]int, len(b)+1)
	for j := range line {
		line[j] = j
	}
	for i := range len(a) {
		before, last, line = last, line, make([]int, len(b)+1)
		line[0] = i + 1
		for j := range len(b) {
			line[j+1] = min(last[j+1]+1, line[j]+1, last[j]+differs(a[i], b[j]))
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				line[j+1] = min(line[j+1], before[j-1]+1)
			}
		}
	}
	return line[len(b)]
}

func differs(a, b byte) int {
	if a == b {
		return 0
	}
	return 1
}

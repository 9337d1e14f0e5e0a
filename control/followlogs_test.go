package control

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func logLines(text string) []LogLine {
	var all []LogLine
	for word := range strings.FieldsSeq(text) {
		all = append(all, LogLine{Process: "w", Line: word, At: time.Unix(int64(len(all)), 0)})
	}
	return all
}

func words(lines []LogLine) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Line)
	}
	return strings.Join(all, " ")
}

func TestUnseenLines(t *testing.T) {
	for _, tt := range []struct {
		shown, past, fresh string
		known              bool
	}{
		{"a b c", "a b c d e", "d e", true},
		{"a b c", "a b c", "", true},
		{"a b c", "b c d", "d", true},
		{"a b c", "c d", "d", true},
		{"a a a", "a a a a", "", true},      // one more that is the same can't be told from those
		{"x a b", "a b x a b y", "y", true}, // where most of them stand in a row
		{"a b c", "d e", "d e", false},      // too much was written since
		{"", "a", "a", false},
		{"a", "", "", false},
	} {
		fresh, known := unseen(logLines(tt.shown), logLines(tt.past))
		if words(fresh) != tt.fresh || known != tt.known {
			t.Errorf("after %q of %q it shows %q, %v; want %q", tt.shown, tt.past, words(fresh), known, tt.fresh)
		}
	}
}

// A follower of a process that was silent is not told its past by the next superd.
func TestFollowerCatchesUp(t *testing.T) {
	var got []LogLine
	f := &logFollower{
		query: LogQuery{Follow: true}, shown: map[logKey][]LogLine{}, lost: time.Unix(1, 0),
		behind: map[logKey][]LogLine{}, caught: map[string]bool{},
		yield: func(l LogLine, _ error) bool { got = append(got, l); return true },
	}
	f.shown[logKey{"w", ""}] = logLines("a b")
	in := slices.Concat(logLines("a b c"), []LogLine{
		{Process: "silent", Line: "old", At: time.Unix(0, 0)}, {Process: "silent", Line: "new", At: time.Unix(2, 0)},
		{Process: "w", CaughtUp: true}, {Process: "w", Line: "d"}, {Process: "silent", CaughtUp: true},
	})
	for _, l := range in {
		if err := f.each(l); err != nil {
			t.Fatal(err)
		}
	}
	if words(got) != "c d new" {
		t.Errorf("shown is %q", words(got))
	}
	f.lost, f.caught, f.behind, got = time.Unix(9, 0), map[string]bool{}, map[logKey][]LogLine{}, nil
	for _, l := range append(logLines("z"), LogLine{Process: "w", CaughtUp: true}) {
		if err := f.each(l); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 2 || got[0].Note == "" || got[1].Line != "z" {
		t.Errorf("after a gap is shown %+v", got)
	}
}

package output

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzLines cuts bytes as they may come, in pieces, and compares with a cut in one
// go. Whatever comes, no more than the limits is kept.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 1)
	f.Add([]byte("\xff\xfe\n"+strings.Repeat("y", maxLine+1)+"\nz"), 1000)
	f.Add([]byte{}, 3)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		if len(b) > 100_000 {
			t.Skip("more shows no more, and takes long")
		}
		tl := &tail{name: "w"}
		s := &Stream{tail: tl}
		p := &port{life: s}
		s.ports = []*port{p}
		for part := range slices.Chunk(b, max(1, piece%5000)) {
			tl.wrote(p, part, time.Now())
		}
		tl.flush(p)
		var want []string
		for line := range bytes.Lines(b) {
			want = append(want, text(bytes.TrimSuffix(line, []byte("\n"))))
		}
		want = want[max(0, len(want)-maxLines):]
		got := tl.ofStream(s, maxLines)
		if !slices.Equal(got, want[len(want)-min(len(got), len(want)):]) || len(got) == 0 && len(want) > 0 {
			t.Fatalf("%q\nwant\n%q", got, want)
		}
		if tl.lines.bytes > maxBytes || len(p.partial) > maxLine+1 {
			t.Fatalf("%d bytes are kept", tl.lines.bytes)
		}
	})
}

func TestRingKeepsToItsLimits(t *testing.T) {
	var r ring
	for i := range 10 * maxLines {
		r.add(Line{Text: "short", Stream: strconv.Itoa(i)})
		if oldest := max(0, i-maxLines+1); r.lines[0].Stream != strconv.Itoa(oldest) || r.last(1)[0].Stream != strconv.Itoa(i) {
			t.Fatalf("after line %d the lines are %s to %s", i, r.lines[0].Stream, r.last(1)[0].Stream)
		}
	}
	keepsNothing(t, r)
	if len(r.lines) != maxLines || r.bytes != maxLines*len("short") {
		t.Errorf("%d lines, %d bytes", len(r.lines), r.bytes)
	}
	for range maxLines {
		r.add(Line{Text: strings.Repeat("x", maxLine)})
	}
	if r.bytes > maxBytes || len(r.lines) != maxBytes/maxLine {
		t.Errorf("%d lines, %d bytes", len(r.lines), r.bytes)
	}
	keepsNothing(t, r)
	if r.last(-1) == nil || len(r.last(5)) != 5 {
		t.Error("last gives another number of lines than asked for")
	}
}

func TestNamesAreForgotten(t *testing.T) {
	s, _ := store(t, Options{})
	c := start(t, s, "lives on", "")
	for i := range 2 * idleNames {
		d := start(t, s, "fpm:"+string(rune('a'+i%26))+strings.Repeat("x", i), "")
		d.end(t)
	}
	if got := len(s.Names()); got != idleNames+1 {
		t.Errorf("%d names are remembered", got)
	}
	c.say(t, "still here\n")
	c.end(t)
	if got := s.Tail("lives on", 1); len(got) != 1 {
		t.Error("a name that lives was forgotten")
	}
}

// keepsNothing of lines that are gone.
func keepsNothing(t *testing.T, r ring) {
	t.Helper()
	if len(r.room) > 2*maxLines {
		t.Errorf("%d lines lie in room for %d", len(r.lines), len(r.room))
	}
	begin := len(r.room) - cap(r.lines)
	for i, l := range r.room {
		if (i < begin || i >= begin+len(r.lines)) && l != (Line{}) {
			t.Fatalf("line %d of what is gone is kept: %.100v", i, l)
		}
	}
}

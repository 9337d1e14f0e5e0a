package output

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is remembered of a flood that came at once is what would be if every line of it had
// been looked at, and what is stored is all of it.
func TestFloodIsRemembered(t *testing.T) {
	numbered := func(n int, text string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%d%s\n", i, text)
		}
		return b.String()
	}
	for name, flood := range map[string]string{
		"short lines":              numbered(40_000, ""),
		"lines":                    numbered(9_000, strings.Repeat(" x", 50)),
		"long lines":               numbered(600, strings.Repeat(" x", 800)),
		"somewhat long lines":      numbered(3_000, strings.Repeat(" x", 150)),
		"with carriage returns":    strings.ReplaceAll(numbered(3_000, strings.Repeat(" x", 150)), "\n", "\r\n"),
		"longer than is shown":     numbered(90, strings.Repeat("x", 11_000)),
		"empty lines":              strings.Repeat("\n", 500_000),
		"one line":                 strings.Repeat("x", 900_000),
		"a line without an end":    numbered(20_000, "") + strings.Repeat("y", 400_000),
		"a long one and a few":     strings.Repeat("x", 600_000) + "\n" + numbered(3, ""),
		"little more than a piece": numbered(11_000, ""),
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := store(t, Options{})
			p := startLife(t, s, Life{Name: "w", Log: "w.log"})
			atOnce(t, s, p, flood)
			p.end(t)
			if got, want := p.Tail(maxLines), linesOf("begun "+flood); !slices.Equal(got, want) {
				t.Errorf("remembered are %d lines, want %d: %.40q", len(got), len(want), got)
			}
			if b, err := os.ReadFile(filepath.Join(s.Dir, "w.log")); err != nil || string(b) != "begun "+flood {
				t.Errorf("%d bytes of %d are stored: %v", len(b), len(flood), err)
			}
		})
	}
}

// Who waits for a line, or follows, sees every one.
func TestFloodIsWatched(t *testing.T) {
	var flood bytes.Buffer
	for i := range 40_000 {
		fmt.Fprintf(&flood, "line %d\n", i)
	}
	s, _ := store(t, Options{})
	p := startLife(t, s, Life{Name: "w", Log: "w.log"})
	wrote := p.Wrote(t.Context(), regexp.MustCompile(`^line 77$`))
	atOnce(t, s, p, flood.String())
	select {
	case <-wrote:
	case <-time.After(10 * time.Second):
		t.Error("the line that is waited for is not seen")
	}
	eventually(t, "all of it is seen", func() bool { return slices.Equal(p.Tail(1), []string{"line 39999"}) })
	lines := s.tail("w").follow(t.Context(), 0, "")
	atOnce(t, s, p, flood.String())
	p.end(t)
	for seen := 0; seen != 40_000; seen++ {
		select {
		case l := <-lines:
			if l.lagged != nil {
				seen += l.lagged.take() - 1
			} else if l.Text != fmt.Sprintf("line %d", seen) && seen > 0 {
				t.Fatalf("after %d lines comes %q", seen, l.Text)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("a follower has seen or missed %d lines", seen)
		}
	}
}

// Of a flood of short lines no more are looked at than are remembered.
func TestRecentIsShort(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	all := strings.Repeat("line\n", 200_000)
	write(t, out, all)
	from := (&file{out: out}).recent(0, len(all))
	if got := (len(all) - int(from)) / len("line\n"); got != maxLines {
		t.Errorf("%d lines are looked at", got)
	}
}

// atOnce has the process begin a line, and then write as much as its pipe takes before any
// of it is moved.
func atOnce(t *testing.T, s *Store, p *pair, text string) {
	t.Helper()
	if _, err := unix.FcntlInt(p.out.Fd(), unix.F_SETPIPE_SZ, mostAtOnce); err != nil {
		t.Fatal(err)
	}
	write(t, p.out, "begun ")
	eventually(t, "the beginning is seen", func() bool { return slices.Equal(p.Tail(1), []string{"begun "}) })
	s.mu.Lock()
	f := s.files[filepath.Join(s.Dir, "w.log")]
	s.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	write(t, p.out, text)
}

func linesOf(all string) []string {
	tl := &tail{name: "w"}
	st := &Stream{tail: tl}
	p := &port{life: st}
	st.ports = []*port{p}
	tl.wrote(p, []byte(all), time.Now())
	tl.flush(p)
	return tl.ofStream(st, maxLines)
}

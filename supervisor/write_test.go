package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/supervisor/output"
)

// beEcho answers each line that it reads, on both streams.
func beEcho(args []string) {
	fmt.Println("echo", strings.Join(args, " "))
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(strings.Join(args, " "), "read", in.Text())
		fmt.Fprintln(os.Stderr, strings.Join(args, " "), "complains", in.Text())
	}
	<-terms
}

func (h *house) apart() {
	h.settings = func(string, map[string]string) output.Settings {
		return output.Settings{Stderr: output.ToFile, Rules: output.Rules{Keep: 3}}
	}
}

// Both streams and the input of a child go on over the death of superd.
func TestStreamsAndInputOutliveSuperd(t *testing.T) {
	h := newHouse(t)
	h.apart()
	f := h.open(t)
	s := spec("w", "echo")
	s.Stdin = true
	c, err := f.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	answers := func(c *Child, word string) {
		t.Helper()
		if err := c.Write(t.Context(), []byte(word+"\n")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it answers "+word, func() bool {
			tail := c.Tail(9)
			return slices.Contains(tail, " read "+word) && slices.Contains(tail, " complains "+word)
		})
	}
	answers(c, "one")
	f.leave()
	f = h.open(t)
	if len(f.Adopted()) != 1 {
		t.Fatalf("%d adopted", len(f.Adopted()))
	}
	c = f.Adopted()[0]
	if tail := c.Tail(9); !slices.Contains(tail, " read one") || !slices.Contains(tail, " complains one") {
		t.Errorf("the next superd remembers %q", tail)
	}
	answers(c, "two")
	if out := h.log(t, "w"); out != "echo \n read one\n read two\n" {
		t.Errorf("the file of its output has %q", out)
	}
	if b, err := os.ReadFile(filepath.Join(h.dir, "log", "w.err.log")); err != nil || string(b) != " complains one\n complains two\n" {
		t.Errorf("the file of its standard error has %q, %v", b, err)
	}
}

func TestWriteToWhoDoesNotRead(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	null := f.start("null", "well", "")
	if err := null.Write(t.Context(), []byte("x")); !errors.Is(err, ErrNoStdin) {
		t.Errorf("without a pipe: %v", err)
	}
	s := spec("busy", "well")
	s.Stdin = true
	busy, err := f.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := busy.Write(ctx, make([]byte, 4<<20)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > inputPatience/2 {
		t.Errorf("to who does not read: %v after %s", err, time.Since(began))
	}
	if _, _, err := busy.Stop(t.Context(), 15, long, nil); err != nil {
		t.Fatal(err)
	}
	if err := busy.Write(t.Context(), []byte("x")); err == nil {
		t.Error("to the dead it is written")
	}
}

// Two lives write one file, as two generations of PHP-FPM do. Each is told by its own
// lines, by the superd that comes after too.
func TestLinesAreThoseOfTheLife(t *testing.T) {
	h := newHouse(t)
	f := h.open(t)
	begin := func(slot string) *Child {
		s := spec("fpm", "echo "+slot)
		s.Slot, s.Stdin = slot, true
		c, err := f.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	kids := []*Child{begin("old"), begin("bad")}
	for n := range 40 {
		c := kids[n%2]
		if err := c.Write(t.Context(), fmt.Appendf(nil, "%d\n", n)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it has answered", func() bool { return strings.HasSuffix(strings.Join(c.Tail(1), ""), fmt.Sprint("complains ", n)) })
	}
	check := func(c *Child) {
		t.Helper()
		lines := c.Tail(1000)
		if len(lines) != 41 {
			t.Errorf("%s has %d lines: %q", c.Slot(), len(lines), lines)
		}
		for _, l := range lines {
			if !strings.Contains(l, c.Slot()) {
				t.Errorf("%s is told by the line %q", c.Slot(), l)
			}
		}
	}
	for _, c := range kids {
		check(c)
	}
	for range 2 {
		f.leave()
		f = h.open(t)
		if len(f.Adopted()) != 2 {
			t.Fatalf("%d adopted", len(f.Adopted()))
		}
		for _, c := range f.Adopted() {
			check(c)
		}
	}
}

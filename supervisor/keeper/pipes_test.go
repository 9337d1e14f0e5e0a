package keeper_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/keeper/wire"
)

// lineOf reads from a pipe of a child until there is a whole line.
func lineOf(t *testing.T, f *os.File) string {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for b := make([]byte, 1); ; {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("after %q: %v", got.String(), err)
		}
		if b[0] == '\n' {
			return got.String()
		}
		got.Write(b)
	}
}

// echo is a child that writes what it reads, to both sides.
func echo(slot string) client.Spec {
	s := shell(slot, `while read -r word; do echo "out $word"; echo "err $word" >&2; done; echo end`)
	s.Err, s.In = true, true
	return s
}

func TestPipesOfTheirOwnOutliveSuperd(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	ch := spawn(t, c, echo("s"))
	plain := spawn(t, c, shell("plain", "cat; echo done; sleep 100"))
	if plain.Err != nil || plain.In != nil {
		t.Error("a child that asked for no pipes has some")
	}
	if got := lineOf(t, plain.Out); got != "done" { // its standard input is at its end at once
		t.Errorf("got %q", got)
	}
	say := func(ch *client.Child, word string) {
		t.Helper()
		if _, err := fmt.Fprintln(ch.In, word); err != nil {
			t.Fatal(err)
		}
		if out, err := lineOf(t, ch.Out), lineOf(t, ch.Err); out != "out "+word || err != "err "+word {
			t.Errorf("on its output %q, on its standard error %q", out, err)
		}
	}
	say(ch, "one")
	if err := ch.Close(); err != nil { // as if superd had died
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = dial(t, k)
	for _, ch := range c.Children() {
		if ch.Slot == "s" {
			say(ch, "two")
			return
		}
	}
	t.Error("the next superd is not given the child")
}

// An older superd claims without a word of pipes. It is sent none, in the picture
// and of what it makes, and nothing that it can't see fills up.
func TestOlderSuperdIsSentNoPipes(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	file := filepath.Join(t.TempDir(), "written")
	flood := shell("s", "head -c 8000000 /dev/zero >&2; touch "+file+"; sleep 100")
	flood.Err, flood.In = true, true
	ch := spawn(t, c, flood)
	if err := ch.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	old := dialRaw(t, k)
	old.send(wire.Frame{Op: wire.Claim, ID: 1})
	for {
		f, rights, err := old.receiveRights()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wire.Child && (rights != 2 || f.Code != 0) {
			t.Errorf("a child comes with %d descriptors and code %d", rights, f.Code)
		}
		if f.Op == wire.End {
			break
		}
	}
	eventually(t, "the child is not held up by what nobody takes", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

func TestPipesAreCounted(t *testing.T) {
	k := keepertest.Start(t)
	c := dial(t, k)
	warm := spawn(t, c, shell("warm", "exit 0")) // whatever Go opens for itself is open now
	acknowledge(t, c, exit(t, c))
	if err := warm.Close(); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t, k.PID())
	s := shell("s", "echo out; echo err >&2")
	s.Err, s.In = true, true
	for range 20 {
		ch := spawn(t, c, s)
		e := exit(t, c)
		if out, err := output(t, ch), read(t, ch.Err); out != "out\n" || err != "err\n" {
			t.Errorf("output %q, standard error %q", out, err)
		}
		acknowledge(t, c, e)
		if err := ch.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the keeper has closed all of them", func() bool { return descriptors(t, k.PID()) <= before })
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimLeft(string(b), "\x00")
}

package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func slotFile(t *testing.T, documents ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slots")
	s, err := openSlots(path, nil)
	must(t, err)
	for _, d := range documents {
		must(t, s.store([]byte(strconv.Quote(d))))
	}
	must(t, s.close())
	return path
}

func reread(t *testing.T, path string) (string, error) {
	t.Helper()
	var document string
	s, err := openSlots(path, &document)
	if s != nil {
		must(t, s.close())
	}
	return document, err
}

// A write torn at any byte, whatever is behind it, leaves the document before it.
func TestTornAtEveryByte(t *testing.T) {
	path := slotFile(t, "one", "two", "three")
	whole, err := os.ReadFile(path)
	must(t, err)
	fresh := encodeSlot(5, []byte(`"four"`))
	at := 5 % 2 * slotSize // where the next one goes
	file := whole[at : at+slotSize]
	old := slices.Clone(file)
	for torn := range slotSize {
		if torn > 100 && torn < slotSize-100 && torn%512 != 0 && torn%997 != 0 {
			continue
		}
		for _, rest := range [][]byte{old, make([]byte, slotSize)} {
			copy(file, fresh[:torn])
			copy(file[torn:], rest[torn:])
			a, aSeq, aOK := decodeSlot(whole[:slotSize])
			b, bSeq, bOK := decodeSlot(whole[slotSize:])
			newest, seq := a, aSeq
			if !aOK || bOK && bSeq > aSeq {
				newest, seq = b, bSeq
			}
			equal := bytes.Equal(file, fresh)
			if string(newest) != `"three"` && (!equal || string(newest) != `"four"`) {
				t.Fatalf("torn at %d: %q (%d)", torn, newest, seq)
			}
		}
	}
	copy(file, fresh)
	must(t, os.WriteFile(path, whole, 0o600))
	if d, err := reread(t, path); d != "four" || err != nil {
		t.Error(d, err)
	}
}

// A write that failed may have left anything in its slot: that one is written again,
// and the document before it stays until the next one is whole.
func TestFailedWriteIsRepeated(t *testing.T) {
	path := slotFile(t, "one", "two")
	var document string
	s, err := openSlots(path, &document)
	must(t, err)
	good := s.file
	s.file, err = os.Open(path) // not to be written to
	must(t, err)
	for range 3 {
		if err := s.store([]byte(`"lost"`)); err == nil {
			t.Fatal("it was written")
		}
	}
	must(t, s.file.Close())
	s.file = good
	must(t, s.store([]byte(`"three"`)))
	must(t, s.close())
	all, err := os.ReadFile(path)
	must(t, err)
	texts := map[string]bool{}
	for _, slot := range [][]byte{all[:slotSize], all[slotSize:]} {
		d, _, ok := decodeSlot(slot)
		texts[string(d)] = ok
	}
	if want := map[string]bool{`"two"`: true, `"three"`: true}; !cmp.Equal(want, texts) {
		t.Errorf("the slots hold %v", texts)
	}
}

// No flipped bit is ever believed: there is the document, the one before it, or none.
func TestFlippedBits(t *testing.T) {
	path := slotFile(t, "one", "two", "three")
	whole, err := os.ReadFile(path)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 3000 {
		at := random.IntN(len(whole) * 8)
		if n < 8*2*slotHead { // all of both heads
			at = n%(8*slotHead) + n/(8*slotHead)*slotSize*8
		}
		whole[at/8] ^= 1 << (at % 8)
		want := `"two"`
		if at/8 < slotSize == (4%2 == 1) { // "three" has sequence 4: slot 0
			want = `"three"`
		}
		newest := "none"
		var seq uint64
		for _, slot := range [][]byte{whole[:slotSize], whole[slotSize:]} {
			if d, s, ok := decodeSlot(slot); ok && s >= seq {
				newest, seq = string(d), s
			}
		}
		if newest != want {
			t.Fatalf("bit %d: %q, want %q", at, newest, want)
		}
		whole[at/8] ^= 1 << (at % 8)
	}
}

func TestDamagedIsKeptAside(t *testing.T) {
	for name, damage := range map[string]func(all []byte) []byte{
		"both":  func(all []byte) []byte { all[slotHead], all[slotSize+slotHead] = 'x', 'x'; return all },
		"short": func(all []byte) []byte { return all[:len(all)-1] }, "long": func(all []byte) []byte { return append(all, 0) },
		"empty": func([]byte) []byte { return nil }, "zeros": func(all []byte) []byte { return make([]byte, len(all)) },
	} {
		path := slotFile(t, "one", "two", "three")
		all, err := os.ReadFile(path)
		must(t, err)
		all = damage(all)
		must(t, os.WriteFile(path, all, 0o600))
		var document string
		s, err := openSlots(path, &document)
		if !errors.Is(err, ErrDamaged) || s == nil || document != "" {
			t.Errorf("%s: %q, %v", name, document, err)
			continue
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(kept, all) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, s.store([]byte(`"anew"`)))
		must(t, s.close())
		if d, err := reread(t, path); d != "anew" || err != nil {
			t.Errorf("%s: %q, %v", name, d, err)
		}
	}
}

func TestJournalKeepsTheLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "journal")
	j, err := OpenJournal(path)
	must(t, err)
	if last := j.Last(); last.ID != "" {
		t.Errorf("%+v", last)
	}
	want := Record{ID: "s", Kind: KindRollback, From: oldG, To: newG, Phase: Watching, Reached: Watching, Lines: []string{"a"}, Started: time.Now().UTC().Round(0)}
	for range 5 {
		must(t, j.Enter(want))
		must(t, j.Close())
		if err := j.Enter(Record{ID: "closed"}); err == nil {
			t.Error("entered in a closed file")
		}
		want.Seq = j.Last().Seq
		j, err = OpenJournal(path)
		must(t, err)
		got := j.Last()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if err := j.Enter(Record{ID: "huge", Cause: strings.Repeat("x", slotSize)}); err == nil || j.Last().ID != "s" {
		t.Errorf("%v; last is %s", err, j.Last().ID)
	}
	must(t, j.Close())
}

// Whatever ends up in a record of a failure has room in the journal.
func TestWorstRecordFits(t *testing.T) {
	worst := errorWithLines{strings.Repeat("\x00\xff<", 5000), slices.Repeat([]string{strings.Repeat("\x01", 5000)}, 100)}
	r := Record{ID: "s", From: oldG, To: newG, Cause: clip(worst.Error(), maxReason), Waits: clip(worst.Error(), maxReason), Lines: lastLines(worst)}
	j, err := OpenJournal(filepath.Join(t.TempDir(), "journal"))
	must(t, err)
	must(t, j.Enter(r))
	must(t, j.Close())
	if len(r.Lines) != maxLines || len(r.Lines[0]) > maxLine+len("…") || lastLines(errTrouble) != nil {
		t.Errorf("%d lines", len(r.Lines))
	}
}

type errorWithLines struct {
	text  string
	lines []string
}

func (e errorWithLines) Error() string       { return e.text }
func (e errorWithLines) LastLines() []string { return e.lines }

// Whatever is in a slot whose checksum is right, and whatever is damaged: a journal
// opens, says what it has or ErrDamaged, and goes on.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"id":"s","phase":"watching","from":{"generation":1}}`), uint32(0), byte(0))
	f.Add([]byte(`{"id":"s","phase":7}`), uint32(0), byte(0))
	f.Add([]byte(`{"id":"s"`), uint32(0), byte(0))
	f.Add([]byte("null"), uint32(0), byte(0))
	f.Add([]byte(`{"id":"s"}`), uint32(17), byte(4))
	f.Add([]byte(`{"id":"s","ended":"yesterday"}`), uint32(slotSize+5), byte(1))
	f.Add([]byte(`{"id":"s","seq":-1}`), uint32(slotSize-1), byte(128))
	f.Fuzz(func(t *testing.T, document []byte, at uint32, flip byte) {
		if len(document) > maxDocument {
			return
		}
		file := append(encodeSlot(8, document), encodeSlot(7, []byte(`{"id":"before"}`))...)
		file[at%(2*slotSize)] ^= flip
		path := filepath.Join(t.TempDir(), "journal")
		must(t, os.WriteFile(path, file, 0o600))
		j, err := OpenJournal(path)
		var want Record
		sound := len(document) == 0 || json.Unmarshal(document, &want) == nil
		switch {
		case flip != 0 && at%(2*slotSize) < slotSize:
			want, sound = Record{ID: "before"}, true
		case !sound:
			want = Record{}
		}
		if sound != (err == nil) || !sound && !errors.Is(err, ErrDamaged) {
			t.Fatalf("%q: %v", document, err)
		}
		if diff := cmp.Diff(want, j.Last()); diff != "" {
			t.Fatal(diff)
		}
		must(t, j.Enter(Record{ID: "next", Phase: Preparing}))
		must(t, j.Close())
		again, err := OpenJournal(path)
		must(t, err)
		if got := again.Last(); got.ID != "next" {
			t.Fatalf("%+v", got)
		}
		must(t, again.Close())
	})
}

func TestStateIsRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f, err := OpenState(path)
	must(t, err)
	if f.first.Next != 1 {
		t.Errorf("the first generation is %d", f.first.Next)
	}
	want := State{Next: 9, Live: newG, Previous: oldG, Bad: map[string]Mark{"bad": {Reason: "sick", When: time.Unix(1, 0).UTC()}}, Hold: &Hold{Reason: "sale", Human: true}}
	must(t, f.save(want))
	must(t, f.Close())
	f, err = OpenState(path)
	must(t, err)
	if diff := cmp.Diff(want, f.first); diff != "" {
		t.Error(diff)
	}
	must(t, f.Close())
}

// However many releases failed, with whatever names and reasons, the state fits, and
// keeps the newest marks.
func TestMarksFit(t *testing.T) {
	f, err := OpenState(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	s := State{}
	for n := range 3 * maxMarks {
		name := strings.Repeat("\x01", 250) + string(rune('a'+n%26)) + string(rune('a'+n/26))
		s.settle(Record{ID: "s", To: Generation{Number: uint64(n), Release: name}, Blame: true, Cause: strings.Repeat("<", 5000), Ended: time.Unix(int64(n), 0)})
		if n%50 == 49 {
			must(t, f.save(s))
		}
	}
	must(t, f.Close())
	g, err := OpenState(f.slots.path)
	must(t, err)
	must(t, g.Close())
	if len(s.Bad) != maxMarks || len(g.first.Bad) == 0 || s.Next != 3*maxMarks {
		t.Errorf("%d marks, %d of them on disk, next is %d", len(s.Bad), len(g.first.Bad), s.Next)
	}
	oldest := time.Now()
	for _, m := range g.first.Bad {
		if m.When.Before(oldest) {
			oldest = m.When
		}
	}
	if want := time.Unix(int64(3*maxMarks-len(g.first.Bad)), 0); !oldest.Equal(want) {
		t.Errorf("the oldest mark that is left is of %s, want %s", oldest, want)
	}
}

func TestSettle(t *testing.T) {
	third := Generation{Number: 3, Release: "third"}
	human := &Hold{Reason: "sale", Human: true}
	for name, tt := range map[string]struct {
		before State
		record Record
		want   State
	}{
		"live": {
			State{Next: 2, Live: oldG, Bad: map[string]Mark{"new": {}}, Degraded: "x", Hold: &Hold{}},
			Record{ID: "a", From: oldG, To: newG, Verdict: Live, Live: newG},
			State{Next: 3, Live: newG, Previous: oldG, Bad: map[string]Mark{}, Settled: "a"},
		},
		"restart keeps the previous one": {
			State{Next: 3, Live: newG, Previous: oldG},
			Record{ID: "a", From: newG, To: Generation{Number: 3, Release: "new"}, Verdict: Live, Live: Generation{Number: 3, Release: "new"}},
			State{Next: 4, Live: Generation{Number: 3, Release: "new"}, Previous: oldG, Settled: "a"},
		},
		"rolled back, to blame": {
			State{Next: 3, Live: newG, Previous: oldG, Hold: human},
			Record{ID: "a", From: newG, To: third, Verdict: RolledBack, Live: newG, Blame: true, Cause: "sick"},
			State{Next: 4, Live: newG, Previous: oldG, Bad: map[string]Mark{"third": {Reason: "sick"}}, Hold: human, Settled: "a"},
		},
		"degraded keeps a person's hold": {
			State{Next: 3, Live: newG, Hold: human},
			Record{ID: "a", From: newG, To: third, Verdict: Degraded, Live: third, Cause: "sick"},
			State{Next: 4, Live: third, Hold: human, Settled: "a", Degraded: "switch a failed (sick) and could not be taken back"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // twice changes nothing
				tt.before.settle(tt.record)
				if diff := cmp.Diff(tt.want, tt.before); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestHistoryIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "history")
	h, err := OpenHistory(path)
	must(t, err)
	var want []string
	for n := range 3 * maxHistory {
		id := time.Unix(int64(n), 0).UTC().Format("150405")
		must(t, h.append(Record{ID: id, Verdict: Live}))
		want = append(want, id)
		if n%97 == 0 { // a new superd, and a line that was torn before it
			text, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, append(text, `{"id":"torn`...), 0o600))
			h, err = OpenHistory(path)
			must(t, err)
		}
	}
	h, err = OpenHistory(path)
	must(t, err)
	var got []string
	for _, r := range h.Records() {
		got = append(got, r.ID)
	}
	if diff := cmp.Diff(want[len(want)-maxHistory:], got); diff != "" {
		t.Error(diff)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if lines := bytes.Count(text, []byte("\n")); lines > 2*maxHistory+20 {
		t.Errorf("%d lines", lines)
	}
	if !h.has(got[0]) || h.has("torn") {
		t.Error("has is wrong")
	}
}

// What cannot be written is remembered all the same.
func TestHistoryOnABrokenDisk(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	h := &History{path: filepath.Join(dir, "file", "history")}
	if err := h.append(Record{ID: "a"}); err == nil || !h.has("a") {
		t.Error(err)
	}
}

func TestGood(t *testing.T) {
	h := &History{}
	g := func(name string) Generation { return Generation{Number: 1, Release: name} }
	h.records = []Record{
		{From: g("r1"), To: g("r2"), Verdict: Live}, {From: g("r2"), To: g("bad"), Verdict: RolledBack},
		{From: g("r2"), To: g("r3"), Verdict: Live}, {To: g("r2"), From: g("r3"), Verdict: Live},
	}
	if diff := cmp.Diff([]Generation{g("r2"), g("r3"), g("r1")}, h.good()); diff != "" {
		t.Error(diff)
	}
}

package control

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// Whatever is in the file of events, superd starts, events go on, their numbers rise, and
// the next superd has them.
func FuzzEventFile(f *testing.F) {
	f.Add([]byte(`{"seq":1,"kind":"switch.ended"}`+"\n"+`{"seq":2,"ki`), []byte("                   1"))
	f.Add([]byte("\x00\x00\n{}\n"+`{"seq":7}`+"\n"+`{"seq":3}`+"\n"), []byte("x"))
	f.Add([]byte(`{"seq":4,"at":"yesterday"}`+"\n"), []byte("-5"))
	f.Add([]byte(`{"seq":18446744073709551615}`+"\n"), []byte("18446744073709551615"))
	f.Fuzz(func(t *testing.T, text, seq []byte) {
		path := filepath.Join(t.TempDir(), "events.ndjson")
		for file, bytes := range map[string][]byte{path: text, path + ".seq": seq} {
			if err := os.WriteFile(file, bytes, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var last uint64
		for range 2 { // each a superd
			e, _ := OpenEvents(path, slog.New(slog.DiscardHandler)) // an error is told, and it goes on
			e.Append(Event{Kind: "superd.started"})
			ctx, stop := context.WithCancel(t.Context())
			stop() // what is pending is written all the same
			if err := e.Run(ctx); err != nil {
				t.Fatal(err)
			}
			now := e.Last()
			if now <= last {
				t.Fatalf("event %d comes after %d", now, last)
			}
			last = now
		}
	})
}

package supervisor

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/output"
)

// What the next superd needs until it has every child of the one before: the claim, the
// ledger, and the output of each.
func BenchmarkAdoption1000(b *testing.B) {
	const children = 1000
	h := &house{dir: b.TempDir(), keeper: keepertest.Start(b)}
	log := slog.New(slog.DiscardHandler)
	open := func() (*Children, *output.Store) {
		store := output.Open(output.Options{Dir: filepath.Join(h.dir, "log"), Log: log})
		c, err := Open(b.Context(), Options{Keeper: h.keeper.Socket(), State: filepath.Join(h.dir, "state"), Output: store, Log: log})
		if err != nil {
			b.Fatal(err)
		}
		return c, store
	}
	c, store := open()
	for i := range children {
		s := spec(fmt.Sprintf("c%d", i), "")
		s.Argv = []string{"/bin/sleep", "1000"}
		if _, err := c.Start(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		b.StopTimer()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		_ = store.Close()
		b.StartTimer()
		c, store = open()
		if n := len(c.Adopted()); n != children {
			b.Fatalf("%d children adopted", n)
		}
	}
	b.StopTimer()
	_ = c.Close()
	_ = store.Close()
}

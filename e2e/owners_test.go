//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
)

// Somebody starts superd a second time: with the same configuration, and with one that
// differs in run_dir but names the same state_dir. Each is refused and told who is there,
// and the shop of the first notices nothing.
func TestSecondSuperdIsRefused(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2}, "$realpath_root")
	before := s.children()
	text, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	other := s.Path("other.toml")
	moved := strings.ReplaceAll(string(text), s.Path("run"), s.Path("run2"))
	if err := os.WriteFile(other, []byte(moved), 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]struct {
		code int
		says string
	}{
		s.ConfigFile(): {1, "another keeper (PID"},
		other:          {5, "the state directory is in use"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		c := exec.CommandContext(ctx, filepath.Join(s.Bin, "superd"), "run", "--config", file)
		said, _ := c.CombinedOutput() // the code is looked at
		cancel()
		if code := c.ProcessState.ExitCode(); code != want.code || !strings.Contains(string(said), want.says) {
			t.Errorf("superd run --config %s: exit %d, want %d with %q: %s", file, code, want.code, want.says, said)
		}
	}
	if now := s.children(); !slices.Equal(now, before) {
		t.Errorf("the children were %v and are %v", before, now)
	}
	s.wholly("r1", 15*time.Second)
}

// Two superds are started at one moment, again and again: one serves, the other is
// refused, and there are never two of anything.
func TestTwoSuperdsAtOnce(t *testing.T) {
	l, _ := newLab(t)
	if err := l.Configure(lab.Config{Children: 2, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var two [2]*lab.Server
		for i := range two {
			var err error
			if two[i], err = l.LaunchSuperd(); err != nil {
				t.Fatal(err)
			}
		}
		left := 0
		select {
		case <-two[0].Done():
			left = 1
		case <-two[1].Done():
		case <-time.After(30 * time.Second):
			t.Fatal("both live")
		}
		if code := two[1-left].Code(); code == 0 {
			t.Error("the one that was refused ends with 0")
		}
		eventually(t, 30*time.Second, "the other serves", func() bool { return l.Unlike("r1") == "" })
		if err := two[left].Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

package control

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRulesChange: a rule that is taken away does not hold for who is connected already.
func TestRulesChange(t *testing.T) {
	needRoot(t)
	h := newHouse(t)
	ask := func() string {
		out, err := inMood(t, "ask", h.socket, testUsers["reader"], "GET", "/v1/status", "").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out[:3])
	}
	if got := ask(); got != "403" && got != "0 m" {
		t.Errorf("without a rule: %s", got)
	}
	h.server.SetRules(testRules)
	if err := os.Chmod(h.socket, SocketMode(testRules)); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "200" {
		t.Errorf("with a rule: %s", got)
	}
	h.server.SetRules(nil)
	if got := ask(); got != "403" {
		t.Errorf("with the rule taken away: %s", got)
	}
}

// TestSocketChangesItsMode: what is at its path, and nothing that somebody has put there.
func TestSocketChangesItsMode(t *testing.T) {
	path := filepath.Join(shortDir(t), "superd.sock")
	s, err := Listen(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mode := func() os.FileMode {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := s.SetMode(0o666); err != nil || mode() != 0o666 {
		t.Errorf("mode %o, error %v", mode(), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMode(0o600); err != nil || mode() != 0o640 {
		t.Errorf("of another file: mode %o, error %v", mode(), err)
	}
}

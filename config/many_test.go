package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A configuration of 10,000 programs is read, every one of them.
func TestTenThousandPrograms(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, "[program.p%d]\ncommand = [\"sleep\", \"1000\"]\n", i)
	}
	c, err := loadText(t, text.String())
	if err != nil {
		t.Fatalf("%.300v", err)
	}
	if len(c.Programs) != 10_000 {
		t.Errorf("%d programs", len(c.Programs))
	}
}

// Files that include each other, or themselves, are an error that shows the circle.
func TestIncludesInACircle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"superd.toml": "include = [\"a.toml\"]\n", "a.toml": "include = [\"superd.toml\"]\n", "self.toml": "include = [\"self.toml\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, circle := range map[string]string{"superd.toml": "superd.toml → DIR/a.toml → DIR/superd.toml", "self.toml": "self.toml → DIR/self.toml"} {
		_, err := Load(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), "circular include: "+dir+"/"+strings.ReplaceAll(circle, "DIR", dir)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

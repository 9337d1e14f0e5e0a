package shop

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every PHP file of a release has its name in it, or mixed answers would not show.
func TestEveryFileIsStamped(t *testing.T) {
	t.Parallel()
	s, err := New(t.TempDir(), os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add("r7"); err != nil {
		t.Fatal(err)
	}
	dir, files := s.Release("r7"), 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".php" {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		relative, _ := filepath.Rel(dir, path)
		stamp := "$GLOBALS['files']['" + relative + "'] = 'r7'"
		if relative != "bin/worker.php" && !strings.Contains(string(text), stamp) {
			t.Errorf("%s has not %s", relative, stamp)
		}
		if strings.Contains(string(text), "@RELEASE@") {
			t.Errorf("%s is not stamped", relative)
		}
		return err
	})
	if err != nil || files < 8 {
		t.Errorf("%d files, %v", files, err)
	}
}

// Package arch holds the shape of the project: which package may import which,
// that every package says what it is, that no goroutine is without an owner, and
// that no path named in the documentation is dead.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../../.."

// mayImport is the picture in docs/ARCHITECTURE.md: the packages of ours that a
// room may import. A room is a folder with everything below it.
var mayImport = map[string][]string{
	"release":                      {"release/beneath"},
	"release/beneath":              {},
	"release/check":                {"fpm/fastcgi", "fpm/traffic", "release"},
	"supervisor":                   {"supervisor"},
	"supervisor/keeper":            {"supervisor/keeper"},
	"supervisor/cgroup":            {},
	"supervisor/output":            {},
	"supervisor/notify":            {},
	"supervisor/schedule":          {},
	"supervisor/program":           {"supervisor", "supervisor/schedule"},
	"fpm":                          {"release", "supervisor", "fpm/fastcgi", "fpm/traffic"},
	"fpm/fastcgi":                  {},
	"fpm/traffic":                  {},
	"workers":                      {"release", "supervisor"},
	"control":                      {"release"},
	"config":                       {"release/beneath"},
	"config/supervisord":           {},
	"cmd/superctl":                 {"control", "config", "release"},
	"cmd/superd-keeper":            {"supervisor/keeper"},
	"cmd/superd":                   {"*"},
	"cmd/internal":                 {},
	"e2e":                          {"*"},
	"supervisor/keeper/keepertest": {"supervisor/keeper"},
}

type source struct {
	path string // relative to the root
	file *ast.File
	set  *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		all = append(all, source{rel, f, set})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found %d files: the test looks in the wrong place", len(all))
	}
	return all
}

// room is the longest entry of mayImport that holds dir.
func room(dir string) (string, bool) {
	for d := dir; d != "."; d = filepath.Dir(d) {
		if _, ok := mayImport[d]; ok {
			return d, true
		}
	}
	return "", false
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		dir := filepath.Dir(s.path)
		in, ok := room(dir)
		if !ok {
			t.Errorf("%s: folder %s is not in the picture", s.path, dir)
			continue
		}
		for _, imp := range s.file.Imports {
			to, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), "superd/")
			if !ours {
				continue
			}
			target, _ := room(to)
			if target == in || slices.Contains(mayImport[in], "*") || allowed(mayImport[in], to) {
				continue
			}
			t.Errorf("%s imports %s: %s may import only %v", s.path, to, in, mayImport[in])
		}
	}
}

func allowed(rooms []string, to string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return to == r || strings.HasPrefix(to, r+"/") })
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	docs := map[string]int{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		if _, ok := docs[dir]; !ok {
			docs[dir] = 0
		}
		if s.file.Doc != nil {
			docs[dir]++
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, n)
		}
	}
}

// A bare go statement has nobody who waits for it; sync.WaitGroup.Go has.
func TestGoroutinesHaveAnOwner(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") || strings.Contains(s.path, "test/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a goroutine without an owner", s.set.Position(g.Pos()))
			}
			return true
		})
	}
}

// path finds what looks like a file of ours in prose: `release/switch.go`.
var path = regexp.MustCompile("`((?:cmd|supervisor|fpm|workers|release|control|config|packaging|e2e|docs|\\.ci)/[A-Za-z0-9_./-]*[A-Za-z0-9_/])`")

func TestPathsInProseExist(t *testing.T) {
	pages, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob(root + "/docs/decisions/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(append(pages, decisions...), root+"/README.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllStringSubmatch(string(b), -1) {
			found++
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", filepath.Base(page), m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d paths in the documentation: the pattern no longer matches how they are written", found)
	}
}

// example finds a golden file that is quoted in prose: its name, then a code block.
var example = regexp.MustCompile("(?m)^`(control/testdata/[a-z.-]+)`\n\n```json\n((?s).*?)\n```")

func TestExamplesAreGoldenFiles(t *testing.T) {
	page, err := os.ReadFile(root + "/docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	found := example.FindAllStringSubmatch(string(page), -1)
	if len(found) < 3 {
		t.Fatalf("found %d examples: the pattern no longer matches how they are written", len(found))
	}
	for _, m := range found {
		golden, err := os.ReadFile(filepath.Join(root, m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimRight(string(golden), "\n") != m[2] {
			t.Errorf("%s is quoted differently in docs/protocol.md", m[1])
		}
	}
}

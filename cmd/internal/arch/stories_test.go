package arch

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	aTest     = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	aFault    = regexp.MustCompile(`^\| (F[0-9]{2}) \|`)
	packageOf = regexp.MustCompile(`^[a-z0-9/]+$`)
)

// Every test that e2e/README.md names exists, in the package that is named with it:
// a promise whose test has gone is noticed.
func TestNamedTestsExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "e2e/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	have, named, faults := map[string]map[string]bool{}, 0, 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		cell := cells[max(0, len(cells)-2)]
		if len(cells) == 4 { // the table of stories has them in front
			cell = cells[1]
		}
		if m := aFault.FindStringSubmatch(line); m != nil {
			if faults++; m[1] != fmt.Sprintf("F%02d", faults) || len(cells) != 6 || !namedTest.MatchString(cell) {
				t.Errorf("e2e/README.md: fault %d is missing, or no test is named: %s", faults, line)
			}
		}
		for group := range strings.SplitSeq(cell, ";") {
			in, tests, ok := strings.Cut(strings.TrimSpace(group), ": ")
			if !ok || !packageOf.MatchString(in) {
				in, tests = "e2e", group
			}
			for _, m := range namedTest.FindAllStringSubmatch(tests, -1) {
				named++
				if have[in] == nil {
					have[in] = testsIn(t, in)
				}
				if !have[in][m[1]] {
					t.Errorf("e2e/README.md names %s of %s, which is not there", m[1], in)
				}
			}
		}
	}
	if named < 250 || faults < 54 {
		t.Errorf("%d tests are named, and %d faults", named, faults)
	}
}

// testsIn are the tests of one package, whatever their build tags.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("package %s: %v", dir, err)
	}
	all := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range aTest.FindAllStringSubmatch(string(text), -1) {
			all[m[1]] = true
		}
	}
	return all
}

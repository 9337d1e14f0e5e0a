package arch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every promise of docs/security.md names tests, and each of them exists in the package
// that is named with it.
func TestPromisesOfSecurityHaveTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	have, promises := map[string]map[string]bool{}, 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 4 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[2]) == "test" {
			continue
		}
		promises++
		named := 0
		for group := range strings.SplitSeq(cells[2], ";") {
			in, tests, ok := strings.Cut(strings.TrimSpace(group), ": ")
			if !ok || !packageOf.MatchString(in) {
				t.Errorf("docs/security.md: %q does not say in which package", strings.TrimSpace(group))
				continue
			}
			for _, m := range namedTest.FindAllStringSubmatch(tests, -1) {
				named++
				if have[in] == nil {
					have[in] = testsIn(t, in)
				}
				if !have[in][m[1]] {
					t.Errorf("docs/security.md names %s of %s, which is not there", m[1], in)
				}
			}
		}
		if named == 0 {
			t.Errorf("docs/security.md: no test holds: %s", strings.TrimSpace(cells[1]))
		}
	}
	if promises < 25 {
		t.Errorf("%d promises are found: the page is no longer written as it was", promises)
	}
}

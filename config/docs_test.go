package config

import (
	"os"
	"strings"
	"testing"
)

// TestEveryKeyIsInTheReference: the page in docs names every key, as it is written.
func TestEveryKeyIsInTheReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for i, word := range strings.Split(string(text), "`") {
		if i%2 == 1 { // between backticks
			for name := range strings.FieldsFuncSeq(word, func(c rune) bool { return c != '_' && (c < 'a' || c > 'z') }) {
				told[name] = true
			}
		}
	}
	for _, k := range walk() {
		if !told[k.key.name] {
			t.Errorf("docs/configuration.md does not name %s", k.name)
		}
	}
}

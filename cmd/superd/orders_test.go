package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"superd/release/check"
)

// Why a command failed is what it wrote.
func TestResultHasLines(t *testing.T) {
	err := check.Run(t.Context(), check.Process{Argv: []string{"/bin/sh", "-c", "echo nginx: bad config >&2; exit 1"}})
	if r := resultOf("web", "running", errors.Join(nil, fmt.Errorf("reload: %w", err))); r.OK || r.Message == "" || !slices.Equal(r.Lines, []string{"nginx: bad config"}) {
		t.Errorf("%+v", r)
	}
	if r := resultOf("web", "running", nil); !r.OK || r.Message != "" || r.Lines != nil {
		t.Errorf("%+v", r)
	}
}

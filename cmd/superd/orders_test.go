package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"superd/control"
	"superd/release"
	"superd/release/check"
	"superd/supervisor"
	"superd/supervisor/program"
	"superd/workers"
)

// An order that is not carried out is no fault of superd's own.
func TestKindOfResult(t *testing.T) {
	failed := check.Run(t.Context(), check.Process{Argv: []string{"/bin/false"}})
	for want, all := range map[control.Kind][]error{
		control.NotFound:    {fmt.Errorf("web: %w", program.ErrUnknown)},
		control.Rejected:    {program.ErrImpossible, &control.Error{Kind: control.Rejected}},
		control.Conflict:    {errors.Join(nil, program.ErrOverruled), fmt.Errorf("signal: %w", supervisor.ErrNotRunning), release.ErrBusy},
		control.Degraded:    {errors.Join(nil, program.ErrNotUp), fmt.Errorf("stop: %w", supervisor.ErrUnkillable), failed, &workers.Failure{}, fmt.Errorf("start: %w", workers.NotUp("it dies"))},
		control.Unreachable: {program.ErrStopping},
		control.StillGoing:  {fmt.Errorf("stop: %w", context.Canceled)},
		control.Internal:    {errors.New("what nobody knows")},
	} {
		for _, err := range all {
			if r := resultOf("web", "running", err); r.Kind != want {
				t.Errorf("%v is %q, want %q", err, r.Kind, want)
			}
		}
	}
}

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

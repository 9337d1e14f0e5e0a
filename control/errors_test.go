package control

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"superd/release"
)

// The table is the contract with deploy scripts. It is written down here once more,
// so that a change of the code alone is noticed.
func TestCodes(t *testing.T) {
	for kind, want := range map[Kind][2]int{
		Internal: {500, 1}, Usage: {400, 2}, WrongMethod: {405, 2}, RolledBack: {502, 3}, Degraded: {500, 4},
		Rejected: {422, 5}, Conflict: {409, 6}, StillGoing: {202, 7}, Unreachable: {503, 8}, Denied: {403, 9},
		NotFound: {404, 10}, Overloaded: {503, 1}, Kind("of a newer superd"): {500, 1},
	} {
		if got := [2]int{kind.Status(), kind.Exit()}; got != want {
			t.Errorf("%s is status and exit code %v, want %v", kind, got, want)
		}
	}
}

func TestExitOf(t *testing.T) {
	for verdict, want := range map[release.Verdict]int{
		release.Live: 0, release.RolledBack: 3, release.Degraded: 4, release.Rejected: 5, release.Conflict: 6, "": 1,
	} {
		if got := ExitOf(release.Record{Verdict: verdict}); got != want {
			t.Errorf("after %q superctl exits %d, want %d", verdict, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	refused := func(kind error) error { return fmt.Errorf("switch: %w", &release.Refusal{Kind: kind, Why: "why"}) }
	for _, tt := range []struct {
		err  error
		want Kind
	}{
		{fmt.Errorf("x: %w", &Error{Kind: Denied}), Denied},
		{&release.Failure{Verdict: release.Degraded, Cause: release.ErrLinkMoved}, Degraded},
		{&release.Failure{Verdict: release.RolledBack, Cause: errors.New("x")}, RolledBack},
		{refused(release.ErrBusy), Conflict},
		{refused(release.ErrHeld), Conflict},
		{refused(release.ErrTooLate), Conflict},
		{refused(release.ErrLinkMoved), Conflict},
		{refused(release.ErrNothing), NotFound},
		{refused(release.ErrRejected), Rejected},
		{refused(release.ErrNotLink), Rejected},
		{refused(release.ErrStopping), Unreachable},
		{&release.Refusal{Kind: release.ErrBusy, Cause: context.DeadlineExceeded}, Conflict},
		{context.Canceled, StillGoing},
		{context.DeadlineExceeded, StillGoing},
		{errors.New("x"), Internal},
	} {
		if got := KindOf(tt.err); got != tt.want {
			t.Errorf("%v is %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestErrorsKeepTheirHint(t *testing.T) {
	e := asError(fmt.Errorf("switch: %w", &release.Refusal{Kind: release.ErrBusy, Why: "busy", Hint: "wait"}))
	if e.Hint != "wait" || e.Message != "switch: busy" {
		t.Errorf("got %+v", e)
	}
	e = asError(fmt.Errorf("find app: %w", &Error{Kind: NotFound, Message: "there is no app x", Hint: "look"}))
	if e.Hint != "look" || e.Message != "find app: there is no app x" || e.Kind != NotFound {
		t.Errorf("got %+v", e)
	}
}

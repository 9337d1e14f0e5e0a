package control

import (
	"context"
	"errors"
	"net/http"

	"superd/release"
)

// A Kind says what sort of error it is, to a program. There are few, and codes is
// the one place where each gets its HTTP status and its exit code.
type Kind string

// The kinds.
const (
	Internal    Kind = "internal"
	Usage       Kind = "usage"
	WrongMethod Kind = "wrong_method"
	RolledBack  Kind = "rolled_back" // failed, the site is fine
	Degraded    Kind = "degraded"    // failed, and something is not as it should be
	Rejected    Kind = "rejected"    // nothing was changed
	Conflict    Kind = "conflict"
	StillGoing  Kind = "still_going" // nobody waits for it any longer
	Unreachable Kind = "unreachable" // superd is not there, or about to go
	Denied      Kind = "denied"
	NotFound    Kind = "not_found"
	Overloaded  Kind = "overloaded" // too many at once
)

// codes are the HTTP status and the exit code of superctl for a kind.
func (k Kind) codes() (status, exit int) {
	switch k {
	case Usage:
		return http.StatusBadRequest, 2
	case WrongMethod:
		return http.StatusMethodNotAllowed, 2
	case RolledBack:
		return http.StatusBadGateway, 3
	case Degraded:
		return http.StatusInternalServerError, 4
	case Rejected:
		return http.StatusUnprocessableEntity, 5
	case Conflict:
		return http.StatusConflict, 6
	case StillGoing:
		return http.StatusAccepted, 7
	case Unreachable:
		return http.StatusServiceUnavailable, 8
	case Denied:
		return http.StatusForbidden, 9
	case NotFound:
		return http.StatusNotFound, 10
	case Overloaded:
		return http.StatusServiceUnavailable, 1
	case Internal:
		return http.StatusInternalServerError, 1
	}
	return http.StatusInternalServerError, 1 // of a superd that is newer than this client
}

// Status is the HTTP status of an answer of that kind.
func (k Kind) Status() int { status, _ := k.codes(); return status }

// Exit is what superctl exits with.
func (k Kind) Exit() int { _, exit := k.codes(); return exit }

// An Error is what a client gets instead of an answer.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do next

	allow string // with WrongMethod: the methods that are not wrong
}

// Error is the message, without the hint.
func (e *Error) Error() string { return e.Message }

// ErrorAnswer is how an Error is written.
type ErrorAnswer struct {
	Error Error `json:"error"`
}

// KindOf finds out what kind an error is of, that of the first *Error in it if
// there is one.
func KindOf(err error) Kind {
	var known *Error
	var failure *release.Failure
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.As(err, &failure):
		return kindOf(failure.Verdict)
	}
	return kindOfCause(err)
}

// kindOfCause tells the errors of package release apart. What is more certain comes
// first: an error may wrap several.
func kindOfCause(err error) Kind {
	switch {
	case errors.Is(err, release.ErrStopping):
		return Unreachable
	case errors.Is(err, release.ErrBusy), errors.Is(err, release.ErrHeld), errors.Is(err, release.ErrTooLate),
		errors.Is(err, release.ErrLinkMoved):
		return Conflict
	case errors.Is(err, release.ErrNothing):
		return NotFound
	case errors.Is(err, release.ErrRejected), errors.Is(err, release.ErrNotLink):
		return Rejected
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return StillGoing
	}
	return Internal
}

// asError is err as it is answered, with whatever was said around the *Error in it.
func asError(err error) *Error {
	answer := &Error{Kind: KindOf(err), Message: err.Error()}
	var known *Error
	var refused *release.Refusal
	switch {
	case errors.As(err, &known):
		answer.Hint, answer.allow = known.Hint, known.allow
	case errors.As(err, &refused):
		answer.Hint = refused.Hint
	}
	return answer
}

// ExitOf is what superctl exits with after a switch that ended so.
func ExitOf(r release.Record) int {
	if r.Verdict == release.Live {
		return 0
	}
	return kindOf(r.Verdict).Exit()
}

// kindOf is what kind of error a verdict other than Live is.
func kindOf(v release.Verdict) Kind {
	switch v {
	case release.RolledBack:
		return RolledBack
	case release.Degraded:
		return Degraded
	case release.Rejected:
		return Rejected
	case release.Conflict:
		return Conflict
	case release.Live:
	}
	return Internal
}

package release

import "errors"

// What a caller branches on when nothing was begun. The error itself is a Refusal.
var (
	// ErrBusy means that another switch is going on, or superd is still settling.
	ErrBusy = errors.New("another switch is going on")
	// ErrHeld means that a person wants the app to stay as it is.
	ErrHeld = errors.New("the app is held")
	// ErrAlreadyLive means that there is nothing to do. Not a failure.
	ErrAlreadyLive = errors.New("already live")
	// ErrRejected means that the release cannot be switched to; nothing was touched.
	ErrRejected = errors.New("rejected")
	// ErrNothing means that there is nothing to abort, to resume, to wait for, or to go back to.
	ErrNothing = errors.New("there is nothing of that kind")
	// ErrTooLate means that the switch is past the point of no return.
	ErrTooLate = errors.New("too late to abort")
)

// A Refusal is why something that was asked for was not begun. It wraps one of the
// errors above, or ErrLinkMoved or ErrStopping, and the reason if that is an error.
type Refusal struct {
	Kind  error  // what callers branch on
	Why   string // for people, whole
	Hint  string // what to do next; may be empty
	Cause error  // may be nil
}

// Error is the reason, for people.
func (r *Refusal) Error() string { return r.Why }

// Unwrap gives the kind, and the cause if there is one.
func (r *Refusal) Unwrap() []error {
	if r.Cause == nil {
		return []error{r.Kind}
	}
	return []error{r.Kind, r.Cause}
}

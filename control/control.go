// Package control is the socket on which people and programs talk to superd:
// HTTP/1.1 and JSON over a unix socket, so that a deploy script needs nothing but
// curl. It knows who calls from the kernel, says what everyone may do in one table
// of routes, and keeps the events that followers read.
//
// The invariant: nobody who can reach the socket can hold anything up. Whatever a
// client sends, or does not read, costs it its own connection and no one else's.
package control

import (
	"context"

	"superd/release"
)

// A Daemon is what superd does for those who ask. The server has checked who asks
// and what; names of apps and processes it passes on as they came. Errors are
// *Error, or wrap one of package release's: see KindOf.
type Daemon interface {
	// Status is everything that there is to see. Problems of an app are in its own
	// AppStatus and, like those of superd itself, in Status.Problems.
	Status(ctx context.Context) (Status, error)

	Releases(ctx context.Context, app string) ([]ReleaseInfo, error)
	// History is the finished switches, oldest first.
	History(ctx context.Context, app string) ([]release.Record, error)
	// Outcome returns how the switch ended, once it has.
	Outcome(ctx context.Context, app, id string) (release.Record, error)

	// Switch returns as soon as the switch is accepted, before it begins. With an
	// error nothing was touched. It tells of the switch in events that carry its id,
	// the last of kind EventSwitchEnded.
	Switch(ctx context.Context, app string, r SwitchRequest, by release.By) (release.Record, error)
	// Rollback is Switch to the release before, or to the one that is named.
	Rollback(ctx context.Context, app string, r RollbackRequest, by release.By) (release.Record, error)
	// DryRun tells whether Switch would be accepted now, which release it would be to
	// (also with ErrAlreadyLive), and what would stop it.
	DryRun(ctx context.Context, app string, r SwitchRequest) (release.Generation, error)
	Abort(ctx context.Context, app string, by release.By) error
	Hold(ctx context.Context, app, reason string, by release.By) error
	Resume(ctx context.Context, app string, by release.By) error

	// Meaning is what a name or a pattern means, as patterns for Match: itself, the members
	// of a group, or nothing. What it means may have no process.
	Meaning(name string) []string
	// Process does one thing to every process that the order's name matches, and
	// returns when it is done, or known not to be, for each of them. A name that
	// matches nothing is an error of kind NotFound.
	Process(ctx context.Context, o ProcessOrder, by release.By) ([]ProcessResult, error)
	// Logs calls emit with the last lines of what the name matches and, with Follow,
	// with every line to come until ctx ends. An error of emit ends it; emit may take
	// its time, and nothing else may wait for it.
	Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error

	// Upgrade replaces superd, or the keeper, by the program that is on disk now, with
	// nothing of what runs touched. It returns when the successor is ready, and superd
	// then leaves; with an error nothing has changed.
	Upgrade(ctx context.Context, r UpgradeRequest, by release.By) (UpgradeAnswer, error)
	// ClearLog empties the logs of what the name matches, on disk and in memory.
	ClearLog(ctx context.Context, name string, by release.By) ([]ProcessResult, error)
	// Attach calls emit with the bytes that one process writes from now on, as they
	// come, until ctx ends or emit has an error. It returns when nothing is to come.
	Attach(ctx context.Context, name string, emit func([]byte) error) error
	// Input gives text to the standard input of one process. A name that means none,
	// or several, is an error, and so is a process that reads nothing.
	Input(ctx context.Context, name, text string, by release.By) error
	// Reload reads the configuration and makes it hold, or with plan only tells what
	// that would change. A configuration with a problem is an error of kind Rejected
	// whose message has them all, and an app in the middle of a switch one of kind
	// Conflict: then nothing was changed. It returns when what is live holds and the
	// rest has begun.
	Reload(ctx context.Context, plan bool, by release.By) (Reload, error)

	// Shutdown begins the end of superd and of all it runs, and returns.
	Shutdown(ctx context.Context, by release.By) error
}

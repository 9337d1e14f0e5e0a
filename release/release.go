// Package release moves one app from the release that is live to another one
// and back. It imports nothing of ours: what a switch needs of PHP-FPM, of the
// queue workers and of the disk it says in small interfaces, and others comply.
//
// The invariant: when a switch ends, either the new generation serves alone or
// the old one does, and the journal on disk says which, whatever died on the way.
package release

import (
	"context"
	"fmt"
)

// A Generation is one deployment of a release. The same release can be deployed
// more than once (there and back again, or switch --restart); each deployment has
// a number of its own, counted from 1 per app and never used twice. The zero
// Generation means "nothing is deployed".
type Generation struct {
	Number  uint64 `json:"generation"`
	Release string `json:"release"` // the name below releases/, as people type it
	Dir     string `json:"dir"`     // its real path, no link in it
}

// IsZero reports whether nothing is deployed.
func (g Generation) IsZero() bool { return g.Number == 0 }

// String is how messages name a generation: "r42 (generation 7)".
func (g Generation) String() string {
	if g.IsZero() {
		return "nothing"
	}
	return fmt.Sprintf("%s (generation %d)", g.Release, g.Number)
}

// Every verb below means "make it so": it must work whether it never ran, ran
// halfway or ran twice, for an undo is the same verb with the other generation.
// A zero Generation is a valid argument: making nothing serve, or stopping
// nothing, is done at once without an error, except where a method says more.

// Files is the disk of an app: its releases, the link current, its hooks.
type Files interface {
	// Check tells whether to could be switched to, and touches nothing.
	Check(ctx context.Context, from, to Generation) error
	// Prepare checks that to can be switched to before anything is touched: its
	// directory, required files, rights, floors of disk and inodes, `php-fpm -t`,
	// and runs the before hook. An error here means nothing has changed.
	Prepare(ctx context.Context, from, to Generation) error
	// Point moves the link current to g and syncs its directory. It fails with
	// ErrLinkMoved, touching nothing, when the link is neither at g nor at was.
	// With a zero g the link is left as it is.
	// A zero was means that it may be anywhere. A missing link is made.
	Point(ctx context.Context, was, g Generation) error
	// Where is the real directory that the link current points at, or would point
	// at if that still existed; "" when there is no link.
	Where(ctx context.Context) (string, error)
	// Finish runs the after hook and prunes old releases that nothing runs from.
	// Its errors are told, never a reason to go back.
	Finish(ctx context.Context, from, to Generation) error
}

// Web is the PHP-FPM of an app: its generations side by side, one of them serving.
type Web interface {
	// Start brings g up beside whatever serves, on a private listener, and
	// returns when it is ready for requests. Users do not see it yet.
	Start(ctx context.Context, g Generation) error
	// Promote makes every new connection reach g and parks the other one. g must
	// be running (it is started again if its master has died).
	Promote(ctx context.Context, g Generation) error
	// Share makes a part, above 0 and below 1, of the new connections reach g, which
	// was started, and the others what serves; until either is promoted, or superd
	// ends. With ErrNoOther nothing serves that could have the others.
	Share(ctx context.Context, g Generation, part float64) error
	// Retire takes g out of use for good: no error means that it drains in the
	// background until it is idle or its drain timeout is over, and then ends; it
	// does so also across a restart of superd. It refuses, with an error, the generation
	// that is serving: nothing may take the site down, least of all a rollback
	// that is itself going wrong. A generation that is not running is no error.
	Retire(ctx context.Context, g Generation) error
}

// Workers is the queue workers of an app.
type Workers interface {
	// Canary starts the canary workers of g beside the others and waits until
	// they have proved themselves. Pools without a canary are left alone.
	Canary(ctx context.Context, g Generation) error
	// Rotate makes every pool run on g, in batches. It returns when each pool
	// has its full number of proven workers of g and every other worker has been
	// told to go; it does not wait for long jobs to end.
	Rotate(ctx context.Context, g Generation) error
	// Remove stops the workers of g that are left (an undone canary), without
	// touching others. It refuses, with an error, while a pool runs on g: what is
	// left there may be all the workers that there are.
	Remove(ctx context.Context, g Generation) error
}

// Checks are an app's own checks of a candidate, through its private socket.
type Checks interface {
	// Verify runs the checks of phase "verify" and the warm-up against g.
	Verify(ctx context.Context, g Generation) error
}

// Traffic watches live traffic.
type Traffic interface {
	// Watch returns nil when g has been well for the configured time, and the
	// reason as soon as it is not.
	Watch(ctx context.Context, g Generation) error
	// Canary is Watch for a g that gets a part of the traffic beside the other
	// generation. What has been answered so far comes with an error too.
	Canary(ctx context.Context, g Generation) (Sharing, error)
	// Weigh is that what went wrong with g is inconclusive (ErrInconclusive), for the
	// other generation is not well by now either; nil when it says nothing.
	Weigh(ctx context.Context, g Generation, failure error) error
}

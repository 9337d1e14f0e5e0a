package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// A Phase is where a switch stands. Phases are written to the journal and sent to
// clients: add new ones, never rename or reuse one.
type Phase string

// The phases in the order in which a switch goes through them.
const (
	Preparing   Phase = "preparing"
	Starting    Phase = "starting"
	Verifying   Phase = "verifying"
	Canary      Phase = "canary" // only with a share: see Record.Sharing
	Promoting   Phase = "promoting"
	Rotating    Phase = "rotating"
	Watching    Phase = "watching"
	Committing  Phase = "committing"   // from here only forward
	RollingBack Phase = "rolling-back" // instead of Committing
	Ended       Phase = "ended"
)

// A Verdict is how a switch ended. Clients see it: never rename one.
type Verdict string

// The verdicts, each with an exit code of its own.
const (
	Live       Verdict = "live"        // the new generation serves alone
	Rejected   Verdict = "rejected"    // nothing was touched
	RolledBack Verdict = "rolled-back" // the old generation serves alone
	Degraded   Verdict = "degraded"    // going back failed too; something serves
	Conflict   Verdict = "conflict"    // the link belongs to someone else now; the old generation serves
)

// A Kind is what was asked for.
type Kind string

// The kinds of a switch.
const (
	KindSwitch   Kind = "switch"
	KindRollback Kind = "rollback"
)

var (
	// ErrLinkMoved means that the link current points where neither side of the switch put it.
	ErrLinkMoved = errors.New("the link was moved by someone else")
	// ErrNotLink means that something that is not a link has the name of the link current.
	ErrNotLink = errors.New("is not a symbolic link, and is left alone")
	// ErrAborted is in the cause of a switch that a human took back.
	ErrAborted = errors.New("aborted")
	// ErrInterrupted means that superd ended in the middle of the switch.
	ErrInterrupted = errors.New("superd ended in the middle of the switch")
	// ErrInconclusive is for checks: the old generation fails them too, so that the
	// release is not to blame. A live release is not taken back for it.
	ErrInconclusive = errors.New("inconclusive")
	// ErrStopping is the cause that lays a switch down for the next superd: nothing
	// is undone, Resume settles it.
	ErrStopping = errors.New("superd is stopping: the switch is laid down for its successor")

	// ErrNoOther means that nothing serves that users could share with a candidate.
	ErrNoOther = errors.New("nothing serves")

	errJournal = errors.New("write journal")
)

// By is who asked.
type By struct {
	UID  uint32 `json:"uid"`
	User string `json:"user,omitempty"`
	PID  int    `json:"pid,omitempty"` // 0: superd itself, for a link that moved
}

// String is how messages name a person: "deploy (pid 4711)".
func (b By) String() string {
	switch {
	case b.User == "" && b.PID == 0:
		return "superd"
	case b.PID == 0:
		return b.User
	}
	return fmt.Sprintf("%s (pid %d)", b.User, b.PID)
}

// A Record is all that the journal knows of a switch. It is whole in every entry,
// so that the last one is enough to settle it.
type Record struct {
	ID   string     `json:"id"`
	Kind Kind       `json:"kind"`
	From Generation `json:"from"`
	To   Generation `json:"to"`
	By   By         `json:"by"`

	Watched    bool `json:"watched,omitempty"`     // the link had been moved to To already
	AllowBad   bool `json:"allow_bad,omitempty"`   // asked for in spite of a bad mark
	Restart    bool `json:"restart,omitempty"`     // asked for although it was live
	NoRollback bool `json:"no_rollback,omitempty"` // once To is live only a human takes it back

	Sharing *Sharing `json:"sharing,omitempty"` // nil: users are moved all at once

	Phase   Phase      `json:"phase"`
	Reached Phase      `json:"reached,omitempty"` // the furthest step that may have begun
	Cause   string     `json:"cause,omitempty"`   // why it goes back
	Lines   []string   `json:"lines,omitempty"`   // the last lines of the process to blame
	Waits   string     `json:"waits,omitempty"`   // paused: what a person is to decide about
	Moved   bool       `json:"moved,omitempty"`   // goes back because of ErrLinkMoved
	Blame   bool       `json:"blame,omitempty"`   // the release is to blame: mark it bad
	Verdict Verdict    `json:"verdict,omitempty"` // with Ended
	Live    Generation `json:"live"`              // with Ended: what serves now
	Started time.Time  `json:"started"`
	Ended   time.Time  `json:"ended,omitzero"`
	BootID  string     `json:"boot_id,omitempty"`
	Resumed int        `json:"resumed,omitempty"` // how often a new superd took it up again
	Seq     uint64     `json:"seq,omitempty"`     // filled by the journal
}

// Sharing is the part of the new connections that To gets before it is promoted, and
// what came of it: what was answered while it got them. It is never changed in place.
type Sharing struct {
	Share    float64 `json:"share"`              // asked for, above 0 and below 1
	Measured float64 `json:"measured,omitempty"` // of the answers, from 0 to 1
	Requests uint64  `json:"requests,omitempty"` // to To
	Failed   uint64  `json:"failed,omitempty"`   // of these
	Others   uint64  `json:"others,omitempty"`   // requests to From meanwhile
}

// String is how messages tell of it: "10.2 % of 1204 requests, 3 of them failed".
func (s Sharing) String() string {
	return fmt.Sprintf("%.1f %% of %d requests, %d of them failed", s.Measured*100, s.Requests+s.Others, s.Failed)
}

// why is what made a switch begin, where nobody asked for it.
func (r Record) why() string {
	if r.Watched {
		return "the link leads to it"
	}
	return ""
}

// An Explained error carries the last lines that the failing process wrote.
type Explained interface {
	error
	LastLines() []string
}

// A Failure is why a switch did not end live. Undo is what went wrong on the way
// back, nil when all of it was undone.
type Failure struct {
	Phase   Phase
	Cause   error
	Undo    error
	Verdict Verdict
}

// Error names the phase, the cause and where that leaves the site.
func (f *Failure) Error() string {
	text := fmt.Sprintf("%s: %v; %s", f.Phase, f.Cause, f.Verdict)
	if f.Undo != nil {
		text += fmt.Sprintf(": %v", f.Undo)
	}
	return text
}

// Unwrap gives both the cause and what went wrong on the way back.
func (f *Failure) Unwrap() []error { return []error{f.Cause, f.Undo} }

// An Event is one thing that happened to a switch, for those who follow.
type Event struct {
	Kind    string        `json:"kind"` // switch.begun, .phase, .progress, .paused, .resumed, .aborting, .note, .ended; app.note, .held, .resumed
	Switch  string        `json:"switch,omitempty"`
	At      time.Time     `json:"at"`
	Phase   Phase         `json:"phase,omitempty"`
	From    Generation    `json:"from,omitzero"`
	To      Generation    `json:"to,omitzero"`
	Verdict Verdict       `json:"verdict,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Lines   []string      `json:"lines,omitempty"`
	Took    time.Duration `json:"took,omitempty"` // with switch.ended: since it began
	By      By            `json:"by,omitzero"`    // who asked, where someone did
}

// attributes are what the log says of an event.
func (e Event) attributes() []any {
	var all []any
	for _, a := range []struct{ key, value string }{
		{"event", e.Kind}, {"switch", e.Switch}, {"phase", string(e.Phase)}, {"from", e.From.Release}, {"to", e.To.Release},
		{"verdict", string(e.Verdict)}, {"reason", e.Reason},
	} {
		if a.value != "" {
			all = append(all, slog.String(a.key, a.value))
		}
	}
	if e.By != (By{}) {
		all = append(all, slog.String("by", e.By.String()))
	}
	return all
}

// The journal has room for this much of what went wrong, whatever bytes it is of.
const (
	maxReason = 1000
	maxLine   = 200
	maxLines  = 20
)

// lastLines are the last lines that an error carries, cut to what is kept of them.
func lastLines(err error) []string {
	var explained Explained
	if !errors.As(err, &explained) {
		return nil
	}
	lines := explained.LastLines()
	lines = lines[max(0, len(lines)-maxLines):]
	kept := make([]string, len(lines))
	for i, line := range lines {
		kept[i] = clip(line, maxLine)
	}
	return kept
}

func clip(text string, size int) string {
	if len(text) > size {
		text = text[:size] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

type aboutKey struct{}

// about lets what runs inside a switch know which one it is: see About.
func about(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, aboutKey{}, [2]string{r.ID, string(r.Kind)})
}

// About tells which switch a verb works for, and its kind; "" outside of one.
func About(ctx context.Context) (id string, kind Kind) {
	about, _ := ctx.Value(aboutKey{}).([2]string)
	return about[0], Kind(about[1])
}

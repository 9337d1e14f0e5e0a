package control

import (
	"encoding/json"
	"fmt"
	"time"

	"superd/release"
)

// What is in this file is on the wire: add, never rename. control/openapi.json
// describes it, and a test holds the two together.

// Status is the answer of GET /v1/status.
type Status struct {
	Version  string          `json:"version"`
	PID      int             `json:"pid"`
	Started  time.Time       `json:"started"` // this superd; what it runs may be older
	Time     time.Time       `json:"time"`
	Seq      uint64          `json:"seq"`     // of the last event: follow from here on; filled by the server
	Healthy  bool            `json:"healthy"` // everything is as it should be
	Problems []string        `json:"problems,omitempty"`
	Apps     []AppStatus     `json:"apps,omitempty"`
	Programs []ProcessStatus `json:"programs,omitempty"`
	Unknown  []string        `json:"unknown,omitempty"` // names that were asked for and mean nothing
}

// An AppState is an app in one word.
type AppState string

// The states of an app.
const (
	AppOK        AppState = "ok"
	AppSettling  AppState = "settling"  // superd has just begun and makes what is live so
	AppWaiting   AppState = "waiting"   // there is no release yet
	AppSwitching AppState = "switching" // or rolling back
	AppPaused    AppState = "paused"    // in the middle of a switch, for a human to decide
	AppHeld      AppState = "held"
	AppDegraded  AppState = "degraded"
)

// AppStatus is one app.
type AppStatus struct {
	Name     string              `json:"name"`
	State    AppState            `json:"state"`
	Problems []string            `json:"problems,omitempty"`
	Live     *release.Generation `json:"live,omitempty"`
	Previous *release.Generation `json:"previous,omitempty"` // what a rollback would go to
	Switch   *SwitchStatus       `json:"switch,omitempty"`
	Hold     *release.Hold       `json:"hold,omitempty"`
	FPM      *FPMStatus          `json:"fpm,omitempty"`
	Pools    []PoolStatus        `json:"pools,omitempty"`
}

// SwitchStatus is the switch that is going on.
type SwitchStatus struct {
	release.Record
	Since  time.Time `json:"since"`            // in the present phase
	Paused string    `json:"paused,omitempty"` // why a human has to decide
}

// FPMStatus is the PHP-FPM of an app.
type FPMStatus struct {
	Name        string             `json:"name"` // "shop/fpm"
	Listen      string             `json:"listen"`
	Generations []GenerationStatus `json:"generations,omitempty"`
	Former      []FormerListen     `json:"former,omitempty"`  // addresses of before, which are still open
	Problem     string             `json:"problem,omitempty"` // as among those of the app
}

// FormerListen is where the web server connected before listen was changed. It is
// served, by masters of its own, until nobody has come for a quarter of an hour.
type FormerListen struct {
	Listen string    `json:"listen"`
	Used   time.Time `json:"used"` // nobody has come since
}

// GenerationStatus is one master of PHP-FPM and its children.
type GenerationStatus struct {
	release.Generation
	State    string    `json:"state"`            // starting, live, parked, draining …
	Reason   string    `json:"reason,omitempty"` // why its next master could not be started
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Restarts int       `json:"restarts,omitempty"`
	Active   int       `json:"active"` // children with a request
	Idle     int       `json:"idle"`
	Queue    int       `json:"queue"` // connections that wait for a child
	Consumption

	Traffic *TrafficStatus `json:"traffic,omitempty"` // absent: nobody has asked it anything yet
}

// TrafficStatus is how users of a generation fared: in its last five minutes that had
// any, and in all.
type TrafficStatus struct {
	Requests   uint64  `json:"requests"`
	Failed     uint64  `json:"failed"`      // status 500 and more, or the child was ended by a signal
	ErrorShare float64 `json:"error_share"` // from 0 to 1
	P50        float64 `json:"p50"`         // seconds within which half of them were answered
	P95        float64 `json:"p95"`         // and all but a twentieth

	Total TrafficTotal `json:"total"`
}

// TrafficTotal is counted since the generation has been there.
type TrafficTotal struct {
	Requests uint64             `json:"requests"`
	Failed   uint64             `json:"failed"`
	Seconds  float64            `json:"seconds"` // that all answers took together
	Times    map[float64]uint64 `json:"-"`       // answers within so many seconds: for the metrics only
}

// PoolStatus is one pool of workers.
type PoolStatus struct {
	Name     string          `json:"name"` // "shop/emails"
	Wanted   int             `json:"wanted"`
	Running  int             `json:"running"`  // proven, of the live release
	Draining int             `json:"draining"` // told to go, with a job in hand
	Workers  []ProcessStatus `json:"workers,omitempty"`
	Problem  string          `json:"problem,omitempty"` // as among those of the app
}

// ProcessStatus is one worker or one program.
type ProcessStatus struct {
	Name       string    `json:"name"` // "shop/emails:3"
	App        string    `json:"app,omitempty"`
	Pool       string    `json:"pool,omitempty"`
	Program    string    `json:"program,omitempty"`
	State      string    `json:"state"`
	Reason     string    `json:"reason,omitempty"` // why it waits, is between two lives, or was given up
	PID        int       `json:"pid,omitempty"`
	Release    string    `json:"release,omitempty"`
	Generation uint64    `json:"generation,omitempty"`
	Stale      bool      `json:"stale,omitempty"` // runs another release than the live one
	Since      time.Time `json:"since,omitzero"`
	Restarts   int       `json:"restarts,omitempty"`
	Last       string    `json:"last,omitempty"`        // how the life before ended
	StatusText string    `json:"status_text,omitempty"` // what it says of itself by STATUS=
	Reloading  bool      `json:"reloading,omitempty"`   // it has said that it reads its configuration anew
	NextRun    time.Time `json:"next_run,omitzero"`     // of a program with a schedule
	Problem    string    `json:"problem,omitempty"`     // of a program, as among those of all
	Consumption
}

// Consumption is what a process and all below it take, measured when the status was asked for.
type Consumption struct {
	Memory     uint64  `json:"memory,omitempty"`      // bytes
	CPU        float64 `json:"cpu,omitempty"`         // percent of one processor, over its life
	CPUSeconds float64 `json:"cpu_seconds,omitempty"` // of processors, until now
}

// Health is the answer of GET /v1/health: 200 when healthy, else 503.
type Health struct {
	Healthy  bool     `json:"healthy"`
	Problems []string `json:"problems,omitempty"`
}

// ReleaseInfo is one directory of releases, or one that was there.
type ReleaseInfo struct {
	Name     string        `json:"name"`
	Dir      string        `json:"dir"`
	State    string        `json:"state,omitempty"` // live, previous, parked, bad; "" is none of them
	Bad      *release.Mark `json:"bad,omitempty"`
	InUse    []string      `json:"in_use,omitempty"` // names of processes that run from it
	Modified time.Time     `json:"modified,omitzero"`
}

// HistoryEntry is one finished switch.
type HistoryEntry struct {
	release.Record
	Exit int `json:"exit"` // what superctl exited with, or would have
}

// SwitchRequest is the body of POST /v1/apps/{app}/switch.
type SwitchRequest struct {
	Release  string   `json:"release,omitempty"`   // a name, a path, "latest" or "previous"; with Adopt it may be left out
	Adopt    bool     `json:"adopt,omitempty"`     // the link leads to it already: begin that switch, or join it
	Wait     bool     `json:"wait,omitempty"`      // answer with the events of the switch, to its end
	LockWait Duration `json:"lock_wait,omitempty"` // for a switch that is going on to end
	Restart  bool     `json:"restart,omitempty"`   // even if it is live already
	AllowBad bool     `json:"allow_bad,omitempty"` // even if it is marked bad
	DryRun   bool     `json:"dry_run,omitempty"`   // tell only whether it would be accepted
}

// RollbackRequest is the body of POST /v1/apps/{app}/rollback.
type RollbackRequest struct {
	Release  string   `json:"release,omitempty"` // "": the one before
	Wait     bool     `json:"wait,omitempty"`
	LockWait Duration `json:"lock_wait,omitempty"`
	AllowBad bool     `json:"allow_bad,omitempty"`
}

// SwitchAnswer is the answer to both when they do not wait.
type SwitchAnswer struct {
	Switch      string `json:"switch,omitempty"` // its id; "" when there is nothing to do
	Release     string `json:"release"`
	AlreadyLive bool   `json:"already_live,omitempty"`
	TakenBack   bool   `json:"taken_back,omitempty"` // a rollback: it is the running switch that is taken back
	Seq         uint64 `json:"seq"`                  // its events come after this one
	Message     string `json:"message"`
}

// HoldRequest is the body of POST /v1/apps/{app}/hold.
type HoldRequest struct {
	Reason string `json:"reason,omitempty"`
}

// SignalRequest is the body of POST /v1/processes/{name}/signal.
type SignalRequest struct {
	Signal string `json:"signal"` // "HUP", "SIGHUP"
}

// ScaleRequest is the body of POST /v1/processes/{name}/scale.
type ScaleRequest struct {
	Processes *int `json:"processes"`
}

// StopRequest is the body of POST /v1/processes/{name}/stop.
type StopRequest struct {
	Now bool `json:"now,omitempty"` // do not wait for the job in hand
}

// Done is the answer to a change that has nothing else to say.
type Done struct {
	Message string `json:"message"`
}

// A Verb is what can be done to processes.
type Verb string

// The verbs.
const (
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"
	VerbRestart Verb = "restart"
	VerbReload  Verb = "reload" // of its own configuration; programs only
	VerbSignal  Verb = "signal"
	VerbScale   Verb = "scale"
)

// A ProcessOrder is one verb for what a name or pattern matches: see Match.
type ProcessOrder struct {
	Verb      Verb
	Name      string
	Now       bool   // with VerbStop
	Signal    string // with VerbSignal, without "SIG" and in capitals
	Processes int    // with VerbScale
}

// ProcessResult is what came of an order for one process or pool.
type ProcessResult struct {
	Name    string   `json:"name"`
	State   string   `json:"state"`
	OK      bool     `json:"ok"`
	Kind    Kind     `json:"kind,omitempty"`    // when it is not OK: what sort of error that is
	Message string   `json:"message,omitempty"` // why not, or that there was nothing to do
	Lines   []string `json:"lines,omitempty"`   // the last ones of the process to blame
}

// LogQuery asks for what processes wrote.
type LogQuery struct {
	Name   string
	More   []string // names beside it; the server fills it where one name means several
	Lines  int      // of the past, for each process
	Follow bool     // and what is to come
	Stream string   // stdout, stderr or "" for both

	// Since and Until are when the lines were written; zero: no limit. With Follow
	// there is no Until.
	Since, Until time.Time

	Mark bool // with Follow: a line with CaughtUp is between the past of each process and what comes
}

// LogLine is one line that a process wrote.
type LogLine struct {
	Process string `json:"process"`
	Stream  string `json:"stream,omitempty"` // where they are told apart
	Line    string `json:"line"`

	At     time.Time `json:"at,omitzero"`      // when it was written, as far as that is known
	Missed int       `json:"missed,omitempty"` // no line: so many are missing here, they came faster than they were read
	Note   string    `json:"note,omitempty"`   // no line: what is to be known of the others

	// CaughtUp is no line: the past of the process is told, what follows is new.
	CaughtUp bool `json:"caught_up,omitempty"`
}

// Kinds of events that clients act on. The others are for people.
const (
	EventSwitchEnded = "switch.ended"
	EventLagged      = "lagged" // events are missing here, and no matter when they come again
)

// An Event is one thing that happened.
type Event struct {
	Seq     uint64             `json:"seq"` // rises by one or more, also when superd begins anew
	At      time.Time          `json:"at"`
	Kind    string             `json:"kind"` // "switch.phase", "worker.killed" …
	App     string             `json:"app,omitempty"`
	Switch  string             `json:"switch,omitempty"`
	Phase   release.Phase      `json:"phase,omitempty"`
	From    release.Generation `json:"from,omitzero"`
	To      release.Generation `json:"to,omitzero"`
	Verdict release.Verdict    `json:"verdict,omitempty"`
	Exit    *int               `json:"exit,omitempty"` // with switch.ended: the exit code of superctl
	Reason  string             `json:"reason,omitempty"`
	Lines   []string           `json:"lines,omitempty"` // the last ones of the process to blame
	Took    float64            `json:"took,omitempty"`  // seconds
	Process string             `json:"process,omitempty"`
	Pool    string             `json:"pool,omitempty"`
	Release string             `json:"release,omitempty"` // that the process runs, or ran
	Number  uint64             `json:"generation,omitempty"`
	Slot    *int               `json:"slot,omitempty"`
	PID     int                `json:"pid,omitempty"`   // of the process
	State   string             `json:"state,omitempty"` // of the process
	By      *release.By        `json:"by,omitempty"`    // who asked for it
	Message string             `json:"message,omitempty"`
}

// SwitchEvent is what followers hear of an event of a switch.
func SwitchEvent(app string, e release.Event) Event {
	on := Event{
		At: e.At, Kind: e.Kind, App: app, Switch: e.Switch, Phase: e.Phase, From: e.From, To: e.To,
		Verdict: e.Verdict, Reason: e.Reason, Lines: e.Lines, Took: e.Took.Seconds(),
	}
	if e.By != (release.By{}) {
		on.By = &e.By
	}
	if e.Kind == EventSwitchEnded {
		code := ExitOf(release.Record{Verdict: e.Verdict})
		on.Exit = &code
	}
	return on
}

// A Duration is written as people write it: "15m".
type Duration time.Duration

// MarshalJSON writes it as a string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON takes a string, and nothing that is below zero.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf(`a duration is a string such as "15m", not %s`, text)
	}
	parsed, err := time.ParseDuration(s)
	if err != nil || parsed < 0 {
		return fmt.Errorf(`%q is not a duration such as "90s" or "15m"`, s)
	}
	*d = Duration(parsed)
	return nil
}

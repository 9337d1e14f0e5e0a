// Package check asks whether a release is well: a candidate before any user meets
// it, and the live one while it is watched. A Verifier and a Watcher are the Checks
// and the Traffic of a release.Switch.
//
// The invariant: no release is blamed for what is not its doing. Before a check
// speaks against a generation, the other one – what serves while g is a candidate,
// what is parked once g is live – is asked the same; if that fails too, the error
// is release.ErrInconclusive. How far a check can tell the two apart depends on its
// kind:
//
//	fastcgi  is put to one generation, through its own socket and by real path
//	command  runs in the directory of one generation
//	http     asks whatever serves: says nothing of a candidate, and of the live
//	         release all that its users see
//	tcp      asks the same address whichever release serves, so it never tells
//	         more than that something both depend on is down
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"syscall"
	"time"

	"superd/fpm/traffic"
	"superd/release"
)

// When a check is made. The names are those of the configuration.
const (
	PhaseVerify = "verify" // of a candidate, before any user
	PhaseLive   = "live"   // of the live release, while it is watched
	PhaseBoth   = "both"
)

// The kinds of checks, as in the configuration.
const (
	KindFastCGI = "fastcgi"
	KindHTTP    = "http"
	KindTCP     = "tcp"
	KindCommand = "command"
)

// A Check is one question and what the answer must be. What is zero of the last
// lines gets its default.
type Check struct {
	Name    string
	Phase   string
	Kind    string
	Path    string            // fastcgi: the request's, with its query
	Script  string            // fastcgi: the front controller, inside the document root
	URL     string            // http; a redirection is an answer, it is not followed
	Address string            // tcp: host:port, or the absolute path of a unix socket
	Command []string          // command: well when it exits 0
	Status  []int             // fastcgi, http: any of these; nil: 200
	Body    *regexp.Regexp    // fastcgi, http: must match; nil: any
	Headers map[string]string // fastcgi, http: of the request

	Interval           time.Duration // 1s: from the end of one try to the next
	Timeout            time.Duration // 5s: of one try
	HealthyThreshold   int           // 1: successes in a row that make a candidate healthy
	UnhealthyThreshold int           // 1: failures in a row that speak against the live release
	Deadline           time.Duration // 60s: for a candidate to become healthy
}

func (c Check) orDefaults() Check {
	c.Script = cmp.Or(c.Script, "index.php")
	c.Path = cmp.Or(c.Path, "/")
	if len(c.Status) == 0 {
		c.Status = []int{200}
	}
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.HealthyThreshold = max(1, c.HealthyThreshold)
	c.UnhealthyThreshold = max(1, c.UnhealthyThreshold)
	c.Deadline = cmp.Or(c.Deadline, time.Minute)
	return c
}

// of are the checks that are made in a phase, defaults filled in.
func of(checks []Check, phase string) []Check {
	var made []Check
	for _, c := range checks {
		if c.Phase == phase || c.Phase == PhaseBoth {
			made = append(made, c.orDefaults())
		}
	}
	return made
}

// A Site is what the checks of one app need to know of it. The functions may be
// called from several goroutines at once; those that may be nil say so.
type Site struct {
	// DocumentRoot is relative to the release: "public".
	DocumentRoot string
	// Alone says that there is one PHP-FPM at a time, handoff = "reload": FastCGI
	// checks and warm-up of a candidate are skipped, and that is told.
	Alone bool
	// Socket is where generation g takes FastCGI requests: the path of a unix
	// socket, or host:port. "": it is not running, which is a failure of whatever
	// is asked of it, for a release may die before its first check.
	Socket func(g release.Generation) string
	// Against is the generation to compare g with: the one that serves while g is
	// a candidate, the parked one once g is live. Zero: none. May be nil.
	Against func(g release.Generation) release.Generation
	// Process turns the command of a check into a process of g: templates
	// expanded, the app's environment and user. May be nil without such checks.
	Process func(g release.Generation, command []string) (Process, error)
	// Tail is what the FPM master of g wrote last. May be nil.
	Tail func(g release.Generation) []string
	// Traffic is what users of g have been answered up to this moment. May be nil.
	Traffic func(g release.Generation) traffic.Figures
	// Tell hears what is worth knowing and no failure: a check that was skipped, a
	// page that could not be warmed up, a first failure. May be nil.
	Tell func(what string, lines []string)
	// Progress is called after every try. May be nil.
	Progress func()
}

// A Process is a command that is ready to be started.
type Process struct {
	Argv       []string // a program without a slash is looked for in the PATH of Env
	Env        []string
	Dir        string              // "": the directory of the release
	Credential *syscall.Credential // nil: superd's own
}

// A prober makes tries and judges them. Tests put their own question in the place
// of ask.
type prober struct {
	Site
	ask func(ctx context.Context, c Check, g release.Generation) error
}

func newProber(s Site) *prober {
	p := &prober{Site: s}
	p.ask = p.real
	return p
}

// try asks once, for no longer than the check's timeout.
func (p *prober) try(ctx context.Context, c Check, g release.Generation) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no answer within %s", c.Timeout))
	defer cancel()
	err := p.ask(ctx, c, g)
	if p.Progress != nil {
		p.Progress()
	}
	return err
}

// real is ask in production.
func (p *prober) real(ctx context.Context, c Check, g release.Generation) error {
	switch c.Kind {
	case KindFastCGI:
		return p.askFastCGI(ctx, c, g)
	case KindHTTP:
		return askHTTP(ctx, c)
	case KindTCP:
		return askTCP(ctx, c)
	case KindCommand:
		return p.runCommand(ctx, c, g)
	}
	return fmt.Errorf("kind of check %q is unknown", c.Kind)
}

// against is what to compare g with; zero when there is none.
func (p *prober) against(g release.Generation) release.Generation {
	if p.Against == nil {
		return release.Generation{}
	}
	other := p.Against(g)
	if other.Number == g.Number {
		return release.Generation{}
	}
	return other
}

// judge is the verdict on a check of kind fastcgi or command that g has failed: the
// failure itself, or inconclusive when the other generation fails it too.
func (p *prober) judge(ctx context.Context, c Check, g release.Generation, failure error) error {
	other := p.against(g)
	if other.IsZero() || c.Kind == KindFastCGI && p.Socket(other) == "" {
		return failure
	}
	if err := p.try(ctx, c, other); err != nil {
		return inconclusive(failure, fmt.Sprintf("%s fails it too: %v", other, err))
	}
	return failure
}

func inconclusive(failure error, why string) error {
	return fmt.Errorf("%w; %w: %s", failure, release.ErrInconclusive, why)
}

func (p *prober) tell(what string, err error) {
	if p.Tell != nil {
		p.Tell(what, linesOf(err))
	}
}

// An explained error carries what the failing process wrote last.
type explained struct {
	error
	lines []string
}

func (e *explained) Unwrap() error { return e.error }

// LastLines makes it a release.Explained.
func (e *explained) LastLines() []string { return e.lines }

func linesOf(err error) []string {
	var e release.Explained
	if !errors.As(err, &e) {
		return nil
	}
	return e.LastLines()
}

// explain names the check in its failure, and adds the last lines of the FPM master
// before those that the failure has.
func (p *prober) explain(c Check, g release.Generation, what string, err error) error {
	lines := linesOf(err)
	if c.Kind == KindFastCGI && p.Tail != nil {
		tail := p.Tail(g)
		lines = slices.Concat(tail[max(0, len(tail)-maxTail):], lines)
	}
	return &explained{fmt.Errorf("check %q %s: %w", c.Name, what, err), lines}
}

// Package doctor looks for what would bite: settings of the web server, of PHP, of
// systemd and of the machine that superd cannot change, and that cost requests or
// jobs in a switch, a stop or an attack.
//
// It only looks. It starts nothing of the application, writes nothing, and needs no
// superd; every look has a time limit, and what it could not look at it tells as a
// hint, because silence would read as "fine".
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"superd/config"
	"superd/control"
)

// Severity is how bad a finding is. It is printed for programs: never rename one.
type Severity string

// Severities, the worst first.
const (
	Problem Severity = "problem" // requests or jobs will be lost, or somebody can do what they must not
	Warning Severity = "warning" // they may be, some day
	Hint    Severity = "hint"    // worth knowing; all is well without it
)

func (s Severity) rank() int { return slices.Index([]Severity{Problem, Warning, Hint}, s) }

// A Finding is one thing that would bite.
type Finding struct {
	ID       string   `json:"id"` // the same for the same kind of thing, in every version
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject,omitempty"` // "shop", "shop/emails", a file and line
	What     string   `json:"what"`
	Why      string   `json:"why"`
	Do       string   `json:"do"` // what to type
}

// A Doctor knows where to look. Its zero value looks at nothing; New looks at this
// machine.
type Doctor struct {
	Run    Runner
	Ask    func(ctx context.Context) (control.Status, error) // the daemon; any error: none answers
	Proc   string                                            // "/proc"
	Cgroup string                                            // "/sys/fs/cgroup"
	Nginx  []string                                          // the command that prints nginx's configuration
	Unit   string                                            // of systemd
	Free   func(path string) (Space, error)
}

// New is a Doctor of this machine. nginxConf is the file that nginx is started with,
// "" for its own default.
func New(ask func(context.Context) (control.Status, error), nginxConf string) *Doctor {
	nginx := []string{"nginx", "-T"}
	if nginxConf != "" {
		nginx = append(nginx, "-c", nginxConf)
	}
	return &Doctor{
		Run: execute, Ask: ask, Proc: "/proc", Cgroup: "/sys/fs/cgroup", Nginx: nginx, Unit: "superd.service", Free: space,
	}
}

// An examination is one round.
type examination struct {
	*Doctor
	cfg    *config.Config
	status *control.Status // nil: no daemon answers
	unit   map[string]string
	found  []Finding
}

// Examine tells everything that it finds, the worst first.
func (d *Doctor) Examine(ctx context.Context, cfg *config.Config) []Finding {
	e := &examination{Doctor: d, cfg: cfg}
	e.daemon(ctx)
	e.systemd(ctx)
	e.nginx(ctx)
	for i := range cfg.Apps {
		app := &cfg.Apps[i]
		e.files(app)
		if app.FPM != nil {
			e.socket(app)
			e.php(ctx, app)
		}
		for w := range app.Workers {
			e.worker(ctx, app, &app.Workers[w])
		}
	}
	e.disk()
	e.descriptors()
	e.cgroup()
	slices.SortStableFunc(e.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.ID, b.ID))
	})
	return slices.Compact(e.found)
}

func (e *examination) tell(f Finding) { e.found = append(e.found, f) }

// unseen tells what could not be looked at.
func (e *examination) unseen(id, subject string, err error, do string) {
	e.tell(Finding{
		ID: "unseen-" + id, Severity: Hint, Subject: subject,
		What: "could not look: " + err.Error(),
		Why:  "What is wrong there, if anything is, is not in this list.",
		Do:   do,
	})
}

// Worst is the worst severity in findings, "" when there are none.
func Worst(findings []Finding) Severity {
	worst := Severity("")
	for _, f := range findings {
		if worst == "" || f.Severity.rank() < worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}

// daemon asks the superd that runs, if one does.
func (e *examination) daemon(ctx context.Context) {
	if e.Ask == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, err := e.Ask(ctx)
	if err != nil {
		if control.KindOf(err) != control.Unreachable {
			e.unseen("superd", e.cfg.Socket, err, "superctl status")
		}
		return
	}
	e.status = &status
	if !status.Healthy {
		e.tell(Finding{
			ID: "superd-unhealthy", Severity: Problem, Subject: "superd",
			What: "superd says that not all is as it should be: " + strings.Join(status.Problems, "; "),
			Why:  "A switch that begins now begins from something broken, and going back leads there.",
			Do:   "superctl status; docs/operating.md says what each state means",
		})
	}
	for _, app := range e.cfg.Apps {
		e.loaded(app)
	}
}

// formers tells of addresses that a web server may still be using.
func (e *examination) formers(app string, fpm *control.FPMStatus) {
	if fpm == nil {
		return
	}
	for _, former := range fpm.Former {
		e.tell(Finding{
			ID: "former-listen", Severity: Hint, Subject: app + "/fpm",
			What: fmt.Sprintf("users still come, or came not long ago, to %s; listen is %s", former.Listen, fpm.Listen),
			Why:  "PHP-FPM runs twice for it, and what is there is closed once nobody has come for 15 minutes.",
			Do:   "have the web server connect to " + fpm.Listen + " and reload it",
		})
	}
}

// loaded compares the file with what runs, where status shows it.
func (e *examination) loaded(app config.App) {
	at := slices.IndexFunc(e.status.Apps, func(a control.AppStatus) bool { return a.Name == app.Name })
	what := ""
	switch {
	case at < 0:
		what = "the superd that runs does not know this app"
	case app.FPM != nil && e.status.Apps[at].FPM != nil && e.status.Apps[at].FPM.Listen != app.FPM.Listen:
		what = fmt.Sprintf("the superd that runs listens on %s, the file says %s", e.status.Apps[at].FPM.Listen, app.FPM.Listen)
	default:
		e.formers(app.Name, e.status.Apps[at].FPM)
		return
	}
	e.tell(Finding{
		ID: "config-not-loaded", Severity: Warning, Subject: app.Name, What: what,
		Why: "The file has changed since superd read it, so what is said here is about the file and not about what runs.",
		Do:  "superd check " + e.cfg.Files[0] + ", then restart superd when it suits",
	})
}

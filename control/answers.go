package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"superd/release"
)

func (q *request) health() error {
	status, err := q.server.daemon.Status(q.http.Context())
	if err != nil {
		return err
	}
	health := Health{Healthy: status.Healthy}
	if q.grant.anywhere().includes(RoleRead) {
		seen := q.grant.see(status)
		health = Health{seen.Healthy, seen.Problems}
	}
	if !health.Healthy {
		return q.answer(http.StatusServiceUnavailable, health)
	}
	return q.answer(http.StatusOK, health)
}

func (q *request) status() error {
	seq := q.server.events.Last() // before, so that nothing is between the two
	status, err := q.server.daemon.Status(q.http.Context())
	if err != nil {
		return err
	}
	status.Seq = seq
	status = q.grant.see(status)
	if names := q.http.URL.Query()["name"]; len(names) > 0 {
		if status, err = q.only(status, names); err != nil {
			return err
		}
	}
	return q.answer(http.StatusOK, status)
}

func (q *request) releases() error {
	releases, err := q.server.daemon.Releases(q.http.Context(), q.app)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, orEmpty(releases))
}

func (q *request) history() error {
	records, err := q.server.daemon.History(q.http.Context(), q.app)
	if err != nil {
		return err
	}
	entries := make([]HistoryEntry, 0, len(records))
	for _, r := range records {
		entries = append(entries, HistoryEntry{r, ExitOf(r)})
	}
	return q.answer(http.StatusOK, entries)
}

// current answers null when no switch is going on.
func (q *request) current() error {
	status, err := q.server.daemon.Status(q.http.Context())
	if err != nil {
		return err
	}
	at := slices.IndexFunc(status.Apps, func(a AppStatus) bool { return a.Name == q.app })
	if at < 0 {
		return noApp(q.app)
	}
	return q.answer(http.StatusOK, status.Apps[at].Switch)
}

func noApp(name string) error {
	return &Error{Kind: NotFound, Message: fmt.Sprintf("there is no app %s", name), Hint: "superctl status lists them"}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{} // [] and not null
	}
	return list
}

func (q *request) switchTo() error {
	var body SwitchRequest
	if err := q.take(&body); err != nil {
		return err
	}
	switch {
	case body.Release == "" && !body.Adopt:
		return &Error{Kind: Usage, Message: "release is missing", Hint: `name one, "latest" or "previous"`}
	case body.Adopt && (body.Restart || body.DryRun):
		return &Error{Kind: Usage, Message: "adopt goes together with neither restart nor dry_run"}
	}
	if body.DryRun {
		return q.dryRun(body)
	}
	return q.replace(release.KindSwitch, body.Release, body.Wait, func(ctx context.Context) (release.Record, error) {
		return q.server.daemon.Switch(ctx, q.app, body, q.by())
	})
}

func (q *request) dryRun(body SwitchRequest) error {
	to, err := q.server.daemon.DryRun(q.http.Context(), q.app, body)
	switch {
	case errors.Is(err, release.ErrAlreadyLive):
		return q.answer(http.StatusOK, SwitchAnswer{Release: to.Release, AlreadyLive: true, Message: err.Error()})
	case err != nil:
		return err
	}
	return q.answer(http.StatusOK, SwitchAnswer{
		Release: to.Release, Message: fmt.Sprintf("the switch to %s (%s) would be accepted; nothing was changed", to.Release, to.Dir),
	})
}

func (q *request) rollback() error {
	var body RollbackRequest
	if err := q.take(&body); err != nil {
		return err
	}
	return q.replace(release.KindRollback, cmp.Or(body.Release, "previous"), body.Wait, func(ctx context.Context) (release.Record, error) {
		return q.server.daemon.Rollback(ctx, q.app, body, q.by())
	})
}

// begun is the answer to those who do not wait for the end of a switch. A rollback
// may be of the switch that was going on: then its record is of that one.
func begun(r release.Record, asked release.Kind, seq uint64) SwitchAnswer {
	a := SwitchAnswer{Switch: r.ID, Release: r.To.Release, Seq: seq, Message: fmt.Sprintf("%s to %s has begun", r.Kind, r.To)}
	if asked == release.KindRollback && r.Kind == release.KindSwitch {
		a.TakenBack, a.Release = true, r.From.Release
		a.Message = fmt.Sprintf("the switch to %s is being taken back", r.To)
	}
	return a
}

// replace answers with the id of the switch that was begun, or with all that becomes
// of it.
func (q *request) replace(kind release.Kind, to string, wait bool, begin func(context.Context) (release.Record, error)) error {
	seq := q.server.events.Last()
	r, err := begin(q.http.Context())
	switch {
	case errors.Is(err, release.ErrAlreadyLive) && wait:
		return q.nothingToDo(r, err)
	case errors.Is(err, release.ErrAlreadyLive):
		return q.answer(http.StatusOK, SwitchAnswer{
			Release: cmp.Or(r.To.Release, to), AlreadyLive: true, Seq: seq, Message: err.Error(),
		})
	case err != nil:
		return err
	}
	q.changed(r.ID, nil)
	if wait {
		return q.followSwitch(r, seq)
	}
	return q.answer(http.StatusAccepted, begun(r, kind, seq))
}

func (q *request) abort() error {
	return q.plain("the switch is being taken back", q.server.daemon.Abort)
}

func (q *request) resume() error {
	return q.plain("resumed", q.server.daemon.Resume)
}

func (q *request) hold() error {
	var body HoldRequest
	if err := q.take(&body); err != nil {
		return err
	}
	if err := q.server.daemon.Hold(q.http.Context(), q.app, body.Reason, q.by()); err != nil {
		return err
	}
	return q.answer(http.StatusOK, Done{"held: only a rollback is accepted"})
}

// plain is a change of an app that takes no arguments.
func (q *request) plain(message string, do func(context.Context, string, release.By) error) error {
	if err := q.take(&struct{}{}); err != nil {
		return err
	}
	if err := do(q.http.Context(), q.app, q.by()); err != nil {
		return err
	}
	return q.answer(http.StatusOK, Done{message})
}

func (q *request) start() error {
	return q.order(ProcessOrder{Verb: VerbStart}, &struct{}{}, nil)
}

func (q *request) restart() error {
	return q.order(ProcessOrder{Verb: VerbRestart}, &struct{}{}, nil)
}

func (q *request) reloadProcess() error {
	return q.order(ProcessOrder{Verb: VerbReload}, &struct{}{}, nil)
}

func (q *request) stop() error {
	var body StopRequest
	return q.order(ProcessOrder{Verb: VerbStop}, &body, func(o *ProcessOrder) error {
		o.Now = body.Now
		return nil
	})
}

func (q *request) signal() error {
	var body SignalRequest
	return q.order(ProcessOrder{Verb: VerbSignal}, &body, func(o *ProcessOrder) (err error) {
		o.Signal, err = signalName(body.Signal)
		return err
	})
}

// signalName is a signal as orders have it. People write HUP, SIGHUP, hup or 1.
func signalName(said string) (string, error) {
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(said), "SIG")
	if n, err := strconv.Atoi(said); err == nil {
		name = unix.SignalName(syscall.Signal(n))
	}
	if unix.SignalNum(name) == 0 {
		return "", &Error{Kind: Usage, Message: fmt.Sprintf("there is no signal %q", said), Hint: "such as HUP, USR1 or TERM"}
	}
	return strings.TrimPrefix(name, "SIG"), nil
}

// maxProcesses is more than any machine has room for: a slip of the finger.
const maxProcesses = 10_000

func (q *request) scale() error {
	var body ScaleRequest
	return q.order(ProcessOrder{Verb: VerbScale}, &body, func(o *ProcessOrder) error {
		switch {
		case body.Processes == nil:
			return wrongBody("processes is missing", &body)
		case *body.Processes < 0 || *body.Processes > maxProcesses:
			return wrongBody(fmt.Sprintf("processes must be from 0 to %d", maxProcesses), &body)
		}
		o.Processes = *body.Processes
		return nil
	})
}

// order reads the body, fills the order from it, and has it done.
func (q *request) order(o ProcessOrder, body any, fill func(*ProcessOrder) error) error {
	if err := q.take(body); err != nil {
		return err
	}
	o.Name = q.name
	if fill != nil {
		if err := fill(&o); err != nil {
			return err
		}
	}
	results, err := q.server.daemon.Process(q.http.Context(), o, q.by())
	if err != nil && KindOf(err) == NotFound {
		if done, known := q.byTheirName(o); known {
			results, err = done, nil
		}
	}
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, orEmpty(results))
}

func (q *request) shutdown() error {
	if err := q.take(&struct{}{}); err != nil {
		return err
	}
	if err := q.server.daemon.Shutdown(q.http.Context(), q.by()); err != nil {
		return err
	}
	return q.answer(http.StatusAccepted, Done{"superd stops what it runs, and then itself"})
}

// logQuery is what the address of a log asks for.
func (q *request) logQuery() (LogQuery, error) {
	lines, wrong := q.number("lines", 10, 100_000)
	follow, unclear := q.flag("follow")
	stream := q.http.URL.Query().Get("stream")
	var unknown error
	if stream != "" && stream != "stdout" && stream != "stderr" {
		unknown = &Error{Kind: Usage, Message: fmt.Sprintf("stream=%s: must be stdout or stderr", stream)}
	}
	mark, unmarked := q.flag("mark")
	since, early := q.moment("since")
	until, late := q.moment("until")
	if follow && !until.IsZero() {
		late = &Error{Kind: Usage, Message: "until and follow exclude each other"}
	}
	query := LogQuery{Name: q.name, Lines: int(lines), Follow: follow, Stream: stream, Since: since, Until: until, Mark: mark}
	return query, errors.Join(wrong, unclear, unknown, early, late, unmarked)
}

func (q *request) eventQuery() (since uint64, follow bool, err error) {
	since, wrong := q.number("since", 0, math.MaxUint64)
	follow, unclear := q.flag("follow")
	return since, follow, errors.Join(wrong, unclear)
}

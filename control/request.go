package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"superd/release"
)

// A request is one of a client's, from its first line to its answer.
type request struct {
	server *Server
	w      http.ResponseWriter
	http   *http.Request
	wire   *http.ResponseController

	route route
	peer  Peer
	grant grant
	app   string // of the path
	name  string // likewise
	body  []byte

	begun  bool // something was answered
	logged bool
}

const (
	jsonType  = "application/json"
	linesType = "application/x-ndjson"
)

func (q *request) serve() error {
	var known bool
	if q.peer, known = whoAsks(q.http.Context()); !known {
		return &Error{Kind: Denied, Message: "nobody knows who you are", Hint: "connect to the unix socket"}
	}
	q.grant = grantTo(q.peer, *q.server.rules.Load())
	r, names, err := find(q.http.Method, q.http.URL.EscapedPath())
	if err != nil {
		return err
	}
	q.route, q.app, q.name = r, names["app"], names["name"]
	if err := q.permitted(); err != nil {
		q.server.log.Warn("request refused", q.about("error", err)...)
		return err
	}
	if err := errors.Join(q.known(), q.read()); err != nil {
		return err
	}
	err = r.answer(q)
	if r.changes() {
		q.changed("", err)
	}
	return err
}

// permitted compares the role that is needed with the one that is had where it counts.
func (q *request) permitted() error {
	needed, on := q.route.role, q.app
	has := q.grant.on(on)
	switch {
	case q.name != "":
		on = appOf(q.name)
		has = q.grant.on(on)
	case q.app == "" && needed == RoleRead: // then the answer shows only what may be seen
		has = q.grant.anywhere()
	}
	if has.includes(needed) {
		return nil
	}
	what := "superd"
	if on != "" {
		what = on
	}
	hint := "root gives it in the configuration, with [[access]]"
	if q.name != "" && on == "" {
		hint = "a name that may be in several apps needs the role for all of them: name one app"
	}
	return &Error{
		Kind: Denied, Hint: hint,
		Message: fmt.Sprintf("%s may not %s %s: it needs the role %s for %s", q.peer.by(), q.route.method, q.http.URL.EscapedPath(), needed, what),
	}
}

// read takes the body, in time: the answer may then take as long as it needs.
func (q *request) read() error {
	if q.http.Method == http.MethodPost {
		body, err := io.ReadAll(http.MaxBytesReader(q.w, q.http.Body, maxBody))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return &Error{Kind: Usage, Message: fmt.Sprintf("the body is longer than %d bytes", maxBody)}
		case err != nil:
			return &Error{Kind: Usage, Message: fmt.Sprintf("read body: %v", err)}
		}
		q.body = body
	} else if q.http.ContentLength != 0 {
		return &Error{Kind: Usage, Message: fmt.Sprintf("%s takes no body", q.http.Method)}
	}
	return nil
}

// take is what the body says.
func (q *request) take(into any) error {
	return decode(q.body, into)
}

// by is who asks, for those who remember it.
func (q *request) by() release.By { return q.peer.by() }

// changed writes one line for one change, when it is known what it came to.
func (q *request) changed(id string, err error) {
	if q.logged {
		return
	}
	q.logged = true
	if id != "" {
		q.server.log.Info("change accepted", q.about("switch", id)...)
	} else if err != nil {
		q.server.log.Info("change refused", q.about("kind", KindOf(err), "error", err)...)
	} else {
		q.server.log.Info("change done", q.about()...)
	}
}

func (q *request) about(more ...any) []any {
	by := q.by()
	all := []any{"uid", by.UID, "pid", by.PID, "user", by.User, "route", q.route.method + " " + q.route.path}
	if q.app != "" {
		all = append(all, "app", q.app)
	}
	if q.name != "" {
		all = append(all, "name", q.name)
	}
	return append(all, more...)
}

// answer writes one JSON value.
func (q *request) answer(status int, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	q.begun = true
	_ = q.wire.SetWriteDeadline(time.Now().Add(q.server.patience))
	q.w.Header().Set("Content-Type", jsonType)
	q.w.WriteHeader(status)
	_, _ = q.w.Write(append(text, '\n')) // an error means that it is gone
	return nil
}

// fail answers with an error: as a status, or as the last line of a stream.
func (q *request) fail(err error) {
	if stopping := context.Cause(q.http.Context()); errors.Is(stopping, release.ErrStopping) && errors.Is(err, context.Canceled) {
		err = &Error{Kind: Unreachable, Message: "superd is stopping", Hint: "ask again: another one may take over in a moment"}
	}
	e := asError(err)
	if q.begun {
		text, _ := json.Marshal(ErrorAnswer{*e})
		_ = q.send(append(text, '\n'))
		return
	}
	if e.allow != "" {
		q.w.Header().Set("Allow", e.allow)
	}
	_ = q.answer(e.Kind.Status(), ErrorAnswer{*e})
}

// begin begins a stream of lines.
func (q *request) begin() error {
	q.begun = true
	q.w.Header().Set("Content-Type", linesType)
	q.w.WriteHeader(http.StatusOK)
	return q.send(nil)
}

// send writes whole lines, and returns when they are on their way: who does not read
// in time is cut off.
func (q *request) send(lines []byte) error {
	if err := q.wire.SetWriteDeadline(time.Now().Add(q.server.patience)); err != nil {
		return err
	}
	if _, err := q.w.Write(lines); err != nil {
		return fmt.Errorf("write to client: %w", err)
	}
	return q.wire.Flush()
}

// known checks that the address asks for nothing that there is not: who misspells a
// parameter must not get an answer to something else.
func (q *request) known() error {
	known := q.route.parameters()
	for name := range q.http.URL.Query() {
		if !slices.Contains(known, name) {
			return &Error{Kind: Usage, Message: fmt.Sprintf("there is no parameter %s", name), Hint: "there is: " + q.route.path}
		}
	}
	return nil
}

func (q *request) number(name string, without, most uint64) (uint64, error) {
	text := q.http.URL.Query().Get(name)
	if text == "" {
		return without, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > most {
		return 0, &Error{Kind: Usage, Message: fmt.Sprintf("%s=%s: must be a number of at most %d", name, text, most)}
	}
	return n, nil
}

// moment is a time as RFC 3339 has it, or how long ago: "15m".
func (q *request) moment(name string) (time.Time, error) {
	text := q.http.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := Moment(text, time.Now())
	if err != nil {
		return at, &Error{Kind: Usage, Message: fmt.Sprintf("%s=%s: %v", name, text, err)}
	}
	return at, nil
}

// Moment reads a time as people and programs write it: "15m" is so long before now,
// "14:30" today, "2026-11-25" and "2026-11-25 14:30" in the time zone of now, else RFC
// 3339.
func Moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), at.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, errors.New(`is neither a time such as "14:30", "2026-11-25 14:30" or 2026-11-25T14:30:00Z nor how long ago, such as "15m"`)
}

func (q *request) flag(name string) (bool, error) {
	text := q.http.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	yes, err := strconv.ParseBool(text)
	if err != nil {
		return false, &Error{Kind: Usage, Message: fmt.Sprintf("%s=%s: must be 1 or 0", name, text)}
	}
	return yes, nil
}

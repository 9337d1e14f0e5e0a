package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"superd/control/xmlrpc"
)

// Supervisor's XML-RPC, for supervisorctl, the panels and the libraries that speak it:
// POST /RPC2, and its two streams of logs. It is on every socket of the server, with
// the roles of that: supervisord let everybody do everything who could connect.

// The faults of supervisord. A client compares the codes, people read the names.
const (
	faultUnknownMethod       = 1
	faultIncorrectParameters = 2
	faultBadArguments        = 3
	faultSignature           = 4
	faultShutdownState       = 6
	faultBadName             = 10
	faultBadSignal           = 11
	faultNoFile              = 20
	faultFailed              = 30
	faultAbnormalTermination = 40
	faultSpawnError          = 50
	faultAlreadyStarted      = 60
	faultNotRunning          = 70
	faultSuccess             = 80
	faultAlreadyAdded        = 90
	faultStillRunning        = 91
	faultCantReread          = 92
)

var faultNames = map[int]string{
	faultUnknownMethod: "UNKNOWN_METHOD", faultIncorrectParameters: "INCORRECT_PARAMETERS", faultBadArguments: "BAD_ARGUMENTS",
	faultSignature: "SIGNATURE_UNSUPPORTED", faultShutdownState: "SHUTDOWN_STATE", faultBadName: "BAD_NAME",
	faultBadSignal: "BAD_SIGNAL", faultNoFile: "NO_FILE", faultFailed: "FAILED",
	faultAbnormalTermination: "ABNORMAL_TERMINATION", faultSpawnError: "SPAWN_ERROR", faultAlreadyStarted: "ALREADY_STARTED",
	faultNotRunning: "NOT_RUNNING", faultSuccess: "SUCCESS", faultAlreadyAdded: "ALREADY_ADDED",
	faultStillRunning: "STILL_RUNNING", faultCantReread: "CANT_REREAD",
}

// fault is a fault as supervisord words it: its name, and what it is about.
func fault(code int, about string) *xmlrpc.Fault {
	text := faultNames[code]
	if about != "" {
		text += ": " + about
	}
	return &xmlrpc.Fault{Code: code, Text: text}
}

// asFault is an error of superd as supervisord has one.
func asFault(err error, name string) *xmlrpc.Fault {
	if f, ok := errors.AsType[*xmlrpc.Fault](err); ok {
		return f
	}
	if kind := KindOf(err); kind == NotFound {
		return fault(faultBadName, name)
	} else if kind == Unreachable {
		return fault(faultShutdownState, "")
	}
	return fault(faultFailed, err.Error())
}

const (
	rpcPath     = "/RPC2"
	logtail     = "/logtail/"
	mainLogtail = "/mainlogtail"
)

// isCompat tells the addresses of supervisord from superd's own.
func isCompat(r *http.Request) bool {
	path := r.URL.Path
	return path == rpcPath || path == rpcPath+"/" || path == mainLogtail || strings.HasPrefix(path, logtail)
}

// serveCompat is serve for supervisord's addresses.
func (q *request) serveCompat() error {
	var known bool
	if q.peer, known = whoAsks(q.http.Context()); !known {
		return &Error{Kind: Denied, Message: "nobody knows who you are", Hint: "connect to the unix socket"}
	}
	q.grant = grantTo(q.peer, *q.server.rules.Load())
	if !strings.HasPrefix(q.http.URL.Path, rpcPath) {
		return q.tail()
	}
	if q.http.Method != http.MethodPost {
		return &Error{Kind: WrongMethod, Message: rpcPath + " takes POST only", allow: http.MethodPost}
	}
	q.route = route{method: http.MethodPost, path: rpcPath}
	if err := q.read(); err != nil {
		return err
	}
	call, err := xmlrpc.ReadCall(q.body)
	if err != nil {
		return &Error{Kind: Usage, Message: "read call: " + err.Error()}
	}
	value, err := q.call(call)
	if err != nil && KindOf(err) == Denied { // what supervisord answers to who has no password
		return q.answer(http.StatusUnauthorized, ErrorAnswer{*asError(err)})
	}
	answer := xmlrpc.WriteAnswer(value)
	if err != nil {
		answer = xmlrpc.WriteFault(asFault(err, ""))
	}
	q.begun = true
	_ = q.wire.SetWriteDeadline(time.Now().Add(q.server.patience))
	q.w.Header().Set("Content-Type", "text/xml")
	// Its clients keep a connection for hours, and do not expect to find it closed.
	q.w.Header().Set("Connection", "close")
	_, _ = q.w.Write(answer) // an error means that it is gone
	return nil
}

// maxCalls bounds what one multicall may ask for.
const maxCalls = 1000

// call has a method done.
func (q *request) call(c xmlrpc.Call) (any, error) {
	m, ok := compatMethods()[c.Method]
	if !ok {
		return nil, fault(faultUnknownMethod, "")
	}
	p := &params{values: c.Params}
	value, err := m.do(q, p)
	if err == nil || p.failed != nil {
		err = p.wrong()
	}
	if m.changes && !errors.Is(err, context.Canceled) {
		q.logCall(c, err)
	}
	if err != nil && KindOf(err) == Denied {
		return nil, err
	}
	if err != nil {
		return nil, asFault(err, p.name)
	}
	return value, nil
}

// logCall writes the line that every change has.
func (q *request) logCall(c xmlrpc.Call, err error) {
	about := q.about("method", c.Method)
	if len(c.Params) > 0 {
		about = append(about, "name", fmt.Sprint(c.Params[0]))
	}
	if err != nil {
		q.server.log.Info("change refused", append(about, "error", err)...)
		return
	}
	q.server.log.Info("change done", about...)
}

// params are what a method is given, taken one after the other.
type params struct {
	values []any
	failed error
	name   string // of the process, for faults
}

func (p *params) next(usual any) any {
	if len(p.values) == 0 {
		if usual == nil {
			p.failed = fault(faultIncorrectParameters, "")
		}
		return usual
	}
	v := p.values[0]
	p.values = p.values[1:]
	return v
}

// text is the next one, which must be there.
func (p *params) text() string {
	s, ok := p.next(nil).(string)
	if !ok && p.failed == nil {
		p.failed = fault(faultIncorrectParameters, "")
	}
	return s
}

func (p *params) process() string {
	p.name = p.text()
	return p.name
}

func (p *params) number() int {
	switch n := p.next(nil).(type) {
	case int:
		return n
	case float64:
		return int(n)
	}
	if p.failed == nil {
		p.failed = fault(faultIncorrectParameters, "")
	}
	return 0
}

// wait is the last one of those that change something: whether to answer when it is
// done. Some clients send 0 and 1.
func (p *params) wait() bool {
	switch v := p.next(true).(type) {
	case bool:
		return v
	case int:
		return v != 0
	}
	return true
}

// wrong tells whether there was too little, or the wrong thing, or something is left.
func (p *params) wrong() error {
	if p.failed != nil {
		return p.failed
	}
	if len(p.values) > 0 {
		return fault(faultIncorrectParameters, "")
	}
	return nil
}

// may is a fault unless the peer has the role for an app; for what belongs to none the
// name is "". There is no code for it, so it is FAILED with words.
func (q *request) may(needed Role, app string) error {
	if q.grant.on(app).includes(needed) {
		return nil
	}
	return fault(faultFailed, q.lacks(needed, cmp.Or(app, "superd")))
}

// mayAnywhere is a fault unless the peer has the role for something. It refuses the whole
// call: an answer about nothing would read as if all were well.
func (q *request) mayAnywhere(needed Role) error {
	if q.grant.anywhere().includes(needed) {
		return nil
	}
	return fault(faultFailed, q.lacks(needed, "superd"))
}

func (q *request) lacks(needed Role, what string) string {
	return fmt.Sprintf("%s needs the role %s for %s, see [[access]]", q.by(), needed, what)
}

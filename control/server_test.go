package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/release"
)

func TestRoutes(t *testing.T) {
	for _, tt := range []struct{ method, path, route, app, name string }{
		{"GET", "/v1/status", "/v1/status?name", "", ""},
		{"GET", "/v1/apps/shop/switch", "/v1/apps/{app}/switch", "shop", ""},
		{"POST", "/v1/apps/a%2Fb/hold", "/v1/apps/{app}/hold", "a/b", ""},
		{"POST", "/v1/processes/nginx/start", "/v1/processes/{name...}/start", "", "nginx"},
		{"POST", "/v1/processes/shop/emails:3/stop", "/v1/processes/{name...}/stop", "", "shop/emails:3"},
		{"POST", "/v1/processes/shop%2Femails:3/stop", "/v1/processes/{name...}/stop", "", "shop/emails:3"},
		{"POST", "/v1/processes/shop/*/stop", "/v1/processes/{name...}/stop", "", "shop/*"},
		{"POST", "/v1/processes/start/stop", "/v1/processes/{name...}/stop", "", "start"},
		{"GET", "/v1/logs/shop/emails:3", "/v1/logs/{name...}?lines&follow&stream&since&until&mark", "", "shop/emails:3"},
		{"GET", "/v1/logs/a%25b", "/v1/logs/{name...}?lines&follow&stream&since&until&mark", "", "a%b"},
	} {
		r, names, err := find(tt.method, tt.path)
		if err != nil || r.path != tt.route || names["app"] != tt.app || names["name"] != tt.name {
			t.Errorf("%s %s is %s %v (%v)", tt.method, tt.path, r.path, names, err)
		}
	}
	for _, path := range []string{
		"", "/", "/v1", "/v1/", "/v1/status/", "//v1/status", "/v1//status", "/v1/apps/shop", "/v1/apps//switch",
		"/v1/processes/start", "/v1/processes//start", "/v1/logs/", "/v1/logs", "/v2/status", "/v1/logs/%zz", "*",
	} {
		if _, _, err := find("GET", path); KindOf(err) != NotFound {
			t.Errorf("GET %q: %v", path, err)
		}
	}
}

func TestWhatIsNotThereSaysWhatIs(t *testing.T) {
	h := newHouse(t)
	e := h.refused(NotFound, "GET", "/v1/nothing", "")
	for _, r := range routes {
		if !strings.Contains(e.Hint, r.method+" "+r.path) {
			t.Errorf("%s %s is not in the hint", r.method, r.path)
		}
	}
	for path, allow := range map[string]string{"/v1/status": "GET", "/v1/apps/shop/switch": "GET, POST", "/v1/processes/x/stop": "POST"} {
		status, header, _ := h.ask("DELETE", path, "")
		if status != http.StatusMethodNotAllowed || header.Get("Allow") != allow {
			t.Errorf("DELETE %s: %d, Allow %q, want %q", path, status, header.Get("Allow"), allow)
		}
	}
}

func TestOrdersReachTheDaemon(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.client(), t.Context()
	ask := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	ask(c.Hold(ctx, "shop", "sale"))
	ask(c.Resume(ctx, "shop"))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbStart, Name: "shop/emails"}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbStop, Name: "shop/emails:3", Now: true}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbStop, Name: "all"}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbRestart, Name: "shop/*"}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbSignal, Name: "nginx", Signal: "sighup"}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbSignal, Name: "nginx", Signal: "10"}))
	ask(c.Process(ctx, ProcessOrder{Verb: VerbScale, Name: "shop/emails", Processes: 0}))
	ask(c.Switch(ctx, "shop", SwitchRequest{Release: "r2"}))
	ask(c.Abort(ctx, "shop"))
	ask(c.Rollback(ctx, "shop", RollbackRequest{Release: "r1"}))
	ask(c.Upgrade(ctx, UpgradeRequest{}))
	ask(c.Upgrade(ctx, UpgradeRequest{Keeper: true}))
	ask(c.Reload(ctx, true))
	ask(c.Reload(ctx, false))
	ask(c.Shutdown(ctx))
	want := []string{
		"hold shop because sale by 0",
		"resume shop by 0",
		"start shop/emails now=false signal= processes=0 by 0",
		"stop shop/emails:3 now=true signal= processes=0 by 0",
		"stop all now=false signal= processes=0 by 0",
		"restart shop/* now=false signal= processes=0 by 0",
		"signal nginx now=false signal=HUP processes=0 by 0",
		"signal nginx now=false signal=USR1 processes=0 by 0",
		"scale shop/emails now=false signal= processes=0 by 0",
		"switch shop to r2 by 0",
		"abort shop by root",
		"rollback shop to r1 by 0",
		"upgrade keeper=false by 0",
		"upgrade keeper=true by 0",
		"reload plan=true by 0",
		"reload plan=false by 0",
		"shutdown by 0",
	}
	if got := h.daemon.heard(); !slices.Equal(got, want) {
		t.Errorf("the daemon heard\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Each is a line in the log that says who did what.
	done := append(h.log.with("msg", "change done"), h.log.with("msg", "change accepted")...)
	if len(done) != len(want) {
		t.Errorf("%d changes are in the log, want %d", len(done), len(want))
	}
	accepted := h.log.with("switch", "s1")
	if len(accepted) != 1 || accepted[0]["app"] != "shop" || accepted[0]["route"] != "POST /v1/apps/{app}/switch" || accepted[0]["user"] != "root" || accepted[0]["pid"] == nil {
		t.Errorf("the switch is logged as %v", accepted)
	}
}

func TestSwitchIsAccepted(t *testing.T) {
	h := newHouse(t)
	h.events.Append(Event{Kind: "test"})
	eventually(t, "there was an event before", func() bool { return h.events.Last() == 1 })
	answer, err := h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2", Wait: true})
	want := SwitchAnswer{Switch: "s1", Release: "r2", Seq: 1, Message: "switch to r2 (generation 1) has begun"}
	if err != nil || answer != want {
		t.Errorf("got %+v (%v), want %+v", answer, err, want)
	}
	if status, _, _ := h.ask("POST", "/v1/apps/shop/switch", `{"release":"r2"}`); status != http.StatusAccepted {
		t.Errorf("status %d, want 202: it has only begun", status)
	}
	now, err := h.client().Current(t.Context(), "shop")
	if err != nil || now == nil || now.ID != "s2" {
		t.Errorf("going on is %+v (%v)", now, err)
	}
	h.daemon.finish(release.RolledBack, false)
	if now, err := h.client().Current(t.Context(), "shop"); err != nil || now != nil {
		t.Errorf("going on is %+v (%v), want nothing", now, err)
	}
	history, err := h.client().History(t.Context(), "shop")
	if err != nil || len(history) != 1 || history[0].ID != "s2" || history[0].Exit != 3 {
		t.Errorf("the history is %+v (%v)", history, err)
	}
}

func TestSwitchIsRefused(t *testing.T) {
	h := newHouse(t)
	for kind, why := range map[Kind]error{
		Conflict: &release.Refusal{Kind: release.ErrBusy, Why: "switch s9 is watching", Hint: "superctl abort"},
		Rejected: &release.Refusal{Kind: release.ErrRejected, Why: "r2 is bad", Hint: "--allow-bad"},
		Internal: errors.New("no idea"),
	} {
		h.daemon.begin = func(context.Context, SwitchRequest) error { return why }
		for _, body := range []string{`{"release":"r2"}`, `{"release":"r2","wait":true}`, `{"release":"r2","dry_run":true}`} {
			e := h.refused(kind, "POST", "/v1/apps/shop/switch", body)
			if e.Message != why.Error() || kind == Conflict && e.Hint != "superctl abort" {
				t.Errorf("%s: %+v", body, e)
			}
		}
	}
	if n := len(h.log.with("msg", "change refused")); n != 9 {
		t.Errorf("%d refusals are in the log, want 9", n)
	}
	h.daemon.begin = nil
	h.refused(NotFound, "POST", "/v1/apps/nosuch/switch", `{"release":"r2"}`)
	h.refused(NotFound, "GET", "/v1/apps/nosuch/switch", "")
	h.refused(NotFound, "POST", "/v1/apps/shop/abort", "")
	h.refused(NotFound, "GET", "/v1/logs/nothing", "")
}

func TestAlreadyLiveIsNoFailure(t *testing.T) {
	h := newHouse(t)
	h.daemon.begin = func(context.Context, SwitchRequest) error {
		return &release.Refusal{Kind: release.ErrAlreadyLive, Why: "r2 is live already"}
	}
	for _, dry := range []bool{false, true} {
		answer, err := h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2", DryRun: dry})
		if err != nil || !answer.AlreadyLive || answer.Switch != "" || answer.Release != "r2" {
			t.Errorf("got %+v (%v)", answer, err)
		}
	}
	status, header, text := h.ask("POST", "/v1/apps/shop/switch", `{"release":"r2","wait":true}`)
	var e Event
	if err := json.Unmarshal([]byte(text), &e); err != nil || status != 200 || header.Get("Content-Type") != linesType {
		t.Fatalf("%d %s (%v)", status, text, err)
	}
	if e.Kind != EventSwitchEnded || e.Exit == nil || *e.Exit != 0 || e.Verdict != release.Live {
		t.Errorf("the one event is %s", text)
	}
}

func TestDryRunNamesTheRelease(t *testing.T) {
	h := newHouse(t)
	answer, err := h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2", DryRun: true})
	if err != nil || answer.Release != "r2" || !strings.Contains(answer.Message, "r2 (/srv/shop/releases/r2)") || answer.Switch != "" {
		t.Errorf("got %+v (%v)", answer, err)
	}
	h.daemon.begin = func(context.Context, SwitchRequest) error {
		return &release.Refusal{Kind: release.ErrBusy, Why: "switch s1 to r3 is verifying"}
	}
	_, err = h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2", DryRun: true})
	if KindOf(err) != Conflict || !strings.Contains(err.Error(), "s1") {
		t.Errorf("busy is told as %v", err)
	}
}

func TestBodies(t *testing.T) {
	h := newHouse(t)
	deep := strings.Repeat("[", 60_000)
	for _, tt := range []struct{ path, body, message string }{
		{"apps/shop/switch", ``, "release is missing"},
		{"apps/shop/switch", `{}`, "release is missing"},
		{"apps/shop/switch", `{"release":""}`, "release is missing"},
		{"apps/shop/switch", `{"release":"r2"} {"release":"r3"}`, "more behind"},
		{"apps/shop/switch", `{"release":"r2"}]`, "more behind"},
		{"apps/shop/switch", `{"release":"r2","force":true}`, `unknown field "force"`},
		{"apps/shop/switch", `{"release":42}`, "release must be a string, not a number"},
		{"apps/shop/switch", `{"release":"r2","wait":"yes"}`, "wait must be true or false, not a string"},
		{"apps/shop/switch", `{"release":"r2","lock_wait":15}`, "a duration is a string"},
		{"apps/shop/switch", `{"adopt":false}`, "release is missing"},
		{"apps/shop/switch", `{"adopt":true,"restart":true}`, "neither restart nor dry_run"},
		{"apps/shop/switch", `{"adopt":true,"dry_run":true}`, "neither restart nor dry_run"},
		{"apps/shop/switch", `{"release":"r2","lock_wait":"15 minutes"}`, "is not a duration"},
		{"apps/shop/switch", `{"release":"r2","lock_wait":"-1s"}`, "is not a duration"},
		{"apps/shop/switch", `{"release":"r2"`, "not JSON"},
		{"apps/shop/switch", `release=r2&wait=1`, "must be a JSON object"},
		{"apps/shop/switch", `null`, "must be a JSON object"},
		{"apps/shop/switch", `"r2"`, "must be a JSON object"},
		{"apps/shop/switch", deep, "must be a JSON object"},
		{"apps/shop/switch", `{"release":` + deep, "not JSON"},
		{"apps/shop/switch", `{"release":"` + strings.Repeat("r", 10<<20) + `"}`, "longer than"},
		{"apps/shop/abort", `{"release":"r2"}`, `unknown field "release"`},
		{"processes/x/scale", `{}`, "processes is missing"},
		{"processes/x/scale", `{"processes":-1}`, "from 0 to"},
		{"processes/x/scale", `{"processes":1000000000}`, "from 0 to"},
		{"processes/x/scale", `{"processes":1.5}`, "processes must be a whole number"},
		{"processes/x/signal", `{}`, "there is no signal"},
		{"processes/x/signal", `{"signal":"SIGSEGFAULT"}`, "there is no signal"},
		{"processes/x/signal", `{"signal":"0"}`, "there is no signal"},
		{"processes/x/stop", `{"now":1}`, "now must be"},
	} {
		e := h.refused(Usage, "POST", "/v1/"+tt.path, tt.body)
		if !strings.Contains(e.Message, tt.message) {
			t.Errorf("%s %.60q: %q, want %q in it", tt.path, tt.body, e.Message, tt.message)
		}
	}
	e := h.refused(Usage, "POST", "/v1/apps/shop/switch", `{"realease":"r2"}`)
	for _, field := range fieldsOf(reflect.TypeFor[SwitchRequest]()) {
		if !strings.Contains(e.Hint, field) {
			t.Errorf("%s is not in the hint %q", field, e.Hint)
		}
	}
	if heard := h.daemon.heard(); len(heard) > 0 {
		t.Errorf("the daemon was asked for %v", heard)
	}
}

func TestParameters(t *testing.T) {
	h := newHouse(t)
	for _, path := range []string{
		"events?since=-1", "events?since=last", "events?follow=perhaps", "events?form=1", "events?since=99999999999999999999999",
		"status?app=shop", "logs/x?lines=many", "logs/x?lines=1000000000", "logs/x?stream=stdin", "logs/x?tail=1",
	} {
		h.refused(Usage, "GET", "/v1/"+path, "")
	}
	h.refused(Usage, "GET", "/v1/status", "a body")
}

func TestLogs(t *testing.T) {
	h := newHouse(t)
	gone := make(chan error, 1)
	h.daemon.wrote = func(ctx context.Context, q LogQuery, emit func(LogLine) error) error {
		if !reflect.DeepEqual(q, LogQuery{Name: "shop/emails", More: q.More, Lines: 3, Follow: q.Follow, Stream: "stderr"}) {
			return &Error{Kind: Usage, Message: fmt.Sprintf("got %+v", q)}
		}
		for n := range q.Lines {
			if err := emit(LogLine{Process: "shop/emails:0", Line: fmt.Sprintf("line %d \xff\n\t", n)}); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		if err := emit(LogLine{Process: "shop/emails:0", Line: strings.Repeat("\x00", 1<<20)}); err != nil {
			return err
		}
		<-ctx.Done()
		gone <- ctx.Err()
		return ctx.Err()
	}
	q := LogQuery{Name: "shop/emails", Lines: 3, Stream: "stderr"}
	n := 0
	for line, err := range h.client().Logs(t.Context(), q) {
		if err != nil || line.Line != fmt.Sprintf("line %d \ufffd\n\t", n) || line.Process != "shop/emails:0" {
			t.Errorf("%+v (%v)", line, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
	q.Follow, n = true, 0
	for line, err := range h.client().Logs(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 4 {
			if len(line.Line) != maxLogLine {
				t.Errorf("a long line has %d bytes, want %d", len(line.Line), maxLogLine)
			}
			break // the reader goes away
		}
	}
	<-gone
	h.daemon.wrote = func(_ context.Context, _ LogQuery, emit func(LogLine) error) error {
		if err := emit(LogLine{Process: "x", Line: "one"}); err != nil {
			return err
		}
		return &Error{Kind: Internal, Message: "the disk is gone"}
	}
	var last error
	for _, last = range h.client().Logs(t.Context(), q) {
	}
	if last == nil || last.Error() != "the disk is gone" {
		t.Errorf("it ended with %v", last)
	}
	h.daemon.wrote = func(context.Context, LogQuery, func(LogLine) error) error { return nil }
	if status, header, text := h.ask("GET", "/v1/logs/x", ""); status != 200 || text != "" || header.Get("Content-Type") != linesType {
		t.Errorf("no lines are answered with %d %q", status, text)
	}
}

func TestHealth(t *testing.T) {
	h := newHouse(t)
	if status, _, text := h.ask("GET", "/v1/health", ""); status != 503 || !strings.Contains(text, "nginx: keeps dying") {
		t.Errorf("%d %s", status, text)
	}
	sick, err := h.client().Health(t.Context())
	if err != nil || sick.Healthy || len(sick.Problems) != 2 {
		t.Errorf("got %+v (%v)", sick, err)
	}
	h.daemon.status = &Status{Healthy: true}
	if status, _, text := h.ask("GET", "/v1/health", ""); status != 200 || text != `{"healthy":true}`+"\n" {
		t.Errorf("%d %s", status, text)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"release":"r2","wait":true,"lock_wait":"15m"}`, `{"release":1}`, `{"processes":8}`, `{"signal":"HUP"}`,
		`{"now":true}{}`, `[`, `{"a":[[[[`, "\xff", `{"release":"\ud800"}`, `{"RELEASE":"x"}`, `{"lock_wait":"1e400h"}`, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, into := range []any{&SwitchRequest{}, &RollbackRequest{}, &HoldRequest{}, &SignalRequest{}, &ScaleRequest{}, &StopRequest{}, &struct{}{}} {
			err := decode(body, into)
			if err != nil && (KindOf(err) != Usage || asError(err).Hint == "") {
				t.Fatalf("%q: %v is not of the client's making", body, err)
			}
			if err != nil {
				continue
			}
			again, err := json.Marshal(into)
			if err != nil {
				t.Fatalf("%q was taken and cannot be written: %v", body, err)
			}
			other := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			if err := decode(again, other); err != nil || !reflect.DeepEqual(into, other) {
				t.Fatalf("%q became %s, and that %+v (%v)", body, again, other, err)
			}
		}
	})
}

func FuzzFind(f *testing.F) {
	for _, r := range routes {
		f.Add(r.method, r.path)
	}
	f.Add("POST", "/v1/processes/%2e%2e%2f/stop")
	f.Fuzz(func(t *testing.T, method, path string) {
		r, names, err := find(method, path)
		if err != nil {
			return
		}
		if r.method != method || strings.Contains(r.path, "{app}") != (names["app"] != "") || strings.Contains(r.path, "{name...}") != (names["name"] != "") {
			t.Fatalf("%s %q is %s %s with %v", method, path, r.method, r.path, names)
		}
	})
}

func TestAttach(t *testing.T) {
	h := newHouse(t)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	attached := make(chan struct{})
	go func() {
		err := h.client().Attach(t.Context(), "nginx:0", w, func() { close(attached) })
		w.Close()
		ended <- err
	}()
	<-attached
	for _, text := range []string{"yes\n", "\x03", "bye"} {
		if err := h.client().Input(t.Context(), "nginx:0", text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := h.client().Attach(t.Context(), "nothing", io.Discard, nil); KindOf(err) != NotFound {
		t.Errorf("to nothing: %v", err)
	}
	h.refused(Usage, "POST", "/v1/processes/nginx:0/stdin", `{"text":""}`)
	if results, err := h.client().ClearLog(t.Context(), "shop/fpm"); err != nil || len(results) != 1 || !slices.ContainsFunc(h.daemon.heard(), func(s string) bool { return strings.HasPrefix(s, "clear shop/fpm by") }) {
		t.Errorf("clear: %+v, %v; heard %q", results, err, h.daemon.heard())
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.FixedZone("there", 3600))
	for text, want := range map[string]string{
		"15m": "2026-11-25T11:45:00+01:00", "14:30": "2026-11-25T14:30:00+01:00", "2026-11-24": "2026-11-24T00:00:00+01:00",
		"2026-11-24 08:05": "2026-11-24T08:05:00+01:00", "2026-11-24T08:05:00Z": "2026-11-24T08:05:00Z", "08:05:06": "2026-11-25T08:05:06+01:00",
	} {
		if at, err := Moment(text, now); err != nil || at.Format(time.RFC3339) != want {
			t.Errorf("%s is %s, %v; want %s", text, at.Format(time.RFC3339), err, want)
		}
	}
	for _, text := range []string{"", "-15m", "yesterday", "25:00", "2026-13-01"} {
		if at, err := Moment(text, now); err == nil {
			t.Errorf("%q is %s", text, at)
		}
	}
}

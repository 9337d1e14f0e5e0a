package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/control"
	"superd/release"
)

var (
	g1 = release.Generation{Number: 1, Release: "r1", Dir: "/srv/shop/releases/r1"}
	g2 = release.Generation{Number: 2, Release: "r2", Dir: "/srv/shop/releases/r2"}
)

// fakeDaemon ends every switch with the verdict that is its release's name.
type fakeDaemon struct {
	events *control.Events
	apps   []string

	mu       sync.Mutex
	draining int
	problem  string // of the program loop
	orders   []control.ProcessOrder
	hang     bool // a switch never ends
	typed    chan string
}

func (f *fakeDaemon) Status(context.Context) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := control.Status{Version: "v1", PID: 7, Healthy: true, Time: time.Now()}
	for _, name := range f.apps {
		s.Apps = append(s.Apps, control.AppStatus{
			Name: name, State: control.AppOK, Live: &g2, Previous: &g1,
			FPM: &control.FPMStatus{Name: name + "/fpm", Generations: []control.GenerationStatus{{Generation: g2, State: "live", PID: 100, Active: 1, Idle: 3}}},
			Pools: []control.PoolStatus{{Name: name + "/emails", Wanted: 1, Running: 1, Draining: f.draining, Workers: []control.ProcessStatus{
				{Name: name + "/emails:0", State: "running", PID: 101, Release: "r2", Generation: 2, Consumption: control.Consumption{Memory: 5 << 20}},
				{Name: name + "/emails:1", State: "draining", PID: 102, Release: "r1", Generation: 1, Stale: true},
			}}},
		})
	}
	if f.problem != "" {
		s.Programs = append(s.Programs, control.ProcessStatus{Name: "loop:0", Problem: f.problem})
		s.Problems, s.Healthy = []string{f.problem}, false
	}
	f.draining = max(0, f.draining-1)
	return s, nil
}

func (f *fakeDaemon) Meaning(name string) []string {
	for _, app := range f.apps {
		if control.Match(name, app+"/emails:0") || control.Match(name, app+"/fpm") {
			return []string{name}
		}
	}
	if f.problem != "" && name == "loop" {
		return []string{name}
	}
	return nil
}

func (f *fakeDaemon) Releases(context.Context, string) ([]control.ReleaseInfo, error) {
	return []control.ReleaseInfo{{Name: "r2", State: "live", InUse: []string{"shop/fpm"}}, {Name: "r1", State: "bad", Bad: &release.Mark{Reason: "it was slow"}}}, nil
}

func (f *fakeDaemon) History(context.Context, string) ([]release.Record, error) {
	return []release.Record{{ID: "a", Kind: release.KindSwitch, From: g1, To: g2, Verdict: release.RolledBack, Cause: "check failed"}}, nil
}

func (f *fakeDaemon) Outcome(context.Context, string, string) (release.Record, error) {
	return release.Record{}, release.ErrNothing
}

func (f *fakeDaemon) Switch(_ context.Context, app string, r control.SwitchRequest, by release.By) (release.Record, error) {
	if r.Adopt && r.Release == "" {
		r.Release = "live" // the link leads there
	}
	switch r.Release {
	case "live-already":
		return release.Record{To: g2}, &release.Refusal{Kind: release.ErrAlreadyLive, Why: "r2 is already live"}
	case "missing":
		return release.Record{}, &release.Refusal{Kind: release.ErrRejected, Why: "there is no release missing", Hint: "superctl releases lists them"}
	case "busy":
		return release.Record{}, &release.Refusal{Kind: release.ErrBusy, Why: "another switch is going on"}
	}
	record := release.Record{ID: "id-" + r.Release, Kind: release.KindSwitch, From: g1, To: release.Generation{Number: 3, Release: r.Release}, By: by}
	f.play(app, record, release.Verdict(r.Release))
	return record, nil
}

func (f *fakeDaemon) play(app string, r release.Record, v release.Verdict) {
	tell := func(e release.Event) {
		e.Switch, e.From, e.To = r.ID, r.From, r.To
		f.events.Append(control.SwitchEvent(app, e))
	}
	tell(release.Event{Kind: "switch.phase", Phase: release.Preparing})
	if f.hang {
		return
	}
	if v != release.Live {
		tell(release.Event{Kind: "switch.phase", Phase: release.RollingBack, Reason: "check \"up\" failed"})
	}
	tell(release.Event{Kind: "switch.phase", Phase: release.Ended})
	tell(release.Event{Kind: control.EventSwitchEnded, Verdict: v, Reason: "check \"up\" failed", Lines: []string{"PHP Fatal error", "\x1b[31mred"}})
}

func (f *fakeDaemon) Rollback(ctx context.Context, app string, r control.RollbackRequest, by release.By) (release.Record, error) {
	if r.Release == "back" { // the switch that is going on comes from there
		return f.Switch(ctx, app, control.SwitchRequest{Release: "rolled-back"}, by)
	}
	if r.Release == "" {
		r.Release = "live"
	}
	return f.Switch(ctx, app, control.SwitchRequest{Release: r.Release}, by)
}

func (f *fakeDaemon) DryRun(context.Context, string, control.SwitchRequest) (release.Generation, error) {
	return g2, nil
}
func (f *fakeDaemon) Abort(context.Context, string, release.By) error        { return nil }
func (f *fakeDaemon) Hold(context.Context, string, string, release.By) error { return nil }
func (f *fakeDaemon) Resume(context.Context, string, release.By) error       { return nil }
func (f *fakeDaemon) Upgrade(context.Context, control.UpgradeRequest, release.By) (control.UpgradeAnswer, error) {
	return control.UpgradeAnswer{}, nil
}
func (f *fakeDaemon) ClearLog(_ context.Context, name string, _ release.By) ([]control.ProcessResult, error) {
	return []control.ProcessResult{{Name: name, State: "running", OK: true}}, nil
}

func (f *fakeDaemon) Attach(ctx context.Context, _ string, emit func([]byte) error) error {
	if err := emit([]byte("prompt> ")); err != nil {
		return err
	}
	for {
		select {
		case text := <-f.typed:
			if err := emit([]byte("read " + text)); err != nil || text == "bye\n" {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *fakeDaemon) Input(_ context.Context, _, text string, _ release.By) error {
	f.typed <- text
	return nil
}

func (f *fakeDaemon) Shutdown(context.Context, release.By) error { return nil }
func (f *fakeDaemon) Logs(ctx context.Context, q control.LogQuery, emit func(control.LogLine) error) error {
	for _, l := range []control.LogLine{{Process: "shop/emails:0", Line: "one"}, {Process: "shop/emails:1", Line: "two"}} {
		if err := emit(l); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
	}
	return nil
}

func (f *fakeDaemon) Process(_ context.Context, o control.ProcessOrder, _ release.By) ([]control.ProcessResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, o)
	if o.Name == "shop/none" {
		return nil, &control.Error{Kind: control.NotFound, Message: "nothing is called shop/none"}
	}
	r := control.ProcessResult{Name: o.Name, State: "running", OK: o.Name != "shop/stuck", Message: "because"}
	if !r.OK {
		r.Kind = control.Degraded
		r.Lines = []string{"nginx: bad config", "\x1b[2J"}
	}
	return []control.ProcessResult{r}, nil
}

// superd serves f until the test ends, and returns the path of its socket.
func superd(t *testing.T, f *fakeDaemon) string {
	t.Helper()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	var err error
	f.events, err = control.OpenEvents(filepath.Join(dir, "events"), log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	socket, err := control.Listen(ctx, filepath.Join(dir, "s"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	server := control.NewServer(control.Options{Daemon: f, Events: f.events, Log: log})
	var serving sync.WaitGroup
	serving.Go(func() { _ = f.events.Run(ctx) })
	serving.Go(func() { _ = server.Run(ctx, socket) })
	t.Cleanup(func() { cancel(); serving.Wait() })
	return filepath.Join(dir, "s")
}

type outcome struct {
	code      int
	out, talk string
}

func run(t *testing.T, terminal bool, args ...string) outcome {
	t.Helper()
	var out, talk bytes.Buffer
	c := &cli{out: &out, talk: &talk, terminal: terminal}
	code := c.run(t.Context(), args)
	return outcome{code, out.String(), talk.String()}
}

func TestExitCodes(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	for name, tt := range map[string]struct {
		args []string
		code int
		says string // in what goes to people
	}{
		"live":          {[]string{"switch", "live"}, 0, ""},
		"rolled back":   {[]string{"switch", "rolled-back"}, 3, ""},
		"degraded":      {[]string{"switch", "degraded"}, 4, ""},
		"rejected":      {[]string{"switch", "rejected"}, 5, ""},
		"missing":       {[]string{"switch", "missing"}, 5, "hint: superctl releases"},
		"conflict":      {[]string{"switch", "busy"}, 6, "another switch"},
		"link moved":    {[]string{"switch", "conflict"}, 6, ""},
		"already live":  {[]string{"switch", "live-already"}, 0, ""},
		"dry run":       {[]string{"switch", "r9", "--dry-run"}, 0, ""},
		"adopt":         {[]string{"switch", "--adopt"}, 0, ""},
		"adopt by name": {[]string{"switch", "--adopt", "rolled-back"}, 3, ""},
		"adopt two":     {[]string{"switch", "--adopt", "a", "b"}, 2, `"b"`},
		"adopt, again":  {[]string{"switch", "--adopt", "--restart"}, 2, "restart"},
		"not waited":    {[]string{"switch", "degraded", "--wait=no"}, 0, ""},
		"rollback":      {[]string{"rollback"}, 0, ""},
		"taken back":    {[]string{"rollback", "back"}, 0, ""},
		"no release":    {[]string{"switch"}, 2, "RELEASE"},
		"two releases":  {[]string{"switch", "a", "b"}, 2, `"b"`},
		"bad wait":      {[]string{"switch", "a", "--wait=maybe"}, 2, "healthy, drained or no"},
		"bad flag":      {[]string{"switch", "a", "--frobnicate"}, 2, "frobnicate"},
		"no command":    {[]string{}, 2, ""},
		"bad command":   {[]string{"swich"}, 2, `"swich"`},
		"no such app":   {[]string{"status", "blog"}, 10, "blog"},
		"no process":    {[]string{"restart", "shop/none"}, 10, "shop/none"},
		"not restarted": {[]string{"restart", "shop/stuck"}, 4, "because"},
		"bad number":    {[]string{"scale", "shop/emails", "many"}, 2, "NUMBER"},
		"status":        {[]string{"status"}, 0, ""},
		"abort":         {[]string{"abort"}, 0, ""},
		"empty name":    {[]string{"start", ""}, 2, "empty name"},
		"empty at last": {[]string{"stop", "shop", ""}, 2, "empty name"},
		"empty scale":   {[]string{"scale", "", "3"}, 2, "empty name"},
		"empty logs":    {[]string{"logs", ""}, 2, "empty name"},
		"empty clear":   {[]string{"clear", ""}, 2, "empty name"},
		"empty attach":  {[]string{"attach", ""}, 2, "empty name"},
		"empty status":  {[]string{"status", ""}, 2, "empty name"},
		"empty reload":  {[]string{"reload", ""}, 2, "empty name"},
		"empty switch":  {[]string{"switch", ""}, 2, "empty name"},
		"no rollback":   {[]string{"rollback", ""}, 2, "empty name"},
		"no config":     {[]string{"check", "/nonexistent/superd.toml"}, 5, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			got := run(t, false, append([]string{"--socket", socket}, tt.args...)...)
			if got.code != tt.code || !strings.Contains(got.talk, tt.says) {
				t.Errorf("exit %d, want %d\n%s%s", got.code, tt.code, got.out, got.talk)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	got := run(t, false, "--socket", "/nonexistent/superd.sock", "status")
	if got.code != 8 || !strings.Contains(got.talk, "/nonexistent/superd.sock") || !strings.Contains(got.talk, "hint:") || got.out != "" {
		t.Errorf("%+v", got)
	}
	got = run(t, false, "--json", "--socket", "/nonexistent/superd.sock", "status")
	var answer control.ErrorAnswer
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || answer.Error.Kind != control.Unreachable {
		t.Errorf("%+v: %v", got, err)
	}
}

func TestSeveralAppsMustBeNamed(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"blog", "shop"}})
	if got := run(t, false, "--socket", socket, "switch", "live"); got.code != 2 || !strings.Contains(got.talk, "--app blog, --app shop") {
		t.Errorf("%+v", got)
	}
	if got := run(t, false, "--socket", socket, "switch", "live", "--app", "shop"); got.code != 0 {
		t.Errorf("%+v", got)
	}
}

func TestPipedSwitchIsOneEventPerLine(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "switch", "rolled-back")
	var last control.Event
	for line := range strings.Lines(got.out) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if last.Kind != control.EventSwitchEnded || last.Exit == nil || *last.Exit != 3 {
		t.Errorf("the last event is %+v", last)
	}
}

func TestTerminalShowsPhasesAndTheReasonOnce(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, true, "--socket", socket, "switch", "rolled-back")
	for _, want := range []string{"preparing    ✗", "the site is fine, on r1", "│ PHP Fatal error", "│ ·[31mred"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is missing in\n%s", want, got.out)
		}
	}
	if n := strings.Count(got.out, `check "up" failed`); n != 1 {
		t.Errorf("the reason is told %d times:\n%s", n, got.out)
	}
}

// pressed is a terminal at which somebody presses Ctrl-C once he reads a word.
type pressed struct {
	bytes.Buffer
	word  string
	ctrlC func()
}

func (p *pressed) Write(b []byte) (int, error) {
	n, err := p.Buffer.Write(b)
	if strings.Contains(p.String(), p.word) {
		p.ctrlC()
	}
	return n, err
}

func TestCtrlCDetaches(t *testing.T) {
	t.Setenv("TERM", "xterm") // a dumb one is told of a phase when it is over
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}, hang: true})
	for _, terminal := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var talk bytes.Buffer
		out := &pressed{word: "preparing", ctrlC: cancel}
		c := &cli{out: out, talk: &talk, terminal: terminal}
		if code := c.run(ctx, []string{"--socket", socket, "switch", "r9"}); code != 7 || !strings.Contains(talk.String(), "superctl abort --app shop") {
			t.Errorf("terminal %v: exit %d\n%s%s", terminal, code, out.String(), talk.String())
		}
	}
	got := run(t, false, "--socket", socket, "switch", "r9", "--timeout", "100ms")
	if got.code != 7 {
		t.Errorf("after its timeout: %+v", got)
	}
}

func TestWaitDrained(t *testing.T) {
	f := &fakeDaemon{apps: []string{"shop"}, draining: 4}
	socket := superd(t, f)
	if got := run(t, false, "--socket", socket, "switch", "live", "--wait=drained"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining != 0 {
		t.Errorf("it did not wait: %d drain", f.draining)
	}
}

// Who asks for help is told that more than apps can be named.
func TestHelpSaysWhatCanBeNamed(t *testing.T) {
	for _, verb := range []string{"start", "stop", "restart", "scale", "signal", "logs", "clear"} {
		got := run(t, false, verb, "--help")
		for _, kind := range []string{"NAME: ", "shop/emails", "a program", "a group"} {
			if got.code != 0 || !strings.Contains(got.out, kind) {
				t.Errorf("%s --help does not name %q: %+v", verb, kind, got)
			}
		}
	}
}

func TestOrdersArriveAsMeant(t *testing.T) {
	f := &fakeDaemon{apps: []string{"shop"}}
	socket := superd(t, f)
	for _, args := range [][]string{{"stop", "--now", "shop/emails:0"}, {"signal", "HUP", "shop/fpm"}, {"scale", "shop/emails", "10"}, {"start", "all", "shop"}} {
		if got := run(t, false, append([]string{"--socket", socket}, args...)...); got.code != 0 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	want := []control.ProcessOrder{
		{Verb: control.VerbStop, Name: "shop/emails:0", Now: true},
		{Verb: control.VerbSignal, Name: "shop/fpm", Signal: "HUP"},
		{Verb: control.VerbScale, Name: "shop/emails", Processes: 10},
		{Verb: control.VerbStart, Name: "all"}, {Verb: control.VerbStart, Name: "shop"},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.orders) != len(want) {
		t.Fatalf("%+v", f.orders)
	}
	for i := range want {
		if f.orders[i] != want[i] {
			t.Errorf("order %d is %+v, want %+v", i, f.orders[i], want[i])
		}
	}
}

// What the process wrote that is to blame is shown, and moves no cursor.
func TestRefusedOrderShowsLines(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "restart", "shop/stuck")
	if !strings.Contains(got.out, "shop/stuck: running (because)\n  │ nginx: bad config\n  │ ") || strings.Contains(got.out, "\x1b") {
		t.Errorf("%q", got.out)
	}
	if got := run(t, false, "--socket", socket, "--json", "restart", "shop/stuck"); !strings.Contains(got.out, `"nginx: bad config"`) {
		t.Errorf("%q", got.out)
	}
}

func TestAllNamesAreCheckedFirst(t *testing.T) {
	f := &fakeDaemon{apps: []string{"shop"}}
	socket := superd(t, f)
	got := run(t, false, "--socket", socket, "stop", "shop/emails:*", "shop/fpm", "shop/none")
	if got.code != 10 || !strings.Contains(got.talk, "shop/none") || got.out != "" {
		t.Errorf("%+v", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.orders) != 1 || f.orders[0].Name != "shop/none" {
		t.Errorf("with a name that means nothing, these were ordered: %+v", f.orders)
	}
}

func TestDumbTerminal(t *testing.T) {
	t.Setenv("TERM", "dumb")
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, true, "--socket", socket, "switch", "rolled-back")
	if got.code != 3 || strings.ContainsAny(got.out, "\r\x1b") || !strings.Contains(got.out, "preparing    ✗") || strings.Count(got.out, "preparing") != 1 {
		t.Errorf("%d %q", got.code, got.out)
	}
}

func TestStatusText(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "status")
	for _, want := range []string{"shop  ok  r2 (generation 2) live, r1 before", "live 1/4 busy", "shop/emails:0  running", "5.0M"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is missing in\n%s", want, got.out)
		}
	}
	got = run(t, false, "--socket", socket, "status", "--stale")
	if strings.Contains(got.out, "emails:0") || !strings.Contains(got.out, "emails:1") {
		t.Errorf("--stale shows\n%s", got.out)
	}
	got = run(t, false, "--socket", socket, "status", "shop/emails:0")
	if strings.Contains(got.out, "fpm") || !strings.Contains(got.out, "emails:0") {
		t.Errorf("status of one shows\n%s", got.out)
	}
}

// Why something is not up is beside it, and not how a life before that ended.
func TestStateSaysWhy(t *testing.T) {
	for want, p := range map[string]control.ProcessStatus{
		"backoff (could not be started: no such user)":               {State: "backoff", Reason: "could not be started: no such user", Last: "signal SIGTERM after 57s"},
		"waiting (for db:0, which is stopped)":                       {State: "waiting", Reason: "for db:0, which is stopped"},
		"backoff (could not be started: env X: template {env:NOPE…)": {State: "backoff", Reason: "could not be started: env X: template {env:NOPE}: NOPE is not in the environment"},
		"fatal":                     {State: "fatal", Reason: "gave up after 3 failures", Last: "exit 1 after 2s"},
		"stopped (exit 0 after 1s)": {State: "stopped", Last: "exit 0 after 1s"},
		"running":                   {State: "running", PID: 7, Last: "exit 0 after 1s"},
	} {
		if got := programState(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	rows := rowsOf(control.AppStatus{Pools: []control.PoolStatus{{Workers: []control.ProcessStatus{
		{Name: "shop/emails:0", State: "backoff", Reason: "could not be started: no such user", Last: "exit 0 after 1s"},
	}}}})
	if got := rows[0][1]; got != "backoff (could not be started: no such user)" {
		t.Errorf("of a worker: %q", got)
	}
}

// What was asked for is shown, and whether that is well; a name that means nothing is told.
func TestStatusOfNames(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}, problem: "loop:0 is backoff"})
	for args, code := range map[string]int{"": 4, "loop": 4, "shop/emails": 0, "shop/emails nosuch": 10, "nosuch": 10} {
		got := run(t, false, append([]string{"--socket", socket, "status"}, strings.Fields(args)...)...)
		if got.code != code || strings.Contains(got.out, "! loop:0") != (code == 4) || strings.Contains(got.out, "emails:0") != (args == "" || strings.HasPrefix(args, "shop")) {
			t.Errorf("status %s: exit %d, want %d\n%s", args, got.code, code, got.out)
		}
		if strings.Contains(got.talk, "nothing is called nosuch") != (code == 10) {
			t.Errorf("status %s says %s", args, got.talk)
		}
	}
}

func TestLogsAreNamedWhenThereAreSeveral(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "logs", "shop/emails")
	if got.out != "shop/emails:0 | one\nshop/emails:1 | two\n" {
		t.Errorf("%q", got.out)
	}
}

func TestCompletionKnowsReleases(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "__complete", "switch", "")
	for _, want := range []string{"latest", "previous", "r2\tlive"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is missing in\n%s", want, got.out)
		}
	}
	if got := run(t, false, "completion", "bash"); got.code != 0 || !strings.Contains(got.out, "__start_superctl") {
		t.Errorf("completion bash: exit %d", got.code)
	}
}

func TestAttachCommand(t *testing.T) {
	f := &fakeDaemon{apps: []string{"shop"}, typed: make(chan string, 4)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("bye\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var out, talk strings.Builder
	c := &cli{out: &out, talk: &talk, socket: superd(t, f)}
	if err := c.attach(t.Context(), "nginx:0", r); err != nil {
		t.Fatal(err)
	}
	if out.String() != "prompt> read bye\n" || !strings.Contains(talk.String(), "Ctrl-C detaches") {
		t.Errorf("printed %q, said %q", out.String(), talk.String())
	}
}

func TestClearCommand(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	if got := run(t, false, "--socket", socket, "clear", "shop/fpm", "nginx"); got.code != 0 || !strings.Contains(got.talk, "nginx: cleared") {
		t.Errorf("%+v", got)
	}
}

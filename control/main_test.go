package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/release"
)

// The test binary is also a client of another user, a superd that dies, and one that
// has hardly any descriptors.
func TestMain(m *testing.M) {
	moods := map[string]func() error{
		"ask": askAndPrint, "client": statusAndPrint, "flood": flood, "events": writeEvents, "listen": listenAndWait, "serve": serveWithFewFiles,
	}
	if mood := moods[os.Getenv("CONTROL_TEST_MOOD")]; mood != nil {
		if err := mood(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if binaryOnce.dir != "" {
		os.RemoveAll(binaryOnce.dir)
	}
	os.Exit(code)
}

// inMood is the test binary again, as another user if there is one, with the socket.
func inMood(t *testing.T, mood, socket string, as *syscall.Credential, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Env = append(os.Environ(), "CONTROL_TEST_MOOD="+mood, "CONTROL_TEST_SOCKET="+socket, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// binary is the test binary where other users can run it.
var binaryOnce struct {
	sync.Once
	path, dir string
	err       error
}

func binary(t *testing.T) string {
	t.Helper()
	binaryOnce.Do(func() {
		binaryOnce.path, binaryOnce.err = os.Executable()
		if os.Geteuid() == 0 {
			binaryOnce.path, binaryOnce.err = copyBinary(binaryOnce.path)
		}
	})
	if binaryOnce.err != nil {
		t.Fatal(binaryOnce.err)
	}
	return binaryOnce.path
}

func copyBinary(from string) (string, error) {
	dir, err := os.MkdirTemp("", "ctlbin")
	if err != nil {
		return "", err
	}
	binaryOnce.dir = dir
	text, err := os.ReadFile(from)
	to := filepath.Join(dir, "control.test")
	syscall.ForkLock.RLock() // no child of another test has it open for writing when it is run: golang.org/issue/22315
	defer syscall.ForkLock.RUnlock()
	return to, errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(to, text, 0o755))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
}

// shortDir is a directory that everyone may enter, with a name short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl") //nolint:usetesting // its path is short, and others may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// house is a server on a real socket with a daemon that only pretends.
type house struct {
	t      *testing.T
	socket string
	state  string // directory of the events
	rules  []Rule

	daemon *fakeDaemon
	events *Events
	server *Server
	log    *logged
	stop   func() // and wait

	instead Daemon // of daemon
	naming  func() Naming
}

func newHouse(t *testing.T, rules ...Rule) *house {
	t.Helper()
	h := &house{t: t, socket: filepath.Join(shortDir(t), "superd.sock"), state: t.TempDir(), rules: rules, log: &logged{}}
	h.daemon = &fakeDaemon{typed: make(chan string, 16)}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// start begins a superd, or the next one.
func (h *house) start() {
	h.t.Helper()
	log := slog.New(slog.NewJSONHandler(h.log, nil))
	events, err := OpenEvents(filepath.Join(h.state, "events.ndjson"), log)
	if err != nil {
		h.t.Fatal(err)
	}
	h.events, h.daemon.events = events, events
	var daemon Daemon = h.daemon
	if h.instead != nil {
		daemon = h.instead
	}
	h.server = NewServer(Options{Daemon: daemon, Events: events, Rules: h.rules, Log: log, Naming: h.naming})
	socket, err := Listen(h.t.Context(), h.socket, SocketMode(h.rules))
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := events.Run(ctx); err != nil {
			h.t.Errorf("events: %v", err)
		}
	})
	running.Go(func() {
		if err := h.server.Run(ctx, socket); err != nil {
			h.t.Errorf("server: %v", err)
		}
	})
	h.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
}

func (h *house) client() *Client { return NewClient(h.socket) }

// ask sends one request as it is and returns the answer.
func (h *house) ask(method, path, body string) (status int, header http.Header, answer string) {
	h.t.Helper()
	status, header, answer, err := rawAsk(h.t.Context(), h.socket, method, path, body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, header, answer
}

func rawAsk(ctx context.Context, socket, method, path, body string) (int, http.Header, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://superd"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	response, err := NewClient(socket).http.Do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, string(text), err
}

// refused asks for something that must be answered with an error of a kind.
func (h *house) refused(kind Kind, method, path, body string) Error {
	h.t.Helper()
	status, _, text := h.ask(method, path, body)
	var answer ErrorAnswer
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Error.Kind != kind || status != kind.Status() {
		h.t.Errorf("%s %s %.60q: answered %d %s, want an error %s with %d", method, path, body, status, text, kind, kind.Status())
	}
	return answer.Error
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// logged is what a log was given.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

// with are the entries that have a field of that value.
func (l *logged) with(field string, value any) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for line := range strings.Lines(l.text.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && fmt.Sprint(entry[field]) == fmt.Sprint(value) {
			found = append(found, entry)
		}
	}
	return found
}

// fakeDaemon has two apps, shop and blog, and a program. A switch goes on until the
// test says how it ends.
type fakeDaemon struct {
	events *Events

	mu       sync.Mutex
	asked    []string // what for, by whom
	status   *Status  // instead of its own
	current  *release.Record
	history  []release.Record
	begin    func(ctx context.Context, r SwitchRequest) error // may refuse, or wait
	wrote    func(ctx context.Context, q LogQuery, emit func(LogLine) error) error
	settling bool
	settle   func() // is called when the status was asked for three times while settling
	askedFor int
	number   int
	typed    chan string
}

func (d *fakeDaemon) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, fmt.Sprintf(format, args...))
}

func (d *fakeDaemon) heard() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

func (d *fakeDaemon) Status(context.Context) (Status, error) {
	d.mu.Lock()
	if d.settling {
		if d.askedFor++; d.askedFor == 3 {
			d.mu.Unlock()
			d.settle()
			d.mu.Lock()
		}
	}
	defer d.mu.Unlock()
	if d.status != nil {
		return *d.status, nil
	}
	shop := AppStatus{Name: "shop", State: AppOK}
	if d.settling {
		shop.State = AppSettling
	}
	if d.current != nil {
		shop.State, shop.Switch = AppSwitching, &SwitchStatus{Record: *d.current}
	}
	blog := AppStatus{Name: "blog", State: AppDegraded, Problems: []string{"blog: no release"}}
	return Status{
		Version: "test", Problems: []string{"blog: no release", "nginx: keeps dying"}, Apps: []AppStatus{shop, blog},
		Programs: []ProcessStatus{{Name: "nginx:0", State: "backoff"}},
	}, nil
}

func (d *fakeDaemon) Meaning(name string) []string { return []string{name} }

func (d *fakeDaemon) known(app string) error {
	if app != "shop" && app != "blog" {
		return noApp(app)
	}
	return nil
}

func (d *fakeDaemon) Releases(_ context.Context, app string) ([]ReleaseInfo, error) {
	return []ReleaseInfo{{Name: "r1", Dir: "/srv/" + app + "/releases/r1", State: "live"}}, d.known(app)
}

func (d *fakeDaemon) History(_ context.Context, app string) ([]release.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.history), d.known(app)
}

func (d *fakeDaemon) Outcome(ctx context.Context, _, id string) (release.Record, error) {
	for {
		d.mu.Lock()
		at := slices.IndexFunc(d.history, func(r release.Record) bool { return r.ID == id })
		if at >= 0 {
			defer d.mu.Unlock()
			return d.history[at], nil
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return release.Record{}, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (d *fakeDaemon) Switch(ctx context.Context, app string, r SwitchRequest, by release.By) (release.Record, error) {
	d.note("switch %s to %s by %d", app, r.Release, by.UID)
	return d.accept(ctx, app, release.KindSwitch, r, by)
}

func (d *fakeDaemon) accept(ctx context.Context, app string, kind release.Kind, r SwitchRequest, by release.By) (release.Record, error) {
	if err := d.known(app); err != nil {
		return release.Record{}, err
	}
	if d.begin != nil {
		if err := d.begin(ctx, r); err != nil {
			return release.Record{}, err
		}
	}
	d.mu.Lock()
	d.number++
	record := release.Record{
		ID: fmt.Sprintf("s%d", d.number), Kind: kind, By: by, Phase: release.Preparing, Started: time.Now(),
		To: release.Generation{Number: uint64(d.number), Release: r.Release, Dir: "/srv/shop/releases/" + r.Release},
	}
	d.current = &record
	d.mu.Unlock()
	d.tell(release.Event{Kind: "switch.begun", Switch: record.ID, To: record.To})
	return record, nil
}

func (d *fakeDaemon) tell(e release.Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	d.events.Append(SwitchEvent("shop", e))
}

// finish ends the switch; quietly means that nobody hears of it.
func (d *fakeDaemon) finish(v release.Verdict, quietly bool) {
	d.mu.Lock()
	r := *d.current
	r.Verdict, r.Phase, r.Ended, r.Cause = v, release.Ended, time.Now(), "because"
	d.current, d.history = nil, append(d.history, r)
	d.mu.Unlock()
	if !quietly {
		d.tell(release.Event{Kind: EventSwitchEnded, Switch: r.ID, To: r.To, Verdict: v, Phase: r.Phase, Reason: r.Cause})
	}
}

func (d *fakeDaemon) going() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current != nil
}

func (d *fakeDaemon) Rollback(ctx context.Context, app string, r RollbackRequest, by release.By) (release.Record, error) {
	d.note("rollback %s to %s by %d", app, r.Release, by.UID)
	return d.accept(ctx, app, release.KindRollback, SwitchRequest{Release: cmp.Or(r.Release, "r41")}, by)
}

func (d *fakeDaemon) DryRun(ctx context.Context, app string, r SwitchRequest) (release.Generation, error) {
	d.note("dry run %s to %s", app, r.Release)
	to := release.Generation{Release: r.Release, Dir: "/srv/shop/releases/" + r.Release}
	if d.begin != nil {
		return to, d.begin(ctx, r)
	}
	return to, d.known(app)
}

func (d *fakeDaemon) Abort(_ context.Context, app string, by release.By) error {
	d.note("abort %s by %s", app, by.User)
	if !d.going() {
		return &release.Refusal{Kind: release.ErrNothing, Why: "no switch is going on"}
	}
	return d.known(app)
}

func (d *fakeDaemon) Hold(_ context.Context, app, reason string, by release.By) error {
	d.note("hold %s because %s by %d", app, reason, by.UID)
	return d.known(app)
}

func (d *fakeDaemon) Resume(_ context.Context, app string, by release.By) error {
	d.note("resume %s by %d", app, by.UID)
	return d.known(app)
}

func (d *fakeDaemon) Process(_ context.Context, o ProcessOrder, by release.By) ([]ProcessResult, error) {
	d.note("%s %s now=%v signal=%s processes=%d by %d", o.Verb, o.Name, o.Now, o.Signal, o.Processes, by.UID)
	if o.Name == "nothing" {
		return nil, &Error{Kind: NotFound, Message: "nothing is called nothing"}
	}
	return []ProcessResult{{Name: o.Name, State: "running", OK: true}}, nil
}

func (d *fakeDaemon) Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error {
	if d.wrote != nil {
		return d.wrote(ctx, q, emit)
	}
	return &Error{Kind: NotFound, Message: "nothing is called " + q.Name}
}

func (d *fakeDaemon) Upgrade(_ context.Context, r UpgradeRequest, by release.By) (UpgradeAnswer, error) {
	d.note("upgrade keeper=%t by %d", r.Keeper, by.UID)
	return UpgradeAnswer{Before: Incarnation{"1.0", 7}, After: Incarnation{PID: 8}, Changed: true, Message: "superd 8 takes over"}, nil
}

func (d *fakeDaemon) ClearLog(_ context.Context, name string, by release.By) ([]ProcessResult, error) {
	d.note("clear %s by %d", name, by.UID)
	return []ProcessResult{{Name: name, State: "running", OK: true}}, nil
}

// Attach sends what is put into heard as input, until that is "bye".
func (d *fakeDaemon) Attach(ctx context.Context, name string, emit func([]byte) error) error {
	if name != "nginx:0" {
		return &Error{Kind: NotFound, Message: "nothing is called " + name}
	}
	if err := emit(nil); err != nil {
		return err
	}
	for {
		select {
		case text := <-d.typed:
			if err := emit([]byte(text)); err != nil || text == "bye" {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (d *fakeDaemon) Input(_ context.Context, name, text string, by release.By) error {
	d.note("input %s %q by %d", name, text, by.UID)
	d.typed <- text
	return nil
}

func (d *fakeDaemon) Reload(_ context.Context, plan bool, by release.By) (Reload, error) {
	d.note("reload plan=%t by %d", plan, by.UID)
	return Reload{Plan: plan, Changes: []Change{{Name: "superd", Action: "nothing"}}}, nil
}

func (d *fakeDaemon) Shutdown(_ context.Context, by release.By) error {
	d.note("shutdown by %d", by.UID)
	return nil
}

// askAndPrint is a client of whatever user this process is: the arguments are method,
// path and body, again and again. It prints status and body, one answer a line.
func askAndPrint() error {
	for args := range slices.Chunk(os.Args[1:], 3) {
		status, _, body, err := rawAsk(context.Background(), os.Getenv("CONTROL_TEST_SOCKET"), args[0], args[1], args[2])
		if errors.Is(err, fs.ErrPermission) {
			status, body = 0, "may not connect"
		} else if err != nil {
			return err
		}
		fmt.Printf("%d %s\n", status, strings.ReplaceAll(strings.TrimSpace(body), "\n", " "))
	}
	return nil
}

// statusAndPrint is superctl status, for its error.
func statusAndPrint() error {
	_, err := NewClient(os.Getenv("CONTROL_TEST_SOCKET")).Status(context.Background())
	e := asError(err)
	fmt.Println(e.Kind, e.Kind.Exit(), e.Hint)
	return nil
}

// flood opens connections and sends half a header on each, and stays until its stdin ends.
func flood() error {
	opened, turnedAway := 0, 0
	var open []net.Conn
	for range 300 {
		c, err := net.Dial("unix", os.Getenv("CONTROL_TEST_SOCKET"))
		if err != nil {
			turnedAway++
			continue
		}
		open = append(open, c)
		_, _ = c.Write([]byte("GET /v1/status HTTP/1.1\r\nHost: superd\r\nX-Slow: "))
		opened++
	}
	fmt.Println(opened, turnedAway)
	_, err := io.Copy(io.Discard, os.Stdin)
	_ = open
	return err
}

// listenAndWait takes the socket and stays until it is killed.
func listenAndWait() error {
	s, err := Listen(context.Background(), os.Getenv("CONTROL_TEST_SOCKET"), 0o600)
	if err != nil {
		return err
	}
	fmt.Println("listens")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, s.Close())
}

// serveWithFewFiles is a superd that runs out of descriptors.
func serveWithFewFiles() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 40, Max: 40}); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	events, err := OpenEvents(os.Getenv("CONTROL_TEST_SOCKET")+".events", log)
	if err != nil {
		return err
	}
	socket, err := Listen(context.Background(), os.Getenv("CONTROL_TEST_SOCKET"), 0o600)
	if err != nil {
		return err
	}
	fmt.Println("serves")
	return NewServer(Options{Daemon: &fakeDaemon{events: events}, Events: events, Log: log}).Run(context.Background(), socket)
}

// begin starts a mood that stays, and returns when it has said its first line.
func begin(t *testing.T, cmd *exec.Cmd) (first string) {
	t.Helper()
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	first, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s said nothing: %v", cmd, err)
	}
	return strings.TrimSpace(first)
}

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/control/xmlrpc"
	"superd/release"
)

// fleet is a daemon whose processes can be started, stopped and written about.
type fleet struct {
	fakeDaemon
	mu2     sync.Mutex
	states  map[string]string
	slow    chan struct{} // stopping waits for it
	refusal string        // why late does not start
	last    string        // how what is in backoff has ended

	changes []Change
	reloads int
	broken  string
}

func newFleet() *fleet {
	return &fleet{fakeDaemon: fakeDaemon{typed: make(chan string, 16)}, refusal: "it ended at once", states: map[string]string{
		"shop/fpm": "live", "shop/emails:0": "running", "shop/emails:1": "running",
		"web:0": "running", "jobs:0": "running", "jobs:1": "stopped", "solo:0": "backoff", "late:0": "stopped",
	}}
}

func (f *fleet) process(name string) ProcessStatus {
	s := ProcessStatus{Name: name, State: f.states[name], Since: time.Now().Add(-3725 * time.Second)}
	switch s.State {
	case "running":
		s.PID = 4242
	case "backoff":
		s.Last = f.last
		s.Problem = name + " is backoff"
	}
	return s
}

func (f *fleet) Status(context.Context) (Status, error) {
	f.mu2.Lock()
	defer f.mu2.Unlock()
	s := Status{Version: "test", PID: os.Getpid()}
	worker := func(n string) ProcessStatus { w := f.process("shop/emails:" + n); w.App = "shop"; return w }
	old := worker("1")
	old.State, old.PID = "draining", 17
	s.Apps = []AppStatus{{Name: "shop", FPM: &FPMStatus{Name: "shop/fpm", Generations: []GenerationStatus{
		{State: "draining", PID: 99, Generation: release.Generation{Number: 1}}, {State: f.states["shop/fpm"], PID: 100, Since: time.Now()},
	}}, Pools: []PoolStatus{{Name: "shop/emails", Workers: []ProcessStatus{worker("0"), old, worker("1")}}}}}
	s.Problems = []string{"the disk is full"}
	for _, name := range []string{"web:0", "jobs:0", "jobs:1", "solo:0", "late:0", "fresh:0"} {
		if f.states[name] == "backoff" {
			s.Problems = append(s.Problems, name+" is backoff")
		}
		if f.states[name] != "" {
			s.Programs = append(s.Programs, f.process(name))
		}
	}
	return s, nil
}

func (f *fleet) Meaning(name string) []string {
	f.mu2.Lock()
	defer f.mu2.Unlock()
	for process := range f.states {
		if Match(name, process) {
			return []string{name}
		}
	}
	return map[string][]string{"backend": {"shop", "solo"}, "empty": {"none"}}[name]
}

func (f *fleet) Process(ctx context.Context, o ProcessOrder, by release.By) ([]ProcessResult, error) {
	f.note("%s %s %s by %d", o.Verb, o.Name, o.Signal, by.UID)
	if o.Verb == VerbStop && f.slow != nil {
		select {
		case <-f.slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu2.Lock()
	defer f.mu2.Unlock()
	r := ProcessResult{Name: o.Name, OK: true}
	switch {
	case f.states[o.Name] == "":
		return nil, &Error{Kind: NotFound, Message: "nothing is called so"}
	case o.Verb == VerbStart && o.Name == "late:0":
		r.OK, r.Message = false, f.refusal
	case o.Verb == VerbStart:
		f.states[o.Name] = "running"
	case o.Verb == VerbStop:
		f.states[o.Name] = "stopped"
	}
	r.State = f.states[o.Name]
	return []ProcessResult{r}, nil
}

// Reload has what the test says is in the file.
func (f *fleet) Reload(_ context.Context, plan bool, _ release.By) (Reload, error) {
	f.mu2.Lock()
	defer f.mu2.Unlock()
	r := Reload{Plan: plan, Changes: f.changes}
	if f.broken != "" {
		return r, &Error{Kind: Rejected, Message: f.broken}
	}
	if plan {
		return r, nil
	}
	f.reloads++
	for _, c := range f.changes {
		switch c.Action {
		case "start":
			f.states[c.Name+":0"] = "running"
		case "stop":
			delete(f.states, c.Name+":0")
		}
	}
	f.changes = nil
	return r, nil
}

// supervisorctl update makes a reload of superd of it, once, and stops what is gone.
func TestRereadAndUpdate(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	f.changes = []Change{{Name: "fresh", Action: "start"}, {Name: "late", Action: "stop"}, {Name: "solo", Action: "stop"}, {Name: "jobs", Action: "restart"}, {Name: "web", Action: "nothing"}, {Name: "shop/emails", Action: "later"}}
	if out, exit := supervisorctl(t, h.socket, "reread"); exit != 0 || out != "fresh: available\njobs: changed\nlate: disappeared\nsolo: disappeared\n" {
		t.Errorf("reread: exit %d\n%s", exit, out)
	}
	out, exit := supervisorctl(t, h.socket, "update")
	if exit != 0 || out != "late: stopped\nlate: removed process group\nsolo: stopped\nsolo: removed process group\njobs: stopped\njobs: updated process group\nfresh: added process group\n" {
		t.Errorf("update: exit %d\n%s", exit, out)
	}
	f.mu2.Lock()
	if f.reloads != 1 || f.states["jobs:0"] != "running" || f.states["jobs:1"] != "running" {
		t.Errorf("%d reloads, %v", f.reloads, f.states)
	}
	f.broken = "superd.toml:3: nonsense"
	f.mu2.Unlock()
	if out, _ := supervisorctl(t, h.socket, "reread"); !strings.Contains(out, "ERROR") || !strings.Contains(out, "nonsense") {
		t.Errorf("a broken file: %s", out)
	}
	if _, err := h.rpc("supervisor.removeProcessGroup", "front"); asFault(err, "").Code != faultStillRunning {
		t.Errorf("a running group is removed: %v", err)
	}
}

func (f *fleet) Logs(ctx context.Context, q LogQuery, emit func(LogLine) error) error {
	f.note("logs %s", strings.Join(append([]string{q.Name}, q.More...), " "))
	if q.Stream == "stderr" {
		return nil
	}
	for i := range 3 {
		if err := emit(LogLine{Process: q.Name, Line: fmt.Sprintf("%s line %d grüße", q.Name, i)}); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
	}
	return nil
}

func compatHouse(t *testing.T, rules ...Rule) (*house, *fleet) {
	t.Helper()
	f := newFleet()
	h := &house{t: t, socket: shortDir(t) + "/s.sock", state: t.TempDir(), rules: rules, log: &logged{}, daemon: &f.fakeDaemon, instead: f,
		naming: func() Naming {
			return Naming{Groups: map[string]string{"web": "front"}, Names: map[string]string{"solo:0": "solo:solo_07"},
				File: func(process, stream string) string { return "/log/" + process + "." + stream }}
		}}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h, f
}

// ctlConf is the smallest file that supervisorctl takes.
func ctlConf(t *testing.T) string {
	t.Helper()
	path := shortDir(t) + "/c.conf"
	if err := os.WriteFile(path, []byte("[supervisorctl]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// supervisorctl is Debian's, against our socket.
func supervisorctl(t *testing.T, socket string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "supervisorctl", append([]string{"-c", ctlConf(t), "-s", "unix://" + socket}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONWARNINGS=ignore", "LANG=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended { //nolint:errorlint // it is not wrapped
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

type answered struct {
	out  string
	exit int
}

// many is supervisorctl with many lines in one process: starting it takes longer than
// what it does.
const many = `
import io, json, sys
from supervisor import supervisorctl as s
from supervisor.options import ClientOptions
options = ClientOptions()
options.realize(["-c", sys.argv[1], "-s", sys.argv[2], "status"])
answers = []
for line in json.load(sys.stdin):
    out = io.StringIO()
    c = s.Controller(options, stdout=out)
    c.output = lambda message: out.write(message + "\n")
    c.onecmd(line)
    answers.append([out.getvalue(), c.exitstatus])
json.dump(answers, sys.stdout)`

func supervisorctls(t *testing.T, socket string, lines []string) []answered {
	t.Helper()
	return supervisorctlsAs(t, nil, socket, lines)
}

func supervisorctlsAs(t *testing.T, user *syscall.Credential, socket string, lines []string) []answered {
	t.Helper()
	in, err := json.Marshal(lines)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-W", "ignore", "-c", many, ctlConf(t), "unix://"+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("supervisorctl: %v %s", err, out)
	}
	var pairs [][2]any
	if err := json.Unmarshal(out, &pairs); err != nil || len(pairs) != len(lines) {
		t.Fatalf("%v in %s", err, out)
	}
	answers := make([]answered, len(pairs))
	for i, pair := range pairs {
		exit, _ := pair[1].(float64)
		answers[i] = answered{fmt.Sprint(pair[0]), int(exit)}
	}
	return answers
}

func TestSupervisorctl(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	steps := []struct {
		args string
		exit int
		want string
	}{
		{"version", 0, "4.2.5\n"},
		{"pid", 0, fmt.Sprintf("%d\n", os.Getpid())},
		{"pid shop:fpm", 0, "100\n"},
		{"pid late", 7, "0\n"},
		{"pid jobs:0", 0, "4242\n"},
		{"pid shop/emails:0", 0, "4242\n"},
		{"tail -7 shop/emails:0", 0, "rüße\n\n"},
		{"pid nobody", 1, "No such process nobody\n"},
		{"status front:web", 0, "front:web                        RUNNING   pid 4242, uptime 1:02:05\n"},
		{"status solo:*", 0, "solo:solo_07                     BACKOFF   Exited too quickly (process log may have details)\n"},
		{"status shop:*", 0, "shop:emails_00                   RUNNING   pid 4242, uptime 1:02:05\nshop:emails_01                   RUNNING   pid 4242, uptime 1:02:05\nshop:fpm                         RUNNING   pid 100, uptime 0:00:0"},
		{"status late", 3, "late                             STOPPED   Not started\n"},
		{"status nobody", 4, "nobody: ERROR (no such process)\n"},
		{"start jobs:*", 0, "jobs:jobs_01: started\n"},
		{"start jobs:jobs_01", 0, "jobs:jobs_01: ERROR (already started)\n"},
		{"start late", 7, "late: ERROR (abnormal termination)\n"},
		{"stop front:web", 0, "front:web: stopped\n"},
		{"stop front:web", 0, "front:web: ERROR (not running)\n"},
		{"restart jobs:*", 0, "jobs:jobs_00: stopped\njobs:jobs_01: stopped\njobs:jobs_00: started\njobs:jobs_01: started\n"},
		{"signal HUP shop:emails_00", 0, "shop:emails_00: signalled\n"},
		{"signal NOPE shop:emails_00", 1, "shop:emails_00: ERROR (bad signal name)\n"},
		{"tail shop:emails_00", 0, "shop/emails:0 line 0 grüße\nshop/emails:0 line 1 grüße\nshop/emails:0 line 2 grüße\n\n"},
		{"tail -7 shop:emails_00", 0, "rüße\n\n"},
		{"tail -3 shop:emails_00", 0, "e\n\n"},
		{"clear shop:emails_00", 0, "shop:emails_00: cleared\n"},
		{"stop shop:*", 0, "shop:emails_00: stopped\n"},
		{"avail", 0, "front:web"},
	}
	var lines []string
	for _, step := range steps {
		lines = append(lines, step.args)
	}
	answers := supervisorctls(t, h.socket, lines)
	for i, step := range steps {
		out, exit := answers[i].out, answers[i].exit
		if exit != step.exit || !strings.HasPrefix(out, step.want) && (step.args != "avail" || !strings.Contains(out, step.want)) {
			t.Errorf("%s: exit %d, want %d\n%s\nwant\n%s", step.args, exit, step.exit, out, step.want)
		}
	}
	for _, want := range []string{"signal shop/emails:0 HUP by 0", "stop shop/fpm  by 0", "restart all"} {
		if heard := f.heard(); os.Geteuid() == 0 && slices.Contains(heard, want) == (want == "restart all") {
			t.Errorf("asked for %q, %q", heard, want)
		}
	}
}

// A PHP-FPM that cannot be started is not running, although it is the one that is live.
func TestFPMThatCannotBeStarted(t *testing.T) {
	why := "could not be started: env_file: no such file"
	p := fpmProcess(AppStatus{Name: "shop", FPM: &FPMStatus{Generations: []GenerationStatus{{State: "live", Reason: why}}}})
	if info := p.info(time.Now()); info["statename"] != "BACKOFF" || info["spawnerr"] != why {
		t.Errorf("%v", info)
	}
	for _, want := range []string{why, "Exited too quickly (process log may have details)"} {
		reason := why
		if want != why {
			reason = "exit 3 after 20ms"
		}
		if info := fromStatus(ProcessStatus{Name: "web:0", State: "backoff", Reason: reason}).info(time.Now()); info["spawnerr"] != want {
			t.Errorf("%v", info)
		}
	}
}

func TestSupervisorctlFollows(t *testing.T) {
	t.Parallel()
	h, _ := compatHouse(t)
	for name, line := range map[string]string{"front:web": "web:0 line 2", "web:0": "web:0 line 2", "shop/emails:1": "shop/emails:1 line 2"} {
		supervisorctlFollows(t, h, name, line)
	}
}

func supervisorctlFollows(t *testing.T, h *house, name, line string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "supervisorctl", "-c", ctlConf(t), "-s", "unix://"+h.socket, "tail", "-f", name)
	cmd.Env = append(os.Environ(), "PYTHONWARNINGS=ignore", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1")
	out := &logged{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text := func() string { out.mu.Lock(); defer out.mu.Unlock(); return out.text.String() }
	eventually(t, "the lines of tail -f", func() bool { return strings.Contains(text(), line) })
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
}

// Python's own client, over a unix socket, as the panels use it.
const panel = `
import http.client, socket, sys, xmlrpc.client
class Transport(xmlrpc.client.Transport):
    def make_connection(self, host):
        c = http.client.HTTPConnection("localhost")
        c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
        return c
def proxy(): return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=Transport())
def fault(call):
    try: call()
    except xmlrpc.client.Fault as f: return (f.faultCode, f.faultString)
assert proxy().supervisor.getState() == {"statecode": 1, "statename": "RUNNING"}
info = proxy().supervisor.getProcessInfo("jobs:jobs_00")
for key in "name group description start stop now state statename spawnerr exitstatus logfile stdout_logfile stderr_logfile pid".split(): assert key in info, key
assert info["statename"] == "RUNNING" and info["pid"] == 4242 and info["now"] - info["start"] in (3725, 3726), info
assert len(proxy().supervisor.getAllProcessInfo()) == 8
assert len(proxy().supervisor.getAllConfigInfo()) == 8
methods = proxy().system.listMethods()
for m in methods: assert proxy().system.methodHelp(m) and proxy().system.methodSignature(m), m
import supervisor.rpcinterface as r
theirs = {"supervisor." + n for n in vars(r.SupervisorNamespaceRPCInterface) if not n.startswith("_")}
assert theirs <= set(methods), theirs - set(methods)
assert fault(lambda: proxy().supervisor.getProcessInfo("no")) == (10, "BAD_NAME: no")
assert fault(lambda: proxy().supervisor.startProcess("front:web")) == (60, "ALREADY_STARTED: front:web")
assert fault(lambda: proxy().supervisor.stopProcess("late")) == (70, "NOT_RUNNING: late")
assert fault(lambda: proxy().supervisor.startProcess("late")) == (40, "ABNORMAL_TERMINATION: late")
assert fault(lambda: proxy().supervisor.signalProcess("front:web", "X")) == (11, "BAD_SIGNAL: X")
assert fault(lambda: proxy().supervisor.nothing())[0] == 1
assert fault(lambda: proxy().supervisor.getProcessInfo())[0] == 2
assert fault(lambda: proxy().supervisor.getPID("x"))[0] == 2
assert fault(lambda: proxy().supervisor.readProcessStdoutLog("front:web", -5, 3))[0] == 3
assert fault(lambda: proxy().supervisor.readLog(0, 0))[0] == 20
assert proxy().supervisor.stopProcess("front:web", False) is True
assert proxy().supervisor.startProcessGroup("jobs") == [{"name": "jobs_01", "group": "jobs", "status": 80, "description": "OK"}]
text = proxy().supervisor.readProcessStdoutLog("jobs:jobs_00", 0, 13)
assert text == "jobs:0 line 0", text
tail = proxy().supervisor.tailProcessStdoutLog("jobs:jobs_00", 0, 10000)
assert tail[2] is False and tail[1] == len(tail[0].encode()), tail
assert proxy().supervisor.readProcessStderrLog("jobs:jobs_00", 0, 0) == ""
assert proxy().supervisor.clearAllProcessLogs()[0]["status"] == 80
many = proxy().system.multicall([{"methodName": "supervisor.getPID"}, {"methodName": "supervisor.getProcessInfo", "params": ["no"]}])
assert isinstance(many[0], int) and many[1]["faultCode"] == 10, many # supervisord wraps nothing
assert proxy().supervisor.shutdown() is True
print("fine")
`

func TestPythonsClient(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-W", "ignore", "-c", panel, h.socket)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "fine\n" {
		t.Errorf("%v: %s", err, out)
	}
	if !slices.ContainsFunc(f.heard(), func(s string) bool { return strings.HasPrefix(s, "shutdown") }) {
		t.Errorf("superd was not asked to shut down: %q", f.heard())
	}
}

func (h *house) rpc(method string, params ...any) (any, error) {
	h.t.Helper()
	status, _, text := h.ask("POST", "/RPC2", string(xmlrpc.WriteCall(xmlrpc.Call{Method: method, Params: params})))
	if status != http.StatusOK {
		h.t.Fatalf("%s: %d %s", method, status, text)
	}
	return xmlrpc.ReadAnswer([]byte(text))
}

// Who may only read starts nothing by this way either, and does not see what is not
// for it.
func TestSupervisorsMethodsHaveRoles(t *testing.T) {
	t.Parallel()
	q := func(rules ...Rule) *request {
		uid := uint32(4711)
		for i := range rules {
			rules[i].User = &uid
		}
		r, err := http.NewRequestWithContext(t.Context(), "POST", "/RPC2", nil)
		if err != nil {
			t.Fatal(err)
		}
		s := NewServer(Options{Daemon: newFleet(), Rules: rules, Log: slog.New(slog.DiscardHandler)})
		return &request{server: s, http: r, peer: Peer{UID: uid}, grant: grantTo(Peer{UID: uid}, rules)}
	}
	count := func(q *request) int {
		all, err := q.call(xmlrpc.Call{Method: "supervisor.getAllProcessInfo"})
		if err != nil {
			t.Fatal(err)
		}
		return len(all.([]any))
	}
	start := xmlrpc.Call{Method: "supervisor.startProcess", Params: []any{"jobs:jobs_01"}}
	for _, method := range []string{"getAllProcessInfo", "getAllConfigInfo", "stopAllProcesses", "startAllProcesses", "clearAllProcessLogs", "getPID"} {
		if _, err := q().call(xmlrpc.Call{Method: "supervisor." + method}); err == nil || asFault(err, "").Code != faultFailed {
			t.Errorf("%s for nobody: %v", method, err)
		}
	}
	reader := q(Rule{Role: RoleRead})
	if _, err := reader.call(start); err == nil || KindOf(err) != Denied || count(reader) != 8 {
		t.Errorf("who may read starts: %v", err)
	}
	if _, err := reader.call(xmlrpc.Call{Method: "supervisor.shutdown"}); err == nil {
		t.Error("who may read shuts down")
	}
	shop := q(Rule{Role: RoleOperate, Apps: []string{"shop"}})
	if n := count(shop); n != 3 {
		t.Errorf("who operates shop sees %d processes, not its 3", n)
	}
	if _, err := shop.call(xmlrpc.Call{Method: "supervisor.stopProcess", Params: []any{"shop:fpm"}}); err != nil {
		t.Errorf("who operates shop stops its FPM: %v", err)
	}
	if _, err := shop.call(start); asFault(err, "").Code != faultBadName {
		t.Errorf("who operates shop starts a program: %v", err)
	}
	if _, err := q(Rule{Role: RoleOperate}).call(start); err != nil {
		t.Errorf("who operates everything starts: %v", err)
	}
}

// A panel finds the files of a process, and why it is not up.
func TestProcessInfoTellsFilesAndReason(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	const quick = "Exited too quickly (process log may have details)"
	for last, want := range map[string]string{
		"": quick, "exit 3 after 5ms": quick, "signal SIGSEGV after 1s": quick,
		"exec /nowhere/php: no such file or directory": "exec /nowhere/php: no such file or directory",
		"chdir /nowhere: permission denied":            "chdir /nowhere: permission denied",
	} {
		f.mu2.Lock()
		f.last = last
		f.mu2.Unlock()
		info, err := h.rpc("supervisor.getProcessInfo", "solo:solo_07")
		if members, ok := info.(map[string]any); err != nil || !ok || members["spawnerr"] != want || members["description"] != want {
			t.Errorf("%q: %v, %v", last, info, err)
		}
	}
	all, err := h.rpc("supervisor.getAllProcessInfo")
	list, ok := all.([]any)
	if err != nil || !ok {
		t.Fatal(all, err)
	}
	for _, one := range list {
		info, _ := one.(map[string]any)
		if info["name"] != "emails_01" {
			continue
		}
		if info["logfile"] != "/log/shop/emails:1.stdout" || info["stdout_logfile"] != info["logfile"] || info["stderr_logfile"] != "/log/shop/emails:1.stderr" {
			t.Errorf("files: %v", info)
		}
	}
}

// That a name has "exec" in it is no error of the start.
func TestStartErrors(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	for message, want := range map[string]int{
		"exec /nowhere: no such file or directory": faultSpawnError, "start emails: shop/emails:0: exec php: permission denied": faultSpawnError,
		"it ended at once": faultAbnormalTermination, "start executor: shop/executor:0: exit 3 after 1ms": faultAbnormalTermination,
	} {
		f.mu2.Lock()
		f.refusal = message
		f.mu2.Unlock()
		if _, err := h.rpc("supervisor.startProcess", "late"); asFault(err, "").Code != want {
			t.Errorf("%q: %v", message, err)
		}
	}
}

// Who may not do something is told so by the real supervisorctl, which then fails: it has
// no words for every fault, and takes an empty list for "all is well".
func TestSupervisorctlIsRefused(t *testing.T) {
	needRoot(t)
	h, f := compatHouse(t, testRules...)
	f.mu2.Lock()
	f.states["shop/emails:0"] = "stopped"
	f.mu2.Unlock()
	const unknown = "Server requires authentication\n"
	lacks := func(what string) string { return "needs the role operate for " + what + ", see [[access]]" }
	reads := "needs the role read for superd, see [[access]]"
	type step struct {
		line  string
		exit  int
		wants []string
	}
	deploys := &syscall.Credential{Uid: reader, Gid: reader, Groups: []uint32{group}} // and reads everything
	for user, steps := range map[*syscall.Credential][]step{
		testUsers["nobody"]: {
			{"status", 1, []string{reads}}, {"status front:web", 1, []string{reads}}, {"pid", 1, []string{reads}}, {"pid late", 1, []string{reads}},
			{"start late", 1, []string{unknown}}, {"start jobs:*", 1, []string{"needs the role"}}, {"start all", 1, []string{reads}},
			{"stop late", 1, []string{reads + "\n"}}, {"stop jobs:*", 1, []string{reads}}, {"stop all", 1, []string{reads}}, {"signal HUP late", 1, []string{reads + "\n"}},
			{"restart all", 1, []string{reads}}, {"restart late", 1, []string{reads, unknown}}, {"clear all", 1, []string{reads}}, {"avail", 1, []string{reads}},
		},
		testUsers["reader"]: {
			{"status late", 3, []string{"late                             STOPPED"}},
			{"start late", 1, []string{unknown}}, {"start all", 1, []string{lacks("superd")}}, {"start jobs:*", 1, []string{lacks("superd")}},
			{"stop front:web", 1, []string{lacks("superd")}}, {"stop shop:*", 1, []string{lacks("shop")}}, {"signal HUP front:web", 1, []string{lacks("superd")}},
			{"restart front:web", 1, []string{lacks("superd"), unknown}}, {"restart all", 1, []string{lacks("superd"), lacks("shop")}},
		},
		deploys: { // what is refused keeps nothing from being started that is not
			{"start late shop:emails_00", 7, []string{"late: ERROR (spawn error)\n", "shop:emails_00: started\n"}},
			{"restart front:web shop:emails_00", 7, []string{lacks("superd"), "shop:emails_00: stopped\n", "shop:emails_00: started\n"}},
		},
	} {
		var lines []string
		for _, step := range steps {
			lines = append(lines, step.line)
		}
		for i, answer := range supervisorctlsAs(t, user, h.socket, lines) {
			missing := func(want string) bool { return !strings.Contains(answer.out, want) }
			if answer.exit != steps[i].exit || strings.Contains(answer.out, "ValueError") || slices.ContainsFunc(steps[i].wants, missing) {
				t.Errorf("%d: %s: exit %d, want %d\n%swant\n%s", user.Uid, steps[i].line, answer.exit, steps[i].exit, answer.out, steps[i].wants)
			}
		}
	}
	if heard := f.heard(); len(heard) != 3 {
		t.Errorf("superd was asked for %q", heard)
	}
}

// wait = false answers at once; superd goes on, and gives up when it stops itself.
func TestNotWaiting(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	f.slow = make(chan struct{})
	if got, err := h.rpc("supervisor.stopProcess", "front:web", false); err != nil || got != true {
		t.Fatalf("%v, %v", got, err)
	}
	eventually(t, "superd is asked", func() bool {
		return slices.ContainsFunc(f.heard(), func(s string) bool { return strings.HasPrefix(s, "stop web:0") })
	})
	state := func() string { f.mu2.Lock(); defer f.mu2.Unlock(); return f.states["web:0"] }
	if state() != "running" {
		t.Error("it is stopped already")
	}
	close(f.slow)
	eventually(t, "it is stopped", func() bool { return state() == "stopped" })
	f.slow = make(chan struct{})
	if _, err := h.rpc("supervisor.stopProcess", "jobs:jobs_00", false); err != nil {
		t.Fatal(err)
	}
	h.stop() // and does not hang
}

// superd's own verbs take supervisord's names too, where they mean nothing else.
func TestTheirNamesInOurVerbs(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	for name, want := range map[string]string{"front:web": "web:0", "jobs:jobs_00": "jobs:0", "shop:emails_01": "shop/emails:1", "solo:*": "solo:0"} {
		results, err := h.client().Process(t.Context(), ProcessOrder{Verb: VerbStop, Name: name})
		if err != nil || len(results) != 1 || results[0].Name != want || !results[0].OK || f.states[want] != "stopped" {
			t.Errorf("stop %s: %v, %+v", name, err, results)
		}
	}
	if _, err := h.client().Process(t.Context(), ProcessOrder{Verb: VerbStop, Name: "no:thing"}); KindOf(err) != NotFound {
		t.Errorf("what nobody has: %v", err)
	}
}

func TestRPCRefuses(t *testing.T) {
	t.Parallel()
	h, _ := compatHouse(t)
	h.refused(Usage, "POST", "/RPC2", "hello")
	h.refused(Usage, "POST", "/RPC2", strings.Repeat("x", maxBody+1))
	h.refused(WrongMethod, "GET", "/RPC2", "")
	h.refused(NotFound, "GET", "/logtail/nobody/stdout", "")
	h.refused(NotFound, "GET", "/mainlogtail", "")
	calls := make([]any, maxCalls+1)
	for i := range calls {
		calls[i] = map[string]any{"methodName": "supervisor.getPID"}
	}
	if _, err := h.rpc("system.multicall", calls[:0]); err != nil {
		t.Error(err)
	}
	if _, err := h.rpc("system.multicall", []any{map[string]any{"methodName": "system.multicall", "params": []any{}}}); err != nil {
		t.Error(err)
	}
}

func TestTailOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		offset, length int
		want           string
	}{
		{0, 5, "[fghij 10 true]"}, {0, 10, "[abcdefghij 10 false]"}, {10, 5, "[ 10 false]"}, {8, 5, "[fghij 10 false]"}, {99, 1, "[ 10 false]"}, {-5, -5, "[ 10 true]"},
	} {
		if got := fmt.Sprint(tailOf("abcdefghij", c.offset, c.length)); got != c.want {
			t.Errorf("%d, %d: %s, want %s", c.offset, c.length, got, c.want)
		}
	}
}

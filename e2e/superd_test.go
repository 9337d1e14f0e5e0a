//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// superd is killed and another one takes over: the same children, none doubled, no
// request lost, and nothing that they wrote.
func TestKilledSuperdIsReplaced(t *testing.T) {
	s := newSite(t, lab.Config{Children: 8, More: `
[app.shop.worker.chatty]
command = ["php8.2", "-r", "for ($i = 0;; $i++) {{ echo $i, \"\\n\"; usleep(2000); }"]
min_healthy_time = "100ms"
`}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 100})
	before := s.children()
	var first time.Duration
	for i := range 3 {
		old, err := s.KillSuperd()
		if err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		eventually(t, 10*time.Second, "another superd answers", func() bool {
			status, err := s.Status()
			return err == nil && status.PID != old && status.Healthy
		})
		took := time.Since(killed).Round(time.Millisecond)
		t.Logf("another superd says that all is well %s after the SIGKILL", took)
		if i == 0 { // later the keeper waits on purpose
			first = took
		}
		if after := s.children(); !slices.Equal(before, after) {
			t.Errorf("the children were %v and are %v", before, after)
		}
	}
	r := run.Stop()
	unharmed(t, r)
	if first > 2*time.Second+r.Late {
		t.Errorf("it took %s, and the machine itself was late by %s", first, r.Late)
	}
	s.wroteAll("chatty")
}

// children are the PIDs of what superd keeps up.
func (s *site) children() []int {
	var pids []int
	for _, p := range s.Processes() {
		if p.Parent == s.superd.PID() && p.Kind != "superd" {
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return pids
}

// wroteAll: the numbers in the log of the pool begin with 0 and none is missing.
func (s *site) wroteAll(pool string) {
	s.t.Helper()
	files, err := filepath.Glob(s.Path("log", "shop", pool+"*"))
	if err != nil || len(files) != 1 {
		s.t.Fatalf("logs of %s: %v, %v", pool, files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		s.t.Fatal(err)
	}
	lines := strings.Split(string(text[:bytes.LastIndexByte(text, '\n')]), "\n")
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			s.t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	if len(lines) < 500 {
		s.t.Errorf("only %d lines", len(lines))
	}
}

// A worker that dies while there is no superd: the keeper knows how, the next superd
// starts another one and tells how the old one ended.
func TestDeathWithoutSuperdIsKnown(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2}, "$realpath_root")
	var since uint64
	if events := s.events(); len(events) > 0 {
		since = events[len(events)-1].Seq
	}
	victim := s.status().Apps[0].Pools[0].Workers[1]
	// The keeper is stopped, so that it cannot start a superd in between.
	if err := s.superd.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, err := s.KillSuperd()
	if err == nil {
		err = syscall.Kill(victim.PID, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
	if err := s.superd.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.wholly("r1", 15*time.Second)
	worker := s.status().Apps[0].Pools[0].Workers[1]
	if worker.Name != victim.Name || worker.PID == victim.PID {
		t.Errorf("worker is %+v, was %+v", worker, victim)
	}
	events, err := s.Events(since)
	if err != nil {
		t.Fatal(err)
	}
	told := slices.ContainsFunc(events, func(e lab.Event) bool {
		return e.Kind == "worker.failed" && e.Process == victim.Name && e.PID == victim.PID && strings.Contains(e.Reason, "SIGKILL")
	})
	if !told {
		t.Errorf("no event tells how %s (pid %d) ended: %+v", victim.Name, victim.PID, events)
	}
}

// While the new release is watched, its rollback is one rename: from the decision to
// the first page of the old release in less than 100 ms.
func TestRollbackIsAsFastAsTheFlip(t *testing.T) {
	s := newSite(t, lab.Config{Children: 16, Workers: 2, Watch: "30s"}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 100, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	const rounds = 5
	for range rounds {
		switching := s.Superctl(context.Background(), "switch", "r2")
		if err := switching.Start(); err != nil {
			t.Fatal(err)
		}
		s.reaches("watching")
		s.ctl(0, "abort")
		_ = switching.Wait() // its exit code is looked at elsewhere
		if code := switching.ProcessState.ExitCode(); code != 3 {
			t.Errorf("a switch that was aborted ended with %d, want 3", code)
		}
		s.wholly("r1", 15*time.Second)
	}
	r := run.Stop()
	unharmed(t, r)
	var took []time.Duration
	for _, e := range s.events() {
		if e.Kind != "switch.phase" || e.Phase != "rolling-back" {
			continue
		}
		first, ok := r.FirstAnswer("r1", e.At)
		if !ok {
			t.Fatal("the old release never answered again")
		}
		took = append(took, first.Sub(e.At).Round(100*time.Microsecond))
	}
	slices.Sort(took)
	t.Logf("from the decision to the first page of the old release: %v", took)
	if len(took) != rounds || took[rounds/2] >= 100*time.Millisecond || took[rounds-1] >= time.Second+r.Late {
		t.Errorf("took %v, want less than 100ms, %d times; the machine itself was late by %s", took, rounds, r.Late)
	}
}

// reaches waits for a phase of the switch that is going on.
func (s *site) reaches(phase string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, "the switch is in phase "+phase, func() bool {
		status, err := s.Status()
		return err == nil && status.Apps[0].Switch != nil && status.Apps[0].Switch.Phase == phase
	})
}

// Ctrl-C in superctl lets go of the switch and says how to follow it.
func TestCtrlCDetaches(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, Watch: "6s"}, "$realpath_root")
	var said bytes.Buffer
	switching := s.Superctl(context.Background(), "switch", "r2")
	switching.Stdout, switching.Stderr = &said, &said
	if err := switching.Start(); err != nil {
		t.Fatal(err)
	}
	s.reaches("watching")
	if err := switching.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = switching.Wait() // the exit code is what counts
	if code := switching.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit %d, want 7: %s", code, &said)
	}
	for _, words := range []string{"superctl events", "superctl abort"} {
		if !strings.Contains(said.String(), words) {
			t.Errorf("superctl does not tell of %q: %s", words, &said)
		}
	}
	s.wholly("r2", 30*time.Second)
}

// A second switch is refused while one is going on, and told which.
func TestSwitchDuringASwitch(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, Watch: "5s"}, "$realpath_root")
	addRelease(t, s.Lab, "r3")
	switching := s.Superctl(context.Background(), "switch", "r2")
	if err := switching.Start(); err != nil {
		t.Fatal(err)
	}
	s.reaches("watching")
	second := s.ctl(6, "switch", "r3")
	if !strings.Contains(second.Out+second.Err, "watching") || !strings.Contains(second.Out+second.Err, "r2") {
		t.Errorf("it does not say what is going on: %s", second)
	}
	queued := s.ctl(0, "switch", "r3", "--lock-wait", "30s")
	if err := switching.Wait(); err != nil {
		t.Errorf("the first switch: %v", err)
	}
	t.Log(queued)
	s.wholly("r3", 15*time.Second)
}

// Users of the machine who were not given a role see nothing and change nothing,
// and whatever they do to the socket, root is still answered.
func TestStrangersOnTheSocket(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, More: `
[[access]] # so that others than root may come as far as being asked who they are
user = "www-data"
role = "read"
`}, "$realpath_root")
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	ask := s.Superctl(context.Background(), "switch", "r2")
	ask.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	said, _ := ask.CombinedOutput() // the exit code is what counts
	if code := ask.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit %d, want 9: %s", code, said)
	}
	flood := s.Superctl(context.Background()) // for its environment and directory
	flood.Path, flood.Args = "/usr/bin/php8.2", []string{"php8.2", "-r", floodScript, s.ControlSocket()}
	flood.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	var out bytes.Buffer
	flood.Stdout, flood.Stderr = &out, &out
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = flood.Process.Kill() // it may have ended
		_ = flood.Wait()
		t.Logf("the flood: %s", &out)
	})
	defer end()
	var took []time.Duration
	for range 10 {
		time.Sleep(100 * time.Millisecond)
		o := s.ctl(0, "status")
		took = append(took, o.Took())
	}
	slices.Sort(took)
	if took[5] > 3*time.Second || took[9] > 10*time.Second { // one of them may be the machine's doing
		t.Errorf("status took %s in a flood", took)
	}
	select {
	case <-s.superd.Done():
		t.Errorf("superd is gone: %s", s.superd.Tail(2000))
	default:
	}
	end()
	s.wholly("r1", 15*time.Second)
	if log := s.superd.Tail(1 << 20); !strings.Contains(log, "65534") {
		t.Errorf("the refusal is not in superd's log:\n%s", log)
	}
}

// floodScript holds as many half-open connections as it gets, and sends rubbish and
// requests on others.
const floodScript = `
$open = [];
for ($i = 0; $i < 500; $i++) {
    $c = @stream_socket_client('unix://' . $argv[1], $e, $m, 0.2);
    if ($c) { $open[] = $c; if ($i % 2) { @fwrite($c, "GET /v1/status HTTP/1.1\r\nHost: x\r\n"); } }
}
echo count($open), " half-open\n";
while (true) {
    $c = @stream_socket_client('unix://' . $argv[1], $e, $m, 0.2);
    if ($c) { @fwrite($c, "GET /v1/status HTTP/1.0\r\n\r\n" . str_repeat('x', 5000)); fclose($c); }
}
`

// A stop ends everything in order: requests and jobs in hand are finished.
func TestStopFinishesWhatIsInHand(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 1}, "$realpath_root")
	if err := s.redis.Push("last", 3000); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the job begins", func() bool { jobs, err := s.Shop.Jobs(); return err == nil && jobs["last"] != nil })
	var visiting sync.WaitGroup
	var page string
	var visit error
	visiting.Go(func() { page, visit = s.visit("/busy?ms=3000") })
	eventually(t, 10*time.Second, "the request is in hand", func() bool { return s.status().Apps[0].FPM.Generations[0].Active == 1 })
	if err := s.superd.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	visiting.Wait()
	if visit != nil || !strings.Contains(page, `"cut":false`) {
		t.Errorf("the request in hand: %q, %v", page, visit)
	}
	eventually(t, 20*time.Second, "superd is gone", func() bool {
		select {
		case <-s.superd.Done():
			return true
		default:
			return false
		}
	})
	if s.superd.Code() != 0 {
		t.Errorf("superd ended with %d", s.superd.Code())
	}
	if account := s.account([]string{"last"}); account.Done != 1 {
		t.Errorf("the job in hand: %s", account)
	}
	for _, p := range s.Processes() {
		if slices.Contains([]string{"master", "pool", "worker", "superd", "keeper"}, p.Kind) {
			t.Errorf("left behind: %s", p)
		}
	}
}

// visit is one request, with its page.
func (s *site) visit(path string) (string, error) {
	response, err := http.Get(s.nginx.URL + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(body), err
}

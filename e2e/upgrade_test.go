//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// upgrades is how many a story makes; SUPERD_UPGRADES asks for more.
func upgrades(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("SUPERD_UPGRADES")); err == nil {
		return n
	}
	return usual
}

// ownPrograms gives the site programs of its own, that may be replaced.
func ownPrograms(t *testing.T, l *lab.Lab) {
	t.Helper()
	from := l.Bin
	l.Bin = l.Path("bin")
	if err := os.MkdirAll(l.Bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"superd", "superctl", "superd-keeper"} {
		install(t, filepath.Join(from, name), filepath.Join(l.Bin, name))
	}
}

// install does what a package does: another file in the place of the one that runs.
func install(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", text, 0o755)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// build makes superd or superd-keeper of another version.
func build(t *testing.T, to, program string, flags ...string) {
	t.Helper()
	c := exec.Command("go", "build", "-trimpath", "-ldflags", strings.Join(flags, " "), "-o", to, "../cmd/"+program)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", program, err, said)
	}
}

const upgradable = `
[app.shop.worker.chatty]
command = ["php8.2", "-r", "for ($i = 0;; $i++) {{ echo $i, \"\\n\"; usleep(2000); }"]
min_healthy_time = "100ms"

[app.shop.worker.probe]
command = ["/bin/sh", "-c", "ls -l /proc/self/fd; env; echo that is all; exec sleep 1000"]
min_healthy_time = "100ms"

[app.shop.worker.mortal]
command = ["/bin/sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.05; done"]
min_healthy_time = "100ms"
`

func newUpgradableSite(t *testing.T) *site {
	t.Helper()
	l, redis := newLab(t)
	ownPrograms(t, l)
	if err := l.Configure(lab.Config{Children: 8, Workers: 2, More: upgradable}); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(l.FPMSocket(), "$realpath_root")
	if err != nil {
		t.Fatal(err)
	}
	return &site{Lab: l, t: t, redis: redis, superd: superd, nginx: nginx}
}

// A prober asks the control socket without a pause.
type prober struct {
	asked  atomic.Int64
	mu     sync.Mutex
	failed []string
	stop   chan struct{}
	done   chan struct{}
}

func probe(l *lab.Lab) *prober {
	p := &prober{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			select {
			case <-p.stop:
				return
			default:
			}
			p.asked.Add(1)
			body, err := l.Get("/v1/status")
			if err == nil {
				_, err = io.ReadAll(body)
				_ = body.Close()
			}
			if err != nil {
				p.mu.Lock()
				p.failed = append(p.failed, err.Error())
				p.mu.Unlock()
			}
		}
	}()
	return p
}

func (p *prober) end(t *testing.T) {
	t.Helper()
	close(p.stop)
	<-p.done
	t.Logf("the control socket was asked %d times", p.asked.Load())
	if len(p.failed) > 0 {
		t.Errorf("%d times it did not answer: %q", len(p.failed), p.failed[:min(5, len(p.failed))])
	}
}

// A follower is a superctl that follows something; its lines are kept.
type follower struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	lines  []string
}

func follow(t *testing.T, l *lab.Lab, args ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{cancel: cancel, done: make(chan struct{})}
	c := l.Superctl(ctx, args...)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.done)
		in := bufio.NewScanner(out)
		for in.Scan() {
			f.mu.Lock()
			f.lines = append(f.lines, in.Text())
			f.mu.Unlock()
		}
		_ = c.Wait()
	}()
	t.Cleanup(func() { f.end() })
	return f
}

func (f *follower) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lines)
}

func (f *follower) end() []string {
	f.cancel()
	<-f.done
	return f.seen()
}

// descriptorsOf counts all but pidfds: a look at a process costs one until Go's
// collector comes by.
func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if to, err := os.Readlink(filepath.Join(dir, name.Name())); err == nil && !strings.Contains(to, "pidfd") {
			n++
		}
	}
	return n
}

// superd is replaced again and again under load: nobody notices. No request fails, the
// control socket answers whoever asks, no child is touched, the exit status of one that
// ends in the middle is known, descriptors stay as many as they were, followers miss
// nothing.
func TestUpgradesUnderLoad(t *testing.T) {
	s := newUpgradableSite(t)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 100})
	prober := probe(s.Lab)
	events := follow(t, s.Lab, "events", "-f", "--json")
	lines := follow(t, s.Lab, "logs", "-f", "-n", "1", "--json", "shop/chatty")
	before := s.children()
	fds := map[int][2]int{}
	n := upgrades(15)
	var took []time.Duration
	for i := range n {
		if i == n/2 {
			s.dieInTheMiddle()
			eventually(t, 10*time.Second, "what it left has ended", func() bool { return len(s.children()) == len(before) })
			before = s.children()
		}
		old := s.status()
		o := s.ctl(0, "upgrade", "--json")
		took = append(took, o.Took())
		var said struct {
			Before, After struct{ PID int }
		}
		now := s.status()
		if err := json.Unmarshal([]byte(o.Out), &said); err != nil || said.Before.PID != old.PID || said.After.PID != now.PID || now.PID == old.PID {
			t.Fatalf("superd was %d and is %d: %v, %s", old.PID, now.PID, err, o)
		}
		eventually(t, 10*time.Second, "all is well", func() bool { st, err := s.Status(); return err == nil && st.Healthy })
		fds[i] = [2]int{descriptorsOf(t, s.superd.PID()), descriptorsOf(t, now.PID)}
	}
	slices.Sort(took)
	t.Logf("%d upgrades; median %s, longest %s; descriptors of keeper and superd: %v, then %v", n, took[n/2], took[n-1], fds[0], fds[n-1])
	if after := s.children(); !slices.Equal(before, after) {
		t.Errorf("the children were %v and are %v", before, after)
	}
	if first, last := fds[1], fds[n-1]; last[0] > first[0]+2 || last[1] > first[1]+6 {
		t.Errorf("descriptors of keeper and superd were %v and are %v", first, last)
	}
	s.ctl(0, "restart", "shop/probe")
	s.leaksNothing()
	prober.end(t)
	unharmed(t, run.Stop())
	s.wroteAll("chatty")
	eventually(t, 10*time.Second, "the follower has seen all", func() bool {
		return strings.Count(strings.Join(events.seen(), "\n"), `"superd.started"`) >= n
	})
	gapless(t, events.end(), n)
	counted(t, lines.end())
}

// counted: the follower of the chatty worker has seen each line, once.
func counted(t *testing.T, lines []string) {
	t.Helper()
	last, n := -1, 0
	for _, text := range lines {
		var l struct{ Line, Note string }
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			continue // cut off by the end of superctl
		}
		number, err := strconv.Atoi(l.Line)
		if err != nil || l.Note != "" || last >= 0 && number != last+1 {
			t.Fatalf("after line %d the follower sees %q", last, text)
		}
		last, n = number, n+1
	}
	t.Logf("the follower of logs has seen %d lines", n)
	if n < 500 {
		t.Errorf("it has seen %d lines only", n)
	}
}

// dieInTheMiddle: a worker ends with 7 while superd is being replaced.
func (s *site) dieInTheMiddle() {
	s.t.Helper()
	var victim int
	for _, p := range s.status().Apps[0].Pools {
		for _, w := range p.Workers {
			if p.Name == "mortal" || p.Name == "shop/mortal" {
				victim = w.PID
			}
		}
	}
	if victim < 2 {
		s.t.Fatalf("there is no mortal worker: %+v", s.status().Apps[0].Pools)
	}
	upgraded := make(chan lab.Outcome, 1)
	go func() { upgraded <- s.Ctl("upgrade") }()
	if err := syscall.Kill(victim, syscall.SIGUSR1); err != nil {
		s.t.Fatalf("the mortal worker %d: %v", victim, err)
	}
	if o := <-upgraded; o.Code != 0 {
		s.t.Fatal(o)
	}
	eventually(s.t, 10*time.Second, "the end of the worker is told", func() bool {
		all, err := s.Events(0)
		return err == nil && slices.ContainsFunc(all, func(e lab.Event) bool {
			return e.Kind == "worker.failed" && e.PID == victim && strings.Contains(e.Reason, "exit 7")
		})
	})
	eventually(s.t, 10*time.Second, "another worker is there", func() bool { st, err := s.Status(); return err == nil && st.Healthy })
}

// leaksNothing: what was started by a successor has nothing of tableflip.
func (s *site) leaksNothing() {
	s.t.Helper()
	var text string
	eventually(s.t, 10*time.Second, "the probe has told twice", func() bool {
		files, _ := filepath.Glob(s.Path("log", "shop", "probe*"))
		text = ""
		for _, file := range files {
			b, _ := os.ReadFile(file)
			text += string(b)
		}
		return strings.Count(text, "that is all") >= 2
	})
	last := text[strings.Index(text, "that is all")+len("that is all"):]
	if strings.Contains(last, "TABLEFLIP") {
		s.t.Errorf("tableflip's variable reaches a child: %s", last)
	}
	for line := range strings.SplitSeq(last, "\n") {
		before, _, isFD := strings.Cut(line, " -> ")
		fields := strings.Fields(before)
		if isFD && fields[len(fields)-1] > "3" || isFD && fields[len(fields)-1] == "3" && !strings.Contains(line, "/proc/") {
			s.t.Errorf("a child has a descriptor of somebody else: %s", line)
		}
	}
}

// gapless: the numbers of events rise by one, and each superd that came is told.
func gapless(t *testing.T, lines []string, n int) {
	t.Helper()
	var last uint64
	came := 0
	for _, line := range lines {
		var e lab.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // cut off by the end of superctl
		}
		if last != 0 && e.Seq != last+1 {
			t.Errorf("event %d comes after %d", e.Seq, last)
		}
		last = e.Seq
		if e.Kind == "superd.started" {
			came++
		}
	}
	if came < n {
		t.Errorf("the follower was told of %d superds, want %d", came, n)
	}
}

// What is at superd's path is no superd, or not for this machine, or hangs, or refuses
// the configuration: it is told in its own words, and nothing has changed.
func TestBadSuccessors(t *testing.T) {
	s := newUpgradableSite(t)
	good := s.Path("superd.good")
	install(t, filepath.Join(s.Bin, "superd"), good)
	config, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50})
	prober := probe(s.Lab)
	before, was := s.children(), s.status().PID
	foreign := append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00\x01\x00\x00\x00"), make([]byte, 4096)...)
	for _, bad := range []struct{ name, program, config, words string }{
		{"ends", "#!/bin/sh\necho boom >&2\nexit 3\n", "", "boom"},
		{"ends well", "#!/bin/sh\nexit 0\n", "", "exited"},
		{"hangs", "#!/bin/sh\necho thinking >&2\nexec sleep 1000\n", "", "thinking"},
		{"of another machine", string(foreign), "", "exec format error"},
		{"refuses the configuration", "", string(config) + "\n[surprise]\n", "surprise"},
		{"is not there", "-", "", "no such file"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			path := filepath.Join(s.Bin, "superd")
			switch bad.program {
			case "":
			case "-":
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			default:
				if err := os.WriteFile(s.Path("bad"), []byte(bad.program), 0o755); err != nil {
					t.Fatal(err)
				}
				install(t, s.Path("bad"), path)
			}
			if bad.config != "" {
				if err := os.WriteFile(s.ConfigFile(), []byte(bad.config), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			o := s.ctl(5, "upgrade")
			if !strings.Contains(o.Err, bad.words) || !strings.Contains(o.Err, "goes on as it was") {
				t.Errorf("superctl says: %s", o)
			}
			install(t, good, path)
			if err := os.WriteFile(s.ConfigFile(), config, 0o644); err != nil {
				t.Fatal(err)
			}
			if now := s.status(); now.PID != was || !now.Healthy {
				t.Errorf("superd was %d and is %d, problems %v", was, now.PID, now.Problems)
			}
		})
	}
	if after := s.children(); !slices.Equal(before, after) {
		t.Errorf("the children were %v and are %v", before, after)
	}
	for _, program := range []string{"superd", "superd-keeper"} {
		next := s.Path(program + ".next")
		build(t, next, program, "-X main.version=9.9-"+program)
		install(t, next, filepath.Join(s.Bin, program))
	}
	keeper := s.superd.PID()
	if o := s.ctl(0, "upgrade"); !strings.Contains(o.Out, "9.9-superd (") || !strings.Contains(o.Out, fmt.Sprintf("9.9-superd-keeper (pid %d)", keeper)) {
		t.Errorf("superctl says: %s", o)
	}
	if after := s.children(); !slices.Equal(before, after) {
		t.Errorf("after the upgrade of both the children are %v, were %v", after, before)
	}
	// A keeper that cannot take over is told, and superd has been replaced all the same.
	if err := os.WriteFile(s.Path("bad"), []byte("#!/bin/sh\necho boom >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	install(t, s.Path("bad"), filepath.Join(s.Bin, "superd-keeper"))
	if o := s.ctl(4, "upgrade"); !strings.Contains(o.Err, "boom") || !strings.Contains(o.Err, "goes on as it was") {
		t.Errorf("superctl says: %s", o)
	}
	if now := s.status(); now.PID == was {
		t.Error("superd was not replaced in the end")
	}
	prober.end(t)
	unharmed(t, run.Stop())
}

// In the middle of a switch an upgrade is refused; one that waits comes after it.
func TestUpgradeDuringASwitch(t *testing.T) {
	s := newUpgradableSite(t)
	if err := s.Configure(lab.Config{Children: 8, Workers: 2, Watch: "4s"}); err != nil {
		t.Fatal(err)
	}
	s.ctl(0, "upgrade") // it reads the configuration
	was := s.status().PID
	switched := make(chan lab.Outcome, 1)
	go func() { switched <- s.Ctl("switch", "r2") }()
	eventually(t, 20*time.Second, "the switch goes on", func() bool { return s.status().Apps[0].Switch != nil })
	o := s.ctl(6, "upgrade")
	if !strings.Contains(o.Err, "on its way to r2") || s.status().PID != was {
		t.Errorf("superctl says: %s", o)
	}
	s.ctl(0, "upgrade", "--lock-wait", "1m")
	if o := <-switched; o.Code != 0 {
		t.Error(o)
	}
	s.wholly("r2", 15*time.Second)
	if s.status().PID == was {
		t.Error("superd was not replaced")
	}
	// By signal it is the same, and what is in the way is in the log only.
	was = s.status().PID
	if err := s.superd.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "SIGUSR2 replaces superd", func() bool { st, err := s.Status(); return err == nil && st.PID != was })
}

// superd is killed at random moments, again and again, under load: no request fails, no
// child is touched, no line of output is lost or doubled. SUPERD_KILLS asks for more.
func TestKilledAgainAndAgain(t *testing.T) {
	n := 12
	if more, err := strconv.Atoi(os.Getenv("SUPERD_KILLS")); err == nil {
		n = more
	}
	s := newUpgradableSite(t)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 100})
	before := s.children()
	var took []time.Duration
	for range n {
		// More than a second: a superd that lived shorter is not replaced at once.
		time.Sleep(1100*time.Millisecond + rand.N(900*time.Millisecond))
		old, err := s.KillSuperd()
		if err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		eventually(t, 20*time.Second, "another superd answers", func() bool {
			status, err := s.Status()
			return err == nil && status.PID != old && status.Healthy
		})
		took = append(took, time.Since(killed))
	}
	slices.Sort(took)
	t.Logf("%d kills; all is well again after %s (median), %s at most", n, took[n/2], took[n-1])
	if after := s.children(); !slices.Equal(before, after) {
		t.Errorf("the children were %v and are %v", before, after)
	}
	unharmed(t, run.Stop())
	s.wroteAll("chatty")
}

// A superd that hangs is noticed by the keeper and replaced; nobody else notices.
func TestHungSuperdIsReplaced(t *testing.T) {
	s := newUpgradableSite(t)
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50})
	before, was := s.children(), s.status().PID
	if err := syscall.Kill(was, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "another superd is there", func() bool {
		for _, p := range lab.Of(s.Processes(), "superd") {
			if p.PID != was {
				st, err := s.Status()
				return err == nil && st.Healthy
			}
		}
		return false
	})
	if after := s.children(); !slices.Equal(before, after) {
		t.Errorf("the children were %v and are %v", before, after)
	}
	unharmed(t, run.Stop())
	s.wroteAll("chatty")
}

// The keeper is killed. superd ends for that and touches nothing. superd that is started
// again ends what is left, in its own manner, and only then starts anything: there are
// never two masters, never two workers in a slot.
func TestLostKeeper(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2}, "$realpath_root")
	before := lab.Of(s.Processes(), "worker")
	if err := s.superd.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "superd ends without its keeper", func() bool { return len(lab.Of(s.Processes(), "superd")) == 0 })
	if now := lab.Of(s.Processes(), "worker"); len(now) != len(before) {
		t.Errorf("the workers were %v and are %v", before, now)
	}
	twice := make(chan string, 1)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			all := s.Processes()
			masters := lab.Of(all, "master")
			m := slices.DeleteFunc(slices.Clone(masters), func(p lab.Process) bool { // it has just forked, and is called as its master
				return slices.ContainsFunc(masters, func(o lab.Process) bool { return o.PID == p.Parent })
			})
			if w := lab.Of(all, "worker"); len(m) > 1 || len(w) > len(before) {
				select {
				case twice <- fmt.Sprint(m, w):
				default:
				}
			}
		}
	}()
	var err error
	if s.superd, err = s.StartSuperd(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	select {
	case all := <-twice:
		t.Errorf("at one time there were %s", all)
	default:
	}
	s.wholly("r1", 15*time.Second)
	s.childrenAreOfThisLife()
	s.ctl(0, "switch", "r2")
	s.wholly("r2", 15*time.Second)
}

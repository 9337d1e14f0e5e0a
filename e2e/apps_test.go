//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// A street is three shops on one superd. Each has releases of names of its own, so
// that an answer of the neighbour's shows: r1 and r2, b1 and b2, n1 and n2.
type street struct {
	*site
	shops map[string]*shop.Shop // by the name of the app
}

// letters are what the names of their releases begin with.
var letters = map[string]string{"shop": "r", "blog": "b", "news": "n"}

// newStreet starts superd with the apps shop, blog and news, all configured like the
// shop. Caddy may connect to news.
func newStreet(t *testing.T, c lab.Config, access string) *street {
	t.Helper()
	l, redis := newLab(t)
	s := &street{site: &site{Lab: l, t: t, redis: redis}, shops: map[string]*shop.Shop{"shop": l.Shop}}
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	_, one, _ := strings.Cut(string(text), "[app.shop]")
	all := string(text)
	for _, name := range []string{"blog", "news"} {
		s.build(name)
		app := strings.ReplaceAll("[app.shop]"+one, "shop", name)
		if name == "news" {
			app = strings.NewReplacer(caddy.replace...).Replace(app)
		}
		all += app
	}
	if err := os.WriteFile(l.ConfigFile(), []byte(all+access), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.superd, err = l.StartSuperd("SUPERD_FAILPOINT=" + s.failpoint()); err != nil {
		t.Fatal(err)
	}
	return s
}

// failpoint is the file that names the point at which superd is to be killed.
func (s *street) failpoint() string { return s.Path("failpoint") }

func (s *street) build(name string) {
	s.t.Helper()
	owner, err := user.Lookup("www-data")
	if err != nil {
		s.t.Fatal(err)
	}
	uid, uidErr := strconv.Atoi(owner.Uid)
	gid, gidErr := strconv.Atoi(owner.Gid)
	built, err := shop.New(s.Path(name), uid, gid)
	if err == nil {
		err = errors.Join(uidErr, gidErr, built.Add(letters[name]+"1"), built.Add(letters[name]+"2"), built.Point(letters[name]+"1"))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.shops[name] = built
}

// streetStatus is what these stories read of GET /v1/status.
type streetStatus struct {
	Healthy  bool     `json:"healthy"`
	Problems []string `json:"problems"`
	Apps     []struct {
		Name     string         `json:"name"`
		State    string         `json:"state"`
		Problems []string       `json:"problems"`
		Live     lab.Generation `json:"live"`
		Switch   *struct {
			Phase string `json:"phase"`
		} `json:"switch"`
	} `json:"apps"`
}

// all is the status of now, if superd answers.
func (s *street) all() (streetStatus, error) {
	var all streetStatus
	body, err := s.Get("/v1/status")
	if err != nil {
		return all, err
	}
	defer body.Close()
	return all, json.NewDecoder(body).Decode(&all)
}

// phases are those of the switches that are going on.
func (s *street) phases() map[string]string {
	all, err := s.all()
	if err != nil {
		return nil
	}
	phases := map[string]string{}
	for _, a := range all.Apps {
		if a.Switch != nil {
			phases[a.Name] = a.Switch.Phase
		}
	}
	return phases
}

// settle waits until each app runs on its release wholly: by what superd says, by
// its link and by what the kernel says.
func (s *street) settle(want map[string]string) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		unlike := s.notAs(want)
		if unlike == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not as it should be: %s", unlike)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *street) notAs(want map[string]string) string {
	all, err := s.all()
	if err != nil {
		return err.Error()
	}
	if !all.Healthy || len(all.Apps) != len(want) {
		return fmt.Sprintf("%d apps, problems %q", len(all.Apps), all.Problems)
	}
	for _, a := range all.Apps {
		current := s.shops[a.Name].Current()
		if a.State != "ok" || a.Live.Release != want[a.Name] || current != want[a.Name] {
			return fmt.Sprintf("%s is %s on %s, its link leads to %s", a.Name, a.State, a.Live.Release, current)
		}
		if tally := s.tally(a.Name); !maps.Equal(tally, map[string]int{"master": 1, "pool " + want[a.Name]: 8, "worker " + want[a.Name]: 2}) {
			return fmt.Sprintf("%s has %v", a.Name, tally)
		}
	}
	return ""
}

// tally counts the processes of an app as the kernel has them, by kind and release.
func (s *street) tally(app string) map[string]int {
	tally := map[string]int{}
	for _, p := range s.processesOf(app) {
		name := p.Kind
		if p.Kind != "master" {
			name += " " + p.Release
		}
		tally[name]++
	}
	return tally
}

func (s *street) processesOf(app string) []lab.Process {
	var own []lab.Process
	for _, p := range s.Processes() {
		cwd, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.PID), "cwd")) // one that is gone is no one's
		release, inside := strings.CutPrefix(cwd, filepath.Join(s.shops[app].Root, "releases")+"/")
		switch {
		case p.Kind == "master" && strings.Contains(p.Title, s.Path("run", app)+"/"):
			own = append(own, p)
		case (p.Kind == "pool" || p.Kind == "worker") && inside:
			p.Release, _, _ = strings.Cut(release, "/")
			own = append(own, p)
		}
	}
	return own
}

// childrenOf are the PIDs of an app's masters and workers.
func (s *street) childrenOf(app string) []int {
	var pids []int
	for _, p := range s.processesOf(app) {
		if p.Kind != "pool" {
			pids = append(pids, p.PID)
		}
	}
	slices.Sort(pids)
	return pids
}

// A call of superctl that has not ended yet.
type call struct {
	*exec.Cmd
	said bytes.Buffer
}

func (s *street) begin(args ...string) *call {
	s.t.Helper()
	c := &call{Cmd: s.Superctl(context.Background(), args...)}
	c.Stdout, c.Stderr = &c.said, &c.said
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ends waits for the call and holds it to its exit code.
func (s *street) ends(c *call, want int) {
	s.t.Helper()
	_ = c.Wait() // the exit code is what counts
	if code := c.ProcessState.ExitCode(); code != want {
		s.t.Errorf("%q ended with %d, want %d: %s", c.Args[1:], code, want, &c.said)
	}
}

// atOnce: none of the switches to these releases had ended when the last of them began.
func (s *street) atOnce(releases ...string) {
	s.t.Helper()
	begun, ended := map[string]time.Time{}, map[string]time.Time{}
	for _, e := range s.events() {
		switch e.Kind {
		case "switch.begun":
			begun[e.To.Release] = e.At
		case "switch.ended":
			ended[e.To.Release] = e.At
		}
	}
	for _, one := range releases {
		for _, other := range releases {
			if !begun[one].Before(ended[other]) {
				s.t.Errorf("the switch to %s began at %s, when the one to %s had ended at %s", one, begun[one], other, ended[other])
			}
		}
	}
}

// visitors ask all three: the shop behind nginx, the blog behind Apache, the news
// behind Caddy. Call what it returns for the reports.
func (s *street) visitors() func() map[string]load.Report {
	s.t.Helper()
	runs := map[string]*load.Run{}
	for app, w := range map[string]server{"shop": nginx, "blog": apache, "news": caddy} {
		runs[app] = load.Start(load.Plan{URL: w.start(s.t, s.Lab, app), Rate: 40, Mix: []load.Route{
			{Name: "5 ms", Path: "/", Share: 90}, {Name: "300 ms sleep", Path: "/slow?ms=300", Share: 10},
		}})
	}
	return func() map[string]load.Report {
		reports := map[string]load.Report{}
		for app, run := range runs {
			reports[app] = run.Stop()
		}
		return reports
	}
}

// unharmedAll: nobody noticed anything, and nobody was answered by a neighbour.
func (s *street) unharmedAll(reports map[string]load.Report) {
	s.t.Helper()
	for app, r := range reports {
		s.t.Logf("%s:", app)
		unharmed(s.t, r)
		for name := range r.Releases {
			if !strings.HasPrefix(name, letters[app]) {
				s.t.Errorf("users of %s were answered by %s", app, name)
			}
		}
	}
}

// Three apps switch at the same time, each asked for by a superctl of its own. Then
// one of them is given a bad release, which is taken back, while another goes back
// to where it was; the third one keeps its processes.
func TestAppsSwitchAtTheSameTime(t *testing.T) {
	s := newStreet(t, lab.Config{Children: 8, Workers: 2, Watch: "1500ms"}, "")
	s.ctl(2, "switch", "r2")
	if o := s.ctl(2, "rollback"); !strings.Contains(o.Out+o.Err, "--app blog") || !strings.Contains(o.Out+o.Err, "--app shop") {
		t.Errorf("it does not say which apps there are: %s", o)
	}
	visited := s.visitors()

	calls := []*call{s.begin("switch", "r2", "--app", "shop"), s.begin("switch", "b2", "--app", "blog"), s.begin("switch", "n2", "--app", "news")}
	for _, c := range calls {
		s.ends(c, 0)
	}
	s.atOnce("r2", "b2", "n2")
	s.settle(map[string]string{"shop": "r2", "blog": "b2", "news": "n2"})

	if err := s.shops["blog"].Add("b-sick", shop.SickOnceLive()); err != nil {
		t.Fatal(err)
	}
	before := s.childrenOf("news")
	good, bad := s.begin("rollback", "--app", "shop"), s.begin("switch", "b-sick", "--app", "blog")
	s.ends(bad, 3)
	s.ends(good, 0)
	s.atOnce("r1", "b-sick")
	s.settle(map[string]string{"shop": "r1", "blog": "b2", "news": "n2"})
	if after := s.childrenOf("news"); !slices.Equal(before, after) {
		t.Errorf("the children of news were %v and are %v", before, after)
	}
	s.unharmedAll(visited())
}

// superd is killed in the middle of two switches at once: each app ends on the
// release that its own journal names.
func TestKilledInTheMiddleOfTwoSwitches(t *testing.T) {
	exit := func(live bool) int {
		if live {
			return 0
		}
		return 3
	}
	s := newStreet(t, lab.Config{Children: 8, Workers: 2, Watch: "4s", Drain: "5s"}, "")
	addRelease(t, s.Lab, "r3", shop.UpHangs())
	visited := s.visitors()
	for _, tt := range []struct {
		shopTo, phase string // superd is killed while the shop is in that phase
		blogTo, point string // and the blog at that failpoint
		shop, blog    string // where they end
	}{
		{"r2", "watching", "b2", "promoting.before", "r2", "b1"},
		{"r3", "verifying", "b2", "promoting.linked", "r2", "b2"},
		{"r1", "watching", "b1", "rotating.before", "r1", "b1"},
	} {
		first := s.begin("switch", tt.shopTo, "--app", "shop")
		eventually(t, 20*time.Second, "the shop is "+tt.phase, func() bool { return s.phases()["shop"] == tt.phase })
		if err := os.WriteFile(s.failpoint(), []byte(tt.point), 0o644); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		second := s.begin("switch", tt.blogTo, "--app", "blog", "--allow-bad")
		s.ends(first, exit(tt.shop == tt.shopTo))
		s.ends(second, exit(tt.blog == tt.blogTo))
		if _, err := os.Stat(s.failpoint()); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("superd did not come past %s: %s", tt.point, &second.said)
		}
		s.settle(map[string]string{"shop": tt.shop, "blog": tt.blog, "news": "n1"})
		t.Logf("killed with the shop %s and the blog at %s: all is well %s later", tt.phase, tt.point, time.Since(began).Round(time.Millisecond))
	}
	s.unharmedAll(visited())
}

// as runs superctl as another user of the machine.
func (s *street) as(uid uint32, want int, args ...string) string {
	s.t.Helper()
	c := s.Superctl(context.Background(), args...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	said, _ := c.CombinedOutput() // the exit code is what counts
	if code := c.ProcessState.ExitCode(); code != want {
		s.t.Errorf("%q ended with %d, want %d: %s", args, code, want, said)
	}
	return string(said)
}

// One app is in trouble: its status says so, and nobody else's. A user who may
// operate the shop only does that meanwhile, and nothing else.
func TestTroubleOfOneApp(t *testing.T) {
	const nobody = 65534
	s := newStreet(t, lab.Config{Children: 8, Workers: 2, Watch: "500ms"}, `
[[access]]
user = "nobody"
role = "operate"
apps = ["shop"]
`)
	worker := filepath.Join(s.shops["blog"].Release("b1"), "bin", "worker.php")
	text, err := os.ReadFile(worker)
	if err == nil {
		err = os.WriteFile(worker, []byte("<?php exit(1);\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.processesOf("blog") {
		if p.Kind == "worker" {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 20*time.Second, "the blog is in trouble, and nobody else", func() bool {
		all, err := s.all()
		if err != nil || all.Healthy || len(all.Apps) != 3 {
			return false
		}
		for _, a := range all.Apps {
			if (a.Name == "blog") != (len(a.Problems) > 0) {
				return false
			}
		}
		return true
	})
	if o := s.ctl(4, "status"); !strings.Contains(o.Out, "blog/jobs has") || strings.Contains(o.Out, "shop/jobs has") {
		t.Errorf("it is not said whose trouble it is: %s", o)
	}
	if said := s.as(nobody, 0, "status"); strings.Contains(said, "blog") || !strings.Contains(said, "shop/jobs:1") {
		t.Errorf("a user of the shop sees: %s", said)
	}
	s.as(nobody, 0, "switch", "r2", "--app", "shop")
	s.as(nobody, 0, "rollback") // there is one app that he sees
	for _, args := range [][]string{
		{"switch", "b2", "--app", "blog"}, {"rollback", "--app", "news"}, {"hold", "--app", "blog"}, {"restart", "blog/jobs"},
		{"restart", "all"}, {"stop", "news"}, {"logs", "blog/jobs"}, {"shutdown"},
	} {
		s.as(nobody, 9, args...)
	}
	if err := os.WriteFile(worker, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s.settle(map[string]string{"shop": "r1", "blog": "b1", "news": "n1"})
}

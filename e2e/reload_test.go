//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// edit changes the configuration file: old and new, again and again. What is old must
// be there.
func (s *site) edit(pairs ...string) {
	s.t.Helper()
	changed := s.text()
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(changed, pair[0]) {
			s.t.Fatalf("the configuration has no %q", pair[0])
		}
		changed = strings.Replace(changed, pair[0], pair[1], 1)
	}
	s.write(changed)
}

// write puts a whole file in the place of the configuration, as editors do.
func (s *site) write(text string) {
	s.t.Helper()
	err := os.WriteFile(s.ConfigFile()+".new", []byte(text), 0o644)
	if err == nil {
		err = os.Rename(s.ConfigFile()+".new", s.ConfigFile())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// reloaded is what superctl reload says of what it touched: "shop/jobs live".
func (s *site) reloaded(args ...string) []string {
	s.t.Helper()
	said := s.ctl(0, append([]string{"reload", "--json"}, args...)...)
	var answer struct {
		Changes []struct{ Name, Action string }
	}
	if err := json.Unmarshal([]byte(said.Out), &answer); err != nil {
		s.t.Fatalf("%v: %s", err, said)
	}
	var all []string
	for _, c := range answer.Changes {
		if c.Action != "nothing" {
			all = append(all, c.Name+" "+c.Action)
		}
	}
	return all
}

// pids are the workers of a pool and the master that serves.
func (s *site) pids(pool string) []int {
	s.t.Helper()
	var pids []int
	for _, p := range s.status().Apps[0].Pools {
		if p.Name != "shop/"+pool {
			continue
		}
		for _, w := range p.Workers {
			pids = append(pids, w.PID)
		}
	}
	slices.Sort(pids)
	return pids
}

func (s *site) master() int {
	s.t.Helper()
	for _, g := range s.status().Apps[0].FPM.Generations {
		if g.State == "live" {
			return g.PID
		}
	}
	return 0
}

// replaced tells whether none of before is in after, and there are as many.
func replaced(before, after []int) bool {
	return len(before) == len(after) && !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) })
}

// A reload under load: what is live touches no process, a pool's own keys replace that
// pool, and PHP-FPM's a generation. No request fails meanwhile.
func TestReloadIsADifference(t *testing.T) {
	s := newSite(t, lab.Config{Children: 6, Workers: 3, More: "\n[app.shop.worker.sleepy]\ncommand = [\"sleep\", \"1000\"]\nmin_healthy_time = \"100ms\"\n"}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50})
	jobs, sleepy, master := s.pids("jobs"), s.pids("sleepy"), s.master()
	same := func(what string, before, after []int) {
		t.Helper()
		if !slices.Equal(before, after) {
			t.Errorf("%s: %v became %v", what, before, after)
		}
	}
	expect := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("touched %q, want %q", got, want)
		}
	}
	expect(s.reloaded())

	s.edit("processes        = 3", "processes        = 5", `watch             = "1s"`, `watch             = "2s"`)
	expect(s.reloaded("--plan"), "shop live", "shop/jobs live", "shop/jobs:3 start", "shop/jobs:4 start")
	same("a plan", jobs, s.pids("jobs"))
	expect(s.reloaded(), "shop live", "shop/jobs live", "shop/jobs:3 start", "shop/jobs:4 start")
	eventually(t, 15*time.Second, "there are five", func() bool { p := s.status().Apps[0].Pools[0]; return p.Name == "shop/jobs" && p.Running == 5 })
	for _, pid := range jobs {
		if !slices.Contains(s.pids("jobs"), pid) {
			t.Errorf("3 became 5, and %d is gone", pid)
		}
	}
	same("PHP-FPM", []int{master}, []int{s.master()})

	jobs = s.pids("jobs")
	s.edit(`["sleep", "1000"]`, `["sleep", "2000"]`)
	expect(s.reloaded(), "shop/sleepy restart")
	eventually(t, 15*time.Second, "the pool is replaced", func() bool { return replaced(sleepy, s.pids("sleepy")) })
	same("another pool", jobs, s.pids("jobs"))
	same("PHP-FPM", []int{master}, []int{s.master()})

	s.edit("max_children = 6", "max_children = 7")
	expect(s.reloaded(), "shop/fpm restart", "shop/jobs restart", "shop/sleepy restart")
	eventually(t, 30*time.Second, "a new generation serves", func() bool { m := s.master(); return m != 0 && m != master })
	s.wholly("r1", 30*time.Second)
	if conf := s.generated(); !strings.Contains(conf, "pm.max_children = 7") {
		t.Errorf("PHP-FPM runs with\n%s", conf)
	}

	jobs, master = s.pids("jobs"), s.master()
	s.edit("processes        = 5", "processes        = 2", "[app.shop.worker.sleepy]", "[app.shop.worker.tardy]")
	expect(s.reloaded(), "shop/jobs live", "shop/jobs:2 stop", "shop/jobs:3 stop", "shop/jobs:4 stop", "shop/sleepy stop", "shop/tardy start")
	eventually(t, 40*time.Second, "the pools are those of the file", func() bool {
		pools := s.status().Apps[0].Pools
		return len(pools) == 2 && pools[0].Name == "shop/jobs" && pools[0].Running == 2 && pools[0].Draining == 0 && pools[1].Name == "shop/tardy" && pools[1].Running == 1
	})
	for _, pid := range s.pids("jobs") {
		if !slices.Contains(jobs, pid) {
			t.Errorf("5 became 2, and %d is new", pid)
		}
	}
	same("PHP-FPM", []int{master}, []int{s.master()})
	unharmed(t, run.Stop())
}

// generated is the configuration of the PHP-FPM that serves.
func (s *site) generated() string {
	s.t.Helper()
	to, err := os.Readlink(s.FPMSocket())
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := os.ReadFile(s.Path("run", "shop", strings.Split(to, "/")[0], "fpm.conf"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// What cannot be: a bad file with all that is wrong, an app in the middle of a switch,
// people who may not. Nothing is changed then. SIGHUP does what superctl reload does.
func TestReloadRefused(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, Watch: "8s", More: "\n[[access]]\nuser = \"www-data\"\nrole = \"operate\"\n"}, "$realpath_root")
	good, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	children := s.children()
	s.edit("processes        = 2", "processes        = -1", "max_children = 4", "max_chidlren = 4")
	said := s.ctl(5, "reload")
	for _, words := range []string{"processes: must be from 0", "max_chidlren`; did you mean `max_children`?"} {
		if !regexp.MustCompile(regexp.QuoteMeta(s.ConfigFile()) + `:\d+:\d+: .*` + regexp.QuoteMeta(words)).MatchString(said.Out + said.Err) {
			t.Errorf("it does not tell of %q: %s", words, said)
		}
	}
	if after := s.children(); !slices.Equal(children, after) {
		t.Errorf("a bad file: %v became %v", children, after)
	}
	s.write(string(good))

	switching := s.Superctl(context.Background(), "switch", "r2")
	if err := switching.Start(); err != nil {
		t.Fatal(err)
	}
	s.reaches("watching")
	s.edit("processes        = 2", "processes        = 3")
	if said := s.ctl(6, "reload"); !strings.Contains(said.Out+said.Err, "watching") {
		t.Errorf("it does not say what is going on: %s", said)
	}
	if got := s.reloaded("--plan"); !slices.Equal(got, []string{"shop/jobs live", "shop/jobs:2 start"}) {
		t.Errorf("a plan in the middle of a switch: %q", got)
	}
	if err := switching.Wait(); err != nil {
		t.Errorf("the switch: %v", err)
	}
	if err := s.superd.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "SIGHUP is obeyed", func() bool { return s.status().Apps[0].Pools[0].Running == 3 })

	operator := s.Superctl(context.Background(), "reload")
	operator.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 33}}
	out, _ := operator.CombinedOutput() // the exit code is what counts
	if code := operator.ProcessState.ExitCode(); code != 9 {
		t.Errorf("an operator: exit %d, want 9: %s", code, out)
	}
}

// An app more and an app less: the one beside them notices nothing, requests and jobs
// of the one that goes are finished.
func TestReloadOfApps(t *testing.T) {
	s := newStreet(t, lab.Config{Children: 3, Workers: 2}, "")
	for _, app := range []string{"shop", "blog", "news"} {
		s.settles(app)
	}
	text, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	before := s.children()
	without := string(text)[:strings.Index(string(text), "[app.news]")]
	s.write(without)
	if got := s.reloaded(); !slices.Equal(got, []string{"news stop", "news/fpm stop", "news/jobs stop"}) {
		t.Errorf("touched %q", got)
	}
	eventually(t, 40*time.Second, "news is gone", func() bool { all, err := s.all(); return err == nil && len(all.Apps) == 2 && all.Healthy })
	left := s.children()
	if len(left) != len(before)*2/3 || slices.ContainsFunc(left, func(pid int) bool { return !slices.Contains(before, pid) }) {
		t.Errorf("%v became %v", before, left)
	}
	s.write(string(text))
	if got := s.reloaded(); !slices.Equal(got, []string{"news start", "news/fpm start", "news/jobs start"}) {
		t.Errorf("touched %q", got)
	}
	s.settles("news")
	for _, pid := range left {
		if !slices.Contains(s.children(), pid) {
			t.Errorf("%d of an app that was not touched is gone", pid)
		}
	}
	s.ctl(0, "switch", "n2", "--app", "news")
}

// settles waits until an app is well.
func (s *street) settles(app string) {
	s.t.Helper()
	eventually(s.t, 40*time.Second, app+" is well", func() bool {
		all, err := s.all()
		if err != nil {
			return false
		}
		for _, a := range all.Apps {
			if a.Name == app {
				return a.State == "ok" && len(a.Problems) == 0
			}
		}
		return false
	})
}

// superd is killed in the middle of a reload: the end is the same.
func TestKilledInAReload(t *testing.T) {
	for _, point := range []string{"reload:accepted", "reload:live"} {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			l, redis := newLab(t)
			if err := l.Configure(lab.Config{Children: 4, Workers: 3}); err != nil {
				t.Fatal(err)
			}
			file := l.Path("failpoint")
			superd, err := l.StartSuperd("SUPERD_FAILPOINT=" + file)
			if err != nil {
				t.Fatal(err)
			}
			s := &site{Lab: l, t: t, redis: redis, superd: superd}
			s.wholly("r1", 20*time.Second)
			jobs, master, pid := s.pids("jobs"), s.master(), s.status().PID
			s.edit("max_children = 4", "max_children = 5", "processes        = 3", "processes        = 4", "canary           = 0", "canary           = 0\nnice = 3")
			if err := os.WriteFile(file, []byte(point), 0o644); err != nil {
				t.Fatal(err)
			}
			if said := s.Ctl("reload"); said.Code == 0 {
				t.Errorf("it was not killed: %s", said)
			}
			eventually(t, 60*time.Second, "the configuration holds for all", func() bool {
				status, err := s.Status()
				if err != nil || status.PID == pid || len(status.Apps) != 1 || len(status.Apps[0].Pools) != 1 || status.Apps[0].Switch != nil {
					return false
				}
				pool := status.Apps[0].Pools[0]
				return pool.Running == 4 && pool.Draining == 0 && len(pool.Workers) == 4 && s.master() != 0 && s.master() != master
			})
			s.wholly("r1", 30*time.Second)
			for _, pid := range jobs {
				if slices.Contains(s.pids("jobs"), pid) {
					t.Errorf("worker %d is one of before", pid)
				}
			}
			if conf := s.generated(); !strings.Contains(conf, "pm.max_children = 5") {
				t.Errorf("PHP-FPM runs with\n%s", conf)
			}
			if got := s.reloaded(); len(got) != 0 {
				t.Errorf("there is still something to do: %q", got)
			}
		})
	}
}

// Two at once: one after the other, and what the later one reads holds.
func TestTwoReloadsAtOnce(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2}, "$realpath_root")
	done := make(chan string, 8)
	for i := range 8 {
		s.edit(fmt.Sprintf("processes        = %d", 2+i), fmt.Sprintf("processes        = %d", 3+i))
		reload := s.Superctl(context.Background(), "reload")
		go func() { out, err := reload.CombinedOutput(); done <- fmt.Sprint(string(out), err) }()
	}
	for range 8 {
		if said := <-done; !strings.Contains(said, "<nil>") {
			t.Error(said)
		}
	}
	eventually(t, 30*time.Second, "the last one holds", func() bool { return s.status().Apps[0].Pools[0].Running == 10 })
}

// text is the configuration.
func (s *site) text() string {
	s.t.Helper()
	text, err := os.ReadFile(s.ConfigFile())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// set sets keys of a table in the configuration, in place of what they have there.
func (s *site) set(table string, keys ...string) {
	s.t.Helper()
	before, rest, found := strings.Cut(s.text(), "\n"+table+"\n")
	if !found {
		s.t.Fatalf("the configuration has no %s", table)
	}
	body, after := rest, ""
	if next := strings.Index(rest, "\n["); next >= 0 {
		body, after = rest[:next], rest[next:]
	}
	for _, line := range keys {
		name, _, _ := strings.Cut(line, " ")
		body = regexp.MustCompile(`(?m)^`+name+`\s*=.*$`).ReplaceAllString(body, "")
		body += "\n" + line
	}
	s.write(before + "\n" + table + "\n" + body + "\n" + after)
}

// Every key of an app, by its class: all that is live at once, and no process is
// touched; what workers are born with, a key at a time; and all of PHP-FPM's, which
// is one new generation.
func TestReloadOfEveryKey(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2}, "$realpath_root")
	dir := s.Path("shop")
	before := s.children()
	s.set("[app.shop.switch]", `watch = "100ms"`, `follow_link = false`, `settle = "3s"`, `missing_grace = "40s"`, `max_failures = 7`,
		`progress_deadline = "3m"`, `keep_releases = 40`, `required = ["vendor/autoload.php", "public/index.php"]`, `before = { command = ["true"] }`,
		`after = { command = ["true"] }`, `max_error_rate = 0.5`, `min_requests = 30`)
	s.set("[app.shop.worker.jobs]", `order = "stop-first"`, `max_parallel = 2`, `min_healthy_time = "200ms"`, `stop_signal = "TERM"`, `stop_timeout = "29s"`,
		`max_draining = 20`, `planned_exits = [0, 12, 13]`, `processes = 3`, `max_memory = "1GiB"`, `max_age = "10h"`, `log = { keep = 3 }`)
	s.set("[app.shop.fpm]", `warmup = ["/", "/up"]`, `log = { keep = 4 }`)
	s.set("[[app.shop.check]]", `interval = "200ms"`, `timeout = "4s"`, `healthy_threshold = 1`, `deadline = "19s"`)
	if got := s.reloaded(); !slices.Equal(got, []string{"shop live", "shop/fpm live", "shop/jobs live", "shop/jobs:2 start"}) {
		t.Errorf("what is live: touched %q", got)
	}
	s.wellWith(3)
	for _, pid := range before {
		if !slices.Contains(s.children(), pid) {
			t.Errorf("a live key has ended %d", pid)
		}
	}

	master := s.master()
	for _, line := range []string{
		`command = ["php8.2", "-d", "memory_limit=64M", "bin/worker.php", "{root}/shared/ledger"]`,
		`ready = "alive"`, `env = { A = "b" }`, `nice = 2`, `limits = { nofile = 2048 }`,
	} {
		jobs := s.pids("jobs")
		s.set("[app.shop.worker.jobs]", line)
		if got := s.reloaded(); !slices.Equal(got, []string{"shop/jobs restart"}) {
			t.Errorf("%s: touched %q", line, got)
		}
		eventually(t, 30*time.Second, line+" replaces the workers", func() bool { return replaced(jobs, s.pids("jobs")) })
		s.wellWith(3)
	}
	if s.master() != master {
		t.Error("keys of a pool have replaced PHP-FPM")
	}

	s.set("[app.shop.fpm]", `pm = "dynamic"`, `max_children = 6`, `start_servers = 2`, `min_spare_servers = 1`, `max_spare_servers = 3`, `max_requests = 500`,
		`request_terminate_timeout = "61s"`, `slowlog_timeout = "31s"`, `drain_timeout = "21s"`, `backlog = 512`, `listen_mode = "0666"`, `document_root = "public"`,
		`ini = { memory_limit = "99M" }`, `args = ["-d", "display_errors=0"]`, `group = "www-data"`)
	if got := s.reloaded(); !slices.Equal(got, []string{"shop/fpm restart", "shop/jobs restart"}) {
		t.Errorf("PHP-FPM: touched %q", got)
	}
	eventually(t, 40*time.Second, "a new generation serves", func() bool {
		status := s.status().Apps[0]
		m := s.master()
		return m != 0 && m != master && status.Switch == nil && len(status.FPM.Generations) == 1
	})
	conf := s.generated()
	for _, line := range []string{ // it begins with as many as there were, up to the spare ones
		"pm = dynamic", "pm.max_children = 6", "pm.start_servers = 3", "pm.min_spare_servers = 1", "pm.max_spare_servers = 3", "pm.max_requests = 500",
		"request_terminate_timeout = 61", "request_slowlog_timeout = 31", "[memory_limit] = '99M'",
	} {
		if !strings.Contains(strings.ReplaceAll(conf, `"`, ""), line) {
			t.Errorf("PHP-FPM runs without %q:\n%s", line, conf)
		}
	}
	if info, err := os.Stat(s.FPMSocket()); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the listener: %v, %v", info, err)
	}
	if page, err := s.visit("/"); err != nil || !strings.Contains(page, "r1") {
		t.Errorf("a page: %q, %v", page, err)
	}

	s.write(s.text() + "\n[program.idle]\ncommand = [\"sleep\", \"1000\"]\n")
	if got := s.reloaded(); !slices.Equal(got, []string{"idle start"}) {
		t.Errorf("a program: touched %q", got)
	}

	s.set("[app.shop]", `root = "`+dir+`/."`, `releases = "other"`)
	jobs := s.pids("jobs")
	if got := s.reloaded(); !slices.Equal(got, []string{"shop later"}) || !slices.Equal(jobs, s.pids("jobs")) {
		t.Errorf("what waits: touched %q", got)
	}
	s.ctl(0, "releases")
}

// wellWith waits until all is as desired, with so many workers.
func (s *site) wellWith(workers int) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, fmt.Sprintf("all is well with %d workers", workers), func() bool {
		status, err := s.Status()
		return err == nil && status.Healthy && status.Apps[0].Pools[0].Running == workers && status.Apps[0].Pools[0].Draining == 0
	})
}

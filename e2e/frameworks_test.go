//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/shop"
)

// frameworkPools run the frameworks' own commands. Workers retire after so many jobs, as
// both frameworks advise, and therefore end by themselves in the middle of switches too.
const frameworkPools = `
[app.shop.worker.laravel]
command      = ["php8.2", "artisan", "queue:work", "redis", "--sleep=1", "--timeout=20", "--tries=1", "--max-jobs=8", "--max-time=3600"]
processes    = 4
max_parallel = "50%"
ready        = "notify"
watchdog     = "25s"
stop_timeout = "30s"
env          = { LEDGER = "{root}/shared/ledger" }

[app.shop.worker.messenger]
command      = ["php8.2", "bin/console", "messenger:consume", "async", "--sleep=1", "--limit=8", "--time-limit=3600", "--memory-limit=128M"]
processes    = 4
max_parallel = "50%"
ready        = "notify"
watchdog     = "25s"
stop_timeout = "30s"
env          = { LEDGER = "{root}/shared/ledger", MESSENGER_CONSUMER_NAME = "{slot}-{generation}" }
`

var frameworks = []string{"laravel", "messenger"}

// Laravel's and Symfony's own workers, as Debian has them, with what docs/workers.md has
// them say: over switches and a rollback each job is done once and by one release, none
// begins in a worker a second after that was told to go, nobody is killed. Workers that end by
// themselves are replaced at once and blame nobody; one that has killed itself does.
func TestFrameworkWorkers(t *testing.T) {
	s := newFrameworks(t)
	s.overSwitches()
	s.endsAsPlanned()
	s.killsItself()
}

// A workshop is a site with both frameworks' workers.
type workshop struct {
	*site
	queues map[string]io.WriteCloser // a line is a job
	pushed []string
}

func newFrameworks(t *testing.T) *workshop {
	l, redis := newLab(t)
	for _, release := range []string{"r1", "r2"} {
		if err := l.Shop.AddQueues(release); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(l.Shop.Release(release), "words")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "laravel.php"), "<?php\n"+laravelUses+superdFunction(t)+example(t, "**Laravel**"))
		write(t, filepath.Join(dir, "Words.php"), "<?php\n"+messengerUses+superdFunction(t)+"final class Words {\n"+example(t, "**Symfony Messenger**")+"}\n")
	}
	if err := l.Configure(lab.Config{Children: 4, Workers: 1, Watch: "500ms", More: frameworkPools}); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	s := &workshop{site: &site{Lab: l, t: t, redis: redis, superd: superd}, queues: map[string]io.WriteCloser{}}
	s.open("laravel", "artisan")
	s.open("messenger", "bin/console")
	return s
}

const laravelUses = `
use Illuminate\Queue\Events\WorkerStopping;
use Illuminate\Support\Facades\{Event, Queue};
`

const messengerUses = `
namespace Shop;
use Symfony\Component\EventDispatcher\Attribute\AsEventListener;
use Symfony\Component\Messenger\Event\{WorkerRunningEvent, WorkerStartedEvent, WorkerStoppedEvent};
`

// superdFunction is that of the worker in docs/workers.md.
func superdFunction(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?s)function superd\(.*?\n}\n`).FindString(snippet(t))
	if found == "" {
		t.Fatal("docs/workers.md has no function superd")
	}
	return found
}

// example is the one in docs/workers.md that follows on the words.
func example(t *testing.T, words string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/workers.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)" + regexp.QuoteMeta(words) + ".*?```php\n(.*?)```").FindStringSubmatch(string(page))
	if found == nil {
		t.Fatalf("docs/workers.md has no example for %s", words)
	}
	return found[1]
}

// open starts a program of the application that puts jobs on its queue as the framework
// does, one for each line that it reads.
func (s *workshop) open(name, console string) {
	s.t.Helper()
	c := s.console(console, "jobs:push")
	said := &bytes.Buffer{}
	c.Stdout, c.Stderr = said, said
	lines, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.queues[name] = lines
	s.t.Cleanup(func() {
		_ = lines.Close()
		if err := c.Wait(); err != nil {
			s.t.Errorf("pushing to %s: %v: %s", name, err, said)
		}
	})
}

func (s *workshop) console(args ...string) *exec.Cmd {
	c := exec.Command("php8.2", args...)
	c.Dir = s.Shop.Release("r1")
	c.Env = append(os.Environ(), "REDIS_SOCKET="+s.redis.Socket)
	return c
}

// push gives each framework a job of its own.
func (s *workshop) push(milliseconds int, how string, to ...string) {
	s.t.Helper()
	for _, name := range to {
		id := fmt.Sprintf("%s-%d", name, len(s.pushed))
		s.pushed = append(s.pushed, id)
		if _, err := fmt.Fprintln(s.queues[name], id, milliseconds, how); err != nil {
			s.t.Error(err)
		}
	}
}

// overSwitches pushes jobs of 10 ms to 5 s while the release changes three times.
func (s *workshop) overSwitches() {
	s.t.Helper()
	switched := make(chan []lab.Outcome, 1)
	var switching sync.WaitGroup
	defer switching.Wait()
	switching.Go(func() {
		switched <- []lab.Outcome{s.Ctl("switch", "r2"), s.Ctl("rollback"), s.Ctl("switch", "r2")}
	})
	var went []lab.Outcome
	for i := 0; went == nil || i < 200; i++ {
		milliseconds, how := 10+i*7%91, "nap"
		switch {
		case i%60 == 10:
			milliseconds = 3_000 + i*7%2_001
		case i%20 == 5:
			milliseconds = 500 + i*13%1_500
		}
		if i%5 == 0 {
			how = "child"
		}
		s.push(milliseconds, how, frameworks...)
		select {
		case went = <-switched:
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, o := range went {
		if o.Code != 0 {
			s.t.Errorf("want exit 0: %s", o)
		}
	}
	s.settle()
	s.wholly("r2", 40*time.Second)
	s.byOneRelease()
	s.noneBeganWhenTold(3 * time.Second)
	s.blamed()
}

// settle waits until all that was pushed is done, once, except for what nobody can do.
func (s *workshop) settle(undone ...string) {
	s.t.Helper()
	var account shop.Account
	eventually(s.t, 90*time.Second, "every job is done", func() bool {
		account = s.account(s.pushed)
		return len(account.Waiting) == 0 && len(account.Lost) <= len(undone)
	})
	s.t.Log(account)
	if account.Done+len(undone) != len(s.pushed) || len(account.Unknown) > 0 || !slices.Equal(account.Lost, undone) && len(undone) > 0 {
		s.t.Errorf("%s; lost %v, doubled %v, unknown %v", account, account.Lost, account.Doubled, account.Unknown)
	}
}

// byOneRelease: a job ends where it began, and both releases had some of each framework.
func (s *workshop) byOneRelease() {
	s.t.Helper()
	jobs, err := s.Shop.Jobs()
	if err != nil {
		s.t.Fatal(err)
	}
	had := map[string]int{}
	for id, job := range jobs {
		name, _, _ := strings.Cut(id, "-")
		for i, m := range job.Ended {
			had[name+" "+m.Release]++
			if began := job.Started[i]; began.Release != m.Release || began.Slot != m.Slot || began.PID != m.PID {
				s.t.Errorf("job %s began in %+v and ended in %+v", id, began, m)
			}
		}
	}
	s.t.Log("jobs by framework and release: ", had)
	if len(had) != 4 {
		s.t.Errorf("want both releases of both frameworks: %v", had)
	}
}

// A life is what superd's ledger of births tells of one.
type life struct {
	Slot             string
	Born, Told, Gone time.Time
}

// lives are all that the workers of a pool had, by PID.
func (s *site) lives(pool string) map[int]*life {
	s.t.Helper()
	text, err := os.ReadFile(s.Path("state", "births.ndjson"))
	if err != nil {
		s.t.Fatal(err)
	}
	lives := map[int]*life{}
	for line := range bytes.Lines(text) {
		var x struct {
			Event, Slot string
			PID         int
			At          time.Time
		}
		if err := json.Unmarshal(line, &x); err != nil {
			s.t.Fatalf("births: %q: %v", line, err)
		}
		switch l := lives[x.PID]; {
		case x.Event == "born" && strings.HasPrefix(x.Slot, pool+":"):
			lives[x.PID] = &life{Slot: x.Slot, Born: x.At}
		case l != nil && x.Event == "told":
			l.Told = x.At
		case l != nil && x.Event == "gone":
			l.Gone = x.At
		}
	}
	return lives
}

// noneBeganWhenTold: a worker that was told to go takes no other job.
func (s *workshop) noneBeganWhenTold(grace time.Duration) {
	s.t.Helper()
	jobs, err := s.Shop.Jobs()
	if err != nil {
		s.t.Fatal(err)
	}
	boot := s.boot()
	for _, name := range frameworks {
		lives, told := s.lives("shop/"+name), map[int]bool{}
		for id, job := range jobs {
			for _, m := range job.Started {
				l := lives[m.PID]
				if !strings.HasPrefix(id, name) || l == nil || l.Told.IsZero() {
					continue
				}
				told[m.PID] = true
				if late := boot.Add(m.At).Sub(l.Told); late > grace {
					s.t.Errorf("job %s began in %s, %s after its worker was told to go", id, l.Slot, late)
				}
			}
		}
		if len(told) < 4 {
			s.t.Errorf("%d workers of %s that had jobs were told to go", len(told), name)
		}
	}
}

// blamed are the ends of frameworks' workers that superd takes for a failure, or has
// brought about by force: only those that are expected.
func (s *workshop) blamed(expected ...string) {
	s.t.Helper()
	var told []string
	for _, e := range s.events() {
		if (e.Kind == "worker.failed" || e.Kind == "worker.killed") && !strings.HasPrefix(e.Process, "shop/jobs") {
			told = append(told, fmt.Sprintf("%s %s %s", e.Kind, e.Process, e.Reason))
		}
	}
	ok := len(told) == len(expected)
	for i := 0; ok && i < len(told); i++ {
		ok = regexp.MustCompile(expected[i]).MatchString(told[i])
	}
	if !ok {
		s.t.Errorf("want %q, was told %q", expected, told)
	}
}

// retired tells how many lives of a pool ended though nobody had told them to, and how long
// their places were empty.
func (s *workshop) retired(name string) (ends int, pauses []time.Duration) {
	lives := s.lives("shop/" + name)
	for _, l := range lives {
		if l.Gone.IsZero() || !l.Told.IsZero() {
			continue
		}
		ends++
		next := time.Duration(-1)
		for _, other := range lives {
			if pause := other.Born.Sub(l.Gone); other.Slot == l.Slot && pause > 0 && (next < 0 || pause < next) {
				next = pause
			}
		}
		if next >= 0 {
			pauses = append(pauses, next)
		}
	}
	slices.Sort(pauses)
	return ends, pauses
}

// endsAsPlanned: --max-jobs and --limit by now, queue:restart, and too much memory.
func (s *workshop) endsAsPlanned() {
	s.t.Helper()
	for _, name := range frameworks {
		ends, pauses := s.retired(name)
		s.t.Logf("%d workers of %s have ended by themselves; their places were empty for %v", ends, name, pauses)
		if len(pauses) < 5 || pauses[len(pauses)/2] >= time.Second { // which is the first pause after a failure
			s.t.Errorf("%s: %d ends, and pauses of %v", name, ends, pauses)
		}
	}
	before := s.workers("laravel")
	for range 8 {
		s.push(1_000, "child", "laravel")
	}
	if said, err := s.console("artisan", "queue:restart").CombinedOutput(); err != nil {
		s.t.Fatalf("queue:restart: %v: %s", err, said)
	}
	eventually(s.t, 30*time.Second, "queue:restart has replaced all", func() bool {
		now := s.workers("laravel")
		return len(now) == 4 && !slices.ContainsFunc(before, func(pid int) bool { return slices.Contains(now, pid) })
	})
	s.push(0, "fat", frameworks...)
	for name, last := range map[string]string{"laravel": "exit 12 after", "messenger": "exit 0 after"} {
		eventually(s.t, 30*time.Second, name+" ends of its memory", func() bool {
			ended, _ := s.ending(name, last)
			return ended && len(s.workers(name)) == 4
		})
	}
	s.settle()
	s.blamed()
}

// killsItself: a job of Laravel's that takes longer than it may.
func (s *workshop) killsItself() {
	s.t.Helper()
	s.push(0, "hang", "laravel")
	hangs := s.pushed[len(s.pushed)-1]
	var slot string
	eventually(s.t, 30*time.Second, "the worker has killed itself and is back", func() bool {
		var ended bool
		ended, slot = s.ending("laravel", "signal SIGKILL after")
		return ended && len(s.workers("laravel")) == 4
	})
	s.push(100, "nap", frameworks...)
	s.settle(hangs)
	s.blamed("^worker.failed " + slot + " signal SIGKILL after")
}

// pool is what superd says of one now.
func (s *workshop) pool(name string) (pool lab.Pool) {
	s.t.Helper()
	for _, p := range s.status().Apps[0].Pools {
		if p.Name == "shop/"+name {
			pool = p
		}
	}
	return pool
}

// workers are the PIDs of those that run.
func (s *workshop) workers(name string) (pids []int) {
	for _, w := range s.pool(name).Workers {
		if w.State == "running" {
			pids = append(pids, w.PID)
		}
	}
	return pids
}

// ending tells whether the life before of a worker ended so, and which worker that is.
func (s *workshop) ending(name, last string) (bool, string) {
	for _, w := range s.pool(name).Workers {
		if strings.HasPrefix(w.Last, last) {
			return true, w.Name
		}
	}
	return false, ""
}

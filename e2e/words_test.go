//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/e2e/lab"
)

// carefulJob takes its orders from a file: hang is an endless loop.
const carefulJob = `
function job(): void {
    $order = $GLOBALS['argv'][1];
    if (is_file($order)) {
        unlink($order);
        while (true);
    }
    usleep(100000);
}
`

const hangingJob = "function job(): void { while (true); }\n"

// snippet is the worker of docs/workers.md, whole.
func snippet(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/workers.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```php\n(// worker: .*?)```").FindStringSubmatch(string(page))
	if found == nil {
		t.Fatal("docs/workers.md has no worker")
	}
	return found[1]
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// careful is the worker of the pool of that name.
func (s *site) careful() (pid int, state, last string) {
	status, err := s.Status()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range status.Apps[0].Pools {
		if p.Name == "shop/careful" && len(p.Workers) == 1 {
			w := p.Workers[0]
			return w.PID, w.State, w.Last
		}
	}
	return 0, "", ""
}

func (s *site) runsCarefully(what string, not int) int {
	s.t.Helper()
	var pid int
	eventually(s.t, 30*time.Second, what, func() bool {
		var state string
		pid, state, _ = s.careful()
		return state == "running" && pid != not
	})
	return pid
}

// The PHP worker of docs/workers.md, as it is written there: it is up when it says so, lives
// as long as it says so, over a death of superd too, leaves when it is told, and when it
// hangs in its job it is replaced. A release whose workers hang is taken back for that.
func TestWorkerThatSpeaksForItself(t *testing.T) {
	l, redis := newLab(t)
	write(t, filepath.Join(l.Shop.Release("r1"), "bin", "careful.php"), "<?php\n"+snippet(t)+carefulJob)
	write(t, filepath.Join(l.Shop.Release("r2"), "bin", "careful.php"), "<?php\n"+snippet(t)+hangingJob)
	if err := l.Configure(lab.Config{Children: 2, Workers: 1, Rotations: 1, Watch: "20s", More: `
[app.shop.worker.careful]
command      = ["php8.2", "bin/careful.php", "{root}/shared/order"]
ready        = "notify"
watchdog     = "2s"
stop_timeout = "20s"
`}); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis, superd: superd}
	first := s.runsCarefully("it is ready", 0)
	time.Sleep(3 * time.Second)
	if _, err := l.KillSuperd(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "another superd", func() bool { _, err := l.Status(); return err == nil })
	time.Sleep(3 * time.Second)
	if pid := s.runsCarefully("it runs", 0); pid != first {
		_, _, last := s.careful()
		t.Fatalf("it was replaced: %s", last)
	}
	write(t, filepath.Join(l.Shop.Root, "shared", "order"), "")
	second := s.runsCarefully("it is replaced when it hangs", first)
	if _, _, last := s.careful(); !strings.HasPrefix(last, "watchdog: signal SIGABRT after") {
		t.Errorf("it is told to have ended by %q", last)
	}
	if err := syscall.Kill(second, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.runsCarefully("another one after it was told to go", second)
	if _, _, last := s.careful(); !strings.HasPrefix(last, "exit 0 after") {
		t.Errorf("it is told to have ended by %q", last)
	}
	if o := s.ctl(3, "switch", "r2"); !strings.Contains(o.Out+o.Err, "watchdog: shop/careful:0 has not said WATCHDOG=1 for 2s") {
		t.Errorf("the reason is not told:\n%s%s", o.Out, o.Err)
	}
}

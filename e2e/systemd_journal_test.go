//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// What workers and superd write is in the journal with fields, and a journald that hangs
// holds nobody up: not superd, not a switch.
func TestUnitJournal(t *testing.T) {
	config := strings.NewReplacer(`stop_timeout = "5s"`, "stop_timeout = \"5s\"\nlog = { stdout = \"journal\" }", `"php8.2", "-r", "while (true) sleep(1);"`, `"php8.2", "worker.php"`, `watch = "1s"`, `watch = "100ms"`)
	m := newUnit(t, config.Replace(systemdConfig))
	for _, r := range []string{"r1", "r2"} {
		m.install("/srv/shop/releases/"+r+"/public/index.php", []byte("<?php echo '"+r+"';"), 0o644)
		m.install("/srv/shop/releases/"+r+"/worker.php", []byte("<?php while (true) { echo \"<4>works on "+r+"\\n\"; sleep(1); }"), 0o644)
	}
	m.start()
	m.active()
	m.must("superctl", "switch", "r1")
	eventually(t, 30*time.Second, "a worker's line is found by its fields", func() bool {
		out, _ := m.run("journalctl", "--no-pager", "-o", "cat", "SUPERD_APP=shop", "SUPERD_RELEASE=r1", "SUPERD_POOL=jobs", "-p", "warning")
		return strings.Contains(out, "works on r1")
	})
	if out := m.must("journalctl", "--no-pager", "-o", "cat", "_COMM=superd", "SUPERD_APP=shop"); !strings.Contains(out, "change accepted") {
		t.Errorf("what superd says of an app is not found by it:\n%s", out)
	}

	superd := m.must("pgrep", "-x", "superd")
	journald := m.must("systemctl", "show", "systemd-journald", "-p", "MainPID", "--value")
	m.must("kill", "-STOP", journald)
	began := time.Now()
	for range 6 {
		for _, r := range []string{"r2", "r1"} {
			m.must("superctl", "switch", r)
		}
	}
	m.serves("r1")
	t.Logf("12 switches without a journald took %s", time.Since(began).Round(time.Millisecond))
	if now := m.must("pgrep", "-x", "superd"); now != superd {
		t.Errorf("superd was PID %s and is %s", superd, now)
	}
	m.must("kill", "-CONT", journald)
}

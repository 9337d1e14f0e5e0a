//go:build e2e

package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What docs/systemd.md says may be added to the unit can be: superd does all it does, and
// the figures there are those of systemd.
func TestUnitHardened(t *testing.T) {
	m := newUnit(t, systemdConfig)
	for _, r := range []string{"r1", "r2"} {
		m.install("/srv/shop/releases/"+r+"/public/index.php", []byte("<?php echo '"+r+"';"), 0o644)
	}
	m.start()
	m.active()
	before := m.exposure()
	m.must("mkdir", "-p", "/etc/systemd/system/superd.service.d")
	hardened, err := os.ReadFile("../packaging/systemd/hardened.conf")
	if err != nil {
		t.Fatal(err)
	}
	m.must("bash", "-c", "cat >/etc/systemd/system/superd.service.d/hardened.conf <<'END'\n"+string(hardened)+"END\n")
	m.must("systemctl", "daemon-reload")
	m.must("systemctl", "restart", "superd")
	after := m.exposure()
	t.Logf("exposure %s, hardened %s", before, after)
	docs, err := os.ReadFile("../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, figure := range []string{"is " + before, "is " + after} {
		if !strings.Contains(string(docs), figure) {
			t.Errorf("docs/systemd.md has other figures than %s and %s", before, after)
		}
	}
	if bounds := m.must("bash", "-c", "grep -h Seccomp: /proc/"+m.show("MainPID")+"/status"); !strings.HasSuffix(bounds, "2") {
		t.Errorf("nothing is hardened: %s", bounds)
	}

	m.must("superctl", "switch", "r1")
	m.serves("r1")
	m.must("superctl", "switch", "r2")
	m.must("superctl", "rollback")
	m.serves("r1")
	eventually(t, 30*time.Second, "the generation before has left", func() bool { return len(m.fleet()) == 3 })
	fleet := m.fleet()
	main := m.show("MainPID")
	m.must("kill", "-9", main)
	m.follow(main)
	m.same("the keeper's SIGKILL", fleet)
	m.must("superctl", "upgrade")
	m.same("an upgrade", fleet)
	m.must("systemctl", "restart", "superd")
	m.serves("r1")
	if tree := m.must("systemd-cgls", "--no-pager", "-l", "-u", "superd.service"); !strings.Contains(tree, "shop.jobs:") {
		t.Errorf("processes have no cgroups of their own:\n%s", tree)
	}
	m.must("systemctl", "stop", "superd")
	if left := m.fleet(); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if log := m.must("journalctl", "--no-pager", "-u", "superd"); strings.Contains(log, "not permitted") || strings.Contains(log, "not implemented") {
		t.Errorf("something was refused:\n%s", log)
	}
}

var level = regexp.MustCompile(`Overall exposure level for superd.service: ([0-9.]+)`)

// exposure is systemd's figure for superd's unit: 0 is nothing, 10 is everything.
func (m *machine) exposure() string {
	m.t.Helper()
	out := m.must("systemd-analyze", "security", "--no-pager", "superd.service")
	found := level.FindStringSubmatch(out)
	if found == nil {
		m.t.Fatalf("systemd-analyze security has no figure:\n%s", out)
	}
	return found[1]
}

//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// With superd.socket whoever connects starts superd, waits for it and is answered, and at
// no moment is anybody refused.
func TestUnitSocket(t *testing.T) {
	m := newUnit(t, systemdConfig)
	m.installFile("/usr/lib/systemd/system/superd.socket", "../packaging/systemd/superd.socket", 0o644)
	m.install("/srv/shop/releases/r1/public/index.php", []byte("<?php echo 'r1';"), 0o644)
	m.start()
	m.active()
	m.must("superctl", "switch", "r1")
	m.must("systemctl", "stop", "superd")
	m.must("systemctl", "start", "superd.socket")
	for _, unit := range []string{"superd.service", "superd.socket"} {
		if out := m.must("bash", "-c", "systemd-analyze verify --man=no /usr/lib/systemd/system/"+unit+" 2>&1"); out != "" {
			t.Errorf("systemd-analyze verify %s: %s", unit, out)
		}
	}
	door := m.knock("/run/superd/superd.sock")
	answered := func(when string) {
		t.Helper()
		if out := m.must("superctl", "version"); !strings.Contains(out, "superd") {
			t.Errorf("%s superd says %s", when, out)
		}
		m.active()
	}
	answered("after a connection")
	m.must("systemctl", "restart", "superd")
	answered("after a restart")
	old := m.show("MainPID")
	m.must("kill", "-9", old)
	answered("after the loss of the keeper")
	m.follow(old)
	m.must("superctl", "upgrade")
	answered("after an upgrade")
	door.open(t)
	m.must("systemctl", "stop", "superd")
	answered("after a stop")
	m.serves("r1")
	if log := m.must("journalctl", "--no-pager", "-u", "superd"); strings.Contains(log, "control socket was gone") || strings.Contains(log, "is not used") {
		t.Errorf("the socket was another:\n%s", log)
	}
}

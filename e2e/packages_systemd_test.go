//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/e2e/load"
)

// liveUnderSystemd goes through the life of the package on a machine with systemd and a
// shop: installed, the demo's switches, upgraded under load, removed, installed again,
// purged.
func (p *packages) liveUnderSystemd(t *testing.T) {
	demo := filepath.Join(p.dir, "demo")
	if out, err := exec.Command("go", "build", "-o", demo, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	m := newMachine(t)
	m.installFile("/root/old.deb", p.old.deb, 0o644)
	m.installFile("/root/new.deb", p.new.deb, 0o644)
	m.installFile("/root/demo", demo, 0o755)
	m.stock()
	m.start()
	// A machine has superd's unit enabled, and Debian's policy of this one: none here.
	m.must("rm", "-f", "/etc/systemd/system/multi-user.target.wants/superd.service", "/usr/sbin/policy-rc.d")

	m.must("dpkg", "-i", "/root/old.deb")
	m.active()
	if out := m.must("systemctl", "is-enabled", "superd"); out != "enabled" {
		t.Errorf("after the installation the unit is %s", out)
	}
	if out := m.must("superctl", "version"); !strings.Contains(out, "superd   1.0.0") {
		t.Errorf("after the installation: %s", out)
	}
	if out := m.must("env", "LAB_BIN=/usr/bin", "/root/demo"); !strings.Contains(out, "Every promise was kept") {
		t.Errorf("the demo with the programs of the package:\n%s", out)
	}

	m.must("bash", "-c", `printf %s "$0" >/etc/superd/conf.d/shop.toml`, strings.Replace(restartConfig, `watch = "1s"`, `watch = "6s"`, 1))
	m.must("superctl", "reload")
	p.upgrade(m, m.open())
	p.removeAndPurge(m)
}

// upgrade installs the newer package under load, switches by it, and installs the older
// one in the middle of a switch.
func (p *packages) upgrade(m *machine, url string) {
	m.t.Helper()
	run := load.Start(load.Plan{URL: url, Rate: 100})
	before, main := m.fleet(), m.show("MainPID")
	if len(before) != 3 {
		m.t.Fatalf("the fleet is %v", before)
	}
	m.must("dpkg", "-i", "/root/new.deb")
	m.same("the upgrade of the package", before)
	if now := m.show("MainPID"); now != main {
		m.t.Errorf("the upgrade changed the keeper's PID from %s to %s", main, now)
	}
	if out := m.must("superctl", "version"); !strings.Contains(out, "superd   2.0.0") {
		m.t.Errorf("after the upgrade: %s", out)
	}
	if out := m.must("readlink", "/proc/"+main+"/exe"); out != "/usr/lib/superd/superd-keeper" {
		m.t.Errorf("after the upgrade the keeper is %s", out)
	}
	m.must("superctl", "switch", "r2")

	// In the middle of a switch the package waits: one that does not is refused.
	m.must("superctl", "switch", "r1", "--wait", "no")
	m.must("dpkg", "-i", "/root/old.deb")
	if out := m.must("superctl", "version"); !strings.Contains(out, "superd   1.0.0") {
		m.t.Errorf("after an upgrade in the middle of a switch to r1: %s\n%s", out, m.must("superctl", "history"))
	}
	eventually(m.t, 30*time.Second, "all is on r1 after that", func() bool { return m.wholly("r1") })
	unharmed(m.t, run.Stop())
}

func (p *packages) removeAndPurge(m *machine) {
	m.t.Helper()
	m.must("systemctl", "enable", "superd.socket")
	m.must("dpkg", "-r", "superd")
	if left := m.fleet(); len(left) != 0 {
		m.t.Errorf("the package is removed, and %v run", left)
	}
	if s := m.show("ActiveState"); s != "inactive" {
		m.t.Errorf("the package is removed, and its unit is %s", s)
	}

	m.must("dpkg", "-i", "/root/new.deb")
	m.active()
	eventually(m.t, 30*time.Second, "the package is back, and its shop on r1", func() bool { return m.wholly("r1") })

	m.must("systemctl", "stop", "superd")
	m.must("systemctl", "start", "superd.socket")
	if out := m.must("superctl", "version"); !strings.Contains(out, "superd   2.0.0") { // connecting starts it
		m.t.Errorf("superd.socket starts no superd: %s", out)
	}
	m.must("dpkg", "-P", "superd")
	root := fmt.Sprintf("/proc/%d/root", m.init)
	for path, want := range map[string]bool{
		"/etc/superd": false, "/var/lib/superd": false, "/var/log/superd": false, "/run/superd": false,
		"/etc/systemd/system/multi-user.target.wants/superd.service": false, "/etc/systemd/system/sockets.target.wants/superd.socket": false,
		"/srv/shop/releases/r1/public/index.php": true,
	} {
		if _, err := os.Lstat(root + path); (err == nil) != want {
			found, _ := m.run("find", path)
			m.t.Errorf("after the purge %s is there: %v\n%s", path, err == nil, found)
		}
	}
}

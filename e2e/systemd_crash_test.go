//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
)

// The keeper hangs. systemd misses its sign of life, ends it and starts another one, which
// goes on with everything.
func TestUnitWatchdog(t *testing.T) {
	m := newUnit(t, systemdConfig)
	m.install("/etc/systemd/system/superd.service.d/soon.conf", []byte("[Service]\nWatchdogSec=8\n"), 0o644)
	m.install("/srv/shop/releases/r1/public/index.php", []byte("<?php echo 'r1';"), 0o644)
	m.start()
	m.active()
	m.must("superctl", "switch", "r1")
	before := m.fleet()
	if len(before) != 3 {
		t.Fatalf("the fleet is %v", before)
	}
	door := m.knock("/run/superd/shop.sock")
	for range 2 { // the one that took over is watched too
		main := m.show("MainPID")
		m.must("kill", "-STOP", main)
		m.follow(main)
		m.same("the keeper's hang", before)
		m.serves("r1")
	}
	door.open(t)
	if n := m.must("bash", "-c", "pgrep -x superd | wc -l"); n != "1" {
		t.Errorf("there are %s superd", n)
	}
	if log := m.must("journalctl", "--no-pager", "-u", "superd"); strings.Count(log, "the end was a crash (watchdog)") != 2 {
		t.Errorf("systemd's watchdog did not do it:\n%s", log)
	}
}

// The power fails in the middle of a switch. When the machine is back everything runs, on
// the release that a superd that dies there would have ended on.
func TestUnitReboot(t *testing.T) {
	m := newUnit(t, strings.Replace(systemdConfig, `watch = "1s"`, `watch = "300ms"`, 1))
	m.install("/etc/systemd/system/superd.service.d/failpoint.conf", []byte("[Service]\nEnvironment=SUPERD_FAILPOINT=/srv/failpoint\n"), 0o644)
	for _, r := range []string{"r1", "r2"} {
		m.install("/srv/shop/releases/"+r+"/public/index.php", []byte("<?php echo '"+r+"';"), 0o644)
	}
	m.start()
	m.active()
	m.must("superctl", "switch", "r1")
	live, other := "r1", "r2"
	for _, point := range []struct {
		name  string
		moved bool
	}{{"verifying.after", false}, {"promoting.linked", true}, {"rotating.before", true}, {"watching.before", true}, {"committing.before", true}} {
		m.powerFailsAt(point.name, other)
		if point.moved {
			live, other = other, live
		}
		m.start()
		m.active()
		eventually(t, time.Minute, "all is on "+live+" after a power cut at "+point.name, func() bool { return m.wholly(live) })
		m.serves(live)
	}
	m.must("superctl", "switch", other) // and it goes on as ever
	m.serves(other)
}

// powerFailsAt begins a switch and cuts the power when it is at that point. superd kills
// itself there; the keeper finds no other one until the power is gone.
func (m *machine) powerFailsAt(point, to string) {
	m.t.Helper()
	file := fmt.Sprintf("/proc/%d/root/srv/failpoint", m.init)
	if err := os.WriteFile(file, []byte(point), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.must("mv", "/usr/bin/superd", "/usr/bin/superd.away")
	m.must("systemd-run", "--no-block", "superctl", "switch", to)
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the switch did not come past %s", point)
		}
		time.Sleep(20 * time.Millisecond)
	}
	m.halt()
	bin := filepath.Join(m.dir, "up", "usr", "bin")
	if err := os.Rename(filepath.Join(bin, "superd.away"), filepath.Join(bin, "superd")); err != nil {
		m.t.Fatal(err)
	}
}

// wholly tells whether the app is on that release, and on its way to no other.
func (m *machine) wholly(name string) bool {
	out, err := m.run("superctl", "status", "--json")
	if err != nil {
		return false
	}
	var status struct {
		Apps []struct {
			Live   release.Generation
			Switch *release.Record
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Apps) != 1 || status.Apps[0].Live.Release != name || status.Apps[0].Switch != nil {
		return false
	}
	fleet := m.fleet()
	for _, p := range fleet {
		pid, _, _ := strings.Cut(p, " ")
		cwd, err := m.run("readlink", pid+"/cwd")
		if err != nil || path.Base(cwd) != name && cwd != "/" { // that of the master
			return false
		}
	}
	return len(fleet) == 3
}

// serves waits until PHP answers with the name of the release.
func (m *machine) serves(name string) {
	m.t.Helper()
	socket := fmt.Sprintf("/proc/%d/root/run/superd/shop.sock", m.init)
	ask := fastcgi.Request{Params: fastcgi.Script("/srv/shop/current/public", "index.php", "/", "GET", "")}
	eventually(m.t, 30*time.Second, "PHP answers with "+name, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		answer, err := fastcgi.Do(ctx, "unix", socket, ask)
		return err == nil && string(answer.Body) == name
	})
}

//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const systemdConfig = `
[app.shop]
root = "/srv/shop"
user = "www-data"
[app.shop.fpm]
binary = "/usr/sbin/php-fpm8.2"
listen = "/run/superd/shop.sock"
drain_timeout = "10s"
pm = "static"
max_children = 2
[app.shop.worker.jobs]
command = ["php8.2", "-r", "while (true) sleep(1);"]
processes = 2
stop_timeout = "5s"
min_healthy_time = "100ms"
[app.shop.switch]
watch = "1s"
`

// newUnit is a machine with superd installed as a package does it, and not started.
func newUnit(t *testing.T, config string) *machine {
	t.Helper()
	m := newMachine(t)
	m.installFile("/usr/bin/superd", "../bin/superd", 0o755)
	m.installFile("/usr/bin/superctl", "../bin/superctl", 0o755)
	m.installFile("/usr/lib/superd/superd-keeper", "../bin/superd-keeper", 0o755)
	m.installFile("/usr/lib/systemd/system/superd.service", "../packaging/systemd/superd.service", 0o644)
	m.install("/etc/superd/superd.toml", []byte(config), 0o644)
	return m
}

// The shipped unit under a real systemd: what each line of it is for.
func TestUnit(t *testing.T) {
	m := newUnit(t, systemdConfig)
	m.install("/srv/shop/releases/r1/public/index.php", []byte("<?php echo 'r1';"), 0o644)
	m.install("/srv/shop/releases/r2/public/index.php", []byte("<?php echo 'r2';"), 0o644)
	m.start()
	m.active()
	if out := m.must("bash", "-c", "systemd-analyze verify --man=no /usr/lib/systemd/system/superd.service 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	m.must("superctl", "switch", "r1")
	eventually(t, 30*time.Second, "systemd is told how the app is", func() bool { return strings.HasSuffix(m.show("StatusText"), ": shop r1") })

	if out, _ := m.run("superctl", "doctor"); strings.Contains(out, "systemd-") { // that the machine has other faults is no matter
		t.Errorf("superctl doctor does not like the shipped unit:\n%s", out)
	}

	door := m.knock("/run/superd/shop.sock")
	before := m.fleet()
	main := m.show("MainPID")
	if len(before) < 3 {
		t.Fatalf("the fleet is %v", before)
	}
	m.must("systemctl", "reload", "superd")
	m.same("a reload", before)

	pid := func(when string) {
		t.Helper()
		if file := m.must("cat", "/run/superd/superd.pid"); file != m.show("MainPID") {
			t.Errorf("%s the PID file has %s, and the main process is %s", when, file, m.show("MainPID"))
		}
	}
	pid("in the beginning")
	m.must("kill", "-9", main)
	m.follow(main)
	m.same("the keeper's SIGKILL", before)
	pid("after the keeper's SIGKILL")
	m.must("superctl", "upgrade")
	m.same("an upgrade", before)
	pid("after an upgrade")
	door.open(t)

	t.Run("a stop leaves nothing", func(t *testing.T) {
		m.must("bash", "-c", `sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/sys/fs/cgroup/system.slice/superd.service/cgroup.procs; echo $! >/run/stranger; disown`)
		m.must("systemctl", "stop", "superd")
		eventually(t, 10*time.Second, "what superd did not know of in the unit is gone", func() bool { // for a moment it is a zombie
			_, err := m.run("bash", "-c", "kill -0 $(cat /run/stranger)")
			return err != nil
		})
		if left, err := m.run("find", "/sys/fs/cgroup/system.slice/superd.service", "-type", "d"); err == nil {
			t.Errorf("cgroups are left:\n%s", left)
		}
		if left := m.fleet(); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		if out, err := m.run("cat", "/run/superd/superd.pid"); err == nil {
			t.Errorf("the PID file has %s", out)
		}
		if r := m.show("Result"); r != "success" {
			t.Errorf("the stop ended with %q\n%s", r, m.must("journalctl", "--no-pager", "-n", "30"))
		}
	})
	m.must("systemctl", "start", "superd")
	m.active()
	m.must("superctl", "switch", "r2")
	m.must("superctl", "shutdown")
	eventually(t, time.Minute, "superctl shutdown has ended the unit", func() bool { return m.show("ActiveState") == "inactive" })
	time.Sleep(time.Second) // ten times RestartSec
	if is := m.show("ActiveState"); is != "inactive" || len(m.fleet()) > 0 {
		t.Errorf("a second after superctl shutdown the unit is %s with the fleet %v", is, m.fleet())
	}
	m.must("systemctl", "start", "superd")
	m.active()
	for how, end := range map[string]func(){"a power cut": m.halt, "a shutdown": m.off} {
		end()
		m.start()
		m.active()
		eventually(t, time.Minute, "everything is back on r2 after "+how, func() bool {
			status, _ := m.run("superctl", "status")
			return strings.Contains(status, "r2") && len(m.fleet()) == len(before)
		})
	}
}

// active waits until systemd has been told that superd is here.
func (m *machine) active() {
	m.t.Helper()
	eventually(m.t, time.Minute, "superd.service is active", func() bool { return m.show("ActiveState") == "active" })
}

// follow waits for the next keeper, and for superd's answer.
func (m *machine) follow(old string) {
	m.t.Helper()
	eventually(m.t, time.Minute, "another keeper is there", func() bool {
		pid := m.show("MainPID")
		_, err := m.run("superctl", "status")
		return pid != old && pid != "0" && m.show("ActiveState") == "active" && err == nil
	})
}

// fleet are the processes of PHP in the unit, as PID and start time. Processes come and
// go while it looks: what bash says of those that have gone is thrown away. What a master
// of php-fpm has just forked has its title still, and is none.
func (m *machine) fleet() []string {
	m.t.Helper()
	out := m.must("bash", "-c", `exec 2>/dev/null
for p in /proc/[0-9]*; do c=$(tr '\0' ' ' <$p/cmdline) || continue
case "$c" in bash*) ;; "php-fpm: master"*|php8.2*|*/php8.2*) s=$(sed 's/.*) //' $p/stat) || continue
case "$(tr '\0' ' ' </proc/$(echo "$s" | cut -d' ' -f2)/cmdline)" in "php-fpm: master"*) ;; *) echo "$p $(echo "$s" | cut -d' ' -f20)";; esac;; esac; done; true`)
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

func (m *machine) same(after string, before []string) {
	m.t.Helper()
	if now := m.fleet(); fmt.Sprint(now) != fmt.Sprint(before) {
		m.t.Errorf("after %s the fleet was %v and is %v", after, before, now)
	}
}

// A door is a socket that somebody knocks at all the time.
type door struct {
	stop    chan struct{}
	done    sync.WaitGroup
	tries   int
	refused error
}

// knock begins to connect to a socket in the machine, every few milliseconds.
func (m *machine) knock(socket string) *door {
	d := &door{stop: make(chan struct{})}
	path := fmt.Sprintf("/proc/%d/root%s", m.init, socket)
	d.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-d.stop:
				return
			case <-tick.C:
			}
			d.tries++
			conn, err := net.Dial("unix", path)
			if err != nil {
				d.refused = err
				continue
			}
			_ = conn.Close() // nothing was asked
		}
	})
	return d
}

// open ends the knocking and tells whether it was ever in vain.
func (d *door) open(t *testing.T) {
	t.Helper()
	close(d.stop)
	d.done.Wait()
	if d.refused != nil || d.tries == 0 {
		t.Errorf("of %d connections one was refused: %v", d.tries, d.refused)
	}
}

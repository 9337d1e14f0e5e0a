//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/e2e/load"
	"superd/e2e/shop"
)

const restartConfig = `
[app.shop]
root = "/srv/shop"
user = "www-data"
[app.shop.fpm]
binary = "/usr/sbin/php-fpm8.2"
listen = "/run/superd/shop.sock"
drain_timeout = "30s"
pm = "static"
max_children = 24
[app.shop.worker.jobs]
command = ["php8.2", "/srv/job.php"]
processes = 2
stop_timeout = "5m"
min_healthy_time = "100ms"
[app.shop.switch]
watch = "1s"
`

// job is a worker whose jobs take four seconds, or as many as it is told. It ends between
// two of them.
const job = `<?php
pcntl_async_signals(true);
$stop = false;
pcntl_signal(SIGTERM, function () use (&$stop) { $stop = true; });
while (!$stop) {
    file_put_contents('/srv/ledger', "begin\n", FILE_APPEND);
    for ($until = microtime(true) + ($argv[1] ?? 4); microtime(true) < $until;) { usleep(10000); }
    file_put_contents('/srv/ledger', "end\n", FILE_APPEND);
}
`

// front is an nginx of the machine in front of the shop.
const front = `
user www-data;
worker_processes 2;
pid /run/front.pid;
error_log stderr warn;
events { worker_connections 8192; }
http {
	access_log off;
	server {
		listen %s backlog=4096;
		location / {
			fastcgi_pass unix:/run/superd/shop.sock;
			include /etc/nginx/fastcgi_params;
			fastcgi_param SCRIPT_FILENAME /srv/shop/current/public/index.php;
			fastcgi_param DOCUMENT_ROOT /srv/shop/current/public;
			fastcgi_param SCRIPT_NAME /index.php;
		}
	}
}
`

// newShopUnit is such a machine with the shop in it, released as r1, and nginx in front.
// It tells where that listens.
func newShopUnit(t *testing.T, config string) (*machine, string) {
	t.Helper()
	m := newUnit(t, config)
	m.stock()
	m.start()
	m.active()
	return m, m.open()
}

// stock puts releases of the shop into a machine that has not started, and jobs.
func (m *machine) stock() {
	m.t.Helper()
	s, err := shop.New(filepath.Join(m.dir, "up", "srv", "shop"), 33, 33)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range []string{"r1", "r2"} {
		if err := s.Add(r); err != nil {
			m.t.Fatal(err)
		}
	}
	m.install("/srv/job.php", []byte(job), 0o644)
	m.install("/srv/ledger", nil, 0o666)
}

// open releases r1, puts nginx in front, and tells where that listens.
func (m *machine) open() string {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close() // to be nginx's: the machine has our network
	m.must("bash", "-c", `printf %s "$0" >/etc/nginx/front.conf`, fmt.Sprintf(front, address))
	m.must("chmod", "666", "/srv/ledger")
	m.must("superctl", "switch", "r1")
	m.must("systemd-run", "--unit=front", "--property=TimeoutStopSec=1", "nginx", "-c", "/etc/nginx/front.conf", "-g", "daemon off;")
	eventually(m.t, 30*time.Second, "nginx is there", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "http://" + address
}

// jobs are how many were begun and how many ended.
func (m *machine) jobs() (begun, ended int) {
	text := m.must("cat", "/srv/ledger")
	return strings.Count(text, "begin"), strings.Count(text, "end")
}

// `systemctl restart superd` under load: who is in is answered, who comes waits, and jobs
// are finished, although they take longer than systemd would wait by itself.
func TestUnitRestart(t *testing.T) {
	m, url := newShopUnit(t, restartConfig)
	m.must("mkdir", "-p", "/etc/systemd/system/superd.service.d")
	m.must("bash", "-c", `printf '[Service]\nTimeoutStopSec=3\n' >/etc/systemd/system/superd.service.d/short.conf`)
	m.must("systemctl", "daemon-reload")
	run := load.Start(load.Plan{URL: url, Rate: 100})
	for range 3 {
		old := m.show("MainPID")
		had, _ := m.jobs()
		begun := time.Now()
		m.must("systemctl", "restart", "superd")
		t.Logf("systemctl restart took %s", time.Since(begun).Round(time.Millisecond))
		m.follow(old)
		eventually(t, 30*time.Second, "both workers are at a job", func() bool { begun, _ := m.jobs(); return begun >= had+2 })
		if r := m.show("Result"); r != "success" {
			t.Errorf("the end of the one before: %q", r)
		}
		if begun, ended := m.jobs(); begun-ended > 2 {
			t.Errorf("%d jobs were begun and %d ended: more than the two workers of now are at", begun, ended)
		}
		if n := len(m.fleet()); n != 3 {
			t.Errorf("there are %d processes of PHP, not a master and two workers: %v", n, m.fleet())
		}
	}
	time.Sleep(time.Second)
	unharmed(t, run.Stop())
	before, _ := m.jobs()
	eventually(t, 30*time.Second, "a job has just begun", func() bool { begun, _ := m.jobs(); return begun > before })
	m.must("systemctl", "stop", "--no-block", "superd")
	said := ""
	eventually(t, time.Minute, "superd has stopped", func() bool {
		if s := m.show("StatusText"); s != "" {
			said += s + "\n"
		}
		return m.show("ActiveState") == "inactive"
	})
	if !strings.Contains(said, "waits for") || !strings.Contains(said, "shop/jobs:") {
		t.Errorf("systemd was not told who is waited for, but:\n%s", said)
	}
	if begun, ended := m.jobs(); begun != ended {
		t.Errorf("%d jobs were begun and %d ended", begun, ended)
	}
}

// superd is killed in the middle of `systemctl stop`. The next one goes on with the stop: no
// job is cut, and nothing is left.
func TestUnitStopGoesOn(t *testing.T) {
	// Time enough for two kills while a job is in hand.
	m, _ := newShopUnit(t, strings.Replace(restartConfig, `"/srv/job.php"`, `"/srv/job.php", "7"`, 1))
	before, _ := m.jobs()
	eventually(t, 30*time.Second, "a job has just begun", func() bool { begun, _ := m.jobs(); return begun > before })
	m.must("systemctl", "stop", "--no-block", "superd")
	for range 2 {
		eventually(t, 30*time.Second, "superd is stopping", func() bool { return strings.Contains(m.show("StatusText"), "stopping") })
		eventually(t, 30*time.Second, "superd is killed", func() bool { _, err := m.run("pkill", "-9", "-x", "superd"); return err == nil })
	}
	eventually(t, time.Minute, "superd has stopped", func() bool { return m.show("ActiveState") == "inactive" })
	if begun, ended := m.jobs(); begun != ended {
		t.Errorf("%d jobs were begun and %d ended", begun, ended)
	}
	if r, left := m.show("Result"), m.fleet(); r != "success" || len(left) > 0 {
		t.Errorf("the stop ended with %q, and %v is left", r, left)
	}
}

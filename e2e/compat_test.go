//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
)

// Debian's supervisorctl runs the shop by superd's other socket, also after superd was
// killed, and with a program in the way at first.
func TestSupervisorctlRunsTheShop(t *testing.T) {
	l, _ := newLab(t)
	socket := l.Path("run", "c.sock")
	if err := l.Configure(lab.Config{Workers: 2, More: fmt.Sprintf("[compat]\nxmlrpc = %q\n", socket)}); err != nil {
		t.Fatal(err)
	}
	conf := l.Path("ctl.conf")
	if err := os.WriteFile(conf, []byte("[supervisorctl]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctl := func(args ...string) (string, int) {
		c := exec.Command("supervisorctl", append([]string{"-c", conf, "-s", "unix://" + socket}, args...)...)
		c.Env = append(os.Environ(), "PYTHONWARNINGS=ignore")
		out, _ := c.CombinedOutput() // its exit code says it
		return string(out), c.ProcessState.ExitCode()
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		out, exit := ctl("status")
		return exit == 0 && strings.Count(out, "RUNNING") == 3
	}
	eventually(t, time.Minute, "supervisorctl sees the shop", running)
	out, _ := ctl("status")
	for _, name := range []string{"shop:fpm ", "shop:jobs_00 ", "shop:jobs_01 "} {
		if !strings.Contains(out, name) {
			t.Errorf("no %s in\n%s", name, out)
		}
	}
	before, _ := ctl("pid", "shop:jobs_00")
	if out, exit := ctl("restart", "shop:jobs_00"); exit != 0 || out != "shop:jobs_00: stopped\nshop:jobs_00: started\n" {
		t.Errorf("restart: exit %d, %s", exit, out)
	}
	if after, _ := ctl("pid", "shop:jobs_00"); after == before || after == "0\n" {
		t.Errorf("pid %s is still %s", before, after)
	}
	if out, exit := ctl("stop", "shop:jobs_01"); exit != 0 || out != "shop:jobs_01: stopped\n" {
		t.Errorf("stop: exit %d, %s", exit, out)
	}
	if out, exit := ctl("status", "shop:jobs_01"); exit != 3 || !strings.Contains(out, "STOPPED") {
		t.Errorf("status: exit %d, %s", exit, out)
	}
	if out, exit := ctl("tail", "shop:jobs_00"); exit != 0 || !strings.Contains(out, "ready for jobs") {
		t.Errorf("tail: exit %d, %s", exit, out)
	}
	if _, err := l.KillSuperd(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the next superd serves the socket", func() bool {
		out, exit := ctl("status", "shop:jobs_00")
		return exit == 0 && strings.Contains(out, "RUNNING")
	})
	if out, exit := ctl("start", "shop:*"); exit != 0 || out != "shop:jobs_01: started\n" {
		t.Errorf("start: exit %d, %s", exit, out)
	}
	if out, exit := ctl("shutdown"); exit != 0 || out != "Shut down\n" {
		t.Errorf("shutdown: exit %d, %s", exit, out)
	}
	select {
	case <-superd.Done():
	case <-time.After(time.Minute):
		t.Error("superd does not end")
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"superd/config"
)

func TestMostProcesses(t *testing.T) {
	cfg := &config.Config{Apps: []config.App{
		{Name: "a", FPM: &config.FPM{}, Workers: []config.Worker{{Name: "x", Processes: 10, Order: "start-first"}, {Name: "y", Processes: 7, Order: "stop-first"}}},
		{Name: "b", Workers: []config.Worker{{Name: "x", Processes: 2, Order: "start-first"}}},
	}}
	if n := mostProcesses(cfg, configuredSize); n != 3+20+7+4 {
		t.Errorf("%d processes", n)
	}
}

func TestCompareDescriptors(t *testing.T) {
	for _, c := range []struct {
		processes int
		limit     uint64
		fine      bool
	}{
		{1000, 3256, true}, {1000, 3255, false}, {0, 256, true}, {1000, ^uint64(0), true},
	} {
		if err := compareDescriptors(c.processes, c.limit); (err == nil) != c.fine {
			t.Errorf("%d processes with %d descriptors: %v", c.processes, c.limit, err)
		}
	}
}

// The soft limit does not count, the hard one does, and nothing is begun.
func TestRunRefusesTooFewDescriptors(t *testing.T) {
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("there is no prlimit: ", err)
	}
	dir := t.TempDir()
	bin, file := filepath.Join(dir, "superd"), filepath.Join(dir, "superd.toml")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := fmt.Sprintf("run_dir = %q\nsocket = %q\nstate_dir = %q\nlog_dir = %q\n[app.shop]\nroot = %q\nuser = \"nobody\"\n[app.shop.worker.emails]\ncommand = [\"sleep\", \"60\"]\nprocesses = 500\n",
		dir+"/run", dir+"/run/s", dir+"/state", dir+"/log", dir)
	// A keeper that only tells that it was started.
	keeper := "#!/bin/sh\necho keeper was started\n"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(dir+"/superd-keeper", []byte(keeper), 0o700)); err != nil {
		t.Fatal(err)
	}
	run := func(nofile string) (string, int) {
		c := exec.Command(prlimit, "--nofile="+nofile, bin, "run", "--config", file)
		out, _ := c.CombinedOutput() // its exit code is looked at
		return string(out), c.ProcessState.ExitCode()
	}
	out, code := run("1024:1024")
	if code != exitRejected || strings.Contains(out, "keeper was started") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, word := range []string{"3256", "1024", "LimitNOFILE=65536", "ulimit -n 65536", "nothing was started"} {
		if !strings.Contains(out, word) {
			t.Errorf("%q is not in %q", word, out)
		}
	}
	if _, err := os.Stat(dir + "/run"); !os.IsNotExist(err) {
		t.Errorf("run_dir was made: %v", err)
	}
	if out, code := run("1024:3256"); code != 0 || !strings.Contains(out, "keeper was started") {
		t.Errorf("with a hard limit that is enough: exit %d: %s", code, out)
	}
}

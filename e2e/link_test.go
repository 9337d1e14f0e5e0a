//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// These stories are of tools that move the link by themselves. superd is asked by
// nobody, or afterwards.

// newLinkSite is a site with more to say in the app's table of the switch.
func newLinkSite(t *testing.T, c lab.Config, more string, env ...string) *site {
	t.Helper()
	l, redis := newLab(t)
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	const table = "[app.shop.switch]\n"
	if err := os.WriteFile(l.ConfigFile(), []byte(strings.Replace(string(text), table, table+more, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd(env...)
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(l.FPMSocket(), "$document_root")
	if err != nil {
		t.Fatal(err)
	}
	return &site{Lab: l, t: t, redis: redis, superd: superd, nginx: nginx}
}

// shell runs what a tool runs on the server, in the directory that it deploys to.
func (s *site) shell(script, release string) {
	s.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = s.Shop.Root
	cmd.Env = append(os.Environ(), "DEPLOY="+s.Shop.Root, "TO="+release)
	if said, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v: %s", script, err, said)
	}
}

// history is the finished switches, as superctl lists them.
func (s *site) history() string {
	s.t.Helper()
	return s.ctl(0, "history").Out
}

// Each tool deploys, rolls back, and deploys a release that is sick, under load. That
// one is taken back, and the link with it, also when the tool insists.
func TestDeployTools(t *testing.T) {
	for name, tool := range map[string]struct{ deploy, rollback string }{
		"Deployer": { // deploy:release, deploy:symlink; rollback
			`cd "$DEPLOY" && (if [ -h release ]; then rm release; fi) && ln -nfs --relative "$DEPLOY/releases/$TO" "$DEPLOY/release"
			mv -T "$DEPLOY/release" "$DEPLOY/current"`,
			`cd "$DEPLOY" && ln -nfs --relative "releases/$TO" "$DEPLOY/current"`,
		},
		"Capistrano": { // deploy:symlink:release, in both directions
			`ln -s "$DEPLOY/releases/$TO" "$DEPLOY/releases/current" && mv "$DEPLOY/releases/current" "$DEPLOY"`,
			`ln -s "$DEPLOY/releases/$TO" "$DEPLOY/releases/current" && mv "$DEPLOY/releases/current" "$DEPLOY"`,
		},
		"a script": {
			`ln -sfn "releases/$TO" current`,
			`ln -sfn "releases/$TO" current`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newLinkSite(t, lab.Config{Children: 8, Workers: 2}, "settle = \"3s\"\n") // so long superctl may take to come after the link
			addRelease(t, s.Lab, "sick", shop.UpFails())
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60})

			s.shell(tool.deploy, "r2")
			s.ctl(0, "switch", "--adopt", "r2")
			s.wholly("r2", 15*time.Second)
			s.ctl(0, "switch", "--adopt", "r2") // nothing is left to do

			s.shell(tool.rollback, "r1")
			s.wholly("r1", 20*time.Second)

			s.shell(tool.deploy, "sick")
			if o := s.ctl(3, "switch", "--adopt", "sick"); !strings.Contains(o.Out+o.Err, "total_cents") {
				t.Errorf("it does not say why: %s", o)
			}
			s.wholly("r1", 15*time.Second)
			s.shell(tool.deploy, "sick")
			s.ctl(5, "switch", "--adopt")
			s.wholly("r1", 15*time.Second)
			s.shell(tool.deploy, "sick")
			eventually(t, 15*time.Second, "the link is put back", func() bool { return s.Shop.Current() == "r1" })
			s.wholly("r1", 15*time.Second)
			unharmed(t, run.Stop())
		})
	}
}

// A tool moves the link while a switch is watched: superctl is told of the conflict,
// and the tool's release is switched to. Moved back, it is a rollback.
func TestLinkMovedUnderASwitch(t *testing.T) {
	s := newLinkSite(t, lab.Config{Children: 8, Workers: 2, Watch: "5s"}, "settle = \"300ms\"\n")
	addRelease(t, s.Lab, "r3")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60})
	for _, tt := range []struct {
		to, moved string
		exit      int
	}{{"r2", "r1", 3}, {"r2", "r3", 6}} {
		switching := s.Superctl(context.Background(), "switch", tt.to)
		if err := switching.Start(); err != nil {
			t.Fatal(err)
		}
		s.reaches("watching")
		s.shell(`ln -sfn "releases/$TO" current`, tt.moved)
		_ = switching.Wait() // the exit code is what counts
		if code := switching.ProcessState.ExitCode(); code != tt.exit {
			t.Errorf("moved to %s: exit %d, want %d\n%s", tt.moved, code, tt.exit, s.history())
		}
		s.wholly(tt.moved, 30*time.Second)
	}
	unharmed(t, run.Stop())
}

// superd dies after the link was moved, and in the switch that follows: what runs and
// where the link leads agree again, and nobody notices.
func TestKilledWithAMovedLink(t *testing.T) {
	for point, want := range map[string]string{"": "r2", "verifying.before": "r1", "rotating.before": "r2"} {
		t.Run(cmp.Or(point, "before it begins"), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "failpoint")
			settle := "300ms"
			if point == "" {
				settle = "3s" // until then superd is killed
			}
			s := newLinkSite(t, lab.Config{Children: 8, Workers: 2}, fmt.Sprintf("settle = %q\n", settle), "SUPERD_FAILPOINT="+file)
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60})
			if err := os.WriteFile(file, []byte(point), 0o644); err != nil {
				t.Fatal(err)
			}
			before := s.status().PID
			s.shell(`ln -sfn "releases/$TO" current`, "r2")
			if point == "" {
				if _, err := s.KillSuperd(); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 20*time.Second, "another superd is there", func() bool {
				status, err := s.Status()
				return err == nil && status.PID != before
			})
			s.wholly(want, 20*time.Second)
			unharmed(t, run.Stop())
		})
	}
}

// A link that leads nowhere goes back after the grace; a directory in its place stays,
// and so does what runs.
func TestLinkIsLost(t *testing.T) {
	s := newLinkSite(t, lab.Config{Children: 4, Workers: 1}, "settle = \"200ms\"\nmissing_grace = \"4s\"\n")
	for _, script := range []string{`rm current`, `ln -sfn releases/r9 current`, `ln -sfn /tmp current`} {
		s.shell(script, "")
		s.ctl(5, "switch", "--adopt")
		eventually(t, 15*time.Second, "status tells of it", func() bool { return s.Ctl("status").Code == 4 })
		s.wholly("r1", 20*time.Second)
	}
	s.shell(`rm current; mkdir current; touch current/precious`, "")
	eventually(t, 15*time.Second, "status tells of it", func() bool {
		o := s.Ctl("status")
		return o.Code == 4 && strings.Contains(o.Out, "not a symbolic link")
	})
	s.ctl(5, "switch", "--adopt")
	time.Sleep(5 * time.Second) // longer than the grace
	s.shell(`test -f current/precious; rm -r current; ln -s releases/r2 current`, "")
	s.wholly("r2", 20*time.Second)
}

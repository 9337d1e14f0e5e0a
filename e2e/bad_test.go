//go:build e2e

package e2e

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

// Every bad release is refused or taken back, with the words of the process that is
// to blame, while nobody who visits the shop notices.
func TestBadReleases(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // not before the last of them has ended
	for name, tt := range map[string]struct {
		flaw  shop.Flaw
		exit  int
		words []string // all of them in what superctl says
		live  bool     // users meet it
	}{
		"syntax":      {shop.SyntaxError(), 3, []string{"rolled-back", "Parse error", "src/Kernel.php"}, false},
		"vendor":      {shop.NoVendor(), 5, []string{"vendor/autoload.php"}, false},
		"up-500":      {shop.UpFails(), 3, []string{"rolled-back", "500", "table orders has no column total_cents"}, false},
		"up-hangs":    {shop.UpHangs(), 3, []string{"rolled-back", "up"}, false},
		"sick-live":   {shop.SickOnceLive(), 3, []string{"rolled-back", "the cache server refuses this version"}, true},
		"exit-0":      {shop.WorkersEnd(), 3, []string{"rolled-back", "shop/jobs", "Nothing to do: queue driver 'sync'"}, false},
		"never-ready": {shop.WorkersNeverReady(), 3, []string{"rolled-back", "shop/jobs", "waiting for the license server"}, false},
		"not-back":    {shop.WorkersNotBack(), 3, []string{"rolled-back", "shop/jobs:0", "waiting for a lock that nobody lets go"}, true},
		"fpm-conf":    {shop.RefusedConf(), 5, []string{"unknown entry 'pm.max_childern'"}, false},
		"fpm-start":   {shop.RefusedStart(taken.Addr().String()), 3, []string{"rolled-back", "Address already in use"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Children: 8, Verify: "4s", Progress: "6s", Watch: "3s", Canary: 1, Drain: "5s"}, "$realpath_root")
			addRelease(t, s.Lab, name, tt.flaw)
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 50})
			o := s.CtlOnTerminal(&onlooker{leaves: filepath.Join(filepath.Dir(s.Shop.Ledger()), "watched")}, "switch", name)
			t.Log(o)
			if o.Code != tt.exit {
				t.Errorf("exit %d, want %d", o.Code, tt.exit)
			}
			for _, words := range tt.words {
				if !strings.Contains(o.Out, words) {
					t.Errorf("superctl does not say %q", words)
				}
			}
			s.wholly("r1", 15*time.Second)
			time.Sleep(500 * time.Millisecond)
			r := run.Stop()
			unharmed(t, r)
			if !tt.live && len(r.Releases) != 1 {
				t.Errorf("users met the bad release: %v", r.Releases)
			}
			s.isKnownForBad(name, tt.exit)
		})
	}
}

// An onlooker leaves a file behind once superctl tells that the release is watched.
type onlooker struct {
	leaves string
	said   bytes.Buffer
}

func (o *onlooker) Write(b []byte) (int, error) {
	o.said.Write(b)
	if bytes.Contains(o.said.Bytes(), []byte("watching")) {
		if err := os.WriteFile(o.leaves, nil, 0o644); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// isKnownForBad: what failed once it had been started is not tried again unless
// asked for; what was rejected before anything was touched may be mended and tried.
func (s *site) isKnownForBad(name string, exit int) {
	s.t.Helper()
	history := s.ctl(0, "history")
	if exit == 3 && !strings.Contains(history.Out, name) {
		s.t.Errorf("history does not name %s:\n%s", name, history.Out)
	}
	again := s.ctl(5, "switch", name)
	if exit == 3 && !strings.Contains(again.Out+again.Err, "--allow-bad") {
		s.t.Errorf("the second try does not tell of --allow-bad: %s", again)
	}
	s.ctl(0, "switch", "r2") // and a good one is still welcome
	s.wholly("r2", 15*time.Second)
}

// A worker that does not end when it is told to is killed at its deadline, and that
// is announced: its job is lost.
func TestDeafWorkerIsKilledAndAnnounced(t *testing.T) {
	s := newSite(t, lab.Config{Children: 4, Workers: 2, Stop: "6s"}, "$realpath_root")
	addRelease(t, s.Lab, "deaf", shop.WorkersDeaf())
	s.ctl(0, "switch", "deaf")
	s.ctl(0, "switch", "r2")
	eventually(t, 20*time.Second, "both deaf workers are gone", func() bool { return s.Unlike("r2") == "" })
	var killed []string
	announced := func() bool { // of a process that has gone it is told a moment later
		killed = nil
		for _, e := range s.events() {
			if e.Kind == "worker.killed" {
				killed = append(killed, e.Process)
			}
		}
		return len(killed) >= 2
	}
	eventually(t, 20*time.Second, "both kills are announced", announced)
	if slices.Sort(killed); !slices.Equal(killed, []string{"shop/jobs:0", "shop/jobs:1"}) {
		t.Errorf("announced of %q", killed)
	}
}

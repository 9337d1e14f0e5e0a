//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// A release that every check finds well, and that begins to fail or to be slow for
// its users three seconds after it has gone live, is taken back because of them.
func TestUsersJudgeARelease(t *testing.T) {
	for name, tt := range map[string]struct {
		late, words string
		rate        int
	}{
		"late-500": {"http_response_code(500); exit('the payment service is not configured');", "max_error_rate", 40},
		// More than eight times what a busy machine takes for r1, and not all children are busy with it.
		"late-slow": {"usleep(2500000);", "is slow", 15},
		"late-segv": {"posix_kill(posix_getpid(), 11);", "exited on signal 11", 40},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lab.Config{Children: 48, Verify: "4s", Progress: "20s", Watch: "40s", Canary: 1, Drain: "5s"}, "$realpath_root")
			addRelease(t, s.Lab, name)
			spoilLater(t, s.Shop.Release(name), s.Shop.Ledger()+"-"+name, tt.late)
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: tt.rate, Mix: []load.Route{{Path: "/", Share: 1}}})
			time.Sleep(3 * time.Second) // something to compare with
			o := s.CtlOnTerminal(nil, "switch", name)
			t.Log(o)
			if o.Code != 3 || !strings.Contains(o.Out, tt.words) || !strings.Contains(o.Out, "bad answers since it is watched") {
				t.Errorf("exit %d, and %q must be said", o.Code, tt.words)
			}
			s.wholly("r1", 15*time.Second)
			r := run.Stop()
			t.Logf("%d requests, failures %v, releases %v", len(r.Samples), r.Failures, r.Releases)
			if took := badFor(r, name); took <= 0 || took > 5*time.Second+patience {
				t.Errorf("users had bad answers for %s", took)
			}
			if said := s.ctl(0, "history").Out; !strings.Contains(said, tt.words) {
				t.Errorf("history does not say %q:\n%s", tt.words, said)
			}
			if said := s.ctl(0, "status", "--json").Out; !strings.Contains(said, `"error_share": 0`) {
				t.Errorf("status has no figures:\n%s", said)
			}
		})
	}
}

// patience is what it takes until enough users have been there to judge by, and what the
// machine may be late.
const patience = 3 * time.Second

// badFor is how long users had bad answers: from the first to the last that failed, or
// took half of what late-slow sleeps, of the release.
func badFor(r load.Report, release string) time.Duration {
	var first, last time.Duration
	for _, s := range r.Samples {
		if s.Failure == "" && (s.Release != release || s.Done-s.Sent < 1250*time.Millisecond) {
			continue
		}
		if first == 0 || s.Sent < first {
			first = s.Sent
		}
		last = max(last, s.Sent)
	}
	return last - first
}

// spoilLater makes a release bad for users, not for checks, three seconds after the
// first user has met it, of which it leaves word.
func spoilLater(t *testing.T, dir, word, late string) {
	t.Helper()
	index := filepath.Join(dir, "public", "index.php")
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	met := `if (!isset($_SERVER['SUPERD_CHECK'])) { $met = '@met@'; @fopen($met, 'x'); clearstatcache(); if (time() - filemtime($met) >= 3) { ` + late + " } }\nrequire __DIR__"
	met = strings.Replace(met, "@met@", word, 1)
	text = []byte(strings.Replace(string(text), "require __DIR__", met, 1))
	if err := os.WriteFile(index, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

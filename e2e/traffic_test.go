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
	for name, tt := range map[string]struct{ late, words string }{
		"late-500":  {"http_response_code(500); exit('the payment service is not configured');", "max_error_rate"},
		"late-slow": {"usleep(400000);", "is slow"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lab.Config{Children: 16, Verify: "4s", Progress: "20s", Watch: "40s", Canary: 1, Drain: "5s"}, "$realpath_root")
			addRelease(t, s.Lab, name)
			spoilLater(t, s.Shop.Release(name), s.Shop.Ledger()+"-"+name, tt.late)
			run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 40, Mix: []load.Route{{Path: "/", Share: 1}}})
			time.Sleep(3 * time.Second) // something to compare with
			o := s.CtlOnTerminal(nil, "switch", name)
			t.Log(o)
			if o.Code != 3 || !strings.Contains(o.Out, tt.words) || !strings.Contains(o.Out, "bad answers since it is watched") {
				t.Errorf("exit %d, and %q must be said", o.Code, tt.words)
			}
			s.wholly("r1", 15*time.Second)
			r := run.Stop()
			t.Logf("%d requests, failures %v, releases %v", len(r.Samples), r.Failures, r.Releases)
			if took := o.Ended.Sub(o.Began); took > 20*time.Second {
				t.Errorf("it took %s", took)
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

//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// listen moves by a reload, to another path and to an address of TCP, and users come
// to what was and to what is, through a web server each. A switch moves all of them,
// superd is killed and comes again.
func TestListenMoves(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	for name, to := range map[string]string{"path": "", "TCP": address} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, lab.Config{Children: 6, Drain: "5s"}, "$realpath_root")
			before := s.FPMSocket()
			php := to
			if to == "" {
				to = s.Path("run", "shop", "other.sock")
				php = "unix:" + to
			}
			old := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60})
			s.edit(fmt.Sprintf("listen       = %q", before), fmt.Sprintf("listen       = %q", to))
			if got := s.reloaded(); len(got) != 1 || got[0] != "shop/fpm live" {
				t.Errorf("touched %q", got)
			}
			eventually(t, 20*time.Second, "it listens there", func() bool {
				return strings.Contains(s.Ctl("status", "--json").Out, fmt.Sprintf("%q: %q", "listen", to)) && s.status().Healthy
			})
			next, err := s.StartFront(lab.Front{PHP: php, Root: "$document_root"})
			if err != nil {
				t.Fatal(err)
			}
			fresh := load.Start(load.Plan{URL: next.URL, Rate: 60})
			s.ctl(0, "switch", "r2")
			if _, err := s.KillSuperd(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 20*time.Second, "superd is back", func() bool {
				now, err := s.Status()
				return err == nil && now.Healthy && now.Apps[0].State == "ok"
			})
			s.ctl(0, "rollback")
			if said := s.ctl(0, "status").Out; !strings.Contains(said, "also listens on "+before) {
				t.Errorf("status does not tell of the former address:\n%s", said)
			}
			if said := s.Ctl("doctor", "--config", s.ConfigFile()).Out; !strings.Contains(said, "former-listen") {
				t.Errorf("doctor does not tell of the former address:\n%s", said)
			}
			for _, run := range []*load.Run{old, fresh} {
				r := run.Stop()
				unharmed(t, r)
				if r.Releases["r2"] == 0 {
					t.Errorf("users did not meet r2: %v", r.Releases)
				}
			}
		})
	}
}

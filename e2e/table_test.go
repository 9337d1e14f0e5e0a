//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// A cell is one way from a user to PHP, and what he noticed.
type cell struct {
	listen, pm, root string
	keep             int
	report           load.Report
	stale            int // answers of the release before to what was asked after a switch
}

func (c *cell) row() string {
	kept := "off"
	if c.keep > 0 {
		kept = "on"
	}
	return fmt.Sprintf("| %-4s | %-8s | %-14s | %-3s | %5d | %d | %d | %d | %d | %s |", c.listen, c.pm, c.root, kept,
		len(c.report.Samples), c.report.Failed(), c.report.Mixed, c.report.Cut, c.stale, c.report.Gap.Round(time.Millisecond))
}

// Nobody notices switches and rollbacks whatever PHP listens on, however it manages its
// children, whatever nginx sends as the path, whether it keeps its connections or not.
// Four web servers stand in front of the same PHP at the same time.
//
// Two of them keep two connections for each of their two workers, so that up to 8 of the
// 40 children wait for a web server that has nothing to ask. With 32 of them a slow machine
// had requests that nobody answered, and FPM is why: with ondemand its master makes a child
// only when a connection comes (fpm_pctl_on_socket_accept), so when the last one has come
// and all children so far are kept, whoever waits in the queue waits on.
func TestZeroLossTable(t *testing.T) {
	switches := 3
	if n, err := strconv.Atoi(os.Getenv("SUPERD_TABLE_SWITCHES")); err == nil {
		switches = n
	}
	rows := []string{
		"| PHP listens on | pm | path | kept connections | requests | failed | mixed | sleeps cut | of the old release after a switch | longest gap |",
		"|---|---|---|---|---|---|---|---|---|---|",
	}
	for _, listen := range []string{"unix", "TCP"} {
		for _, pm := range []string{"static", "dynamic", "ondemand"} {
			t.Run(listen+"/"+pm, func(t *testing.T) {
				for _, c := range zeroLoss(t, listen, pm, switches) {
					rows = append(rows, c.row())
				}
			})
		}
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}

var managers = map[string]string{
	"static":   "",
	"dynamic":  "pm = \"dynamic\"\nstart_servers = 16\nmin_spare_servers = 8\nmax_spare_servers = 24",
	"ondemand": "pm = \"ondemand\"",
}

func zeroLoss(t *testing.T, listen, pm string, switches int) []*cell {
	c := lab.Config{Children: 40, Workers: 1, Watch: "500ms", Manager: managers[pm]}
	if listen == "TCP" {
		c.Listen = freeAddress(t)
	}
	l, redis := newLab(t)
	if err := l.Configure(c); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis, superd: superd}
	php := c.Listen
	if php == "" {
		php = "unix:" + l.FPMSocket()
	}
	var cells []*cell
	var runs []*load.Run
	for _, root := range []string{"$document_root", "$realpath_root"} {
		for _, keep := range []int{0, 2} {
			nginx, err := l.StartFront(lab.Front{PHP: php, Root: root, Keep: keep})
			if err != nil {
				t.Fatal(err)
			}
			cells = append(cells, &cell{listen: listen, pm: pm, root: root, keep: keep})
			runs = append(runs, load.Start(load.Plan{URL: nginx.URL, Rate: 25, Mix: []load.Route{
				{Name: "5 ms", Path: "/", Share: 900}, {Name: "300 ms sleep", Path: "/slow?ms=300", Share: 100},
			}}))
		}
	}
	spans := s.thereAndBack(switches)
	var stopping sync.WaitGroup
	for i, run := range runs {
		stopping.Go(func() { cells[i].report = run.Stop() })
	}
	stopping.Wait()
	for _, c := range cells {
		c.stale = c.report.Stale(spans)
		c.judge(t)
	}
	s.wholly("r1", 40*time.Second)
	return cells
}

// judge holds a cell to the promise; gaps are for TestSwitchesUnderLoad to judge, which
// knows the machine's own. A connection that is kept is ended when it is idle,
// which may be a moment after the switch: without that, nearly all answers on kept
// connections would be of the release before.
func (c *cell) judge(t *testing.T) {
	t.Helper()
	few := 0
	if c.keep > 0 {
		few = len(c.report.Samples) / 20
	}
	if len(c.report.Samples) == 0 || c.report.Failed() > 0 || c.report.Mixed > 0 || c.report.Cut > 0 || c.stale > few {
		t.Errorf("%s\n%s", c.row(), c.report)
	}
}

// freeAddress is one of TCP that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"superd/e2e/lab"
	"superd/e2e/load"
)

// use is what superd and its keeper have of the machine.
type use struct {
	descriptors, sockets, threads, goroutines, files, processes int

	resident uint64 // bytes
}

func (u use) String() string {
	return fmt.Sprintf("%d descriptors, %d of them sockets, %d threads, %d goroutines, %d files, %d processes, %.1f MB",
		u.descriptors, u.sockets, u.threads, u.goroutines, u.files, u.processes, float64(u.resident)/1e6)
}

var goroutines = regexp.MustCompile(`(?m)^go_goroutines ([0-9.]+)`)

// used measures both processes, and counts the files below run, state and logs, and
// the processes of the laboratory: children that stayed, and zombies.
func (s *site) used() (u use) {
	s.t.Helper()
	keeper := s.superd.PID()
	for _, pid := range []int{keeper, s.status().PID} {
		p, err := procfs.NewProc(pid)
		if err != nil {
			s.t.Fatal(err)
		}
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			s.t.Fatal(err)
		}
		stat, err := p.Stat()
		if err != nil {
			s.t.Fatal(err)
		}
		u.descriptors += len(targets)
		for _, target := range targets {
			if strings.HasPrefix(target, "socket:") {
				u.sockets++
			}
		}
		u.threads += stat.NumThreads
		u.resident += uint64(stat.ResidentMemory())
	}
	metrics := s.ctl(0, "metrics").Out
	if m := goroutines.FindStringSubmatch(metrics); m != nil {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			s.t.Fatal(err)
		}
		u.goroutines = int(n)
	}
	u.processes = s.descendants(keeper)
	for _, dir := range []string{"run", "state", "log"} {
		err := filepath.WalkDir(s.Path(dir), func(_ string, _ fs.DirEntry, err error) error {
			u.files++
			return err
		})
		if err != nil && !os.IsNotExist(err) { // one went while we looked
			s.t.Fatal(err)
		}
	}
	return u
}

// descendants counts those of the keeper, zombies too.
func (s *site) descendants(keeper int) (n int) {
	s.t.Helper()
	all, err := procfs.AllProcs()
	if err != nil {
		s.t.Fatal(err)
	}
	parent := map[int]int{}
	for _, p := range all {
		if stat, err := p.Stat(); err == nil { // it may be gone by now
			parent[p.PID] = stat.PPID
		}
	}
	for pid := range parent {
		for up := parent[pid]; up > 1; up = parent[up] {
			if up == keeper {
				n++
				break
			}
		}
	}
	return n
}

// Switches cost nothing that stays: after many of them under load superd and its keeper
// have what they had after the first few.
func TestManySwitchesLeaveNothing(t *testing.T) {
	pairs := 25
	if n, err := strconv.Atoi(os.Getenv("SUPERD_SOAK")); err == nil {
		pairs = n / 2
	}
	s := newSite(t, lab.Config{Children: 16, Workers: 2, Watch: "100ms", Healthy: "50ms"}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	s.thereAndBack(3)
	s.wholly("r1", 40*time.Second)
	before := s.used()
	began := time.Now()
	for tenth := range 10 {
		s.thereAndBack(pairs*(tenth+1)/10 - pairs*tenth/10)
		t.Logf("after %4d switches and %7s: %s", 2*(pairs*(tenth+1)/10), time.Since(began).Round(time.Second), s.used())
	}
	took := time.Since(began)
	s.wholly("r1", 40*time.Second)
	var after use
	grown := func() []string {
		after = s.used()
		return grownBeyond(before, after)
	}
	eventually(t, 30*time.Second, "superd has what it had before", func() bool { return len(grown()) == 0 })
	unharmed(t, run.Stop())
	t.Logf("%d switches in %s\nbefore: %s\nafter:  %s", 2*pairs, took.Round(time.Millisecond), before, after)
}

// grownBeyond names what has grown by more than a collector's mood.
func grownBeyond(before, after use) (grown []string) {
	for _, is := range []struct {
		what      string
		was, now  int
		allowance int
	}{
		{"descriptors", before.descriptors, after.descriptors, 6},
		{"sockets", before.sockets, after.sockets, 4},
		{"processes", before.processes, after.processes, 0},
		{"threads", before.threads, after.threads, 24}, // Go never ends an idle one
		{"goroutines", before.goroutines, after.goroutines, 6},
		{"files", before.files, after.files, 4},
		{"kilobytes", int(before.resident >> 10), int(after.resident >> 10), int(before.resident>>10)/2 + 8<<10},
	} {
		if is.now > is.was+is.allowance {
			grown = append(grown, fmt.Sprintf("%s: %d → %d", is.what, is.was, is.now))
		}
	}
	return grown
}

// The measure notices what it is for.
func TestGrowthIsNoticed(t *testing.T) {
	was := use{descriptors: 40, sockets: 20, threads: 12, goroutines: 50, files: 30, processes: 20, resident: 40 << 20}
	now := was
	now.descriptors += 40
	now.processes++
	now.goroutines += 40
	if got := strings.Join(grownBeyond(was, now), ", "); got != "descriptors: 40 → 80, processes: 20 → 21, goroutines: 50 → 90" {
		t.Errorf("noticed %q", got)
	}
}

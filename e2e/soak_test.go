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
	descriptors, threads, goroutines, files int
	resident                                uint64 // bytes
}

func (u use) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %d files, %.1f MB", u.descriptors, u.threads, u.goroutines, u.files, float64(u.resident)/1e6)
}

var goroutines = regexp.MustCompile(`(?m)^go_goroutines ([0-9.]+)`)

// used measures both processes, and counts the files below run and state.
func (s *site) used() (u use) {
	s.t.Helper()
	keeper := s.superd.PID()
	for _, pid := range []int{keeper, s.status().PID} {
		p, err := procfs.NewProc(pid)
		if err != nil {
			s.t.Fatal(err)
		}
		n, err := p.FileDescriptorsLen()
		if err != nil {
			s.t.Fatal(err)
		}
		stat, err := p.Stat()
		if err != nil {
			s.t.Fatal(err)
		}
		u.descriptors += n
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
	for _, dir := range []string{"run", "state"} {
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

// Switches cost nothing that stays: after many of them under load superd and its keeper
// have what they had after the first few.
func TestManySwitchesLeaveNothing(t *testing.T) {
	pairs := 20
	if n, err := strconv.Atoi(os.Getenv("SUPERD_SOAK")); err == nil {
		pairs = n / 2
	}
	s := newSite(t, lab.Config{Children: 16, Workers: 2, Watch: "100ms", Healthy: "50ms"}, "$realpath_root")
	run := load.Start(load.Plan{URL: s.nginx.URL, Rate: 60, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	s.thereAndBack(3)
	s.wholly("r1", 40*time.Second)
	before := s.used()
	began := time.Now()
	s.thereAndBack(pairs)
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
		{"threads", before.threads, after.threads, 8},
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
	was := use{descriptors: 40, threads: 12, goroutines: 50, files: 30, resident: 40 << 20}
	now := was
	now.descriptors += 40
	now.goroutines += 40
	if got := strings.Join(grownBeyond(was, now), ", "); got != "descriptors: 40 → 80, goroutines: 50 → 90" {
		t.Errorf("noticed %q", got)
	}
}

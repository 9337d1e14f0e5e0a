//go:build e2e

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
	"superd/release"
)

// A deed is one switch in which superd kills itself at a failpoint.
type deed struct {
	kind  string // switch, rollback, unwinding
	point string
	onNew bool // it must end on the release it went to
}

// deeds are all there are: every failpoint on the way forward, in a switch and in a
// rollback that is asked for, and every one on the way back, in a switch to a
// release that is well until it is live.
func deeds() []deed {
	var all []deed
	points := release.Failpoints()
	moved := afterTheLink()
	for _, point := range points {
		if strings.Contains(point, string(release.Canary)+".") { // see TestKilledInCanary
			continue
		}
		if strings.HasPrefix(point, "rollback.") || strings.HasPrefix(point, string(release.RollingBack)) {
			all = append(all, deed{kind: "unwinding", point: point})
			continue
		}
		onNew := slices.Contains(moved, point)
		all = append(all, deed{"switch", point, onNew}, deed{"rollback", point, onNew})
		if strings.HasPrefix(point, string(release.Ended)) {
			all = append(all, deed{kind: "unwinding", point: point})
		}
	}
	return all
}

// afterTheLink are the points of the way forward at which the link has been moved:
// from there a switch that was cut short goes on.
func afterTheLink() []string {
	moved := []string{"promoting.linked", "promoting.after", "committing.retired", "ended.settled"}
	for _, phase := range []release.Phase{release.Rotating, release.Watching, release.Committing, release.Ended} {
		for _, at := range []string{"entering", "before", "after"} {
			moved = append(moved, string(phase)+"."+at)
		}
	}
	return moved
}

// superd dies by SIGKILL at every point of a switch and of a rollback. No request
// fails, no child doubles, and within seconds the app is wholly on one release: the
// one that the journal's rules name.
func TestKilledAtEveryFailpoint(t *testing.T) {
	all := deeds()
	if len(all) < 60 {
		t.Fatalf("only %d points: %v", len(all), all)
	}
	// The keeper waits longer before each new superd if one dies after the other.
	// Three in a row are one bad minute; then comes another site.
	for group := range slices.Chunk(all, 3) {
		names := make([]string, len(group))
		for i, d := range group {
			names[i] = d.kind + ":" + d.point
		}
		t.Run(strings.Join(names, ","), func(t *testing.T) {
			t.Parallel()
			killedAt(t, group)
		})
	}
}

func killedAt(t *testing.T, group []deed) {
	l, redis := newLab(t)
	file := l.Path("failpoint")
	if err := l.Configure(lab.Config{Children: 8, Workers: 2, Watch: "600ms", Canary: 1, Healthy: "100ms"}); err != nil {
		t.Fatal(err)
	}
	superd, err := l.StartSuperd("SUPERD_FAILPOINT=" + file)
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(l.FPMSocket(), "$document_root")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, redis: redis, superd: superd, nginx: nginx}
	addRelease(t, l, "sick", shop.SickOnceLive())
	s.ctl(0, "switch", "r2") // so that there is something to roll back to
	run := load.Start(load.Plan{URL: nginx.URL, Rate: 100, Mix: []load.Route{
		{Name: "5 ms", Path: "/", Share: 95}, {Name: "300 ms sleep", Path: "/slow?ms=300", Share: 5},
	}})
	for _, d := range group {
		s.killAt(d, file)
		s.childrenAreOfThisLife()
	}
	time.Sleep(300 * time.Millisecond)
	unharmed(t, run.Stop())
}

// about has the app where a switch of that kind begins: it goes from there to the other
// release when superctl is called so.
func (s *site) about(kind string) (from, to string, args []string) {
	s.t.Helper()
	from = s.status().Apps[0].Live.Release
	to = map[string]string{"r1": "r2", "r2": "r1"}[from]
	switch kind {
	case "rollback":
		s.ctl(0, "switch", to) // so that from is what was before
		return to, from, []string{"rollback"}
	case "unwinding":
		return from, to, []string{"switch", "sick", "--allow-bad"}
	}
	return from, to, []string{"switch", to}
}

func (s *site) killAt(d deed, file string) {
	s.t.Helper()
	from, to, args := s.about(d.kind)
	if err := os.WriteFile(file, []byte(d.point), 0o644); err != nil {
		s.t.Fatal(err)
	}
	before := s.status().PID
	o := s.Ctl(args...)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatalf("%s: superd did not come past %s: %s", d.kind, d.point, o)
	}
	want := from
	if d.onNew {
		want = to
	}
	began := time.Now()
	s.wholly(want, 15*time.Second) // less than any stop or drain timeout: nobody may have to be killed for it
	if now := s.status().PID; now == before {
		s.t.Errorf("%s: at %s superd was not killed", d.kind, d.point)
	}
	s.t.Logf("%s, killed at %s: wholly on %s %s after superctl ended with %d", d.kind, d.point, want, time.Since(began).Round(time.Millisecond), o.Code)
}

// childrenAreOfThisLife: nothing that superd should have ended is left anywhere.
func (s *site) childrenAreOfThisLife() {
	s.t.Helper()
	keeper := s.superd.PID()
	for _, p := range s.Processes() {
		if (p.Kind == "master" || p.Kind == "worker" || p.Kind == "superd") && p.Parent != keeper {
			s.t.Errorf("not a child of the keeper: %s", p)
		}
	}
}

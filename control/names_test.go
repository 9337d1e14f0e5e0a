package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// told is a status in a few words: what is in it, and what is wrong.
func told(s Status) string {
	var names []string
	for _, a := range s.Apps {
		if a.FPM != nil {
			names = append(names, a.FPM.Name)
		}
		for _, p := range a.Pools {
			names = append(names, fmt.Sprint(p.Name, "=", len(p.Workers)))
		}
	}
	for _, p := range s.Programs {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ") + "; " + strings.Join(s.Problems, ", ")
}

// Every kind of name can be asked about: superd's own, groups, patterns, and those that
// supervisord had.
func TestStatusOfNames(t *testing.T) {
	t.Parallel()
	h, _ := compatHouse(t)
	for names, want := range map[string]string{
		"web":             "web:0; the disk is full",
		"front:web":       "web:0; the disk is full",
		"front:*":         "web:0; the disk is full",
		"jobs:jobs_01":    "jobs:1; the disk is full",
		"jobs:1":          "jobs:1; the disk is full",
		"shop:emails_01":  "shop/emails=2; the disk is full",
		"shop/fpm":        "shop/fpm; the disk is full",
		"solo:solo_07":    "solo:0; the disk is full, solo:0 is backoff",
		"backend":         "shop/fpm shop/emails=3 solo:0; the disk is full, solo:0 is backoff",
		"empty":           "; the disk is full",
		"web nosuch late": "web:0 late:0; the disk is full",
	} {
		s, err := h.client().StatusOf(t.Context(), strings.Fields(names)...)
		if err != nil || told(s) != want || s.Healthy || slices.Contains(s.Unknown, "nosuch") != strings.Contains(names, "nosuch") {
			t.Errorf("status of %s: %s, want %s; unknown %q, %v", names, told(s), want, s.Unknown, err)
		}
	}
	if s, err := h.client().StatusOf(t.Context(), "nosuch", "nor"); KindOf(err) != NotFound || !strings.Contains(err.Error(), "nosuch or nor") {
		t.Errorf("of nothing: %+v, %v", s, err)
	}
}

// What is wrong with others is not wrong with what was asked for.
func TestNarrow(t *testing.T) {
	t.Parallel()
	app := func(name string) AppStatus {
		fpm, pool := name+"/fpm does not serve", name+"/emails has 0 of 1 workers"
		return AppStatus{
			Name: name, Problems: []string{"degraded", fpm, pool}, FPM: &FPMStatus{Name: name + "/fpm", Problem: fpm},
			Pools: []PoolStatus{{Name: name + "/emails", Problem: pool}, {Name: name + "/mails", Workers: []ProcessStatus{{Name: name + "/mails:0"}}}},
		}
	}
	all := Status{
		Apps: []AppStatus{app("shop"), app("blog")}, Programs: []ProcessStatus{{Name: "web:0"}, {Name: "loop:0", Problem: "loop:0 is backoff"}},
		Problems: []string{
			"shop: degraded", "shop: shop/fpm does not serve", "shop: shop/emails has 0 of 1 workers",
			"blog: degraded", "blog: blog/fpm does not serve", "blog: blog/emails has 0 of 1 workers", "loop:0 is backoff",
		},
	}
	for pattern, want := range map[string]string{
		"web":          "web:0; ",
		"loop:0":       "loop:0; loop:0 is backoff",
		"shop/fpm":     "shop/fpm; shop: degraded, shop: shop/fpm does not serve",
		"shop/emails":  "shop/emails=0; shop: degraded, shop: shop/emails has 0 of 1 workers",
		"shop/mails:0": "shop/mails=1; shop: degraded",
		"blog":         "blog/fpm blog/emails=0 blog/mails=1; blog: degraded, blog: blog/fpm does not serve, blog: blog/emails has 0 of 1 workers",
	} {
		if got := all.narrow([]string{pattern}); told(got) != want || got.Healthy != (pattern == "web") {
			t.Errorf("%s: %s (healthy: %v), want %s", pattern, told(got), got.Healthy, want)
		}
	}
	if len(all.Problems) != 7 || len(all.Apps[0].Problems) != 3 {
		t.Errorf("what it came from has changed: %+v", all)
	}
}

// Logs, clear and stdin take supervisord's names too, and need the role for what those are.
func TestLogsByTheirNames(t *testing.T) {
	t.Parallel()
	h, f := compatHouse(t)
	for name, want := range map[string]string{
		"front:web": "logs web:0", "front:*": "logs web:0", "jobs:jobs_01": "logs jobs:1", "solo:solo_07": "logs solo:0",
		"shop:emails_00": "logs shop/emails:0", "jobs": "logs jobs", "nobody": "logs nobody",
	} {
		for _, err := range h.client().Logs(t.Context(), LogQuery{Name: name, Lines: 3}) {
			if err != nil {
				t.Errorf("logs %s: %v", name, err)
			}
		}
		if heard := f.heard(); heard[len(heard)-1] != want {
			t.Errorf("logs %s asks for %q, want %q", name, heard[len(heard)-1], want)
		}
	}
	if _, err := h.client().ClearLog(t.Context(), "front:web"); err != nil || !strings.HasPrefix(f.heard()[len(f.heard())-1], "clear web:0") {
		t.Errorf("clear asks for %q, %v", f.heard(), err)
	}
	if err := h.client().Input(t.Context(), "front:web", "x"); err != nil {
		t.Errorf("stdin: %v", err)
	}
}

// A group that is called as an app leads nobody to a program who has a role for that app.
func TestTheirNamesNeedTheRole(t *testing.T) {
	t.Parallel()
	uid := uint32(4711)
	rules := []Rule{{User: &uid, Role: RoleOperate, Apps: []string{"front"}}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Options{Daemon: newFleet(), Rules: rules, Naming: func() Naming { return Naming{Groups: map[string]string{"web": "front"}} }})
	q := &request{server: s, http: r, peer: Peer{UID: uid}, grant: grantTo(Peer{UID: uid}, rules), name: "front:web"}
	if names, err := q.callees(RoleOperate); err != nil || slices.Contains(names, "web:0") {
		t.Errorf("%q, %v", names, err)
	}
	rules[0].Apps = nil
	rules[0].Role = RoleRead
	q.grant = grantTo(Peer{UID: uid}, rules)
	if names, err := q.callees(RoleOperate); KindOf(err) != Denied {
		t.Errorf("who may read may do more: %q, %v", names, err)
	}
}

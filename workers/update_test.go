package workers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
	"superd/workers"
)

// TestUpdate: no worker that is wanted still is touched, what is too much drains, what
// is missing is started, and a pool that was gone can come back.
func TestUpdate(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 3), r.pool("images", 2))
	s.rotate(1)
	first := r.living()
	s.Update([]workers.Pool{r.pool("emails", 5), r.pool("letters", 2)}, 0, r.gen(1))
	s.wholly("emails", 5, 1)
	s.wholly("letters", 2, 1)
	r.soon("the pool that is gone has drained", func() string {
		if slices.ContainsFunc(r.living(), func(l life) bool { return l.in("images") }) {
			return "it lives"
		}
		for _, p := range s.Status() {
			if p.Name == "images" {
				return fmt.Sprintf("it is still there: %+v", p)
			}
		}
		return ""
	})
	s.Update([]workers.Pool{r.pool("emails", 2), r.pool("images", 1)}, 0, r.gen(1))
	s.wholly("emails", 2, 1)
	s.wholly("images", 1, 1)
	r.soon("letters has drained", func() string {
		if slices.ContainsFunc(r.living(), func(l life) bool { return l.in("letters") }) {
			return "it lives"
		}
		return ""
	})
	for _, l := range r.lives() {
		stays := strings.HasPrefix(l.who, "emails:0@") || strings.HasPrefix(l.who, "emails:1@")
		if stays && len(l.terms) > 0 || !stays && !l.in("images") && len(l.terms) != 1 {
			t.Errorf("%s was told %d times", l.who, len(l.terms))
		}
	}
	for _, l := range first {
		if slot := l.who[:8]; (slot == "emails:0" || slot == "emails:1") && !slices.ContainsFunc(r.living(), func(now life) bool { return now.pid == l.pid }) {
			t.Errorf("%s of before is gone", l.who)
		}
	}
	s.rotate(2)
	s.wholly("emails", 2, 2)
	s.wholly("images", 1, 2)
}

// TestUpdateRespectsPeople: what was scaled stays until the configured number changes,
// and what was stopped stays so.
func TestUpdateRespectsPeople(t *testing.T) {
	r := newRig(t)
	s := r.superd(0, r.pool("emails", 2), r.pool("images", 1))
	s.rotate(1)
	s.scale("emails", 4)
	if err := s.Stop(t.Context(), "images", false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pool string
		n    int
		want string
	}{
		{"emails", 2, "[] []"},
		{"emails", 3, "[] [shop/emails:3]"},
		{"emails", 0, "[] [shop/emails:0 shop/emails:1 shop/emails:2 shop/emails:3]"},
		{"emails", 6, "[shop/emails:4 shop/emails:5] []"},
		{"images", 3, "[] []"},
		{"nothing", 3, "[] []"},
	} {
		if starts, ends := s.Resized(c.pool, c.n); fmt.Sprint(starts, ends) != c.want {
			t.Errorf("%s of %d: starts and ends %v %v, want %s", c.pool, c.n, starts, ends, c.want)
		}
	}
	s.Update([]workers.Pool{r.pool("emails", 2), r.pool("images", 3)}, 0, r.gen(1))
	s.wholly("emails", 4, 1)
	if p := s.pool("images"); p.Wanted != 0 || slices.ContainsFunc(r.living(), func(l life) bool { return l.in("images") }) {
		t.Errorf("what was stopped is wanted: %+v", p)
	}
	s.Update([]workers.Pool{r.pool("emails", 3), r.pool("images", 3)}, 0, r.gen(1))
	s.wholly("emails", 3, 1)
}

// TestUpdateChangesHowTheyEnd: a worker that runs ends by the rules of now, and the next
// life is the one that is described now.
func TestUpdateChangesHowTheyEnd(t *testing.T) {
	r := newRig(t)
	r.mood(1, mood{kind: deaf})
	pool := r.pool("emails", 1)
	pool.StopTimeout = time.Hour // none of the test would see the end of it
	s := r.superd(0, pool)
	s.rotate(1)
	pool.StopTimeout = 100 * time.Millisecond
	asked := make(chan int, 8)
	spec := pool.Spec
	pool.Spec = func(slot int, g release.Generation) (supervisor.Spec, error) {
		asked <- slot
		return spec(slot, g)
	}
	s.Update([]workers.Pool{pool}, 0, r.gen(1))
	r.mood(1, mood{kind: well})
	if err := s.Restart(t.Context(), "emails"); err != nil {
		t.Fatal(err)
	}
	s.wholly("emails", 1, 1)
	select {
	case <-asked:
	default:
		t.Error("the new description was not asked for")
	}
}

package traffic

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A quantile is at most a fifth too high, and never too low.
func TestQuantile(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var c Counts
	var all []time.Duration
	for range 10000 {
		took := time.Duration(float64(time.Millisecond) * (0.3 + 2000*random.ExpFloat64()*random.Float64()))
		all = append(all, took)
		c.Add(200, took)
	}
	slices.Sort(all)
	for _, part := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
		exact, got := all[int(part*float64(len(all)))-1], c.Quantile(part)
		if got < exact || float64(got) > 1.2*float64(exact) {
			t.Errorf("quantile %v is %s, exactly it would be %s", part, got, exact)
		}
	}
	var none Counts
	if none.Quantile(0.5) != 0 || none.ErrorShare() != 0 {
		t.Error("nothing was answered, and there are figures")
	}
	var edges Counts
	edges.Add(200, 0)
	if edges.Quantile(1) != bounds[0] {
		t.Error("no time at all is not in the first bucket")
	}
	edges.Add(200, 1000*time.Hour)
	if edges.Quantile(1) != bounds[len(bounds)-1] {
		t.Error("more time than there is is not in the last bucket")
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	var c Counts
	for i, status := range []int{200, 302, 404, 499, 500, 503, 599} {
		c.Add(status, time.Duration(i)*time.Millisecond)
	}
	earlier := c
	c.Killed = 1
	if c.Requests() != 8 || c.Failed() != 4 || c.ErrorShare() != 0.5 {
		t.Errorf("%d requests, %d failed, share %v", c.Requests(), c.Failed(), c.ErrorShare())
	}
	c.Add(200, time.Second)
	since := c.Minus(&earlier)
	if since.Requests() != 2 || since.Failed() != 1 || since.Quantile(1) < time.Second {
		t.Errorf("since: %+v", since)
	}
	if both := earlier.Plus(&since); both != c {
		t.Errorf("together %+v, want %+v", both, c)
	}
	var fresh Counts
	if got := fresh.Minus(&c); got != (Counts{}) {
		t.Errorf("less than nothing: %+v", got)
	}
}

// The last five minutes that had traffic count, whatever time has passed since.
func TestRing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r ring
		for i := range 100 {
			r.at(time.Now()).Add(200, time.Duration(i)*time.Millisecond)
			time.Sleep(slotLength)
		}
		if sum := r.sum(); sum.Answers != slots || len(r) != slots || sum.Quantile(0.01) < 60*time.Millisecond {
			t.Errorf("%d answers in %d slots", sum.Answers, len(r))
		}
		time.Sleep(time.Hour)
		if sum := r.sum(); sum.Answers != slots {
			t.Errorf("%d answers after an hour", sum.Answers)
		}
		r.at(time.Now()).Add(500, 0)
		if sum := r.sum(); sum.Answers != 1 || sum.Errors != 1 {
			t.Errorf("an hour later: %+v", sum)
		}
		r.at(time.Now().Add(-30*time.Minute)).Add(200, 0) // the clock was set back
		if sum := r.sum(); sum.Answers != 2 || len(r) != 1 {
			t.Errorf("%d slots: %+v", len(r), sum)
		}
	})
}

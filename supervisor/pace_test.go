package supervisor

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pace{every: time.Second / startsPerSecond, burst: startsAtOnce}
		turns := func(n int) time.Duration {
			began := time.Now()
			var all sync.WaitGroup
			for range n {
				all.Go(func() {
					if err := p.wait(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			return time.Since(began)
		}
		if took := turns(startsAtOnce); took != 0 {
			t.Errorf("the first %d took %s", startsAtOnce, took)
		}
		if took := turns(1000); took != 5*time.Second {
			t.Errorf("a thousand more took %s", took)
		}
		time.Sleep(time.Hour)
		if took := turns(startsAtOnce + 200); took != time.Second {
			t.Errorf("200 more after a rest took %s: the rest is saved up without end", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.wait(ctx); err == nil {
			t.Error("a wait without its context")
		}
	})
}

func TestBackoff(t *testing.T) {
	b := DefaultBackoff()
	b.Jitter = 0
	for n, want := range map[int]time.Duration{
		-1: 0, 0: 0, 1: 500 * time.Millisecond, 2: time.Second, 3: 2 * time.Second, 7: 30 * time.Second,
		1000: 30 * time.Second, math.MaxInt: 30 * time.Second,
	} {
		if got := b.Pause(n); got != want {
			t.Errorf("after %d failures %s, want %s", n, got, want)
		}
	}
	b.Jitter = 0.1
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := b.Pause(1)
		least, most = min(least, d), max(most, d)
	}
	if least < 450*time.Millisecond || most > 550*time.Millisecond || most-least < 50*time.Millisecond {
		t.Errorf("with a tenth of chance from %s to %s", least, most)
	}
}

// pauses are cut short by what is wanted, and by nothing else.
func TestPause(t *testing.T) {
	for name, tt := range map[string]struct {
		want func(*Process)
		took time.Duration
	}{
		"nothing": {func(*Process) {}, time.Minute},
		"start":   {(*Process).Start, time.Second},
		"restart": {(*Process).Restart, time.Second},
		"retire":  {(*Process).Retire, time.Second},
		"kill":    {(*Process).Kill, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewProcess(nil, "w", Policy{}, nil, nil)
				began := time.Now()
				var pausing sync.WaitGroup
				pausing.Go(func() { p.pause(t.Context(), time.Minute) })
				time.Sleep(time.Second)
				tt.want(p)
				pausing.Wait()
				if took := time.Since(began); took != tt.took {
					t.Errorf("it took %s, want %s", took, tt.took)
				}
			})
		})
	}
}

// Every state can be stopped from, and only from known states to known ones.
func TestMoves(t *testing.T) {
	all := []State{Stopped, Starting, Running, Stopping, Draining, Backing, Cooling, Unkillable}
	reaches := func(from State) map[State]bool {
		seen := map[State]bool{}
		todo := from.moves()
		for len(todo) > 0 {
			s := todo[0]
			todo = todo[1:]
			if !seen[s] {
				seen[s] = true
				todo = append(todo, s.moves()...)
			}
		}
		return seen
	}
	for _, s := range all {
		if !reaches(s)[Stopped] {
			t.Errorf("%s can't be stopped", s)
		}
		for to := range reaches(s) {
			if to.moves() == nil {
				t.Errorf("%s leads to %s, which is no state", s, to)
			}
		}
	}
	p := NewProcess(nil, "w", Policy{}, nil, func(e ProcessEvent) {
		if e.Err == nil || e.Err.Error() != "w: impossible move from stopped to running" || e.To != Stopped {
			t.Errorf("event %+v", e)
		}
	})
	p.move(Running, ProcessEvent{})
	if p.Status().State != Stopped {
		t.Error("an impossible move was made")
	}
}

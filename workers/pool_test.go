package workers

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/release"
	"superd/supervisor"
)

func generation(n uint64) release.Generation {
	return release.Generation{Number: n, Release: "r", Dir: "/srv/r"}
}

// quiet is a pool whose workers are never begun.
func quiet(processes int) *pool {
	f := New(Options{App: "shop", Pools: []Pool{{
		Name: "emails", Processes: processes, Order: StartFirst, MaxDraining: 3, StopTimeout: time.Minute,
		MaxParallel: func(int) int { return 2 }, Planned: []int{0, 12},
	}}})
	f.tally = &tally{generation: generation(2)}
	return f.pools[0]
}

func (p *pool) with(slot int, g uint64, change func(*worker)) *worker {
	w := p.start(slot, generation(g))
	change(w)
	return w
}

func proved(w *worker)  { w.proved = true }
func leaving(w *worker) { w.retire() }
func begun(*worker)     {}

func TestTodo(t *testing.T) {
	p := quiet(7)
	p.stopped[6] = true
	p.with(0, 1, proved) // the old one only
	p.with(1, 1, proved) // both
	p.with(1, 2, proved)
	p.with(2, 2, proved)  // right
	p.with(3, 2, begun)   // not well yet
	p.with(4, 1, leaving) // told to go, nobody instead
	empty, others := p.todo(generation(2))
	if !slices.Equal(empty, []int{4, 5}) || !slices.Equal(others, []int{0, 1, 3}) {
		t.Errorf("empty %v, others %v", empty, others)
	}
	if empty, others = p.todo(release.Generation{}); len(empty)+len(others) != 0 {
		t.Errorf("of nothing: empty %v, others %v", empty, others)
	}
}

func TestRoom(t *testing.T) {
	for name, tt := range map[string]struct {
		leaving int
		newer   bool
		order   Order
		want    int
	}{
		"nobody drains":           {0, false, StartFirst, 2},
		"one more may":            {2, false, StartFirst, 1},
		"none may":                {3, false, StartFirst, 0},
		"more drain than may":     {5, false, StartFirst, 0},
		"back does not wait":      {5, true, StartFirst, 2},
		"stop-first waits anyway": {5, false, StopFirst, 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := quiet(8)
			p.Order = tt.order
			for range tt.leaving {
				p.with(0, 1, leaving)
			}
			if tt.newer {
				p.with(1, 3, proved)
			}
			if got := p.room(generation(2)); got != tt.want {
				t.Errorf("room for %d, want %d", got, tt.want)
			}
		})
	}
}

// What is all that a slot has is not removed, whatever the pool ran on before.
func TestReliesOn(t *testing.T) {
	p := quiet(2)
	if p.reliesOn(generation(2)) {
		t.Error("an empty pool relies on nothing")
	}
	p.with(0, 1, proved)
	p.with(0, 2, proved)
	p.with(1, 1, proved)
	if p.reliesOn(generation(2)) || !p.reliesOn(generation(1)) {
		t.Error("the canary is 2")
	}
	p.workers[0].retire()
	if !p.reliesOn(generation(2)) {
		t.Error("slot 0 has 2 only")
	}
	p.stopped[0] = true
	if p.reliesOn(generation(2)) {
		t.Error("nobody wants slot 0")
	}
	p.on = generation(2)
	if !p.reliesOn(generation(2)) {
		t.Error("the pool runs on 2")
	}
}

// A worker that waits for one that cannot be killed says so instead of waiting.
func TestHeldUp(t *testing.T) {
	p := quiet(1)
	p.Order = StopFirst
	old := p.with(0, 1, proved)
	slots, begun, err := p.begin(generation(2))
	if !slices.Equal(slots, []int{0}) || !begun || err != nil || !old.leaving {
		t.Fatalf("slots %v, begun %t, error %v", slots, begun, err)
	}
	if done, err := p.finish(slots, generation(2)); done || err != nil {
		t.Errorf("done %t, error %v", done, err)
	}
	old.held = true
	if done, err := p.finish(slots, generation(2)); done || err == nil || !strings.Contains(err.Error(), "shop/emails:0 cannot start") {
		t.Errorf("done %t, error %v", done, err)
	}
}

// Nobody is told before all of the batch are well, in the same instant.
func TestFinish(t *testing.T) {
	p := quiet(2)
	old := []*worker{p.with(0, 1, proved), p.with(1, 1, proved)}
	first, second := p.with(0, 2, proved), p.with(1, 2, begun)
	if done, _ := p.finish([]int{0, 1}, generation(2)); done || old[0].leaving || old[1].leaving {
		t.Fatal("told before the second one is well")
	}
	first.proved, second.proved = false, true // it died again
	if done, _ := p.finish([]int{0, 1}, generation(2)); done || old[0].leaving {
		t.Fatal("told although the first one has died")
	}
	first.proved = true
	if done, _ := p.finish([]int{0, 1}, generation(2)); !done || !old[0].leaving || !old[1].leaving || first.leaving || second.leaving {
		t.Fatal("not told")
	}
}

func TestFresh(t *testing.T) {
	p := quiet(1)
	gone := p.with(0, 2, leaving)
	stale := p.with(0, 2, func(w *worker) { w.stale, w.proved = true, true })
	first := p.with(0, 2, begun)
	second := p.with(0, 2, begun)
	if gone.turn != 0 || stale.turn != 1 || first.turn != 2 || second.turn != 3 {
		t.Error("two have the same turn")
	}
	if p.fresh(0, generation(2)) != second {
		t.Error("of two that are not well the latest counts")
	}
	first.proved = true
	if p.fresh(0, generation(2)) != first {
		t.Error("who is well counts")
	}
	first.adopted, first.proved = true, false
	if p.fresh(0, generation(2)) != second {
		t.Error("who may have said that it is well when nobody listened does not count")
	}
	first.known = true
	if p.fresh(0, generation(2)) != second {
		t.Error("of two that are not well the latest counts")
	}
	if p.fresh(0, generation(1)) != nil || p.fresh(1, generation(2)) != nil {
		t.Error("there is nobody else")
	}
}

func TestWhatAnEndMeans(t *testing.T) {
	p := quiet(1)
	p.MinHealthyTime = time.Second
	w := p.with(0, 1, begun)
	code := func(n int) syscall.WaitStatus { return syscall.WaitStatus(n << 8) }
	for name, tt := range map[string]struct {
		exit   supervisor.Exit
		proved bool
		first  bool
		want   string
	}{
		"max jobs":                        {supervisor.Exit{Status: code(0)}, true, false, ""},
		"memory limit":                    {supervisor.Exit{Status: code(12)}, true, false, ""},
		"0 before it was well":            {supervisor.Exit{Status: code(0)}, false, false, Failed},
		"0 while nobody looked":           {supervisor.Exit{Status: code(0), Ran: time.Hour}, false, true, ""},
		"0 while nobody looked, at once":  {supervisor.Exit{Status: code(0), Ran: time.Millisecond}, false, true, Failed},
		"its gate, when superd died":      {supervisor.Exit{Failure: "gate: closed before it was opened", Status: code(111)}, false, true, ""},
		"1":                               {supervisor.Exit{Status: code(1)}, true, false, Failed},
		"the job's own timeout":           {supervisor.Exit{Status: syscall.WaitStatus(syscall.SIGKILL)}, true, false, Failed},
		"a program that is not there":     {supervisor.Exit{Failure: "exec php: no such file"}, false, false, Failed},
		"a failure is no code, whatever.": {supervisor.Exit{Failure: "exec php: no such file", Status: code(0)}, true, false, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			e := supervisor.ProcessEvent{Child: &supervisor.Child{}, Exit: &tt.exit, Proved: tt.proved}
			if got := w.judgeEnd(e, tt.first); got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFailureSpeaks(t *testing.T) {
	for want, f := range map[string]*Failure{
		"shop/emails:3: exit 1 after 2ms": {Event: Event{Process: "shop/emails:3", Reason: "exit 1 after 2ms"}, Count: 1},
		"start shop/emails:3: no memory; 3 failures, 2 are put up with": {
			Event: Event{Process: "shop/emails:3", Reason: "start shop/emails:3: no memory"}, Count: 3, Allowed: 2,
		},
	} {
		if f.Error() != want {
			t.Errorf("%q, want %q", f, want)
		}
	}
	var none *tally
	none.add(Event{})
	count := &tally{generation: generation(2), allowed: 1}
	count.add(Event{Generation: generation(1)})
	count.add(Event{Generation: generation(2)})
	if err := count.err(); err != nil {
		t.Errorf("one is allowed, and that of another generation does not count: %v", err)
	}
	count.add(Event{Generation: generation(2), Lines: []string{"last words"}})
	var explained release.Explained
	if err := count.err(); !errors.As(err, &explained) || !slices.Equal(explained.LastLines(), []string{"last words"}) {
		t.Errorf("two are too many: %v", err)
	}
}

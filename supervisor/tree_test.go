package supervisor

import (
	"os"
	"slices"
	"testing"

	"superd/supervisor/keeper/client"
)

func TestTree(t *testing.T) {
	// The child is process 100, born at 50; the keeper is 10.
	c := &Child{proc: &client.Child{PID: 100, Start: 50}}
	at := func(pid, parent, session int, start uint64) stat {
		return stat{pid: pid, parent: parent, session: session, state: 'S', start: start}
	}
	procs := map[int]stat{}
	for _, p := range []stat{
		at(1, 0, 1, 1), at(10, 1, 10, 2),
		at(100, 10, 100, 50),
		at(101, 100, 100, 51), // a child
		at(102, 101, 102, 52), // a grandchild in its own session
		at(103, 1, 100, 53),   // lost its parent, has the session
		at(200, 10, 200, 60),  // another child of the keeper, younger
		at(201, 200, 200, 61), // and its child
		at(202, 10, 100, 49),  // older than our child: not its
		at(203, 204, 203, 70), // a loop, as a table that changed may show
		at(204, 203, 203, 71),
		{pid: 104, parent: 100, session: 100, state: 'Z', start: 54},
	} {
		procs[p.pid] = p
	}
	pids := func() []int {
		var pids []int
		for _, p := range c.tree(newCensus(procs)) {
			pids = append(pids, p.pid)
		}
		slices.Sort(pids)
		return pids
	}
	if got := pids(); !slices.Equal(got, []int{100, 101, 102, 103}) {
		t.Errorf("tree %v", got)
	}
	// The PID has a new owner, with a session and a child of its own.
	procs = map[int]stat{10: at(10, 1, 10, 2), 100: at(100, 10, 100, 90), 105: at(105, 100, 100, 91)}
	if got := pids(); len(got) != 0 {
		t.Errorf("the next owner of the PID is taken for ours: %v", got)
	}
	// The child has ended and others go on.
	procs = map[int]stat{10: at(10, 1, 10, 2), 101: at(101, 10, 100, 51), 200: at(200, 10, 200, 60)}
	if got := pids(); !slices.Equal(got, []int{101}) {
		t.Errorf("orphans %v", got)
	}
}

// An orphan is known by its mark whoever has taken it in: a keeper born in the same tick of
// the clock as its first child, or a reaper that is younger than the child.
func TestOrphansOfYoungParents(t *testing.T) {
	c := &Child{proc: &client.Child{PID: 100, Start: 50}, note: note{Mark: "ours"}}
	now := newCensus(map[int]stat{
		10:  {pid: 10, parent: 1, session: 10, state: 'S', start: 50},
		100: {pid: 100, parent: 10, session: 100, state: 'S', start: 50},
		101: {pid: 101, parent: 10, session: 101, state: 'S', start: 51},
		200: {pid: 200, parent: 10, session: 200, state: 'S', start: 60},
		102: {pid: 102, parent: 200, session: 102, state: 'S', start: 61},
		103: {pid: 103, parent: 102, session: 103, state: 'S', start: 62},
		201: {pid: 201, parent: 200, session: 201, state: 'S', start: 61},
	})
	now.marks = map[int]string{10: "", 101: "ours", 200: "another's", 102: "ours", 103: "", 201: "another's"}
	var pids []int
	for _, p := range c.tree(now) {
		pids = append(pids, p.pid)
	}
	slices.Sort(pids)
	if !slices.Equal(pids, []int{100, 101, 102, 103}) {
		t.Errorf("tree %v", pids)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (systemd) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0")
	f.Add("7 (a) R 1) Z 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0")
	f.Add("7 (cut S 3")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStat(7, text)
		if err == nil && (s.pid != 7 || s.state == 0) {
			t.Fatalf("%q: %+v", text, s)
		}
	})
}

func TestParseStat(t *testing.T) {
	s, err := parseStat(7, "7 (a) R 1 (b) Z 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0")
	if want := (stat{pid: 7, parent: 3, session: 5, state: 'Z', start: 77}); err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	me, err := readStat(os.Getpid())
	if err != nil || me.parent != os.Getppid() || me.isDead() || me.start == 0 {
		t.Errorf("%+v, %v", me, err)
	}
	if _, err := parseStat(7, "7 (x) S 1 2 three 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77"); err == nil {
		t.Error("a session that is no number is taken")
	}
	if _, err := parseStat(7, "7 (x) S"); err == nil {
		t.Error("a line that is cut short is taken")
	}
}

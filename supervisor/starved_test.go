package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"superd/supervisor/cgroup"
	"superd/supervisor/keeper/client"
)

// A famine is a delegated cgroup whose counts the test writes, and two children in it: the
// machine that this is tried on may not have the memory controller in cgroup v2.
type famine struct {
	t    *testing.T
	base string
	*Children
	a, b *Child

	mu   sync.Mutex
	told []Starved
}

func newFamine(t *testing.T, memory bool) *famine {
	f := &famine{t: t, base: t.TempDir()}
	for _, name := range []string{"a@1-MARK", "b@1-MARK"} {
		if err := os.MkdirAll(filepath.Join(f.base, "children", name), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	f.write("children/cgroup.kill", "")
	f.write("memory.events", "oom_kill 0\n")
	if memory {
		f.write("children/cgroup.subtree_control", "memory\n")
	}
	tree, err := cgroup.Open(f.base, "children", false)
	if err != nil {
		t.Fatal(err)
	}
	f.Children = &Children{groups: tree, kids: map[string]*Child{}, log: slog.New(slog.DiscardHandler), shortage: newShortage(tree)}
	f.shortage.log = filepath.Join(f.base, "kmsg")
	f.write("kmsg", "")
	f.starved = func(s Starved) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.told = append(f.told, s)
	}
	f.a, f.b = f.child("a@1"), f.child("b@1")
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { f.watchMemory(ctx) })
	t.Cleanup(func() { cancel(); watching.Wait() })
	return f
}

// child is a child with a process that lives.
func (f *famine) child(slot string) *Child {
	s, err := readStat(sleeper(f.t).Process.Pid)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &Child{children: f.Children, leaf: f.leafOf(slot, "MARK"), proc: &client.Child{Slot: slot, PID: s.pid, Start: s.start}}
	f.kids[slot] = c
	return c
}

func (f *famine) write(file, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.base, file), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// count changes the count that is watched, in place: a file of the kernel's is never empty.
func (f *famine) count(n int) {
	f.t.Helper()
	file, err := os.OpenFile(filepath.Join(f.base, "memory.events"), os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(file, "oom_kill %d\n", n)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// tells waits until that many were told, and returns them.
func (f *famine) tells(n int) []Starved {
	f.t.Helper()
	eventually(f.t, "it is told", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.told) >= n
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
}

// settled waits until whoever watches has begun to.
func (f *famine) settled() {
	f.t.Helper()
	f.write("children/a@1-MARK/memory.events", "oom_kill 0\n")
	f.write("children/b@1-MARK/memory.events", "oom_kill 0\n")
	eventually(f.t, "the count is watched", func() bool {
		f.count(1)
		f.shortage.mu.Lock()
		defer f.shortage.mu.Unlock()
		return f.shortage.count == 1
	})
}

// Whose process it was is told by the counts of the leaves, each kill once; memory that is
// short without a victim is not told.
func TestStarvedTreeIsTold(t *testing.T) {
	f := newFamine(t, true)
	f.settled()
	f.write("children/a@1-MARK/memory.events", "oom_kill 2\n")
	f.count(1) // as before: something else has changed
	f.count(3)
	if got := f.tells(1); got[0].Child != f.a || got[0].Kills != 2 {
		t.Errorf("told %+v", got)
	}
	f.write("children/b@1-MARK/memory.events", "oom_kill 1\n")
	f.count(4)
	if got := f.tells(2); len(got) != 2 || got[1].Child != f.b || got[1].Kills != 1 {
		t.Errorf("told %+v", got)
	}
}

// Without counts of leaves the kernel's log tells who it was: not of a main process, whose
// end tells, not of another service, and not of what was before.
func TestStarvedProcessIsTold(t *testing.T) {
	f := newFamine(t, false)
	f.settled()
	line := func(at time.Duration, pid int, group string) string {
		head := fmt.Sprintf("3,1,%d,-;", at.Microseconds())
		if group != "" {
			group = head + fmt.Sprintf("oom-kill:constraint=C,task_memcg=%s,task=php,pid=%d,uid=33\n", group, pid)
		}
		return group + head + fmt.Sprintf("Out of memory: Killed process %d (php-fpm8.2) total-vm:1kB\n", pid)
	}
	base := "/" + filepath.Base(f.base)
	later := uptime() + time.Minute
	f.write("kmsg", line(time.Second, 10, base)+line(later, f.a.PID(), base)+line(later, 11, base+"/children/x")+
		line(later, 12, "/system.slice/mysql.service")+line(later+1, 13, ""))
	f.count(5)
	if got := f.tells(2); len(got) != 2 || got[0] != (Starved{PID: 11, Name: "php-fpm8.2"}) || got[1].PID != 13 {
		t.Errorf("told %+v", got)
	}
	f.write("kmsg", line(later, 11, base)+line(later+2*time.Microsecond, 14, base))
	f.count(6)
	if got := f.tells(3); len(got) != 3 || got[2].PID != 14 {
		t.Errorf("told %+v", got)
	}
}

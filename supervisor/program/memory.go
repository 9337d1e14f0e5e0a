package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"superd/supervisor"
)

// Two things are remembered. On disk, for ever: what a person has stopped, and how
// far the schedule of a program is settled. With the keeper, for as long as the processes themselves
// live: what a person has scaled or started although it does not start by itself, and
// which processes have ended for good or have been up, for the next superd must neither run
// them again nor ask for a proof that was given; and what the disk had no room for.

// orders is what is on disk.
type orders struct {
	Stopped []string             `json:"stopped,omitempty"` // "web", or "web:3"
	Runs    map[string]time.Time `json:"runs,omitempty"`    // of a scheduled program, up to when what was due is settled
	Turn    uint64               `json:"turn,omitempty"`    // how often they were written: of two, the later count
}

func readOrders(path string) (orders, error) {
	var o orders
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return orders{}, fmt.Errorf("read %s: %w", path, err)
	}
	return o, nil
}

// write puts the orders in place of those before, synced. With an error those before are
// still there.
func (o *orders) write(path string) error {
	slices.Sort(o.Stopped)
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path+".new"))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// borrow takes the orders that a superd before this one left with the keeper, for want of
// room on a disk, unless those on disk are later: it may have died before it told both.
func (s *Set) borrow() {
	var lent orders
	if err := s.o.Children.Recall(ordersName, &lent); err != nil {
		s.o.Log.Warn("what was ordered of programs while the disk was full is forgotten", "error", err)
	}
	if lent.Turn > s.orders.Turn {
		s.orders = lent
		s.write() // perhaps there is room now
	}
}

func (o *orders) isStopped(name string) bool { return slices.Contains(o.Stopped, name) }

// order writes into o what people have ordered of p.
func (p *program) order(o *orders) {
	o.Stopped = slices.DeleteFunc(o.Stopped, func(name string) bool {
		program, _ := split(name)
		return program == p.Name
	})
	if p.removed {
		delete(o.Runs, p.Name)
		return
	}
	if p.down {
		o.Stopped = append(o.Stopped, p.Name)
	}
	for n := range p.stopped {
		o.Stopped = append(o.Stopped, fmt.Sprintf("%s:%d", p.Name, n))
	}
}

// obey takes what people have ordered of p.
func (p *program) obey(o orders) {
	for _, name := range o.Stopped {
		switch program, n := split(name); {
		case program != p.Name:
		case n < 0:
			p.down = true
		case n < p.processes:
			p.stopped[n] = true
		}
	}
}

// What the keeper has it under.
const (
	memoryName = "programs"
	ordersName = "program orders" // which a disk had no room for, see Set.write
)

// A memory is what the keeper holds of one program. The scale counts only while the
// configuration says what it said then.
type memory struct {
	Configured int            `json:"configured"`
	Processes  int            `json:"processes"`
	Started    bool           `json:"started,omitempty"` // although it does not start by itself
	Over       map[int]ending `json:"over,omitempty"`
	Up         []string       `json:"up,omitempty"` // lives that have proved themselves
}

type ending struct {
	State  supervisor.State `json:"state"`
	Reason string           `json:"reason,omitempty"`
}

// remember leaves everything with the keeper. Only Run calls it.
func (s *Set) remember() {
	all := map[string]memory{}
	s.mu.Lock()
	for name, p := range s.programs {
		if p.removed {
			continue
		}
		m := memory{Configured: p.Processes, Processes: p.processes, Started: !p.Autostart && !p.down, Over: map[int]ending{}}
		for _, u := range p.units {
			if u.over != "" {
				m.Over[u.number] = ending{u.over, u.reason}
			}
			if c := u.process.Child(); c != nil && u.process.Status().State == supervisor.Running {
				m.Up = append(m.Up, lifeOf(c))
			}
		}
		all[name] = m
	}
	s.mu.Unlock()
	if err := s.o.Children.Remember(memoryName, all); err != nil {
		s.o.Log.Warn("what programs are to do is not remembered", "error", err)
	}
}

// recall takes up what an earlier superd has left, and ends what it was ending.
func (s *Set) recall() {
	all := map[string]memory{}
	if err := s.o.Children.Recall(memoryName, &all); err != nil {
		s.o.Log.Warn("what programs are to do is forgotten", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var leaving []*unit
	for _, p := range s.programs {
		if m, ok := all[p.Name]; ok {
			p.recall(m)
		}
		for _, u := range p.units {
			if u.released && !u.isWanted() {
				leaving = append(leaving, u)
			}
		}
	}
	s.takeDown(leaving, false, nil)
}

func (p *program) recall(m memory) {
	for _, u := range p.units {
		u.known = u.adopted != nil && slices.Contains(m.Up, lifeOf(u.adopted))
	}
	if p.removed {
		return
	}
	if m.Configured == p.Processes {
		p.processes = m.Processes
		p.fill()
		p.obey(p.set.orders) // also about those that there were not as configured
	}
	if m.Started && !p.set.orders.isStopped(p.Name) {
		p.down = false
	}
	for n, e := range m.Over {
		if n < len(p.units) && !p.units[n].released {
			p.units[n].over, p.units[n].reason = e.State, e.Reason
		}
	}
}

package control

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// What reread and update of supervisorctl are in superd. reread is the plan of a
// reload, in groups. update then goes from group to group: it stops what is removed or
// changed, and adds what is new or changed; here the first step of it that needs the
// new configuration makes it hold, whole, and the others find it done. superctl reload
// does the same without stopping anything that need not be stopped.

// A groupPlan is the difference to the file, in supervisord's groups.
type groupPlan struct{ added, changed, removed []any }

// groups remembers what a reload has made of groups, for update goes on to ask for each.
type groups struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// remembered is longer than any update takes between its steps.
const remembered = 10 * time.Minute

func (g *groups) add(names []any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since == nil {
		g.since = make(map[string]time.Time)
	}
	for name, at := range g.since {
		if time.Since(at) > remembered {
			delete(g.since, name)
		}
	}
	for _, name := range names {
		if name, isText := name.(string); isText {
			g.since[name] = time.Now()
		}
	}
}

func (g *groups) has(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, ok := g.since[name]
	return ok && time.Since(at) < remembered
}

// plan asks superd what a reload would change.
func (q *request) plan() (groupPlan, error) {
	var p groupPlan
	if err := q.may(RoleAdmin, ""); err != nil {
		return p, err
	}
	r, err := q.server.daemon.Reload(q.http.Context(), true, q.by())
	if KindOf(err) == Rejected && err != nil {
		return p, fault(faultCantReread, err.Error())
	}
	if err != nil {
		return p, err
	}
	all, err := q.processes()
	if err != nil {
		return p, err
	}
	return q.server.inGroups(r.Changes, all), nil
}

// inGroups makes one word per group of what is said of processes.
func (s *Server) inGroups(changes []Change, all []namedProcess) groupPlan {
	var p groupPlan
	stops := make(map[string]bool)
	touched := make(map[string]bool)
	for _, c := range changes {
		group := s.groupOf(c.Name)
		if group == "" {
			continue
		}
		if _, seen := stops[group]; !seen {
			stops[group] = true
		}
		stops[group] = stops[group] && c.Action == "stop"
		touched[group] = touched[group] || c.Action != "nothing" && c.Action != "later"
	}
	for group := range touched {
		runs := slices.ContainsFunc(all, func(one namedProcess) bool { return one.group == group })
		switch {
		case !touched[group]:
		case !runs:
			p.added = append(p.added, group)
		case stops[group]:
			p.removed = append(p.removed, group)
		default:
			p.changed = append(p.changed, group)
		}
	}
	for _, names := range [][]any{p.added, p.changed, p.removed} {
		slices.SortFunc(names, func(a, b any) int {
			x, _ := a.(string)
			y, _ := b.(string)
			return strings.Compare(x, y)
		})
	}
	return p
}

// groupOf is the group of an app, a pool, a program or a process by superd's name.
func (s *Server) groupOf(name string) string {
	if name == "superd" {
		return ""
	}
	name, _, _ = strings.Cut(name, "/")
	name = programOf(name)
	if s.naming != nil {
		if group := s.naming().Groups[name]; group != "" {
			return group
		}
	}
	return name
}

func (q *request) rpcReload(*params) (any, error) {
	p, err := q.plan()
	if err != nil {
		return nil, err
	}
	return []any{[]any{orEmpty(p.added), orEmpty(p.changed), orEmpty(p.removed)}}, nil
}

// rpcAdd makes the configuration hold, if that is still to be done, and sees to it
// that the group is up.
func (q *request) rpcAdd(params *params) (any, error) {
	name := params.process()
	if err := params.wrong(); err != nil {
		return nil, err
	}
	p, err := q.plan()
	if err != nil {
		return nil, err
	}
	pending := slices.Contains(p.added, any(name)) || slices.Contains(p.changed, any(name))
	if pending {
		if err := q.reloadNow(p); err != nil {
			return nil, err
		}
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	found, _, err := meant(all, name+":*")
	if err != nil {
		return nil, fault(faultBadName, name)
	}
	down := slices.ContainsFunc(found, func(one namedProcess) bool { return !one.isUp() })
	if !pending && !down && !q.server.come.has(name) {
		return nil, fault(faultAlreadyAdded, name)
	}
	if down {
		q.each(found, asked{verb: VerbStart, wait: false})
	}
	return true, nil
}

// rpcRemove makes the configuration hold when it has the group no longer. A group that
// is only changed stays until rpcAdd.
func (q *request) rpcRemove(params *params) (any, error) {
	name := params.process()
	if err := params.wrong(); err != nil {
		return nil, err
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	found, _, err := meant(all, name+":*")
	if err != nil && q.server.gone.has(name) {
		return true, nil
	}
	if err != nil {
		return nil, fault(faultBadName, name)
	}
	if slices.ContainsFunc(found, namedProcess.isUp) {
		return nil, fault(faultStillRunning, name)
	}
	p, err := q.plan()
	if err != nil {
		return nil, err
	}
	if slices.Contains(p.removed, any(name)) {
		return true, q.reloadNow(p)
	}
	return true, nil
}

func (q *request) reloadNow(p groupPlan) error {
	_, err := q.server.daemon.Reload(q.http.Context(), false, q.by())
	if err == nil {
		q.server.gone.add(p.removed)
		q.server.come.add(append(p.added, p.changed...))
	}
	return err
}

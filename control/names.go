package control

import (
	"fmt"
	"slices"
	"strings"
)

// What a name means, for everything that takes one: superd's own names, patterns and
// groups first, and where it has none of that name what supervisord would have called so.

// meaning is what a name means, as patterns for Match. Nothing is called so: it is empty.
func (q *request) meaning(s Status, name string) []string {
	if own := q.server.daemon.Meaning(name); len(own) > 0 {
		return own
	}
	var orders []string
	found, _, _ := meant(q.named(s), name) // an error is that there is none
	for _, p := range found {
		orders = append(orders, p.order)
	}
	return orders
}

// callees are what to ask the daemon for, where the name in the path is meant. It is that
// name, also where nothing is called so, unless it is one of supervisord's: then the role
// is needed for each of the processes too.
func (q *request) callees(needed Role) ([]string, error) {
	if len(q.server.daemon.Meaning(q.name)) > 0 {
		return []string{q.name}, nil
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	var orders []string
	found, _, _ := meant(all, q.name) // an error is that there is none
	for _, p := range found {
		if !q.grant.on(p.app).includes(needed) {
			return nil, &Error{Kind: Denied, Message: fmt.Sprintf("%s is %s, and that needs the role %s", q.name, p.order, needed)}
		}
		orders = append(orders, p.order)
	}
	if len(orders) == 0 {
		return []string{q.name}, nil
	}
	return orders, nil
}

// callee is the same for what is done to one process.
func (q *request) callee(needed Role) (string, error) {
	names, err := q.callees(needed)
	switch {
	case err != nil:
		return "", err
	case len(names) > 1:
		return "", &Error{Kind: Usage, Message: fmt.Sprintf("%s means %d processes, and this is for one", q.name, len(names)), Hint: "name one, such as " + names[0]}
	}
	return names[0], nil
}

// only is what the names mean of a status, and whether that is well. A name that means
// nothing is told of, and is an error if none means anything.
func (q *request) only(s Status, names []string) (Status, error) {
	var patterns, unknown []string
	for _, name := range names {
		found := q.meaning(s, name)
		if len(found) == 0 || !q.grant.sees("") && len(s.narrow(found).names()) == 0 {
			unknown = append(unknown, name)
		}
		patterns = append(patterns, found...)
	}
	if len(unknown) == len(names) {
		return s, NotCalled(unknown)
	}
	s = s.narrow(patterns)
	s.Unknown = unknown
	return s, nil
}

// NotCalled is the error of names that mean nothing.
func NotCalled(names []string) error {
	return &Error{Kind: NotFound, Message: "nothing is called " + strings.Join(names, " or "), Hint: "superctl status lists all names"}
}

// names are the apps and programs in a status.
func (s Status) names() (names []string) {
	for _, a := range s.Apps {
		names = append(names, a.Name)
	}
	for _, p := range s.Programs {
		names = append(names, p.Name)
	}
	return names
}

// narrow leaves only what one of the patterns matches. What is wrong with the rest is left
// out too; what is wrong with superd itself, or the machine, is everybody's and stays.
func (s Status) narrow(patterns []string) Status {
	wanted := func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return Match(p, name) })
	}
	var apps []AppStatus
	foreign := map[string]bool{}
	for _, a := range s.Apps {
		kept, some := a.narrow(wanted)
		if some {
			apps = append(apps, kept)
		}
		for _, p := range a.Problems {
			foreign[a.problem(p)] = !some || !slices.Contains(kept.Problems, p)
		}
	}
	var programs []ProcessStatus
	for _, p := range s.Programs {
		if wanted(p.Name) {
			programs = append(programs, p)
		} else {
			foreign[p.Problem] = true
		}
	}
	s.Apps, s.Programs = apps, programs
	s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), func(p string) bool { return foreign[p] })
	s.Healthy = len(s.Problems) == 0
	return s
}

// narrow leaves only wanted parts of an app, and tells whether there are any. What is
// wrong with the app as a whole is wrong with each of them.
func (a AppStatus) narrow(wanted func(string) bool) (AppStatus, bool) {
	if wanted(a.Name) {
		return a, true
	}
	foreign := map[string]bool{}
	if a.FPM != nil && !wanted(a.FPM.Name) {
		foreign[a.FPM.Problem] = true
		a.FPM = nil
	}
	var pools []PoolStatus
	for _, p := range a.Pools {
		if !wanted(p.Name) {
			p.Workers = slices.DeleteFunc(slices.Clone(p.Workers), func(w ProcessStatus) bool { return !wanted(w.Name) })
			if len(p.Workers) == 0 {
				foreign[p.Problem] = true
				continue
			}
		}
		pools = append(pools, p)
	}
	a.Pools = pools
	a.Problems = slices.DeleteFunc(slices.Clone(a.Problems), func(p string) bool { return foreign[p] })
	return a, a.FPM != nil || len(pools) > 0
}

// problem is a problem of the app as it is told among those of all.
func (a AppStatus) problem(p string) string { return a.Name + ": " + p }

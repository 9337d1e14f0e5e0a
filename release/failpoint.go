package release

import "strings"

// Failpoints are the names that Switch.Failpoint is called with. Of each phase:
// "entering" before its journal entry, "before" once that is on disk and nothing
// else is done, "after" when its verb took effect; likewise of each undo, below
// "rollback". A test ends superd at every one of them.
func Failpoints() []string {
	var names []string
	add := func(of Phase, points ...string) {
		for _, p := range points {
			names = append(names, string(of)+"."+p)
		}
	}
	steps := []Phase{Preparing, Starting, Verifying, Canary, Promoting, Rotating, Watching}
	for _, step := range steps {
		add(step, "entering", "before", "after")
	}
	add(Verifying, "checked")
	add(Canary, "shared")
	add(Promoting, "linked")
	add(Committing, "entering", "before", "retired", "after")
	add(RollingBack, "entering", "before")
	for _, step := range steps {
		add("rollback."+step, "before", "after")
	}
	add("rollback."+Promoting, "linked")
	add(Ended, "entering", "before")
	return append(names, settled)
}

// settled is between the state, which has the end of a switch then, and the history.
const settled = "ended.settled"

// hit is called at each of Failpoints.
func (s *Switch) hit(of Phase, point ...string) {
	if s.Failpoint != nil {
		s.Failpoint(string(of) + "." + strings.Join(point, "."))
	}
}

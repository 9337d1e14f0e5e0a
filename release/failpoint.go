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
	steps := (&Switch{}).steps()
	for _, st := range steps {
		add(st.phase, "entering", "before", "after")
	}
	add(Verifying, "checked")
	add(Promoting, "linked")
	add(Committing, "entering", "before", "retired", "after")
	add(RollingBack, "entering", "before")
	for _, st := range steps {
		add("rollback."+st.phase, "before", "after")
	}
	add("rollback."+Promoting, "linked")
	add(Ended, "entering", "before")
	return names
}

// hit is called at each of Failpoints.
func (s *Switch) hit(of Phase, point ...string) {
	if s.Failpoint != nil {
		s.Failpoint(string(of) + "." + strings.Join(point, "."))
	}
}

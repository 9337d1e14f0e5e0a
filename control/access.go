package control

import (
	"io/fs"
	"os"
	"slices"
)

// A Role is what someone may do; each includes those before it.
type Role string

// The roles. RoleAny is for whoever may connect at all.
const (
	RoleAny     Role = "any"
	RoleRead    Role = "read"
	RoleOperate Role = "operate"
	RoleAdmin   Role = "admin"
)

var roles = []Role{RoleAny, RoleRead, RoleOperate, RoleAdmin}

// includes is false for a role that there is not.
func (r Role) includes(needed Role) bool {
	return slices.Index(roles, r) >= slices.Index(roles, needed)
}

// A Rule gives a role to a user, or to the members of a group: one [[access]] of the
// configuration, with the names looked up.
type Rule struct {
	User, Group *uint32 // one of them
	Role        Role
	Apps        []string // nil: all, and what belongs to no app
}

func (r Rule) isFor(p Peer) bool {
	switch {
	case r.User != nil:
		return *r.User == p.UID
	case r.Group != nil:
		return *r.Group == p.GID || slices.Contains(p.Groups, *r.Group)
	}
	return false
}

func (r Rule) covers(app string) bool {
	return r.Apps == nil || app != "" && slices.Contains(r.Apps, app)
}

// SocketMode is who may connect. What they may do is decided by who they are, not by
// the mode: without a rule it keeps out those who could not do anything anyway, with
// one the kernel cannot know whom it is for.
func SocketMode(rules []Rule) fs.FileMode {
	if len(rules) == 0 {
		return 0o600
	}
	return 0o666
}

// A grant is what one peer may do.
type grant struct {
	admin bool
	rules []Rule
}

// grantTo is asked for each request: a rule holds for those who are connected too.
func grantTo(p Peer, rules []Rule) grant {
	if p.isOwner() {
		return grant{admin: true}
	}
	return grant{rules: slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return !r.isFor(p) })}
}

// isOwner tells root and superd's own user from all others.
func (p Peer) isOwner() bool { return p.UID == 0 || p.UID == uint32(os.Geteuid()) }

// on is the role for an app; for what belongs to none the name is "".
func (g grant) on(app string) Role {
	return g.best(func(r Rule) bool { return r.covers(app) })
}

// anywhere is the highest role for anything.
func (g grant) anywhere() Role {
	return g.best(func(Rule) bool { return true })
}

func (g grant) best(counts func(Rule) bool) Role {
	if g.admin {
		return RoleAdmin
	}
	best := RoleAny
	for _, r := range g.rules {
		if counts(r) && r.Role.includes(best) {
			best = r.Role
		}
	}
	return best
}

// sees tells whether something of an app, or of none, may be shown.
func (g grant) sees(app string) bool { return g.on(app).includes(RoleRead) }

// see is what of a status may be shown. To those who do not see everything, superd is
// as well as the apps they see.
func (g grant) see(s Status) Status {
	if g.sees("") {
		return s
	}
	s.Programs, s.Problems = nil, nil
	s.Apps = slices.DeleteFunc(slices.Clone(s.Apps), func(a AppStatus) bool { return !g.sees(a.Name) })
	for _, a := range s.Apps {
		for _, p := range a.Problems {
			s.Problems = append(s.Problems, a.problem(p))
		}
	}
	s.Healthy = len(s.Problems) == 0
	return s
}

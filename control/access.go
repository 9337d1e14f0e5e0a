package control

import (
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

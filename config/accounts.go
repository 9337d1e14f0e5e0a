package config

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// accounts remembers users and groups, for looking one up can ask a directory
// service on the network.
type accounts struct {
	known map[accountKey]accountName
}

type accountKey struct {
	name  string
	group bool
}

type accountName struct {
	name    string
	primary string // the group of a user
	err     error
}

// name is the name of a user or a group that is written as a name or a number.
func (a *accounts) name(written string, group bool) (string, error) {
	found := a.look(written, group)
	return found.name, found.err
}

// primaryGroup is the group of a user that exists; empty when it has no name.
func (a *accounts) primaryGroup(name string) string {
	if name == "" {
		return ""
	}
	return a.look(name, false).primary
}

// isMe tells whether name is who runs this program.
func (a *accounts) isMe(name string) bool {
	return a.look(strconv.Itoa(os.Geteuid()), false).name == name
}

func (a *accounts) look(written string, group bool) accountName {
	k := accountKey{written, group}
	found, ok := a.known[k]
	if !ok {
		found = lookUser(written)
		if group {
			found = lookGroup(written)
		}
		a.known[k] = found
	}
	return found
}

func lookUser(written string) accountName {
	u, err := user.Lookup(written)
	if _, notNumber := strconv.ParseUint(written, 10, 32); err != nil && notNumber == nil {
		u, err = user.LookupId(written)
	}
	var unknown user.UnknownUserError
	var unknownID user.UnknownUserIdError
	if errors.As(err, &unknown) || errors.As(err, &unknownID) {
		return accountName{err: fmt.Errorf("unknown user %q; name one that exists on this machine (getent passwd), or create it", short(written))}
	}
	if err != nil {
		return accountName{err: fmt.Errorf("user %q cannot be looked up: %w", short(written), err)}
	}
	found := accountName{name: u.Username}
	if g, err := user.LookupGroupId(u.Gid); err == nil {
		found.primary = g.Name
	}
	return found
}

func lookGroup(written string) accountName {
	g, err := user.LookupGroup(written)
	if _, notNumber := strconv.ParseUint(written, 10, 32); err != nil && notNumber == nil {
		g, err = user.LookupGroupId(written)
	}
	var unknown user.UnknownGroupError
	var unknownID user.UnknownGroupIdError
	if errors.As(err, &unknown) || errors.As(err, &unknownID) {
		return accountName{err: fmt.Errorf("unknown group %q; name one that exists on this machine (getent group), or create it", short(written))}
	}
	if err != nil {
		return accountName{err: fmt.Errorf("group %q cannot be looked up: %w", short(written), err)}
	}
	return accountName{name: g.Name}
}

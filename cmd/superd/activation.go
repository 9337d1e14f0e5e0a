package main

import (
	"context"
	"errors"

	"superd/control"
)

// socketUnit is the unit by which systemd listens at the control socket. The keeper has
// its socket from its start on, under that name.
const socketUnit = "superd.socket"

// openSocket takes the control socket from where it is: from the superd before, from
// systemd, or it is made.
func (d *daemon) openSocket(ctx context.Context, rules []control.Rule) (*control.Socket, error) {
	given, _ := d.children.Held("listen:" + socketUnit)
	if given != nil {
		defer func() { _ = given.Close() }() // the keeper has its own
	}
	s, err := d.succession.socket(ctx, d.cfg.Socket, rules, given)
	if errors.Is(err, control.ErrElsewhere) {
		d.log.Warn("systemd's socket is not used", "unit", socketUnit, "error", err)
		return d.succession.socket(ctx, d.cfg.Socket, rules, nil)
	}
	return s, err
}

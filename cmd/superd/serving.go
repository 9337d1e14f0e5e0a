package main

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"time"

	"superd/config"
	"superd/control"
	"superd/release"
)

// What this file has is the daemon as the control socket sees it: control.Daemon.

func (d *daemon) newServer(ctx context.Context) (err error) {
	rules, err := accessRules(d.cfg.Access)
	if err != nil {
		return err
	}
	if d.socket, err = d.openSocket(ctx, rules); err != nil {
		return err
	}
	d.server = control.NewServer(control.Options{Daemon: d, Events: d.events, Rules: rules, Log: d.log, Naming: d.naming})
	d.listenForScrapers(ctx)
	return nil
}

// listenForScrapers opens the address of the metrics. That it is taken is no reason to
// leave processes without a superd: it is told, and the control socket has them too.
func (d *daemon) listenForScrapers(ctx context.Context) {
	address := d.cfg.Metrics.Listen
	if address == "" {
		return
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		d.log.Error("the metrics have no address", "listen", address, "error", err)
		return
	}
	d.metrics = l
}

func accessRules(access []config.Access) ([]control.Rule, error) {
	var rules []control.Rule
	for _, a := range access {
		rule := control.Rule{Role: control.Role(a.Role), Apps: a.Apps}
		var err error
		if a.User != "" {
			rule.User, err = userID(a.User)
		} else {
			rule.Group, err = groupID(a.Group)
		}
		if err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func userID(name string) (*uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	return number(u.Uid)
}

func groupID(name string) (*uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return nil, err
	}
	return number(g.Gid)
}

func number(text string) (*uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("id %q: %w", text, err)
	}
	id := uint32(n)
	return &id, nil
}

// Switch begins a switch: see control.Daemon.
func (d *daemon) Switch(ctx context.Context, app string, r control.SwitchRequest, by release.By) (release.Record, error) {
	a, err := d.app(app)
	if err != nil {
		return release.Record{}, err
	}
	leave, err := d.succession.enter()
	if err != nil {
		return release.Record{}, err
	}
	defer leave()
	if r.Adopt {
		return a.switcher.Adopt(ctx, request(r, by))
	}
	return a.switcher.Begin(ctx, request(r, by))
}

func request(r control.SwitchRequest, by release.By) release.Request {
	return release.Request{
		Release: r.Release, Kind: release.KindSwitch, Restart: r.Restart, AllowBad: r.AllowBad, LockWait: time.Duration(r.LockWait), By: by,
	}
}

// Rollback begins a rollback, or takes back the switch that is going on if that comes
// from the release that is wanted: the way back that is there already is the shortest.
func (d *daemon) Rollback(ctx context.Context, app string, r control.RollbackRequest, by release.By) (release.Record, error) {
	a, err := d.app(app)
	if err != nil {
		return release.Record{}, err
	}
	leave, err := d.succession.enter()
	if err != nil {
		return release.Record{}, err
	}
	defer leave()
	c := a.switcher.Snapshot().Current
	if c != nil && c.Kind == release.KindSwitch && slices.Contains([]string{"", "previous", c.From.Release}, r.Release) {
		if err := a.switcher.Abort(by); err == nil {
			return *c, nil
		}
	}
	return a.switcher.Begin(ctx, release.Request{
		Release: r.Release, Kind: release.KindRollback, AllowBad: r.AllowBad, LockWait: time.Duration(r.LockWait), By: by,
	})
}

// DryRun tells which release a switch would be to, and what would stop it.
func (d *daemon) DryRun(ctx context.Context, app string, r control.SwitchRequest) (release.Generation, error) {
	a, err := d.app(app)
	if err != nil {
		return release.Generation{}, err
	}
	return a.switcher.DryRun(ctx, request(r, release.By{}))
}

// Outcome is how a switch ended.
func (d *daemon) Outcome(ctx context.Context, app, id string) (release.Record, error) {
	a, err := d.app(app)
	if err != nil {
		return release.Record{}, err
	}
	return a.switcher.Wait(ctx, id)
}

// Abort takes the running switch back.
func (d *daemon) Abort(_ context.Context, app string, by release.By) error {
	a, err := d.app(app)
	if err != nil {
		return err
	}
	return a.switcher.Abort(by)
}

// Hold keeps an app as it is.
func (d *daemon) Hold(_ context.Context, app, reason string, by release.By) error {
	a, err := d.app(app)
	if err != nil {
		return err
	}
	return a.switcher.Hold(by, reason)
}

// Resume ends a hold or a pause.
func (d *daemon) Resume(_ context.Context, app string, by release.By) error {
	a, err := d.app(app)
	if err != nil {
		return err
	}
	return a.switcher.Resume(by)
}

// History is the finished switches of an app.
func (d *daemon) History(_ context.Context, app string) ([]release.Record, error) {
	a, err := d.app(app)
	if err != nil {
		return nil, err
	}
	return a.switcher.History(), nil
}

// Releases are those on disk.
func (d *daemon) Releases(ctx context.Context, app string) ([]control.ReleaseInfo, error) {
	a, err := d.app(app)
	if err != nil {
		return nil, err
	}
	list, err := a.switcher.Releases()
	if err != nil {
		return nil, err
	}
	users := a.usersOfReleases(ctx)
	all := make([]control.ReleaseInfo, len(list))
	for i, r := range list {
		all[i] = control.ReleaseInfo{Name: r.Name, Dir: r.Dir, Bad: r.Bad, Modified: r.Modified, InUse: users[r.Name]}
		switch {
		case r.Live:
			all[i].State = "live"
		case r.Parked:
			all[i].State = "parked"
		case r.Bad != nil:
			all[i].State = "bad"
		case r.Previous:
			all[i].State = "previous"
		}
	}
	return all, nil
}

// Shutdown begins the end of everything.
func (d *daemon) Shutdown(_ context.Context, by release.By) error {
	d.log.Info("asked to shut down", "user", by.User, "uid", by.UID, "client_pid", by.PID)
	d.end()
	return nil
}

package main

import (
	"context"
	"strings"
	"time"

	"superd/config"
	"superd/control"
	"superd/supervisor"
)

// The second socket, for tools that were written for supervisord.

// addSockets adds all that superd is asked on.
func (d *daemon) addSockets(g *supervisor.Group) {
	g.Add("control socket", func(ctx context.Context) error { return d.server.Run(ctx, d.socket) })
	if d.config().Compat.XMLRPC != "" {
		g.Add("compat socket", d.runCompat)
	}
	if d.metrics != nil {
		g.Add("metrics", func(ctx context.Context) error { return d.server.ServeMetrics(ctx, d.metrics) })
	}
}

// everybody may connect, for rules can come with a reload; what each may do is decided
// by who it is.
const everybody = 0o666

// runCompat serves on it until ctx ends. What is in the way is waited for and not
// fatal: supervisord itself, until it has been stopped, or the superd before this one
// during an upgrade.
func (d *daemon) runCompat(ctx context.Context) error {
	path := d.config().Compat.XMLRPC
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for told := false; ; {
		socket, err := control.Listen(ctx, path, everybody)
		if err == nil {
			d.log.Info("supervisord's tools are served", "path", path)
			err, told = d.server.Run(ctx, socket), false
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told && err != nil {
			d.log.Warn("supervisord's tools are not served yet", "path", path, "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

func (d *daemon) naming() control.Naming {
	n := naming(d.config())
	n.File = d.output.File
	return n
}

// naming is what supervisord's tools call things: a program that is in one group is
// shown in it, and [compat.names] has the last word.
func naming(cfg *config.Config) control.Naming {
	n := control.Naming{Groups: make(map[string]string), Names: cfg.Compat.Names}
	several := make(map[string]bool)
	for _, g := range cfg.Groups {
		for _, member := range g.Members {
			program, isProgram := strings.CutPrefix(member, "program.")
			if !isProgram {
				continue
			}
			if n.Groups[program] != "" {
				several[program] = true
			}
			n.Groups[program] = g.Name
		}
	}
	for program := range several {
		delete(n.Groups, program)
	}
	return n
}

package main

import (
	"superd/supervisor/cgroup"
)

// groups is where each child gets a cgroup of its own, nil where superd has none to
// divide: see docs/decisions/0029-cgroups.md.
func (d *daemon) groups() *cgroup.Tree {
	tree, err := cgroup.Find(d.cfg.StateDir)
	if err != nil {
		d.log.Info("children get no cgroups; they are known by session, descent and a mark in their environment", "reason", err)
		return nil
	}
	d.log.Info("each child gets a cgroup", "directory", tree.Dir(), "memory", tree.HasMemory())
	return tree
}

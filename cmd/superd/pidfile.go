package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// run_dir/superd.pid is for those who manage a daemon by its PID. It is the keeper's, which
// stays the same over every upgrade and crash of superd and passes signals on.

func pidFile(runDir string) string { return filepath.Join(runDir, "superd.pid") }

// writePID puts the file in place as a whole.
func writePID(path string, pid int) error {
	err := os.WriteFile(path+".new", fmt.Appendf(nil, "%d\n", pid), 0o644) //nolint:gosec // it is for everybody
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write the PID file: %w", err)
	}
	return nil
}

// tellPID is for the beginning. Nothing of superd depends on it.
func (d *daemon) tellPID() {
	pid, err := d.children.KeeperPID()
	if err == nil {
		err = writePID(pidFile(d.cfg.RunDir), pid)
	}
	if err != nil {
		d.log.Warn("who goes by the PID file is misled", "error", err)
	}
}

// forgetPID is for the end that is meant.
func (d *daemon) forgetPID() {
	if err := os.Remove(pidFile(d.cfg.RunDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("the PID file stays", "error", err)
	}
}

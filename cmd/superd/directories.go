package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"superd/config"
)

// makeDirectories makes superd's own, before anything is started. Each that cannot be
// made, or is not for this user to write, is told by the key that names it. A disk that is
// full or broken is no reason not to begin, as long as the directory is there.
func makeDirectories(cfg *config.Config) error {
	var errs []error
	for _, d := range []struct{ key, path string }{
		{"run_dir", cfg.RunDir}, {"state_dir", cfg.StateDir}, {"log_dir", cfg.LogDir},
	} {
		err := os.MkdirAll(d.path, 0o755)
		if err == nil {
			if err = unix.Access(d.path, unix.W_OK|unix.X_OK); !errors.Is(err, fs.ErrPermission) {
				continue
			}
			err = &fs.PathError{Op: "write to", Path: d.path, Err: err}
		}
		errs = append(errs, fmt.Errorf("%s: %w; set it to a directory that superd, who runs as user %d, may write", d.key, err, os.Geteuid()))
	}
	return errors.Join(errs...)
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"superd/config"
)

// A superd that comes back after a crash must take its fleet over whatever was done
// to the configuration file meanwhile. So each configuration that was accepted is
// kept, and stands in for one that is refused.

// What the processes that run were started by can be an older one, for a reload takes
// its time: see finishReload.
const (
	lastGoodName = "config.good.json"    // accepted last
	appliedName  = "config.applied.json" // holds for everything that runs
)

// loadOrLastGood reads the configuration at file. If it is refused and an earlier
// one was accepted, that one is returned, together with why it had to be.
func loadOrLastGood(file, stateDir string) (cfg *config.Config, refused error, err error) {
	cfg, err = config.Load(file)
	if err == nil {
		return cfg, nil, nil
	}
	good, readErr := readLastGood(filepath.Join(stateDir, lastGoodName), file)
	if readErr != nil {
		return nil, nil, errors.Join(err, readErr)
	}
	return good, err, nil
}

type lastGood struct {
	File   string
	Config config.Config
}

func readLastGood(path, file string) (*config.Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the last good configuration: %w", err)
	}
	var l lastGood
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("read the last good configuration %s: %w", path, err)
	}
	if l.File != file {
		return nil, fmt.Errorf("the last good configuration is one of %s", l.File)
	}
	return &l.Config, nil
}

// keepLastGood is best effort: on a full disk the one kept before stays.
func keepLastGood(cfg *config.Config, file string) error { return keepConfig(cfg, file, lastGoodName) }

func keepConfig(cfg *config.Config, file, name string) error {
	b, err := json.Marshal(lastGood{File: file, Config: *cfg})
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	path := filepath.Join(cfg.StateDir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it may hold secrets
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the configuration: %w", err), os.Remove(path+".new"))
	}
	return nil
}

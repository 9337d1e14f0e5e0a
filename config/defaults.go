package config

import (
	"syscall"
	"time"
)

// Every default that does not depend on another key is here. Those that do (the
// group of a user, the socket of an app, the children of a dynamic pool) are in
// the rules, where what they depend on is known.

func defaults() *Config {
	return &Config{
		Socket:   SystemSocket, // and the rest are root's; see plain.go for others
		RunDir:   systemRunDir,
		StateDir: systemStateDir,
		LogDir:   systemLogDir,
		Log:      Log{Level: "info", Format: "auto"},
	}
}

func newApp(name string) App {
	return App{
		Name:     name,
		Releases: "releases",
		Current:  "current",
		Switch: Switch{
			Watch:            30 * time.Second,
			FollowLink:       true,
			Settle:           2 * time.Second,
			MissingGrace:     30 * time.Second,
			AutoRollback:     true,
			MaxFailures:      2,
			ProgressDeadline: 5 * time.Minute,
			KeepReleases:     5,
			MaxErrorRate:     0.05,
			MinRequests:      20,
			CanaryTime:       2 * time.Minute,
		},
	}
}

func newHook() *Hook { return &Hook{Timeout: time.Minute} }

func newFPM() *FPM {
	return &FPM{
		ListenMode:   0o660,
		Backlog:      1024,
		DocumentRoot: "public",
		Handoff:      "parallel",
		Pin:          true,
		PM:           "static",
		MaxChildren:  16,
		DrainTimeout: time.Minute,
		Log:          newOutput(),
	}
}

func newWorker(name string) Worker {
	return Worker{
		Name:           name,
		Processes:      1,
		Order:          "start-first",
		MaxParallel:    Share{Percent: 25},
		MinHealthyTime: 5 * time.Second,
		Ready:          "alive",
		StopSignal:     syscall.SIGTERM,
		StopTimeout:    90 * time.Second,
		MaxDraining:    16,
		PlannedExits:   []int{0, 12},
		Log:            newOutput(),
	}
}

func newOutput() Output {
	return Output{Stdout: "file", Stderr: "stdout", MaxSize: 50 << 20, Keep: 10, Compress: true, Format: "raw"}
}

func newProgram(name string) Program {
	return Program{
		Name:           name,
		Autostart:      true,
		Restart:        "always",
		PlannedExits:   []int{0},
		Ready:          "alive",
		MinHealthyTime: time.Second,
		Backoff:        Backoff{First: 500 * time.Millisecond, Factor: 2, Max: 30 * time.Second, Jitter: 0.1, ResetAfter: time.Minute},
		RestartWindow:  time.Minute,
		Processes:      1,
		Directory:      "/",
		Umask:          0o022,
		Stdin:          "null",
		StopSignal:     syscall.SIGTERM,
		StopTimeout:    30 * time.Second,
		KillScope:      "tree",
		Overlap:        "skip",
		Missed:         "skip",
		Log:            newOutput(),
	}
}

func newCheck(string) Check {
	return Check{
		Phase:              "both",
		Kind:               "fastcgi",
		Path:               "/",
		Script:             "index.php",
		Status:             []int{200},
		Interval:           time.Second,
		Timeout:            5 * time.Second,
		HealthyThreshold:   3,
		UnhealthyThreshold: 3,
		Deadline:           time.Minute,
	}
}

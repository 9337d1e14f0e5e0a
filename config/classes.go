package config

import "strings"

// A Class says what it takes to make a changed key hold.
type Class string

// The classes.
const (
	Live    Class = "live"    // told to what runs, which goes on
	Restart Class = "restart" // counts for processes that begin after it: those that run are replaced, gracefully
	Later   Class = "later"   // counts when superd itself starts again; left as it is until then
)

// classes is the class of every key; what is said of a table holds for all that is in
// it. Names that users give are a star. A key of an app, a pool or a program that is
// not here fails a test: nobody has thought about it.
//
// Live is whatever superd itself does with a process. Restart is what a process is
// born with, and cannot be told afterwards.
var classes = map[string]Class{
	"socket":     Later,
	"run_dir":    Later,
	"state_dir":  Later,
	"log_dir":    Later,
	"log.level":  Live,
	"log.format": Later,
	"access":     Live,
	"metrics":    Later,
	"web":        Later,
	"compat":     Later,
	"group.*":    Live,

	// Another root is another app, for the releases and the history are there.
	"app.*.switch":   Live,
	"app.*.check":    Live,
	"app.*.user":     Restart,
	"app.*.group":    Restart,
	"app.*.env":      Restart,
	"app.*.env_file": Restart,
	"app.*.root":     Later,
	"app.*.releases": Later,
	"app.*.current":  Later,

	// What php-fpm reads when it starts, or has its listener from.
	"app.*.fpm.warmup":                    Live,
	"app.*.fpm.log":                       Live,
	"app.*.fpm.binary":                    Restart,
	"app.*.fpm.user":                      Restart,
	"app.*.fpm.group":                     Restart,
	"app.*.fpm.listen_owner":              Restart,
	"app.*.fpm.listen_group":              Restart,
	"app.*.fpm.listen_mode":               Restart,
	"app.*.fpm.backlog":                   Restart,
	"app.*.fpm.document_root":             Restart,
	"app.*.fpm.pin":                       Restart,
	"app.*.fpm.pm":                        Restart,
	"app.*.fpm.max_children":              Restart,
	"app.*.fpm.start_servers":             Restart,
	"app.*.fpm.min_spare_servers":         Restart,
	"app.*.fpm.max_spare_servers":         Restart,
	"app.*.fpm.max_requests":              Restart,
	"app.*.fpm.request_terminate_timeout": Restart,
	"app.*.fpm.slowlog_timeout":           Restart,
	"app.*.fpm.drain_timeout":             Restart,
	"app.*.fpm.ini":                       Restart,
	"app.*.fpm.args":                      Restart,
	"app.*.fpm.include":                   Restart,
	"app.*.fpm.listen":                    Live,
	"app.*.fpm.handoff":                   Later,

	// Of ready and watchdog a process is told by its environment.
	"app.*.worker.*.processes":        Live,
	"app.*.worker.*.order":            Live,
	"app.*.worker.*.canary":           Live,
	"app.*.worker.*.max_parallel":     Live,
	"app.*.worker.*.min_healthy_time": Live,
	"app.*.worker.*.ready_command":    Live,
	"app.*.worker.*.stop_signal":      Live,
	"app.*.worker.*.stop_timeout":     Live,
	"app.*.worker.*.max_draining":     Live,
	"app.*.worker.*.max_memory":       Live,
	"app.*.worker.*.max_age":          Live,
	"app.*.worker.*.planned_exits":    Live,
	"app.*.worker.*.log":              Live,
	"app.*.worker.*.command":          Restart,
	"app.*.worker.*.ready":            Restart,
	"app.*.worker.*.watchdog":         Restart,
	"app.*.worker.*.nice":             Restart,
	"app.*.worker.*.env":              Restart,
	"app.*.worker.*.limits":           Restart,

	"program.*.description":      Live,
	"program.*.after":            Live,
	"program.*.requires":         Live,
	"program.*.autostart":        Live,
	"program.*.restart":          Live,
	"program.*.planned_exits":    Live,
	"program.*.ready_command":    Live,
	"program.*.min_healthy_time": Live,
	"program.*.backoff":          Live,
	"program.*.max_restarts":     Live,
	"program.*.restart_window":   Live,
	"program.*.processes":        Live,
	"program.*.reload":           Live,
	"program.*.stop_signal":      Live,
	"program.*.stop_timeout":     Live,
	"program.*.kill_scope":       Live,
	"program.*.max_memory":       Live,
	"program.*.max_age":          Live,
	"program.*.schedule":         Live,
	"program.*.timezone":         Live,
	"program.*.overlap":          Live,
	"program.*.missed":           Live,
	"program.*.log":              Live,
	"program.*.command":          Restart,
	"program.*.ready":            Restart,
	"program.*.watchdog":         Restart,
	"program.*.directory":        Restart,
	"program.*.user":             Restart,
	"program.*.group":            Restart,
	"program.*.umask":            Restart,
	"program.*.stdin":            Restart,
	"program.*.env":              Restart,
	"program.*.env_file":         Restart,
	"program.*.clear_env":        Restart,
	"program.*.nice":             Restart,
	"program.*.limits":           Restart,
}

// classOf is the class of a key, "" when there is none: a test sees to it that there
// is one.
func classOf(pattern string) Class {
	for pattern != "" {
		if c, ok := classes[pattern]; ok {
			return c
		}
		pattern = pattern[:max(0, strings.LastIndexByte(pattern, '.'))]
	}
	return ""
}

// Package config turns superd.toml and the files it includes into typed options,
// and tells everything that is wrong with them at once, each problem with its
// file, line, column and key. It imports nothing of ours, it starts nothing and
// writes nothing; besides the files it looks up users, groups and php-fpm.
//
// The invariant: a Config is either whole and checked, every default filled in,
// or it does not exist. A file with any problem yields no Config at all.
//
// A file cut short is often valid TOML. Of what was cut off nothing can be
// known, so that is a warning only: a last line without its line end, and an app
// that has nothing to run. Who reloads should refuse to remove what is running
// unless asked to.
package config

import (
	"io/fs"
	"regexp"
	"syscall"
	"time"
)

// Load reads the file and everything it includes. The error is *Problems.
func Load(path string) (*Config, error) {
	in := newReading()
	in.readFile(path, nil)
	return in.finish()
}

// Config is the whole configuration. The names mirror the keys of the file.
type Config struct {
	Files []string // every file that was read, the one given to Load first

	Socket   string // all absolute and clean
	RunDir   string
	StateDir string
	LogDir   string

	Log     Log
	Access  []Access
	Apps    []App // by name
	Metrics Metrics
	Web     Web

	Warnings []Problem // what is accepted but worth telling, by file and line
}

// Log is superd's own log.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // auto, text, journal, json
}

// Access says who may do what on the control socket. Either User or Group is set.
type Access struct {
	User  string
	Group string
	Role  string   // read, operate, admin
	Apps  []string // nil: all
}

// App is one application: its releases, one FPM, pools of workers, checks.
type App struct {
	Name     string
	Root     string            // absolute
	Releases string            // absolute, inside Root
	Current  string            // absolute, inside Root: the link
	User     string            // a name that exists; empty: as superd itself runs
	Group    string            // a name that exists; the user's own when not given
	Env      map[string]string // values may have templates
	EnvFile  string            // to be given to Expand: an absolute path then; empty: none

	Switch  Switch
	FPM     *FPM     // nil: none
	Workers []Worker // by name
	Checks  []Check  // as written
}

// Switch is how an app moves from one release to another.
type Switch struct {
	Watch            time.Duration
	FollowLink       bool
	Settle           time.Duration // how long the link must be quiet
	MissingGrace     time.Duration // how long the link may lead nowhere before it goes back
	AutoRollback     bool
	MaxFailures      int
	ProgressDeadline time.Duration
	KeepReleases     int
	Required         []string // relative to the release
	Before, After    *Hook    // nil: none
	MaxErrorRate     float64  // 0 to 1; 0: not looked at
	MinRequests      int
}

// Hook is a command that runs once in a switch.
type Hook struct {
	Command []string // may have templates
	Timeout time.Duration
}

// FPM is the PHP-FPM of an app.
type FPM struct {
	Binary       string // absolute, executable
	User         string // of the children; the app's when not given
	Group        string
	Listen       string // absolute path of a unix socket, or a numeric address with its port
	ListenOwner  string
	ListenGroup  string
	ListenMode   fs.FileMode
	Backlog      int
	DocumentRoot string // relative to the release; "." is the release itself
	Handoff      string // parallel, reload
	Pin          bool
	PM           string // static, dynamic, ondemand
	MaxChildren  int
	// The three below count with PM "dynamic", and are consistent then.
	StartServers    int
	MinSpareServers int
	MaxSpareServers int

	MaxRequests             int           // 0: no limit
	RequestTerminateTimeout time.Duration // whole seconds; 0: none
	SlowlogTimeout          time.Duration // whole seconds; 0: none
	DrainTimeout            time.Duration
	INI                     map[string]string
	Args                    []string
	Include                 []string // to be given to Expand: absolute paths then
	Warmup                  []string // each begins with "/"
}

// Worker is a pool of identical queue workers.
type Worker struct {
	Name           string
	Command        []string // may have templates
	Processes      int
	Order          string // start-first, stop-first
	Canary         int
	MaxParallel    Share
	MinHealthyTime time.Duration
	Ready          string         // alive, notify, log, command
	ReadyLog       *regexp.Regexp // with "log": a line of output that matches means ready
	ReadyCommand   []string       // with "command": exit 0 means ready; may have templates
	StopSignal     syscall.Signal
	StopTimeout    time.Duration // may be Infinity, with start-first
	MaxDraining    int
	MaxMemory      int64             // bytes; 0: none
	MaxAge         time.Duration     // 0: none
	Watchdog       time.Duration     // 0: none
	PlannedExits   []int             // exit codes from 0 to 255
	Env            map[string]string // on top of the app's; values may have templates
	Nice           int
	Limits         map[string]uint64 // by the names of setrlimit, lower case: nofile, core …; or Unlimited
}

// Check asks whether a release is well.
type Check struct {
	Name    string            // check-1, check-2 … when not given
	Phase   string            // verify, live, both
	Kind    string            // fastcgi, http, tcp, command
	Path    string            // fastcgi: the request's, with its query
	Script  string            // fastcgi: inside the document root
	Status  []int             // fastcgi, http
	Body    *regexp.Regexp    // fastcgi, http; nil: any
	Headers map[string]string // fastcgi, http
	URL     string            // http
	Address string            // tcp: host:port, or the absolute path of a unix socket
	Command []string          // command; may have templates

	Interval           time.Duration
	Timeout            time.Duration
	HealthyThreshold   int
	UnhealthyThreshold int
	Deadline           time.Duration
}

// Metrics is where the metrics are served besides the control socket.
type Metrics struct {
	Listen string // empty: nowhere
}

// Web is the page for people.
type Web struct {
	Listen    string // empty: off
	TokenFile string
}

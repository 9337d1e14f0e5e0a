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

	Log      Log
	Access   []Access
	Apps     []App     // by name
	Programs []Program // by name
	Groups   []Group   // by name
	Metrics  Metrics
	Web      Web
	Compat   Compat

	Warnings  []Problem  // what is accepted but worth telling, by file and line
	Variables []Variable `json:"-"` // what processes need of superd's environment: see Unset
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
	CanaryShare      float64 // percent, above 0 and below 100; 0: none
	CanaryTime       time.Duration
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
	Log                     Output   // of the masters; paths may have templates
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
	Log            Output            // paths may have templates
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

// Output is what becomes of what a process writes.
type Output struct {
	Stdout     string // file, journal, syslog, none, inherit, or the absolute path of a file
	Stderr     string // likewise; or stdout: goes where that goes, in the order it was written
	MaxSize    int64  // bytes; a file this long is rotated; 0: never by size
	Keep       int    // rotated files kept
	Compress   bool
	MaxAge     time.Duration // a file this old is rotated; 0: never by age
	MaxTotal   int64         // bytes of all files of the process; 0: no limit
	Timestamps bool
	Format     string // raw, json
}

// Program is anything outside the apps: kept up, run once, or run on a schedule.
type Program struct {
	Name        string
	Description string
	Command     []string // templates {slot} and {env:NAME}, here and in all that follows
	// After and Requires name what is up before this program starts: "program.redis",
	// "app.shop". After has all that Requires has, programs that this one is stopped and
	// started with. There is no circle in them.
	After    []string
	Requires []string

	Autostart      bool
	Restart        string // always, unexpected, never
	PlannedExits   []int  // exit codes from 0 to 255
	Ready          string // alive, notify, log, command, exit
	ReadyLog       *regexp.Regexp
	ReadyCommand   []string
	MinHealthyTime time.Duration
	Backoff        Backoff
	MaxRestarts    int // within RestartWindow; 0: never gives up
	RestartWindow  time.Duration
	Processes      int

	Directory   string            // absolute, once it is expanded
	User        string            // a name that exists; empty: as superd itself runs
	Group       string            // a name that exists; the user's own when not given
	Umask       fs.FileMode       // the bits that new files do not get
	Stdin       string            // null, pipe: superctl attach may write to it
	Env         map[string]string // values may have templates
	EnvFile     string            // to be given to Expand: an absolute path then; empty: none
	ClearEnv    bool              // true: not even PATH and the language are inherited
	Reload      *Reload           // nil: cannot be reloaded
	StopSignal  syscall.Signal
	StopTimeout time.Duration // may be Infinity
	KillScope   string        // tree, process: what is killed at the end of StopTimeout
	Nice        int
	Limits      map[string]uint64 // as those of a worker
	MaxMemory   int64             // bytes, of the whole tree; 0: none
	MaxAge      time.Duration     // 0: none
	Watchdog    time.Duration     // 0: none

	Schedule string // five fields of cron, a word such as @daily, or "every 1m"; empty: none. See Times.
	Timezone string // of the fields; empty: the machine's
	Overlap  string // skip, queue, kill: what a run does that is due while the last one is there
	Missed   string // skip, once: whether runs that were due while superd was away are made up for

	Log Output
}

// Backoff is how long a program waits before it is started again.
type Backoff struct {
	First      time.Duration
	Factor     float64 // at least 1
	Max        time.Duration
	Jitter     float64       // 0 to 1: the part that is left to chance
	ResetAfter time.Duration // a life this long makes the next wait the first one again
}

// Reload is what makes a program read its own configuration. Either is set.
type Reload struct {
	Signal  syscall.Signal
	Command []string // templates as in the program's
}

// Group is a name for several programs and apps.
type Group struct {
	Name    string
	Members []string // "program.nginx", "app.shop"; at least one, each once
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

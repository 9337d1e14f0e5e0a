package config

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Where superd has its directories by default is a question of who runs it. root's are
// those of a system service. Anybody else's are his own: sockets in the directory of his
// session, the rest in that of his programs' state (the XDG base directories); see
// docs/decisions/0022-plain-user.md.

const (
	systemRunDir   = "/run/superd"
	systemStateDir = "/var/lib/superd"
	systemLogDir   = "/var/log/superd"
	socketName     = "superd.sock"
)

// LoadAs is Load with the defaults of another user: whose superd it is that reads the
// file.
func LoadAs(path string, uid int) (*Config, error) {
	in := newReading()
	in.who = residentOf(uid)
	in.readFile(path, nil)
	return in.finish()
}

// SystemSocket is the control socket of root's superd by default.
const SystemSocket = systemRunDir + "/" + socketName

// UsualSocket is where whoever asks finds a superd: his own, if there is one, else the
// machine's.
func UsualSocket() string {
	me := residentOf(os.Geteuid())
	if me.uid == 0 {
		return SystemSocket
	}
	dirs := me.runDirs()
	if state := me.stateDir(); state != "" {
		dirs = append(dirs, filepath.Join(state, "run"))
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, socketName)
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket && isOf(info, me.uid) {
			return path
		}
	}
	return SystemSocket
}

// A resident is the user that superd runs as.
type resident struct {
	uid     int
	environ func(string) string // his environment; nil: not known
}

// residentOf is the user with that number. Only one's own environment is known.
func residentOf(uid int) resident {
	if uid == os.Geteuid() {
		return resident{uid, os.Getenv}
	}
	return resident{uid: uid}
}

func (r resident) getenv(name string) string {
	if r.environ == nil {
		return ""
	}
	return r.environ(name)
}

// runDirs is where sockets go that last no longer than the session: what there is of it.
// A directory of somebody else's does not count: su(1) leaves root's in the environment.
func (r resident) runDirs() []string {
	var dirs []string
	for _, session := range []string{r.getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", r.uid)} {
		if info, err := os.Stat(session); err == nil && filepath.IsAbs(session) && info.IsDir() && isOf(info, r.uid) {
			dirs = append(dirs, filepath.Join(session, "superd"))
		}
	}
	return dirs
}

// stateDir is for what outlives the session; "" when he has no home.
func (r resident) stateDir() string {
	if state := r.getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "superd")
	}
	home := r.getenv("HOME")
	if home == "" {
		if u, err := user.LookupId(strconv.Itoa(r.uid)); err == nil {
			home = u.HomeDir
		}
	}
	if info, err := os.Stat(home); err != nil || !info.IsDir() || !filepath.IsAbs(home) || !isOf(info, r.uid) {
		return ""
	}
	return filepath.Join(home, ".local", "state", "superd")
}

func isOf(info os.FileInfo, uid int) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == uid
}

// finishDirectories fills in where superd has its own, once all files are read.
func (in *reading) finishDirectories() {
	c, set := in.config, func(name string) bool { _, ok := in.taken[name]; return ok }
	if in.who.uid != 0 {
		in.plainDirectories(set)
	}
	if !set("socket") && in.who.uid != 0 {
		c.Socket = filepath.Join(c.RunDir, socketName)
	}
	if err := checkSocket(c.Socket); err != nil {
		at := in.taken["socket"]
		if !set("socket") {
			at = in.taken["run_dir"]
			at.File, at.Key = in.mainFile(at), "socket"
			err = fmt.Errorf("by default %q, %w", short(c.Socket), err)
		}
		at.Text = err.Error()
		in.problems = append(in.problems, at)
	}
}

// plainDirectories are those of a user other than root.
func (in *reading) plainDirectories(set func(string) bool) {
	c, missing := in.config, func(key, example string) {
		in.problems = append(in.problems, Problem{File: in.mainFile(Problem{}), Key: key, Text: fmt.Sprintf(
			"must be set, such as %q: superd does not run as root, and its user, %d, has no home directory of his own for a default", example, in.who.uid)})
	}
	if !set("state_dir") {
		if c.StateDir = in.who.stateDir(); c.StateDir == "" && !in.broken {
			missing("state_dir", "/srv/superd/state")
		}
	}
	if !set("run_dir") {
		if dirs := in.who.runDirs(); len(dirs) > 0 {
			c.RunDir = dirs[0]
		} else {
			c.RunDir = filepath.Join(c.StateDir, "run")
		}
	}
	if !set("log_dir") {
		c.LogDir = filepath.Join(c.StateDir, "log")
	}
}

// mainFile is where something that is not written anywhere belongs.
func (in *reading) mainFile(at Problem) string {
	if at.File == "" && len(in.config.Files) > 0 {
		return in.config.Files[0]
	}
	return at.File
}

// plainFPM tells what of an app's PHP-FPM only root could do.
func plainFPM(n node, f *FPM) {
	if n.in.who.uid == 0 {
		return
	}
	for _, name := range []string{"listen_owner", "listen_group"} {
		if n.has(name) && !isTCP(f.Listen) {
			n.at(name).warn("counts only when superd runs as root, who can give a socket away; listen_mode says who else may connect to yours")
		}
	}
	at, err := netip.ParseAddrPort(f.Listen)
	if err != nil {
		return
	}
	n.at("listen").warn("newer kernels want root, or the capability NET_ADMIN, for an address of TCP that is shared by generations; a unix socket needs neither")
	if int(at.Port()) < firstFreePort() {
		n.at("listen").warn("port %d needs root, or the capability NET_BIND_SERVICE: take one from %d on", at.Port(), firstFreePort())
	}
}

// plainNice tells that only root gets a process served before others.
func plainNice(n node, nice int) {
	if n.in.who.uid != 0 && nice < 0 {
		n.warn("%d needs root, or a limit of RLIMIT_NICE that allows it; 0 to 19 do not", nice)
	}
}

// firstFreePort is where ports begin that anybody may listen on.
func firstFreePort() int {
	const usual = 1024
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return usual
	}
	return port
}

// theirInclude tells that a file below the root of an app says what root runs: the master
// of PHP-FPM reads it.
func theirInclude(n node, root, path string) {
	plain, err := expandKnown(path, map[string]string{"root": root, "release_dir": filepath.Join(root, "r"), "release": "r", "app": "a", "generation": "1"})
	if n.in.who.uid == 0 && root != "" && err == nil && strings.HasPrefix(filepath.Clean(plain), root+"/") {
		n.warn("%s is read by php-fpm's master, which is root: who can write below %s can have it load a library; "+
			"that is fine if the deploy user may be root, else keep the file elsewhere", short(path), root)
	}
}

// theirLog tells that output goes to a file below the root of an app: superd is root, and
// follows the directories there wherever they lead.
func theirLog(n node, apps []App, o Output) {
	for name, path := range map[string]string{"stdout": o.Stdout, "stderr": o.Stderr} {
		for _, a := range apps {
			if n.in.who.uid == 0 && a.Root != "" && isPath(path) && strings.HasPrefix(filepath.Clean(strings.ReplaceAll(path, "{root}", a.Root)), a.Root+"/") {
				n.at(name).warn("%s is written by superd, who is root: who can write below %s can lead it elsewhere by a link; keep logs in log_dir", short(path), a.Root)
			}
		}
	}
}

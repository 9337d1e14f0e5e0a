package fpm

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"superd/fpm/traffic"
)

// A Pool is how PHP-FPM is to run one generation. Nothing in it is a template.
type Pool struct {
	Binary      string
	Args        []string // more arguments of php-fpm
	User, Group string   // of the workers; they count only when superd is root

	DocumentRoot string // below the release
	// Pin makes the master run its own release only, whatever path the web server
	// sends. What the web server sends must exist all the same, or the answer is 404.
	Pin bool

	PM                      string // static, dynamic, ondemand
	MaxChildren             int
	StartServers            int // the three of dynamic
	MinSpareServers         int
	MaxSpareServers         int
	MaxRequests             int
	RequestTerminateTimeout time.Duration
	SlowlogTimeout          time.Duration
	DrainTimeout            time.Duration // how long a request that runs may take to end when its master is told to go

	// INI are settings of PHP. They are read when PHP starts, for some count only
	// then, and once more by each worker, as php_admin_value: a script cannot
	// change them.
	INI     map[string]string
	Env     map[string]string // all that PHP sees of an environment, and the master's too
	Theirs  map[string]bool   // names in Env that who deploys has chosen: not the master's, if that is root
	Include []string          // files of the user's own with more directives of a pool
}

// Paths that the status page and the ping have. No web server passes a script
// name like these on by itself.
const (
	statusPath = "/superd-status"
	pingPath   = "/superd-ping"
)

// arguments are those of the master, behind its name.
func (r rendering) arguments(dir string) []string {
	return append([]string{"-F", "-O", "-y", filepath.Join(dir, confFile)}, r.pool.Args...)
}

// A rendering is the files of one server.
type rendering struct {
	at      place
	pool    Pool
	literal bool // the values of Env are in the file: handoff by reload, see reload.go
}

// write puts the files into directory dir, which is at's own or stands in for it.
func (r rendering) write(dir string) error {
	conf, err := r.conf(dir)
	if err != nil {
		return err
	}
	ini, err := r.ini(dir)
	if err != nil {
		return err
	}
	for _, sub := range []string{dir, filepath.Join(dir, iniDir)} {
		if err := openDirectory(sub); err != nil {
			return fmt.Errorf("write configuration of PHP-FPM: %w", err)
		}
	}
	return errors.Join(
		replace(filepath.Join(dir, r.at.pinFile()), r.pin(), 0o644), // the workers read it
		replace(filepath.Join(dir, iniDir, iniFile), ini, 0o600),    // may hold passwords, as may
		replace(filepath.Join(dir, confFile), strings.Join(conf, "\n")+"\n", 0o600),
	)
}

// openDirectory makes a directory that others may pass but not list: the public
// socket is below it, and what is private there has a mode of its own.
func openDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // see above
		return err
	}
	return os.Chmod(dir, 0o711) //nolint:gosec // whatever the umask is
}

// replace writes a file in one step, so that a master that starts at that moment
// reads the old one or the new one.
func replace(path, text string, mode fs.FileMode) error {
	next := path + ".new"
	err := os.WriteFile(next, []byte(text), mode)
	if err == nil {
		err = os.Chmod(next, mode)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("write configuration of PHP-FPM: %w", err)
	}
	return nil
}

// conf is the lines of fpm.conf. Files of the user's come first, so that what superd
// depends on wins; the section is opened once more because they may have others.
func (r rendering) conf(dir string) ([]string, error) {
	out := []string{
		"; Written by superd for " + oneLine(r.at.String()) + ". Changes are lost.",
		"[global]", "daemonize = no", "error_log = /dev/null", // with -O the log goes to stderr
		"log_limit = 8192", "process_control_timeout = " + seconds(r.pool.DrainTimeout),
	}
	lines, err := r.section(dir, r.at.section(), r.pool, "listen = "+cmp.Or(r.at.Address, r.at.key("web")),
		"pm.status_path = "+statusPath, "pm.status_listen = "+r.at.key("status"))
	if err != nil {
		return nil, err
	}
	access, err := r.access(dir)
	if err != nil || r.at.Address == "" {
		return slices.Concat(out, lines, access), err
	}
	more, err := r.section(dir, r.at.section()+privateSuffix, r.pool.few(), "listen = "+r.at.key("private"))
	return slices.Concat(out, lines, access, more), err
}

// privateSuffix is what the second pool is called after the first. All who come by TCP
// come to one address, so superd has a way in of its own to each generation: a pool of
// the same master, with the same settings and the same opcache.
const privateSuffix = ".private"

// few is p with workers for superd alone, when there is something to ask.
func (p Pool) few() Pool {
	p.PM, p.MaxChildren = "ondemand", 4
	return p
}

// section is the lines of one pool.
func (r rendering) section(dir, name string, p Pool, own ...string) ([]string, error) {
	section := "[" + name + "]"
	out := []string{section}
	for _, path := range p.Include {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("include %s: is not a file", path), err)
		}
		quoted, err := quote(globQuote.Replace(path))
		if err != nil {
			return nil, fmt.Errorf("include %q: %w", path, err)
		}
		out = append(out, "include = "+quoted)
	}
	out = append(append(out, section), own...)
	out = append(out, "ping.path = "+pingPath,
		"catch_workers_output = yes", "decorate_workers_output = no", "clear_env = yes")
	out = append(out, p.manager()...)
	for _, more := range []func(string) ([]string, error){r.who, r.env, r.values} {
		lines, err := more(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	return out, nil
}

var globQuote = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// manager is the process manager's part.
func (p Pool) manager() []string {
	out := []string{"pm = " + oneLine(p.PM), fmt.Sprint("pm.max_children = ", p.MaxChildren), fmt.Sprint("pm.max_requests = ", p.MaxRequests)}
	if p.PM == "dynamic" {
		out = append(out, fmt.Sprint("pm.start_servers = ", p.StartServers),
			fmt.Sprint("pm.min_spare_servers = ", p.MinSpareServers), fmt.Sprint("pm.max_spare_servers = ", p.MaxSpareServers))
	}
	if p.RequestTerminateTimeout > 0 {
		out = append(out, "request_terminate_timeout = "+seconds(p.RequestTerminateTimeout))
	}
	if p.SlowlogTimeout > 0 {
		out = append(out, "request_slowlog_timeout = "+seconds(p.SlowlogTimeout), "slowlog = /proc/self/fd/2")
	}
	return out
}

// access has the workers write down what they answered. Only superd reads it.
func (r rendering) access(dir string) ([]string, error) {
	path := filepath.Join(dir, r.at.accessFile())
	quoted, err := quote(path)
	if err != nil {
		return nil, fmt.Errorf("access.log %q: %w", path, err)
	}
	return []string{"access.log = " + quoted, `access.format = "` + traffic.Format + `"`}, nil
}

// who says who the workers are and where. PHP-FPM that is not root ignores users.
func (r rendering) who(string) ([]string, error) {
	settings := [][2]string{{"chdir", r.at.Dir}}
	if os.Geteuid() == 0 && r.pool.User != "" {
		settings = append(settings, [2]string{"user", r.pool.User})
		if r.pool.Group != "" {
			settings = append(settings, [2]string{"group", r.pool.Group})
		}
	}
	var out []string
	for _, s := range settings {
		quoted, err := quote(s[1])
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", s[0], s[1], err)
		}
		out = append(out, s[0]+" = "+quoted)
	}
	return out, nil
}

// scanDir is where PHP looks for more ini files when it starts; the master's names
// ours too, which the programs that PHP starts have no business with.
const scanDir = "PHP_INI_SCAN_DIR"

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// env passes the environment on. The values are in the master's own: they arrive as
// they are, whatever is in them, and no password is written to a file.
func (r rendering) env(string) ([]string, error) {
	env := r.environment()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !envName.MatchString(name) {
			return nil, fmt.Errorf("environment variable %q: PHP-FPM does not take such a name", name)
		}
		value := "$" + r.called(name)
		if r.literal || name == scanDir {
			var err error
			if value, err = quote(env[name]); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", name, err)
			}
			if strings.HasPrefix(env[name], "$") {
				return nil, fmt.Errorf("environment variable %s: it begins with $, which a reload cannot hand on", name)
			}
		}
		out = append(out, "env["+name+"] = "+value)
	}
	return out, nil
}

// environment is what PHP finds in its own.
func (r rendering) environment() map[string]string {
	env := maps.Clone(r.pool.Env)
	if env == nil {
		env = map[string]string{}
	}
	for _, ours := range []string{"FPM_SOCKETS", "NOTIFY_SOCKET", "SUPERD_SLOT"} {
		delete(env, ours)
	}
	env["SUPERD_RELEASE"], env["SUPERD_RELEASE_DIR"] = r.at.Release, r.at.Dir
	return env
}

// master is the environment of the master.
func (r rendering) master(dir string) []string {
	env := map[string]string{}
	for name, value := range r.environment() {
		env[r.called(name)] = value
	}
	env[scanDir] += ":" + filepath.Join(dir, iniDir) // an empty part is where PHP looks by itself
	var all []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// aside is before a name under which nothing but the lines of fpm.conf looks.
const aside = "SUPERD_ENV_"

// called is what the master has a variable under. It is root where superd is, and obeys
// LD_PRELOAD, PHPRC and their like: the names that who deploys has chosen are their own
// only in the workers, who have given those rights up.
func (r rendering) called(name string) string {
	if os.Geteuid() == 0 && r.pool.Theirs[name] {
		return aside + name
	}
	return name
}

// values are the settings of PHP, and those that pin the release.
func (r rendering) values(dir string) ([]string, error) {
	settings := r.settings(dir)
	for name, value := range settings {
		if strings.HasSuffix(name, "extension") || strings.ContainsAny(value, "\r\n") {
			delete(settings, name) // only a file can say it
		}
	}
	if r.pool.Pin {
		settings["doc_root"] = r.documentRoot()
		settings["auto_prepend_file"] = filepath.Join(dir, r.at.pinFile())
		settings["cgi.fix_pathinfo"] = "1" // else PATH_INFO takes the place of the script's name
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		quoted, err := quote(settings[name])
		if err != nil {
			return nil, fmt.Errorf("ini %s: %w", name, err)
		}
		out = append(out, "php_admin_value["+name+"] = "+quoted)
	}
	return out, nil
}

var iniName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// ini is superd.ini, which PHP reads behind its php.ini when it starts.
func (r rendering) ini(dir string) (string, error) {
	var out strings.Builder
	settings := r.settings(dir)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !iniName.MatchString(name) {
			return "", fmt.Errorf("ini %q: PHP does not take such a name", name)
		}
		if strings.ContainsRune(settings[name], 0) {
			return "", fmt.Errorf("ini %s: there is a line break or NUL in it", name)
		}
		out.WriteString(name + " = " + quoted(settings[name]) + "\n")
	}
	return out.String(), nil
}

// settings are the user's. Where they confine PHP to directories, the pin is let in.
func (r rendering) settings(dir string) map[string]string {
	settings := maps.Clone(r.pool.INI)
	if settings == nil {
		settings = map[string]string{}
	}
	if basedir := settings["open_basedir"]; r.pool.Pin && basedir != "" {
		settings["open_basedir"] = basedir + ":" + filepath.Join(dir, r.at.pinFile())
	}
	return settings
}

func (r rendering) documentRoot() string { return filepath.Join(r.at.Dir, r.pool.DocumentRoot) }

// pin is a script that runs before every other. PHP-FPM opens doc_root and the name
// of the script below it, but tells PHP what the web server sent; that is put right
// here. What the user has as auto_prepend_file runs next. It leaves no variable behind.
func (r rendering) pin() string {
	root := phpQuote(r.documentRoot())
	own := "get_cfg_var('auto_prepend_file')"
	if file, ok := r.pool.INI["auto_prepend_file"]; ok {
		own = phpQuote(file)
	}
	return `<?php
// Written by superd: this PHP runs one release only, whatever path the web server sends.
$_SERVER['DOCUMENT_ROOT'] = ` + root + `;
$_SERVER['SCRIPT_FILENAME'] = ` + root + ` . $_SERVER['SCRIPT_NAME'];
if (isset($_SERVER['PATH_TRANSLATED'])) {
    $_SERVER['PATH_TRANSLATED'] = ` + root + ` . ($_SERVER['PATH_INFO'] ?? '');
}
if (!in_array(` + own + `, [false, '', 'none'], true)) {
    require ` + own + `;
}
`
}

func phpQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// quote makes a value that PHP-FPM reads as exactly s. Its file is read line by
// line, so no value can have two.
func quote(s string) (string, error) {
	if strings.ContainsAny(s, "\r\n\x00") {
		return "", errors.New("there is a line break or NUL in it, which PHP-FPM's configuration cannot express")
	}
	return quoted(s), nil
}

// quoted is s for PHP's ini scanner. Between apostrophes nothing has a meaning, not
// even ${…}; apostrophes stand between quotation marks, and the parts join. No part
// may be empty.
func quoted(s string) string {
	if s == "" {
		return `""`
	}
	return parts.ReplaceAllStringFunc(s, func(part string) string {
		if part[0] == '\'' {
			return `"` + part + `"`
		}
		return "'" + part + "'"
	})
}

var parts = regexp.MustCompile(`(?s)'+|[^']+`)

// seconds is a duration as PHP-FPM takes it, rounded up: 0 would mean "not at all".
func seconds(d time.Duration) string {
	return strconv.Itoa(int(min(math.Ceil(d.Seconds()), math.MaxInt32))) + "s"
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

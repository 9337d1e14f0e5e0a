package supervisord

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// This file is where output goes, the environment, and the keys without a place.

func (p *plan) output(w *tomlWriter, u *unit) {
	one, s := u.process, u.program.section
	stdout := p.destination(u, "stdout", one.Stdout)
	stderr := "stdout"
	if !one.Redirect {
		stderr = p.destination(u, "stderr", one.Stderr)
	}
	if stderr == stdout {
		stderr = "stdout"
	}
	var keys []string
	add := func(format string, args ...any) { keys = append(keys, fmt.Sprintf(format, args...)) }
	if stdout != "file" {
		add("stdout = %s", quoted(stdout))
	}
	if stderr != "stdout" {
		add("stderr = %s", quoted(stderr))
	}
	rotated := one.Stdout
	if own(stderr) && !own(stdout) {
		rotated = one.Stderr
	}
	if own(stdout) || own(stderr) || stdout == "file" {
		if rotated.MaxBytes != 50<<20 {
			add("max_size = %s", size(rotated.MaxBytes))
		}
		if rotated.Backups != 10 {
			add("keep = %d", min(max(0, rotated.Backups), 100_000))
		}
	}
	if own(stdout) || own(stderr) {
		add("compress = false") // whoever reads x.log.1 finds it as before
	}
	if len(keys) > 0 {
		w.key("log", "{ "+strings.Join(keys, ", ")+" }")
	}
	if own(stdout) && (own(stderr) || !one.Redirect && one.Stderr.Log == one.Stdout.Log) && (one.Stdout.MaxBytes != one.Stderr.MaxBytes || one.Stdout.Backups != one.Stderr.Backups) {
		p.find(Changed, s, "stderr_logfile_maxbytes", "both outputs are rotated alike in superd; what stdout_logfile_… says counts for both")
	}
}

func own(destination string) bool { return strings.ContainsAny(destination, "/{") }

// destination is where a stream goes, in superd's words.
func (p *plan) destination(u *unit, name string, s Stream) string {
	section := u.program.section
	switch {
	case s.Syslog:
		if s.Log != logNone && s.Log != logAuto {
			p.find(Changed, section, name+"_syslog", "went to syslog and to a file; superd writes it to syslog")
		}
		return "syslog"
	case s.Log == logAuto:
		p.temporary = true
		return "file"
	case s.Log == logNone:
		return "none"
	case device(s.Log) == "inherit":
		if !ordinary(s.Log) {
			p.find(Changed, section, name+"_logfile", "went to %s; superd writes what its programs inherit to its standard output", s.Log)
		}
		return "inherit"
	case device(s.Log) != "":
		return device(s.Log)
	}
	return text(s.Log)
}

// env writes the environment; a value may be a template.
func (p *plan) env(w *tomlWriter, u *unit) {
	all := u.process.Environment
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.Trim(name, letters) != "" || name[0] >= '0' && name[0] <= '9' {
			p.find(Refused, u.program.section, "environment", "%q cannot be the name of a variable in superd: letters, digits and _ only, no digit first", short(text(name)))
			continue
		}
		if strings.ContainsFunc(all[name], isControl) {
			p.find(Refused, u.program.section, "environment", "the value of %s has a line end or another control character in it, which superd does not take; let the program read it from a file", name)
			continue
		}
		pairs = append(pairs, name+" = "+quoted(text(all[name])))
		for _, from := range variables(all[name]) {
			if _, set := p.opts.LookupEnv(from); !set {
				p.find(Changed, u.program.section, "environment", "{env:%s} is what the environment of superd will say, and it is not set here; superd needs it when the program starts", from)
			}
		}
	}
	if len(pairs) > 0 {
		w.key("env", "{ "+strings.Join(pairs, ", ")+" }")
	}
}

// ignored tells of keys that superd has nothing for.
func (p *plan) ignored(u *unit) {
	s := u.program.section
	for _, key := range s.keys {
		switch key {
		case "stdout_capture_maxbytes", "stderr_capture_maxbytes", "stdout_events_enabled", "stderr_events_enabled":
			p.find(Ignored, s, key, "what a program writes becomes no event in superd; follow it with superctl logs -f %s", u.name)
		case "serverurl":
			p.find(Ignored, s, key, "superd sets no SUPERVISOR_SERVER_URL; who needs it writes it into env")
		}
	}
}

// general tells what is different for every program, and of [supervisord].
func (p *plan) general() {
	s := p.conf.Daemon.section
	about := map[string]string{
		"logfile":          "superd's own log goes to where it is started from: the journal under systemd, or the terminal",
		"logfile_maxbytes": "superd's own log is kept by what keeps its output, such as the journal",
		"logfile_backups":  "superd's own log is kept by what keeps its output, such as the journal",
		"pidfile":          "superd writes superd.pid in its run_dir, the PID of its keeper; superctl pid prints its own",
		"nocleanup":        "superd removes no log when it starts",
		"childlogdir":      "logs without a path of their own are in superd's log_dir, /var/log/superd",
		"strip_ansi":       "superd stores what programs write as they write it",
		"identifier":       "superd has no name of its own; the XML-RPC says supervisor",
		"silent":           "superd's own log is set by [log]",
		"profile_options":  "superd has its own ways to be measured",
		"minfds":           "is the limit nofile of every program; superd's own limit is that of its unit",
		"minprocs":         "is the limit nproc of every program; superd's own limit is that of its unit",
		"user":             "superd itself runs as root; programs without a user run as this one",
		"nodaemon":         "superd run is always in the foreground; systemd, or the container, starts it",
		"environment":      "is in the env of every program",
	}
	for _, key := range s.keys {
		if text, ok := about[key]; ok {
			kind := Ignored
			if slices.Contains([]string{"minfds", "minprocs", "user", "nodaemon", "environment"}, key) {
				kind = Note
			}
			p.find(kind, s, key, "%s", text)
		}
	}
	p.daemonized()
	if len(p.units) > 0 {
		for _, text := range everywhere {
			p.conf.Findings = append(p.conf.Findings, Finding{Kind: Changed, Text: text})
		}
	}
	if p.temporary {
		p.conf.Findings = append(p.conf.Findings, Finding{Kind: Changed, Text: "every output without a logfile: superd keeps it in /var/log/superd/programs, both of a program in one file; supervisord kept two in childlogdir, until it was started again"})
	}
	if c, ok := p.conf.ini.named["supervisorctl"]; ok {
		p.find(Ignored, c, "", "superctl finds superd by --socket or SUPERD_SOCKET, and needs none of this; supervisorctl itself is told -s unix:///run/superd/supervisor.sock")
	}
}

// daemonized tells of what supervisord does only when it goes into the background.
func (p *plan) daemonized() {
	d := p.conf.Daemon
	for key, effect := range map[string]string{
		"directory": "is the directory of programs that name none",
		"umask":     "is the umask of programs that name none",
	} {
		switch {
		case !p.has(d.section, key) || key == "directory" && d.Directory == "":
		case d.NoDaemon:
			p.find(Unhelpful, d.section, key, "has an effect only when supervisord goes into the background, and nodaemon is true: it is not taken over")
		case key == "directory" && p.base() != d.Directory:
			p.find(Changed, d.section, key, "is relative to where supervisord was started, which superd cannot know; programs that name no directory are run in /")
		default:
			p.find(Note, d.section, key, "%s, as when supervisord goes into the background; started with -n, as by Debian's unit, it did not do that", effect)
		}
	}
}

// everywhere is what is different for all programs.
var everywhere = []string{
	"every program: after an exit superd waits before it starts it again, 0.5 s at first and more each time (backoff), and gives up only with max_restarts; supervisord started it at once when it had run for startsecs, and gave up after startretries when it had not",
	"every program: superd sets HOME, USER and LOGNAME for a program with a user; supervisord left those of root",
	"every program: SUPERVISOR_ENABLED, SUPERVISOR_PROCESS_NAME, SUPERVISOR_GROUP_NAME and SUPERVISOR_SERVER_URL are not set; who needs one writes it into env",
}

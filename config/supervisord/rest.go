package supervisord

import (
	"slices"
	"strings"
)

// This file tells of what supervisord reads and superd has no use for, and of what
// supervisord does not read at all: a key that is misspelt has never worked, and its
// owner should know.

var (
	daemonKeys = strings.Fields(`logfile logfile_maxbytes logfile_backups loglevel pidfile umask nodaemon silent minfds
		minprocs nocleanup childlogdir user directory strip_ansi environment identifier profile_options`)
	programKeys = strings.Fields(`command process_name numprocs numprocs_start priority autostart startsecs startretries
		autorestart exitcodes stopsignal stopwaitsecs stopasgroup killasgroup user redirect_stderr stdout_logfile
		stdout_logfile_maxbytes stdout_logfile_backups stdout_capture_maxbytes stdout_events_enabled stdout_syslog
		stderr_logfile stderr_logfile_maxbytes stderr_logfile_backups stderr_capture_maxbytes stderr_events_enabled
		stderr_syslog environment directory umask serverurl`)
	listenerKeys  = append(slices.Clone(programKeys), "events", "buffer_size", "result_handler")
	fcgiKeys      = append(slices.Clone(programKeys), "socket", "socket_backlog", "socket_owner", "socket_mode")
	groupKeys     = []string{"programs", "priority"}
	inetKeys      = []string{"port", "username", "password"}
	unixKeys      = []string{"file", "chmod", "chown", "username", "password"}
	includeKeys   = []string{"files"}
	clientKeys    = []string{"serverurl", "username", "password", "prompt", "history_file"}
	mainInterface = "supervisor.rpcinterface:make_main_rpcinterface"
	interfaceKey  = "supervisor.rpcinterface_factory"
)

// rest tells of every section and key that has not been taken.
func (r *reader) rest() {
	for _, s := range r.ini.sections {
		kind, name, named := strings.Cut(s.name, ":")
		var known []string
		switch {
		case s.name == "supervisord":
			known = daemonKeys
		case s.name == "supervisorctl":
			known = clientKeys
		case s.name == "include":
			known = includeKeys
		case kind == kindProgram && named:
			known = programKeys
		case kind == kindListener && named:
			known = listenerKeys
		case kind == kindFCGI && named:
			known = fcgiKeys
		case kind == kindGroup && named:
			known = groupKeys
		case strings.HasPrefix(kind, "inet_http_server"):
			known = inetKeys
		case strings.HasPrefix(kind, "unix_http_server"):
			known = unixKeys
		case kind == "rpcinterface" && named:
			r.rpcInterface(s, name)
			continue
		case kind == "ctlplugin" && named:
			r.find(Refused, s, "", "is a plugin of supervisorctl in Python, which superctl cannot load")
			continue
		default:
			r.find(Unhelpful, s, "", "is no section that supervisord knows, so nothing in it ever had an effect%s", meant(s.name))
			continue
		}
		r.unknown(s, known)
	}
}

// meant guesses the section a misspelt one was to be.
func meant(name string) string {
	kind, rest, named := strings.Cut(name, ":")
	lower := strings.ToLower(strings.TrimSpace(kind))
	for _, known := range []string{"program", "group", "eventlistener", "fcgi-program"} {
		if named && strings.HasPrefix(lower, known[:4]) {
			return "; if [" + known + ":" + strings.TrimSpace(rest) + "] is meant, write it so and import again"
		}
	}
	return ""
}

func (r *reader) unknown(s *section, known []string) {
	for _, key := range s.keys {
		at := s.settings[key]
		if at.cut != "" && (key == "command" || key == "environment" || strings.Count(at.value, `"`)%2 == 1) {
			r.find(Note, s, key, "is cut where a comment begins, as supervisord does it: %q is not part of the value", short(at.cut))
		}
		switch {
		case slices.Contains(known, key):
		case strings.HasPrefix(key, "dependent_startup"):
			r.find(Changed, s, key, "is for supervisord_dependent_startup; superd orders starts itself: write after = […] and take autostart = false out")
		default:
			r.find(Unhelpful, s, key, "is no key that supervisord knows in this section, so it had no effect, unless something else reads it here")
		}
	}
}

func (r *reader) rpcInterface(s *section, name string) {
	p := r.part(s, values{})
	factory, ok := p.text(interfaceKey, "")
	switch {
	case !ok:
		r.fail(s, "", "does not say its %s", interfaceKey)
	case factory == mainInterface:
		if name != "supervisor" {
			r.find(Ignored, s, "", "serves supervisor's methods under the name %q; superd serves them as supervisor.… only", short(name))
		}
	default:
		r.find(Refused, s, interfaceKey, "%s is code in Python that supervisord loads into itself, which superd cannot do", short(factory))
	}
}

"""What the real supervisord makes of a file, as JSON: {"error": …} or what it would run.

Users, groups and directories need not exist, and code that a file names is not
loaded: only what depends on the file is asked.
"""
import json, os, sys
from supervisor import options, datatypes, dispatchers
from supervisor.datatypes import Automatic, Syslog, RestartUnconditionally, RestartWhenExitUnexpected

for module in (options, datatypes):
    module.existing_dirpath = os.path.expanduser
    module.existing_directory = os.path.expanduser
options.name_to_uid = lambda name: name
options.gid_for_uid = lambda uid: uid
options.colon_separated_user_group = lambda text: text
options.platform.node = lambda: "oracle.example"
options.ServerOptions.import_spec = lambda self, spec: dispatchers.default_handler


def log(value):
    return "AUTO" if value is Automatic else "NONE" if value is None else "syslog" if value is Syslog else value


def stream(p, name):
    get = lambda key: getattr(p, "%s_%s" % (name, key))
    return {"Log": log(get("logfile")), "MaxBytes": get("logfile_maxbytes"), "Backups": get("logfile_backups"),
            "Capture": get("capture_maxbytes"), "Events": get("events_enabled"), "Syslog": get("syslog")}


def process(p):
    restart = {RestartUnconditionally: "always", RestartWhenExitUnexpected: "unexpected", False: "never"}[p.autorestart]
    return {"Name": p.name, "Command": p.command, "Directory": p.directory or "", "Umask": -1 if p.umask is None else p.umask,
            "Priority": p.priority, "AutoStart": p.autostart, "AutoRestart": restart, "StartSecs": p.startsecs,
            "StartRetries": p.startretries, "User": p.uid or "", "Stdout": stream(p, "stdout"), "Stderr": stream(p, "stderr"),
            "StopSignal": int(p.stopsignal), "StopWaitSecs": p.stopwaitsecs, "StopAsGroup": p.stopasgroup,
            "KillAsGroup": p.killasgroup, "ExitCodes": p.exitcodes, "Redirect": p.redirect_stderr,
            "Environment": p.environment, "ServerURL": p.serverurl or ""}


def load(path):
    o = options.ServerOptions()
    o.configfile = path
    o.here = os.path.dirname(os.path.abspath(path))
    o.read_config(path)
    s = o.configroot.supervisord
    groups = {}
    for g in s.process_group_configs:
        if g.name in groups:
            continue  # as supervisord's add_process_group
        kind = {"EventListenerPoolConfig": "eventlistener", "FastCGIGroupConfig": "fcgi-program"}.get(type(g).__name__, "")
        events = []
        if kind == "eventlistener":
            from supervisor.events import getEventNameByType
            events = sorted(getEventNameByType(e) for e in g.pool_events)
        names = {}
        for p in g.process_configs:
            names[p.name] = process(p)
        groups[g.name] = {"Priority": g.priority, "Kind": kind, "Events": events,
                          "Processes": names}
    servers = [{"File": c.get("file", ""), "Host": c.get("host", ""), "Port": c.get("port", 0)} for c in s.server_configs]
    return {"MinFDs": s.minfds, "MinProcs": s.minprocs, "Directory": s.directory or "", "User": s.user or "", "Umask": s.umask,
            "NoDaemon": s.nodaemon, "StripANSI": s.strip_ansi, "Groups": groups,
            "Servers": sorted(servers, key=lambda c: (c["File"], c["Host"], c["Port"]))}


answers = {}
for path in json.load(sys.stdin):
    for name in [n for n in os.environ if n.startswith("T_")]:
        del os.environ[name]
    with open(path, "rb") as f:
        first = f.readline().decode("utf-8", "replace").strip()
    if first.startswith("; env:"):
        for pair in first[len("; env:"):].split():
            name, _, value = pair.partition("=")
            os.environ[name] = value
    try:
        answers[path] = load(path)
    except SystemExit:
        answers[path] = {"Error": "usage"}
    except Exception as e:
        answers[path] = {"Error": "%s: %s" % (type(e).__name__, e)}
json.dump(answers, sys.stdout)

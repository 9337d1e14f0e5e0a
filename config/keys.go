package config

// This file is the schema: every key there is, what its value must be, and where
// it goes. The check for unknown keys, the reference in docs and the tests of
// the contract all read these tables, so a key is added here and nowhere else.

// A key of a table.
type key struct {
	name  string
	kind  kind
	later bool // accepted, and without effect in this version
}

func namesOf(keys []key) []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}

// topKeys are those outside any table. What a file has of apps, programs and the like
// is only collected: it depends on what another file may say.
func topKeys(c *Config, f *found) []key {
	return []key{
		{name: "socket", kind: absolute{into: &c.Socket}},
		{name: "run_dir", kind: absolute{into: &c.RunDir}},
		{name: "state_dir", kind: absolute{into: &c.StateDir}},
		{name: "log_dir", kind: absolute{into: &c.LogDir}},
		{name: "include", kind: texts{into: &f.include, want: `an array of file names or patterns, such as ["conf.d/*.toml"]`}},
		{name: "log", kind: section{func() []key { return logKeys(&c.Log) }}},
		{name: "access", kind: rows{into: &f.access, keys: func() []key { return accessKeys(new(Access)) }}},
		{name: "app", kind: named{into: &f.apps, keys: func() []key { a := newApp(""); return appKeys(&a) }}},
		{name: "metrics", kind: section{func() []key { return metricsKeys(&c.Metrics) }}},
		{name: "web", kind: section{func() []key { return webKeys(&c.Web) }}},
		{name: "compat", kind: section{func() []key { return compatKeys(&c.Compat) }}},
		{name: "program", kind: named{into: &f.programs, keys: func() []key { p := newProgram(""); return programKeys(&p) }}},
		{name: "group", kind: named{into: &f.groups, keys: func() []key { return groupKeys(new(Group)) }}},
	}
}

func logKeys(l *Log) []key {
	return []key{
		{name: "level", kind: choice{&l.Level, []string{"debug", "info", "warn", "error"}}},
		{name: "format", kind: choice{&l.Format, []string{"auto", "text", "journal", "json"}}},
	}
}

func accessKeys(a *Access) []key {
	return []key{
		{name: "user", kind: account{into: &a.User}},
		{name: "group", kind: account{into: &a.Group, group: true}},
		{name: "role", kind: choice{&a.Role, []string{"read", "operate", "admin"}}},
		{name: "apps", kind: texts{into: &a.Apps, want: `an array of apps, such as ["shop"]`}},
	}
}

func appKeys(a *App) []key {
	return []key{
		{name: "root", kind: absolute{into: &a.Root, known: map[string]string{"app": a.Name}}},
		{name: "releases", kind: text{into: &a.Releases, want: `the name of a directory inside root, such as "releases"`}},
		{name: "current", kind: text{into: &a.Current, want: `the name of a link inside root, such as "current"`}},
		{name: "user", kind: account{into: &a.User}},
		{name: "group", kind: account{into: &a.Group, group: true}},
		{name: "env", kind: environment{&a.Env}},
		{name: "env_file", kind: template{&a.EnvFile, `a file, such as "/srv/shop/shared/.env"`}},
		{name: "switch", kind: section{func() []key { return switchKeys(&a.Switch) }}},
		{name: "fpm", kind: section{func() []key { a.FPM = newFPM(); return fpmKeys(a.FPM, a) }}},
		{name: "worker", kind: tables[Worker]{&a.Workers, newWorker, workerKeys, checkWorker}},
		{name: "check", kind: lists[Check]{&a.Checks, newCheck, checkKeys, checkCheck}},
	}
}

func switchKeys(s *Switch) []key {
	return []key{
		{name: "watch", kind: duration{into: &s.Watch}},
		{name: "follow_link", kind: flag{&s.FollowLink}},
		{name: "settle", kind: duration{into: &s.Settle}},
		{name: "missing_grace", kind: duration{into: &s.MissingGrace}},
		{name: "auto_rollback", kind: flag{&s.AutoRollback}},
		{name: "max_failures", kind: number{&s.MaxFailures, 0, maxCount}},
		{name: "progress_deadline", kind: duration{into: &s.ProgressDeadline, positive: true}},
		{name: "keep_releases", kind: number{&s.KeepReleases, 1, maxCount}},
		{name: "required", kind: inside{into: &s.Required, want: `an array of files inside the release, such as ["vendor/autoload.php"]`}},
		{name: "before", kind: section{func() []key { s.Before = newHook(); return hookKeys(s.Before) }}},
		{name: "after", kind: section{func() []key { s.After = newHook(); return hookKeys(s.After) }}},
		{name: "max_error_rate", kind: fraction{&s.MaxErrorRate}},
		{name: "min_requests", kind: number{&s.MinRequests, 0, maxCount}},
		{name: "canary_share", kind: percentage{&s.CanaryShare}},
		{name: "canary_time", kind: duration{into: &s.CanaryTime, positive: true}},
	}
}

func hookKeys(h *Hook) []key {
	return []key{
		{name: "command", kind: command{&h.Command}},
		{name: "timeout", kind: duration{into: &h.Timeout, positive: true}},
	}
}

func fpmKeys(f *FPM, a *App) []key {
	return []key{
		{name: "binary", kind: text{into: &f.Binary, want: `a program, such as "php-fpm8.2"`}},
		{name: "user", kind: account{into: &f.User}},
		{name: "group", kind: account{into: &f.Group, group: true}},
		{name: "listen", kind: listener{&f.Listen, a}},
		{name: "listen_owner", kind: account{into: &f.ListenOwner}},
		{name: "listen_group", kind: account{into: &f.ListenGroup, group: true}},
		{name: "listen_mode", kind: mode{into: &f.ListenMode}},
		{name: "backlog", kind: number{&f.Backlog, 1, 65535}},
		{name: "document_root", kind: inside{one: &f.DocumentRoot, want: `a directory inside the release, such as "public"`}},
		{name: "handoff", kind: choice{&f.Handoff, []string{"parallel", "reload"}}},
		{name: "pin", kind: flag{&f.Pin}},
		{name: "pm", kind: choice{&f.PM, []string{"static", "dynamic", "ondemand"}}},
		{name: "max_children", kind: number{&f.MaxChildren, 1, maxCount}},
		{name: "start_servers", kind: number{&f.StartServers, 1, maxCount}},
		{name: "min_spare_servers", kind: number{&f.MinSpareServers, 1, maxCount}},
		{name: "max_spare_servers", kind: number{&f.MaxSpareServers, 1, maxCount}},
		{name: "max_requests", kind: number{&f.MaxRequests, 0, 1 << 30}},
		{name: "request_terminate_timeout", kind: duration{into: &f.RequestTerminateTimeout, whole: true}},
		{name: "slowlog_timeout", kind: duration{into: &f.SlowlogTimeout, whole: true}},
		{name: "drain_timeout", kind: duration{into: &f.DrainTimeout, positive: true}},
		{name: "ini", kind: settings{&f.INI}},
		{name: "args", kind: texts{into: &f.Args, want: `an array of arguments, such as ["-c", "/etc/php.ini"]`}},
		{name: "include", kind: texts{into: &f.Include, want: `an array of files, such as ["/etc/superd/shop-pool.conf"]`}},
		{name: "warmup", kind: texts{into: &f.Warmup, want: `an array of paths, such as ["/", "/login"]`}},
		{name: "log", kind: section{func() []key { return outputKeys(&f.Log) }}},
	}
}

func workerKeys(w *Worker) []key {
	return []key{
		{name: "command", kind: command{&w.Command}},
		{name: "processes", kind: number{&w.Processes, 0, maxCount}},
		{name: "order", kind: choice{&w.Order, []string{"start-first", "stop-first"}}},
		{name: "canary", kind: number{&w.Canary, 0, maxCount}},
		{name: "max_parallel", kind: share{&w.MaxParallel}},
		{name: "min_healthy_time", kind: duration{into: &w.MinHealthyTime}},
		{name: "ready", kind: readiness{&w.Ready, &w.ReadyLog, false}},
		{name: "ready_command", kind: command{&w.ReadyCommand}},
		{name: "stop_signal", kind: signal{into: &w.StopSignal}},
		{name: "stop_timeout", kind: duration{into: &w.StopTimeout, infinity: true}},
		{name: "max_draining", kind: number{&w.MaxDraining, 1, maxCount}},
		{name: "max_memory", kind: size{&w.MaxMemory}},
		{name: "max_age", kind: optionalDuration{&w.MaxAge}},
		{name: "watchdog", kind: duration{into: &w.Watchdog}},
		{name: "planned_exits", kind: numbers{&w.PlannedExits, 0, 255, "an array of exit codes, such as [0, 12]"}},
		{name: "env", kind: environment{&w.Env}},
		{name: "nice", kind: number{&w.Nice, -20, 19}},
		{name: "limits", kind: limits{&w.Limits}},
		{name: "log", kind: section{func() []key { return outputKeys(&w.Log) }}},
	}
}

func outputKeys(o *Output) []key {
	return []key{
		{name: "stdout", kind: destination{into: &o.Stdout}},
		{name: "stderr", kind: destination{into: &o.Stderr, stdout: true}},
		{name: "max_size", kind: size{&o.MaxSize}},
		{name: "keep", kind: number{&o.Keep, 0, maxCount}},
		{name: "compress", kind: flag{&o.Compress}},
		{name: "max_age", kind: optionalDuration{&o.MaxAge}},
		{name: "max_total", kind: size{&o.MaxTotal}},
		{name: "timestamps", kind: flag{&o.Timestamps}},
		{name: "format", kind: choice{&o.Format, []string{"raw", "json"}}},
	}
}

func programKeys(p *Program) []key {
	return []key{
		{name: "description", kind: text{into: &p.Description, want: `a few words, such as "the web server"`}},
		{name: "command", kind: command{&p.Command}},
		{name: "after", kind: texts{into: &p.After, want: `an array of programs and apps, such as ["redis"]`}},
		{name: "requires", kind: texts{into: &p.Requires, want: `an array of programs, such as ["redis"]`}},
		{name: "autostart", kind: flag{&p.Autostart}},
		{name: "restart", kind: choice{&p.Restart, []string{"always", "unexpected", "never"}}},
		{name: "planned_exits", kind: numbers{&p.PlannedExits, 0, 255, "an array of exit codes, such as [0, 2]"}},
		{name: "ready", kind: readiness{&p.Ready, &p.ReadyLog, true}},
		{name: "ready_command", kind: command{&p.ReadyCommand}},
		{name: "min_healthy_time", kind: duration{into: &p.MinHealthyTime}},
		{name: "backoff", kind: section{func() []key { return backoffKeys(&p.Backoff) }}},
		{name: "max_restarts", kind: number{&p.MaxRestarts, 0, maxCount}},
		{name: "restart_window", kind: duration{into: &p.RestartWindow, positive: true}},
		{name: "processes", kind: number{&p.Processes, 0, maxCount}},
		{name: "directory", kind: template{&p.Directory, `the absolute path of a directory, such as "/srv/shop"`}},
		{name: "user", kind: account{into: &p.User}},
		{name: "group", kind: account{into: &p.Group, group: true}},
		{name: "umask", kind: mode{into: &p.Umask, mask: true}},
		{name: "stdin", kind: choice{&p.Stdin, []string{"null", "pipe"}}},
		{name: "env", kind: environment{&p.Env}},
		{name: "env_file", kind: template{&p.EnvFile, `a file, such as "/etc/default/nginx"`}},
		{name: "clear_env", kind: flag{&p.ClearEnv}},
		{name: "reload", kind: section{func() []key { p.Reload = new(Reload); return reloadKeys(p.Reload) }}},
		{name: "stop_signal", kind: signal{into: &p.StopSignal}},
		{name: "stop_timeout", kind: duration{into: &p.StopTimeout, infinity: true}},
		{name: "kill_scope", kind: choice{&p.KillScope, []string{"tree", "process"}}},
		{name: "nice", kind: number{&p.Nice, -20, 19}},
		{name: "limits", kind: limits{&p.Limits}},
		{name: "max_memory", kind: size{&p.MaxMemory}},
		{name: "max_age", kind: optionalDuration{&p.MaxAge}},
		{name: "watchdog", kind: duration{into: &p.Watchdog}},
		{name: "schedule", kind: text{into: &p.Schedule, want: wantSchedule}},
		{name: "timezone", kind: text{into: &p.Timezone, want: `the name of a time zone, such as "Europe/Berlin"`}},
		{name: "overlap", kind: choice{&p.Overlap, []string{"skip", "queue", "kill"}}},
		{name: "missed", kind: choice{&p.Missed, []string{"skip", "once"}}},
		{name: "log", kind: section{func() []key { return outputKeys(&p.Log) }}},
	}
}

func backoffKeys(b *Backoff) []key {
	return []key{
		{name: "first", kind: duration{into: &b.First, positive: true}},
		{name: "factor", kind: decimal{&b.Factor, 1, 100, "a number of at least 1, such as 2.0"}},
		{name: "max", kind: duration{into: &b.Max, positive: true}},
		{name: "jitter", kind: decimal{&b.Jitter, 0, 1, "a number from 0 to 1, such as 0.1"}},
		{name: "reset_after", kind: duration{into: &b.ResetAfter}},
	}
}

func reloadKeys(r *Reload) []key {
	return []key{
		{name: "signal", kind: signal{into: &r.Signal, any: true}},
		{name: "command", kind: command{&r.Command}},
	}
}

func groupKeys(g *Group) []key {
	return []key{{name: "members", kind: texts{into: &g.Members, want: `an array of programs and apps, such as ["program.nginx", "app.shop"]`}}}
}

func checkKeys(c *Check) []key {
	return []key{
		{name: "name", kind: text{into: &c.Name, want: `a name, such as "up"`}},
		{name: "phase", kind: choice{&c.Phase, []string{"verify", "live", "both"}}},
		{name: "kind", kind: choice{&c.Kind, []string{"fastcgi", "http", "tcp", "command"}}},
		{name: "path", kind: text{into: &c.Path, want: `the path of a request, such as "/up"`}},
		{name: "script", kind: inside{one: &c.Script, want: `a script inside document_root, such as "index.php"`}},
		{name: "status", kind: numbers{&c.Status, 100, 599, "an array of status codes, such as [200]"}},
		{name: "body", kind: pattern{&c.Body}},
		{name: "headers", kind: headers{&c.Headers}},
		{name: "url", kind: text{into: &c.URL, want: `a URL, such as "http://127.0.0.1:8080/up"`}},
		{name: "address", kind: text{into: &c.Address, want: `an address, such as "127.0.0.1:6379"`}},
		{name: "command", kind: command{&c.Command}},
		{name: "interval", kind: duration{into: &c.Interval, positive: true}},
		{name: "timeout", kind: duration{into: &c.Timeout, positive: true}},
		{name: "healthy_threshold", kind: number{&c.HealthyThreshold, 1, maxCount}},
		{name: "unhealthy_threshold", kind: number{&c.UnhealthyThreshold, 1, maxCount}},
		{name: "deadline", kind: duration{into: &c.Deadline, positive: true}},
	}
}

func metricsKeys(m *Metrics) []key {
	return []key{{name: "listen", kind: scraped{&m.Listen}}}
}

func webKeys(w *Web) []key {
	return []key{
		{name: "listen", kind: text{into: &w.Listen, want: `an address, such as "127.0.0.1:9466"`}, later: true},
		{name: "token_file", kind: text{into: &w.TokenFile, want: `a file, such as "/etc/superd/token"`}, later: true},
	}
}

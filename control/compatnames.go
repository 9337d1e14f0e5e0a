package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// What superd runs, by the names that supervisord has for it. A program is its own
// group, or is in that of its [group.x]; processes of a program that has several are
// NAME_00, NAME_01 …, as everybody writes process_name. An app is a group too: PHP-FPM
// is its process fpm, and the workers of the pool emails are emails_00 …, so that
// supervisorctl restart shop:* restarts the app. No name has a slash, which
// supervisorctl would take and its web page would not.

// Naming is what the configuration says about names.
type Naming struct {
	Groups map[string]string // a program to its group, where it has just one
	Names  map[string]string // a process, "web:0", to what it was called: "web:web_00"

	File func(process, stream string) string // that its output goes to, "" for none
}

// The states of supervisord's processes.
const (
	rpcStopped  = 0
	rpcStarting = 10
	rpcRunning  = 20
	rpcBackoff  = 30
	rpcStopping = 40
	rpcExited   = 100
	rpcFatal    = 200
	rpcUnknown  = 1000
)

var rpcStates = map[int]string{
	rpcStopped: "STOPPED", rpcStarting: "STARTING", rpcRunning: "RUNNING", rpcBackoff: "BACKOFF", rpcStopping: "STOPPING",
	rpcExited: "EXITED", rpcFatal: "FATAL", rpcUnknown: "UNKNOWN",
}

// rpcState is a state of superd's in supervisord's words.
func rpcState(state string) int {
	switch state {
	case "stopped":
		return rpcStopped
	case "starting", "waiting", "new":
		return rpcStarting
	case "running", "live", "parked":
		return rpcRunning
	case "backoff", "cooling":
		return rpcBackoff
	case "stopping", "draining", "unkillable", "stranded":
		return rpcStopping
	case "exited", "done", "finished", "completed", "scheduled":
		return rpcExited
	case "fatal", "failed":
		return rpcFatal
	}
	return rpcUnknown
}

// A namedProcess is one process as supervisord would show it.
type namedProcess struct {
	group, name string
	order       string // its name in an order to superd
	app         string // "" for a program
	state       int
	pid         int
	since       time.Time
	last        string // how its life before ended
	why         string // it is not up
	begun       bool   // it has run at least once, or was to
}

// isUp is supervisord's RUNNING_STATES: starting it is an error.
func (p namedProcess) isUp() bool {
	return p.state == rpcRunning || p.state == rpcStarting || p.state == rpcBackoff
}

// isThere is supervisord's SIGNALLABLE_STATES.
func (p namedProcess) isThere() bool {
	return p.state == rpcRunning || p.state == rpcStarting || p.state == rpcStopping
}

// spec is how supervisorctl writes it.
func (p namedProcess) spec() string {
	if p.group == p.name {
		return p.name
	}
	return p.group + ":" + p.name
}

// processes is everything the peer may see, by group and name.
func (q *request) processes() ([]namedProcess, error) {
	if err := q.mayAnywhere(RoleRead); err != nil {
		return nil, err
	}
	status, err := q.server.daemon.Status(q.http.Context())
	if err != nil {
		return nil, err
	}
	return q.named(q.grant.see(status)), nil
}

func (q *request) named(s Status) []namedProcess {
	var naming Naming
	if q.server.naming != nil {
		naming = q.server.naming()
	}
	return named(s, naming)
}

func named(s Status, naming Naming) []namedProcess {
	var all []namedProcess
	for _, a := range s.Apps {
		if a.FPM != nil {
			all = append(all, fpmProcess(a))
		}
		for _, pool := range a.Pools {
			for _, w := range pool.Workers {
				p := fromStatus(w)
				p.app, p.group = a.Name, a.Name
				p.name = numbered(strings.TrimPrefix(pool.Name, a.Name+"/"), slotOf(w.Name))
				all = append(all, p)
			}
		}
	}
	several := make(map[string]int)
	for _, p := range s.Programs {
		several[programOf(p.Name)]++
	}
	for _, p := range s.Programs {
		all = append(all, programProcess(p, several[programOf(p.Name)] > 1, naming))
	}
	slices.SortStableFunc(all, func(a, b namedProcess) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.name, b.name), cmp.Compare(age(a), age(b)))
	})
	// In a switch a slot has an old worker and a new one: the new one is it.
	return slices.CompactFunc(all, func(a, b namedProcess) bool { return a.group == b.group && a.name == b.name })
}

// age puts what is on its way out behind what is there to stay.
func age(p namedProcess) int {
	if p.state == rpcStopping {
		return 1
	}
	return 0
}

func programOf(name string) string {
	program, _, _ := strings.Cut(name, ":")
	return program
}

func slotOf(name string) string {
	return name[strings.LastIndexByte(name, ':')+1:]
}

func numbered(name, slot string) string {
	if len(slot) < 2 {
		slot = "0" + slot
	}
	return name + "_" + slot
}

func fromStatus(s ProcessStatus) namedProcess {
	return namedProcess{order: s.Name, app: s.App, state: rpcState(s.State), pid: s.PID, since: s.Since, last: s.Last, why: s.Reason,
		begun: s.PID != 0 || s.Restarts > 0 || s.Last != ""}
}

func programProcess(s ProcessStatus, several bool, naming Naming) namedProcess {
	p := fromStatus(s)
	program := programOf(s.Name)
	p.group, p.name = cmp.Or(naming.Groups[program], program), program
	if several {
		p.name = numbered(program, slotOf(s.Name))
	}
	if was := naming.Names[s.Name]; was != "" {
		group, name, grouped := strings.Cut(was, ":")
		if !grouped {
			name = group
		}
		p.group, p.name = group, name
	}
	return p
}

// fpmProcess is the PHP-FPM of an app: that of the live release if there is one.
func fpmProcess(a AppStatus) namedProcess {
	p := namedProcess{group: a.Name, name: "fpm", order: a.FPM.Name, app: a.Name, state: rpcStopped}
	for _, g := range a.FPM.Generations {
		if p.begun && g.State != "live" {
			continue
		}
		p.state, p.pid, p.since, p.why, p.begun = rpcState(g.State), g.PID, g.Since, g.Reason, true
		if g.Reason != "" {
			p.state = rpcBackoff
		}
	}
	return p
}

// meant is what a name of supervisord's means: one process, or with "group:*" a group.
// What superd itself calls a process is taken where nothing else is called so.
func meant(all []namedProcess, name string) ([]namedProcess, bool, error) {
	group, process, grouped := strings.Cut(name, ":")
	if !grouped {
		process = group
	}
	whole := grouped && (process == "" || process == "*")
	var found []namedProcess
	for _, p := range all {
		if p.group == group && (whole || p.name == process) {
			found = append(found, p)
		}
	}
	if at := slices.IndexFunc(all, func(p namedProcess) bool { return p.order == name }); len(found) == 0 && at >= 0 {
		return all[at : at+1], false, nil
	}
	if len(found) == 0 {
		return nil, false, fault(faultBadName, name)
	}
	return found, whole, nil
}

// one is the process of a name.
func (q *request) one(p *params) (namedProcess, error) {
	name := p.process()
	all, err := q.processes()
	if err != nil {
		return namedProcess{}, err
	}
	found, whole, err := meant(all, name)
	if err != nil || whole {
		return namedProcess{}, fault(faultBadName, name)
	}
	return found[0], nil
}

// unborn is how a reason begins that is no exit: the process was never there.
const unborn = "could not be started: "

// info is the struct of getProcessInfo, with the files that the process has.
func (q *request) info(one namedProcess) map[string]any {
	info := one.info(time.Now())
	if q.server.naming == nil {
		return info
	}
	if file := q.server.naming().File; file != nil {
		out := file(one.order, "stdout")
		info["logfile"], info["stdout_logfile"], info["stderr_logfile"] = out, out, file(one.order, "stderr")
	}
	return info
}

// info is what the process itself tells.
func (p namedProcess) info(now time.Time) map[string]any {
	start, stop := 0, 0
	if p.begun && !p.since.IsZero() {
		start = int(p.since.Unix())
	}
	if !p.isThere() {
		stop = start
	}
	spawn := p.spawnError()
	return map[string]any{
		"name": p.name, "group": p.group, "start": start, "stop": stop, "now": int(now.Unix()),
		"state": p.state, "statename": rpcStates[p.state], "spawnerr": spawn, "exitstatus": 0,
		"logfile": "", "stdout_logfile": "", "stderr_logfile": "", "pid": p.pid,
		"description": p.describe(now, spawn),
	}
}

// spawnError is why it is not up: supervisord's words for a program that ended, and the
// reason for one that could not be executed, or was ended by superd.
func (p namedProcess) spawnError() string {
	if p.state != rpcBackoff && p.state != rpcFatal {
		return ""
	}
	if p.pid == 0 && strings.HasPrefix(p.why, unborn) {
		return p.why
	}
	reason := cmp.Or(p.last, p.why)
	if reason == "" || strings.HasPrefix(reason, "exit ") || strings.HasPrefix(reason, "signal ") {
		return "Exited too quickly (process log may have details)"
	}
	return reason
}

// describe is the last column of supervisorctl status.
func (p namedProcess) describe(now time.Time, spawn string) string {
	switch p.state {
	case rpcRunning:
		return fmt.Sprintf("pid %d, uptime %s", p.pid, uptime(now.Sub(p.since)))
	case rpcBackoff, rpcFatal:
		return spawn
	case rpcStopped, rpcExited:
		if !p.begun || p.since.IsZero() {
			return "Not started"
		}
		return p.since.Local().Format("Jan 02 03:04 PM")
	}
	return ""
}

// uptime is Python's way to print a timedelta.
func uptime(d time.Duration) string {
	seconds := int(max(0, d).Seconds())
	days := seconds / 86400
	clock := fmt.Sprintf("%d:%02d:%02d", seconds/3600%24, seconds/60%60, seconds%60)
	switch days {
	case 0:
		return clock
	case 1:
		return "1 day, " + clock
	}
	return fmt.Sprintf("%d days, %s", days, clock)
}

// result is the struct that the verbs for several processes answer for each.
func (p namedProcess) result(err error) map[string]any {
	r := map[string]any{"name": p.name, "group": p.group, "status": faultSuccess, "description": "OK"}
	if err != nil {
		f := asFault(err, p.spec())
		r["status"], r["description"] = f.Code, f.Text
	}
	return r
}

// byTheirName has an order done for a name that is supervisord's, "front:web" or
// "jobs:*". False: it is not one of those either.
func (q *request) byTheirName(o ProcessOrder) ([]ProcessResult, bool) {
	all, err := q.processes()
	if err != nil {
		return nil, false
	}
	found, _, err := meant(all, o.Name)
	if err != nil || o.Verb == VerbScale {
		return nil, false
	}
	results := make([][]ProcessResult, len(found))
	var doing sync.WaitGroup
	for i, one := range found {
		doing.Go(func() {
			own := o
			own.Name = one.order
			err := q.may(RoleOperate, one.app)
			if err == nil {
				results[i], err = q.server.daemon.Process(q.http.Context(), own, q.by())
			}
			if err != nil {
				results[i] = []ProcessResult{{Name: one.order, Kind: KindOf(err), Message: err.Error()}}
			}
		})
	}
	doing.Wait()
	return slices.Concat(results...), true
}

package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"superd/control/xmlrpc"
)

// The methods of supervisord, by name.

// A compatMethod is one of them.
type compatMethod struct {
	do        func(*request, *params) (any, error)
	changes   bool
	signature string // what it returns and takes, as system.methodSignature says it
	help      string
}

// supervisorVersion is what superd answers to: the one whose ways it has.
const supervisorVersion = "4.2.5"

const apiVersion = "3.0"

func constant(value any) func(*request, *params) (any, error) {
	return func(*request, *params) (any, error) { return value, nil }
}

// compatMethods is made for each call: it has itself in it.
func compatMethods() map[string]compatMethod {
	all := map[string]compatMethod{
		"supervisor.getAPIVersion":        {constant(apiVersion), false, "string", "The version of the API."},
		"supervisor.getVersion":           {constant(apiVersion), false, "string", "The same as getAPIVersion."},
		"supervisor.getSupervisorVersion": {constant(supervisorVersion), false, "string", "The version of supervisord that superd answers like."},
		"supervisor.getIdentification":    {constant("supervisor"), false, "string", "The name of this supervisord."},
		"supervisor.getState":             {constant(map[string]any{"statecode": 1, "statename": "RUNNING"}), false, "struct", "What superd itself is doing."},
		"supervisor.getPID":               {(*request).rpcPID, false, "int", "The PID of superd."},
		"supervisor.getProcessInfo":       {(*request).rpcInfo, false, "struct string", "One process."},
		"supervisor.getAllProcessInfo":    {(*request).rpcAllInfo, false, "array", "All processes."},
		"supervisor.getAllConfigInfo":     {(*request).rpcConfigInfo, false, "array", "The configuration of all processes, as far as supervisord has words for it."},

		"supervisor.shutdown":           {(*request).rpcShutdown, true, "boolean", "Stops everything, and then superd."},
		"supervisor.restart":            {(*request).rpcRestart, true, "boolean", "Not served: superd upgrades itself without stopping anything, see superctl upgrade."},
		"supervisor.reloadConfig":       {(*request).rpcReload, false, "array", "What a new configuration would add, change and remove."},
		"supervisor.addProcessGroup":    {(*request).rpcAdd, true, "boolean string", "Makes a new configuration hold, and starts the group."},
		"supervisor.removeProcessGroup": {(*request).rpcRemove, true, "boolean string", "Makes a new configuration hold that has the group no longer. It must be stopped."},

		"supervisor.sendProcessStdin":    {(*request).rpcStdin, true, "boolean string string", "Gives text to the standard input of a process."},
		"supervisor.sendRemoteCommEvent": {(*request).rpcEvent, true, "boolean string string", "Does nothing: superd has no event listeners."},
	}
	verbs(all)
	logMethods(all)
	all["system.listMethods"] = compatMethod{(*request).rpcList, false, "array", "The names of all methods."}
	all["system.methodHelp"] = compatMethod{(*request).rpcHelp, false, "string string", "What a method does."}
	all["system.methodSignature"] = compatMethod{(*request).rpcSignature, false, "array string", "What a method returns and takes."}
	all["system.multicall"] = compatMethod{(*request).rpcMulticall, false, "array array", "Several calls in one."}
	return all
}

// verbs are start, stop and signal, each for one process, a group and all.
func verbs(all map[string]compatMethod) {
	for _, v := range []struct {
		verb Verb
		what string
	}{{VerbStart, "Starts"}, {VerbStop, "Stops"}, {VerbSignal, "Sends a signal to"}} {
		takes := " boolean"
		if v.verb == VerbSignal {
			takes = " string"
		}
		name := "supervisor." + string(v.verb)
		all[name+"Process"] = compatMethod{func(q *request, p *params) (any, error) { return q.rpcOne(v.verb, p) }, true, "boolean string" + takes, v.what + " a process, or with group:* a group."}
		all[name+"ProcessGroup"] = compatMethod{func(q *request, p *params) (any, error) { return q.rpcGroup(v.verb, p) }, true, "array string" + takes, v.what + " every process of a group."}
		all[name+"AllProcesses"] = compatMethod{func(q *request, p *params) (any, error) { return q.rpcAll(v.verb, p) }, true, "array" + takes, v.what + " every process."}
	}
}

func (q *request) rpcList(*params) (any, error) {
	var names []any
	for _, name := range slices.Sorted(maps.Keys(compatMethods())) {
		names = append(names, name)
	}
	return names, nil
}

func (q *request) rpcHelp(p *params) (any, error) {
	m, ok := compatMethods()[p.text()]
	if !ok {
		return nil, fault(faultSignature, "")
	}
	return m.help, nil
}

func (q *request) rpcSignature(p *params) (any, error) {
	m, ok := compatMethods()[p.text()]
	if !ok {
		return nil, fault(faultSignature, "")
	}
	var types []any
	for word := range strings.FieldsSeq(m.signature) {
		types = append(types, word)
	}
	return types, nil
}

// rpcMulticall answers a fault of one call in the place of its answer.
func (q *request) rpcMulticall(p *params) (any, error) {
	calls, ok := p.next(nil).([]any)
	if !ok || len(calls) > maxCalls {
		return nil, fault(faultIncorrectParameters, fmt.Sprintf("must be an array of at most %d calls", maxCalls))
	}
	results := []any{}
	for _, one := range calls {
		members, _ := one.(map[string]any)
		method, named := members["methodName"].(string)
		values, _ := members["params"].([]any)
		var value any
		var err error
		switch {
		case !named:
			err = fault(faultIncorrectParameters, "No methodName")
		case method == "system.multicall":
			err = fault(faultIncorrectParameters, "Recursive system.multicall forbidden")
		default:
			value, err = q.call(xmlrpc.Call{Method: method, Params: values})
		}
		if err != nil {
			f := asFault(err, "")
			value = map[string]any{"faultCode": f.Code, "faultString": f.Text}
		}
		results = append(results, value)
	}
	return results, nil
}

func (q *request) rpcPID(*params) (any, error) {
	if err := q.mayAnywhere(RoleRead); err != nil {
		return nil, err
	}
	status, err := q.server.daemon.Status(q.http.Context())
	return status.PID, err
}

func (q *request) rpcInfo(p *params) (any, error) {
	one, err := q.one(p)
	if err != nil {
		return nil, err
	}
	return q.info(one), nil
}

func (q *request) rpcAllInfo(*params) (any, error) {
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	infos := []any{}
	for _, one := range all {
		infos = append(infos, q.info(one))
	}
	return infos, nil
}

// rpcConfigInfo has every key that clients look for; what superd keeps elsewhere is as
// supervisord has it by default.
func (q *request) rpcConfigInfo(*params) (any, error) {
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	infos := []any{}
	for _, one := range all {
		info := map[string]any{
			"name": one.name, "group": one.group, "inuse": true, "autostart": true, "group_prio": 999, "process_prio": 999,
			"command": "", "directory": "none", "uid": "none", "exitcodes": []any{0}, "killasgroup": false, "redirect_stderr": false,
			"startretries": 3, "startsecs": 1, "stopsignal": 15, "stopwaitsecs": 10, "serverurl": "none",
		}
		for _, stream := range []string{"stdout", "stderr"} {
			info[stream+"_logfile"], info[stream+"_logfile_backups"], info[stream+"_logfile_maxbytes"] = "auto", 10, 50<<20
			info[stream+"_capture_maxbytes"], info[stream+"_events_enabled"], info[stream+"_syslog"] = 0, false, false
		}
		infos = append(infos, info)
	}
	slices.SortStableFunc(infos, func(a, b any) int { return strings.Compare(nameIn(a), nameIn(b)) })
	return infos, nil
}

func nameIn(info any) string {
	members, _ := info.(map[string]any)
	name, _ := members["name"].(string)
	return name
}

func (q *request) rpcShutdown(*params) (any, error) {
	if err := q.may(RoleAdmin, ""); err != nil {
		return nil, err
	}
	return true, q.server.daemon.Shutdown(q.http.Context(), q.by())
}

func (q *request) rpcRestart(*params) (any, error) {
	return nil, fault(faultFailed, "superd is not restarted to read its configuration: superctl reload; superctl upgrade replaces superd itself, and nothing it runs is stopped")
}

func (q *request) rpcEvent(p *params) (any, error) {
	_, _ = p.text(), p.text()
	return true, q.may(RoleOperate, "")
}

func (q *request) rpcStdin(p *params) (any, error) {
	one, err := q.one(p)
	text := p.text()
	if err != nil || p.failed != nil {
		return nil, err
	}
	switch {
	case !one.isThere() || one.state == rpcStopping:
		return nil, fault(faultNotRunning, p.name)
	case q.may(RoleOperate, one.app) != nil:
		return nil, q.may(RoleOperate, one.app)
	}
	if err := q.server.daemon.Input(q.http.Context(), one.order, text, q.by()); err != nil {
		return nil, fault(faultNoFile, p.name+": "+err.Error())
	}
	return true, nil
}

// asked is what a verb needs besides its processes.
type asked struct {
	verb   Verb
	signal string
	wait   bool
}

func askedFor(verb Verb, p *params) (asked, error) {
	a := asked{verb: verb, wait: true}
	if verb != VerbSignal {
		a.wait = p.wait()
		return a, nil
	}
	said := p.next(nil)
	name, err := signalName(strings.TrimSpace(fmt.Sprint(said)))
	if err != nil {
		return a, fault(faultBadSignal, fmt.Sprint(said))
	}
	a.signal = name
	return a, nil
}

func (q *request) rpcOne(verb Verb, p *params) (any, error) {
	name := p.process()
	a, bad := askedFor(verb, p)
	if err := p.wrong(); err != nil {
		return nil, err
	}
	if q.mayOrder(verb) != nil {
		// No fault of this call says it: supervisorctl fails on those that it does not expect.
		return nil, &Error{Kind: Denied, Message: q.lacks(RoleOperate, "superd"), Hint: "root gives it in the configuration, with [[access]]"}
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	found, whole, err := meant(all, name)
	if err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, bad
	}
	if whole {
		return q.each(found, a), nil
	}
	if err := q.order1(found[0], a, name); err != nil {
		return nil, err
	}
	return true, nil
}

func (q *request) rpcGroup(verb Verb, p *params) (any, error) {
	name := p.process()
	a, bad := askedFor(verb, p)
	if err := p.wrong(); err != nil {
		return nil, err
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	found, _, err := meant(all, name+":*")
	switch {
	case err != nil && verb == VerbStop && q.server.gone.has(name):
		return []any{}, nil
	case err != nil:
		return nil, fault(faultBadName, name)
	}
	if err := errors.Join(bad, q.mayOrder(verb)); err != nil {
		return nil, err
	}
	return q.each(found, a), nil
}

func (q *request) rpcAll(verb Verb, p *params) (any, error) {
	a, bad := askedFor(verb, p)
	if err := p.wrong(); err != nil {
		return nil, err
	}
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(bad, q.mayOrder(verb)); err != nil {
		return nil, err
	}
	return q.each(all, a), nil
}

// mayOrder refuses a start to who may operate nothing. Who may operate something is
// answered for each process, so that those he may start are started; see order1. Of a
// stop and a signal supervisorctl prints the words of the fault that each has.
func (q *request) mayOrder(verb Verb) error {
	if verb != VerbStart {
		return nil
	}
	return q.mayAnywhere(RoleOperate)
}

// each does it to all that are in a state for it, at the same time. As supervisord it
// says nothing of the others.
func (q *request) each(all []namedProcess, a asked) []any {
	all = slices.DeleteFunc(slices.Clone(all), func(p namedProcess) bool {
		return a.verb == VerbStart && p.isUp() || a.verb == VerbStop && !p.isUp() || a.verb == VerbSignal && !p.isThere()
	})
	results := make([]any, len(all))
	var doing sync.WaitGroup
	for i, one := range all {
		doing.Go(func() { results[i] = one.result(q.order1(one, a, one.spec())) })
	}
	doing.Wait()
	return results
}

// order1 does it to one process, and tells what supervisord would.
func (q *request) order1(one namedProcess, a asked, name string) error {
	err := q.may(RoleOperate, one.app)
	switch {
	case err != nil && a.verb == VerbStart: // supervisorctl does not know that a start can be FAILED
		return fault(faultSpawnError, name+": "+q.lacks(RoleOperate, cmp.Or(one.app, "superd")))
	case err != nil:
		return err
	case a.verb == VerbStart && one.isUp():
		return fault(faultAlreadyStarted, name)
	case a.verb == VerbStop && !one.isUp(), a.verb == VerbSignal && !one.isThere():
		return fault(faultNotRunning, name)
	}
	order := ProcessOrder{Verb: a.verb, Name: one.order, Signal: a.signal}
	if a.wait {
		return q.done(q.http.Context(), order, name)
	}
	behind(q.http.Context(), func(ctx context.Context) {
		if err := q.done(ctx, order, name); err != nil {
			q.server.log.Info("change failed", q.about("verb", order.Verb, "process", order.Name, "error", err)...)
		}
	})
	return nil
}

func (q *request) done(ctx context.Context, order ProcessOrder, name string) error {
	results, err := q.server.daemon.Process(ctx, order, q.by())
	if err != nil {
		return asFault(err, name)
	}
	for _, r := range results {
		switch {
		case r.OK:
		case order.Verb == VerbStart && strings.HasPrefix(r.Message, "exec ") || strings.Contains(r.Message, ": exec "):
			return fault(faultSpawnError, name)
		case order.Verb == VerbStart:
			return fault(faultAbnormalTermination, name)
		default:
			return fault(faultFailed, name+": "+r.Message)
		}
	}
	return nil
}

package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// An Action is what becomes of a process when another configuration is applied.
type Action string

// The actions, the strongest last.
const (
	ActionNothing Action = "nothing"
	ActionLater   Action = "later"   // something changed that counts when superd itself starts again
	ActionLive    Action = "live"    // it goes on, and is treated as the file says now
	ActionRestart Action = "restart" // it is replaced, gracefully; what is live holds at once
	ActionStart   Action = "start"
	ActionStop    Action = "stop"
)

var actions = []Action{ActionNothing, ActionLater, ActionLive, ActionRestart, ActionStart, ActionStop}

// A Change is what becomes of one process, pool, app or program, or of superd.
type Change struct {
	Name    string // as in commands: "superd", "shop", "shop/fpm", "shop/emails", "nginx"; of a group "group NAME"
	Action  Action
	Reasons []Reason // for nothing: none
}

// A Reason is a key that was changed, and what that takes.
type Reason struct {
	Key   string // "app.shop.worker.emails.processes"
	Class Class
}

// Keys are those that the action is for.
func (c Change) Keys() []string {
	var keys []string
	for _, r := range c.Reasons {
		if c.Action == ActionStart || c.Action == ActionStop || Action(r.Class) == c.Action {
			keys = append(keys, r.Key)
		}
	}
	return keys
}

// Difference is what becomes of everything that before or after has when after is
// applied in place of before: superd first, then apps and programs by name. The second
// result is what holds then: after, but for the keys of class Later, which are as they
// were.
//
// When an app's PHP-FPM is replaced, that is a new generation, and the app's workers
// move to it too.
func Difference(before, after *Config) ([]Change, *Config) {
	d := difference{before: before, after: after.copied()}
	d.keepSockets()
	d.compareSuperd()
	for _, name := range names(before.Apps, after.Apps, appName) {
		d.compareApp(name, find(before.Apps, name, appName), find(d.after.Apps, name, appName))
	}
	for _, name := range names(before.Programs, after.Programs, programName) {
		reasons, whole := compareTable("program", name, find(before.Programs, name, programName), find(d.after.Programs, name, programName))
		d.add(name, reasons, whole)
	}
	for _, name := range names(before.Groups, after.Groups, groupName) {
		reasons, whole := compareTable("group", name, find(before.Groups, name, groupName), find(d.after.Groups, name, groupName))
		d.add("group "+name, reasons, whole)
	}
	return d.changes, d.after
}

func appName(a *App) string         { return a.Name }
func workerName(w *Worker) string   { return w.Name }
func programName(p *Program) string { return p.Name }
func groupName(g *Group) string     { return g.Name }

// copied is the configuration with everything copied that may be put back.
func (c *Config) copied() *Config {
	other := *c
	other.Apps = slices.Clone(c.Apps)
	for i := range other.Apps {
		if fpm := other.Apps[i].FPM; fpm != nil {
			own := *fpm
			other.Apps[i].FPM = &own
		}
	}
	return &other
}

// difference is one comparison.
type difference struct {
	before, after *Config
	changes       []Change
}

// keepSockets puts the sockets of PHP-FPM that nobody chose back below run_dir, which
// stays where it is.
func (d *difference) keepSockets() {
	for i := range d.after.Apps {
		f, own := d.after.Apps[i].FPM, filepath.Join(d.after.Apps[i].Name, "fpm.sock")
		if f != nil && f.Listen == filepath.Join(d.after.RunDir, own) {
			f.Listen = filepath.Join(d.before.RunDir, own)
		}
	}
}

func (d *difference) compareSuperd() {
	was, is := reflect.ValueOf(d.before).Elem(), reflect.ValueOf(d.after).Elem()
	d.add("superd", compareFields("", "", was, is, "Files", "Apps", "Programs", "Groups", "Warnings", "Variables"), "")
}

// compareApp compares an app, its PHP-FPM and its pools. What holds for all processes
// of the app is a reason for each of them.
func (d *difference) compareApp(name string, was, is *App) {
	if was == nil || is == nil {
		d.wholeApp(name, was, is)
		return
	}
	key, pattern := "app."+keyName(name), "app.*"
	own := compareFields(key, pattern, reflect.ValueOf(was).Elem(), reflect.ValueOf(is).Elem(), "Name", "FPM", "Workers")
	shared := ofClass(own, Restart)
	d.add(name, slices.DeleteFunc(own, func(r Reason) bool { return r.Class == Restart }), "")
	var moved []Reason // to a new generation, for these reasons
	switch {
	case was.FPM != nil && is.FPM != nil:
		reasons := compareFields(key+".fpm", pattern+".fpm", reflect.ValueOf(was.FPM).Elem(), reflect.ValueOf(is.FPM).Elem())
		reasons = append(slices.Clone(shared), reasons...)
		moved = ofClass(reasons, Restart)
		d.add(name+"/fpm", reasons, "")
	case was.FPM != nil || is.FPM != nil:
		is.FPM = was.FPM
		d.add(name+"/fpm", []Reason{{key + ".fpm", Later}}, "")
	}
	for _, pool := range names(was.Workers, is.Workers, workerName) {
		reasons, whole := compareTable(key+".worker", pool, find(was.Workers, pool, workerName), find(is.Workers, pool, workerName))
		if whole == "" {
			reasons = append(slices.Concat(shared, reasons), moved...)
		}
		d.add(name+"/"+pool, unique(reasons), whole)
	}
}

// wholeApp is an app that is added or removed.
func (d *difference) wholeApp(name string, was, is *App) {
	a, action := is, ActionStart
	if is == nil {
		a, action = was, ActionStop
	}
	reasons := []Reason{{"app." + keyName(name), Live}}
	d.add(name, reasons, action)
	if a.FPM != nil {
		d.add(name+"/fpm", reasons, action)
	}
	for _, w := range a.Workers {
		d.add(name+"/"+w.Name, reasons, action)
	}
}

// add adds what becomes of something: the action, or the strongest that a reason asks for.
func (d *difference) add(name string, reasons []Reason, action Action) {
	if action == "" {
		action = ActionNothing
		for _, r := range reasons {
			if slices.Index(actions, Action(r.Class)) > slices.Index(actions, action) {
				action = Action(r.Class)
			}
		}
	}
	d.changes = append(d.changes, Change{name, action, reasons})
}

// compareTable compares two tables of one name, of which one may not be there: then
// the action is to start or to stop it.
func compareTable[T any](table, name string, was, is *T) ([]Reason, Action) {
	key := table + "." + keyName(name)
	switch {
	case was == nil:
		return []Reason{{key, Live}}, ActionStart
	case is == nil:
		return []Reason{{key, Live}}, ActionStop
	}
	pattern := table + ".*"
	if _, isPool := any(was).(*Worker); isPool {
		pattern = "app.*.worker.*"
	}
	return compareFields(key, pattern, reflect.ValueOf(was).Elem(), reflect.ValueOf(is).Elem(), "Name"), ""
}

// compareFields compares the fields of two structs, but for those that are left out.
// Fields are named as keys are, in their own spelling.
func compareFields(key, pattern string, was, is reflect.Value, without ...string) []Reason {
	var reasons []Reason
	for i := range was.NumField() {
		field := was.Type().Field(i).Name
		if !slices.Contains(without, field) {
			name := fieldKey(field)
			reasons = append(reasons, compare(below(key, name), below(pattern, name), was.Field(i), is.Field(i))...)
		}
	}
	return unique(reasons)
}

// compare compares two values of a key. One of class Later is put back.
func compare(key, pattern string, was, is reflect.Value) []Reason {
	if same(was, is) {
		return nil
	}
	switch was.Interface().(type) {
	case Hook, Output, Backoff, Reload, Check, Switch, Log, Metrics, Web, Compat:
		return compareFields(key, pattern, was, is)
	case *Hook, *Reload:
		if !was.IsNil() && !is.IsNil() {
			return compareFields(key, pattern, was.Elem(), is.Elem())
		}
	case []Check:
		if was.Len() == is.Len() {
			var reasons []Reason
			for i := range was.Len() {
				reasons = append(reasons, compare(fmt.Sprintf("%s[%d]", key, i), pattern, was.Index(i), is.Index(i))...)
			}
			return reasons
		}
	}
	class := classOf(pattern)
	if class == Later {
		is.Set(was)
	}
	return []Reason{{key, class}}
}

// same tells whether two values mean the same. What is empty is not there.
func same(was, is reflect.Value) bool {
	switch x := was.Interface().(type) {
	case *regexp.Regexp:
		y, _ := reflect.TypeAssert[*regexp.Regexp](is)
		return (x == nil) == (y == nil) && (x == nil || x.String() == y.String())
	case []Check: // they have expressions
		return false
	}
	if kind := was.Kind(); (kind == reflect.Map || kind == reflect.Slice) && was.Len() == 0 && is.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(was.Interface(), is.Interface())
}

// fieldKey is the key that fills a field: max_error_rate for MaxErrorRate.
func fieldKey(field string) string {
	if field == "ReadyLog" {
		return "ready" // "log:<regexp>"
	}
	var b strings.Builder
	letters := []rune(field)
	if plural, ok := strings.CutSuffix(field, "Checks"); ok && plural == "" {
		letters = []rune("Check")
	}
	for i, c := range letters {
		starts := i > 0 && unicode.IsUpper(c) &&
			(unicode.IsLower(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1]))
		if starts {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

func below(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}

func ofClass(reasons []Reason, c Class) []Reason {
	return slices.DeleteFunc(slices.Clone(reasons), func(r Reason) bool { return r.Class != c })
}

// unique drops repetitions, and keeps the order.
func unique(reasons []Reason) []Reason {
	var all []Reason
	for _, r := range reasons {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// names are those that either list has, sorted.
func names[T any](was, is []T, name func(*T) string) []string {
	var all []string
	for _, list := range [][]T{was, is} {
		for i := range list {
			all = append(all, name(&list[i]))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func find[T any](all []T, wanted string, name func(*T) string) *T {
	for i := range all {
		if name(&all[i]) == wanted {
			return &all[i]
		}
	}
	return nil
}

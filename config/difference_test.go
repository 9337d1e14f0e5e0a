package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// contractTree is the contract as a tree, all of its files in a directory.
func contractTree(t *testing.T) (dir string, tree func() map[string]any) {
	t.Helper()
	dir = layOut(t, contract(t))
	text, err := os.ReadFile(filepath.Join(dir, "superd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() map[string]any {
		var tree map[string]any
		if _, err := toml.Decode(string(text), &tree); err != nil {
			t.Fatal(err)
		}
		return tree
	}
}

// put sets a key of a tree, or takes it out with nil.
func put(t *testing.T, tree map[string]any, key string, value any) {
	t.Helper()
	parts := strings.Split(key, ".")
	for _, part := range parts[:len(parts)-1] {
		switch next := tree[part].(type) {
		case map[string]any:
			tree = next
		case []map[string]any:
			tree = next[0]
		default:
			made := map[string]any{}
			tree[part], tree = made, made
		}
	}
	last := parts[len(parts)-1]
	switch shared := value.(type) { // each tree has its own
	case map[string]any:
		value = maps.Clone(shared)
	case []map[string]any:
		one := []map[string]any{}
		for _, m := range shared {
			one = append(one, maps.Clone(m))
		}
		value = one
	}
	if value == nil {
		delete(tree, last)
		return
	}
	tree[last] = value
}

func get(tree map[string]any, key string) any {
	var value any = tree
	for part := range strings.SplitSeq(key, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[part]
		case []map[string]any:
			value = v[0][part]
		default:
			return nil
		}
	}
	return value
}

func loadTree(t *testing.T, dir string, tree map[string]any) *Config {
	t.Helper()
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(tree); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "superd.toml")
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c
}

// other is another value for a key of a kind.
func other(k kind, value any) any {
	switch k := k.(type) {
	case flag:
		return value != true
	case number:
		n, _ := value.(int64)
		return n + 1
	case numbers:
		return []int{201}
	case duration, optionalDuration:
		return "77s"
	case size:
		return "777MiB"
	case choice:
		return k.known[(slices.Index(k.known, fmt.Sprint(value))+1)%len(k.known)]
	case fraction, decimal:
		return 0.5
	case percentage:
		return "20%"
	case texts, inside, command:
		if one, isInside := k.(inside); isInside && one.one != nil {
			return "other"
		}
		return []string{"other"}
	case environment, headers, settings:
		return map[string]string{"OTHER": "x"}
	case compatNames:
		return map[string]string{"other:0": "x"}
	case limits:
		return map[string]int{"nproc": 77}
	case signal:
		return "USR1"
	case mode:
		return "0640"
	case share:
		return "50%"
	case account:
		return "daemon"
	case pattern:
		return "^ok"
	case destination:
		return "none"
	case readiness:
		return "log:up"
	case absolute, socketPath:
		return "/other"
	}
	return "other"
}

// TestEveryKeyHasItsClass changes each key of the contract, by itself, and sees that
// the difference is that key, in the class that it has, and an action of that class for
// nothing but what the key is of.
func TestEveryKeyHasItsClass(t *testing.T) {
	t.Parallel()
	dir, tree := contractTree(t)
	// What the key needs around it, before and after.
	around := map[string]map[string]any{
		"app.*.fpm.handoff":            {"app.shop.switch.canary_share": nil, "app.shop.switch.canary_time": nil},
		"app.*.fpm.pin":                {"app.shop.switch.canary_share": nil, "app.shop.switch.canary_time": nil},
		"app.*.worker.*.watchdog":      {"app.shop.worker.emails.ready": "notify"},
		"app.*.worker.*.ready_command": {"app.shop.worker.emails.ready": "command", "app.shop.worker.emails.ready_command": []string{"true"}},
		"program.*.watchdog":           {"program.nginx.ready": "notify"},
		"program.*.ready_command":      {"program.nginx.ready": "command", "program.nginx.ready_command": []string{"true"}},
		"program.*.reload.command":     {"program.nginx.reload": map[string]any{"command": []string{"true"}}},
		"app.*.check.url":              {"app.shop.check": []map[string]any{{"kind": "http", "url": "http://a/"}}},
		"app.*.check.address":          {"app.shop.check": []map[string]any{{"kind": "tcp", "address": "a:1"}}},
		"app.*.check.command":          {"app.shop.check": []map[string]any{{"kind": "command", "command": []string{"true"}}}},
		"app.*.check.kind":             {"app.shop.check": []map[string]any{{"kind": "http", "url": "http://a/"}}},
		"app.*.fpm.max_spare_servers":  {"app.shop.fpm.pm": "dynamic"},
	}
	values := map[string]any{
		"app.*.check.url": "http://b/", "app.*.check.address": "b:2", "app.*.check.path": "/other", "app.*.check.status": []int{204},
		"app.*.root": filepath.Join(dir, "srv"), "app.*.fpm.warmup": []string{"/other"}, "app.*.fpm.listen": "/run/other.sock",
		"app.*.fpm.binary": filepath.Join(dir, "bin/other"), "app.*.env_file": filepath.Join(dir, "other.env"), "app.*.fpm.include": []string{filepath.Join(dir, "other.env")},
		"access.apps": []string{}, "program.*.env_file": filepath.Join(dir, "other.env"), "program.*.directory": "/other", "program.*.backoff.factor": 3.5, "program.*.backoff.first": "7s",
		"program.*.requires": []string{"redis"}, "program.*.after": []string{"app.shop"}, "group.*.members": []string{"app.shop"},
		"program.*.schedule": "@daily", "program.*.timezone": "Europe/Berlin", "access.user": "daemon", "metrics.listen": "127.0.0.1:7777",
		"app.*.check.interval": "7s", "program.*.log.max_total": "1GiB", "app.*.fpm.log.max_total": "1GiB", "app.*.worker.*.log.max_total": "1GiB",
	}
	write(t, filepath.Join(dir, "bin/other"), 0o755)
	write(t, filepath.Join(dir, "other.env"), 0o644)
	unseen := map[string]string{ // no value of its own in what is loaded
		"include": "the files are what counts", "access.user": "the key is access", "access.group": "likewise", "access.role": "likewise", "access.apps": "likewise",
		"app.*.check.kind": "which key a check needs goes with its kind",
	}
	for _, k := range walk() {
		if _, skipped := unseen[k.name]; skipped || isTable(k.key.kind) {
			continue
		}
		name := strings.NewReplacer("app.*", "app.shop", "worker.*", "worker.emails", "program.*", "program.nginx", "group.*", "group.backend").Replace(k.name)
		if slices.Contains([]string{"schedule", "timezone", "overlap", "missed"}, strings.TrimPrefix(name, "program.nginx.")) {
			name = strings.Replace(name, "nginx", "tidy", 1)
		}
		was, is := tree(), tree()
		for key, value := range around[k.name] {
			put(t, was, key, value)
			put(t, is, key, value)
		}
		value, ok := values[k.name]
		if !ok {
			value = other(k.key.kind, get(was, name))
		}
		put(t, is, name, value)
		changes, _ := Difference(loadTree(t, dir, was), loadTree(t, dir, is))
		keyOf := strings.Replace(name, "app.shop.check.", "app.shop.check[0].", 1)
		if told := reasonsOf(changes); !slices.Contains(told, keyOf+" "+string(classOf(k.name))) || classOf(k.name) == "" {
			t.Errorf("%s: class %q, told %q", name, classOf(k.name), told)
			continue
		}
		onlyWhatItIsOf(t, k.name, changes)
	}
}

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
}

func isTable(k kind) bool {
	switch k.(type) {
	case section, named, rows, tables[Worker], lists[Check]:
		return true
	}
	return false
}

func reasonsOf(changes []Change) []string {
	var all []string
	for _, c := range changes {
		for _, r := range c.Reasons {
			all = append(all, r.Key+" "+string(r.Class))
		}
	}
	return all
}

// onlyWhatItIsOf: a key of a program touches that program, one of an app that app.
func onlyWhatItIsOf(t *testing.T, key string, changes []Change) {
	t.Helper()
	class := classOf(key)
	of := map[string][]string{
		"app.*.fpm": {"shop/fpm"}, "app.*.worker": {"shop/emails"}, "app.*": {"shop"}, "program.*": {"nginx", "tidy"}, "group.*": {"group backend"}, "": {"superd"},
	}
	prefix := key
	for of[prefix] == nil {
		prefix = prefix[:max(0, strings.LastIndexByte(prefix, '.'))]
	}
	may := of[prefix]
	if class == Restart && strings.HasPrefix(key, "app.") && prefix != "app.*.worker" {
		may = []string{"shop/fpm", "shop/emails"} // a new generation is one of all
	}
	for _, c := range changes {
		touched := c.Action != ActionNothing
		switch {
		case touched && !slices.Contains(may, c.Name):
			t.Errorf("%s: %s would be %s", key, c.Name, c.Action)
		case touched && string(c.Action) != string(class):
			t.Errorf("%s of class %s: %s would be %s", key, class, c.Name, c.Action)
		}
	}
}

// TestClassesAreOfKeys: every class is of something that there is, and every key has
// one that was chosen for it, or for the table it is in where superd alone reads it.
func TestClassesAreOfKeys(t *testing.T) {
	t.Parallel()
	var known []string
	for _, k := range walk() {
		known = append(known, k.name)
		parent := k.name[:max(0, strings.LastIndexByte(k.name, '.'))]
		_, own := classes[k.name]
		if slices.Contains([]string{"app.*", "app.*.fpm", "app.*.worker.*", "program.*"}, parent) && !own && !slices.Contains([]string{"app.*.fpm", "app.*.worker"}, k.name) {
			t.Errorf("%s has no class", k.name)
		}
	}
	for key := range classes {
		if !slices.Contains(known, strings.TrimSuffix(key, ".*")) {
			t.Errorf("%s has a class and is no key", key)
		}
	}
}

// TestDifference: what becomes of each thing, and why.
func TestDifference(t *testing.T) {
	t.Parallel()
	dir, tree := contractTree(t)
	for name, one := range map[string]struct {
		set  map[string]any
		want []string
	}{
		"nothing": {nil, nil},
		"eight become ten": {map[string]any{"app.shop.worker.emails.processes": 10}, []string{
			"shop/emails live app.shop.worker.emails.processes",
		}},
		"empty is not there": {map[string]any{"app.shop.worker.emails.env": nil, "app.shop.fpm.args": nil, "program.nginx.env": nil}, nil},
		"a command": {map[string]any{"app.shop.worker.emails.command": "other", "app.shop.worker.emails.processes": 9}, []string{
			"shop/emails restart app.shop.worker.emails.command",
		}},
		"a pool more": {map[string]any{"app.shop.worker.new.command": "other"}, []string{"shop/new start app.shop.worker.new"}},
		"a pool less": {map[string]any{"app.shop.worker.emails": nil}, []string{"shop/emails stop app.shop.worker.emails"}},
		"php-fpm": {map[string]any{"app.shop.fpm.max_children": 20}, []string{
			"shop/fpm restart app.shop.fpm.max_children", "shop/emails restart app.shop.fpm.max_children",
		}},
		"the user of all": {map[string]any{"app.shop.env": map[string]string{"A": "b"}}, []string{
			"shop/fpm restart app.shop.env", "shop/emails restart app.shop.env",
		}},
		"what waits": {map[string]any{"socket": "/run/other.sock", "app.shop.root": dir, "app.shop.fpm": nil, "app.shop.switch": nil}, []string{
			"superd later socket",
			"shop live app.shop.switch.required app.shop.switch.before app.shop.switch.after app.shop.switch.canary_share",
			"shop/fpm later app.shop.fpm",
		}},
		"an app and a program less": {map[string]any{"app.shop": nil, "access": nil, "program.tidy": nil, "group": nil}, []string{
			"superd live access", "shop stop app.shop", "shop/fpm stop app.shop", "shop/emails stop app.shop", "tidy stop program.tidy", "group backend stop group.backend",
		}},
		"a program more": {map[string]any{"program.new.command": "true"}, []string{"new start program.new"}},
		"a limit of restarts and a log": {map[string]any{"program.nginx.max_restarts": 3, "program.nginx.log.keep": 3}, []string{
			"nginx live program.nginx.max_restarts program.nginx.log.keep",
		}},
		"two checks": {map[string]any{"app.shop.check": []map[string]any{{"name": "a"}, {"name": "b"}}}, []string{"shop live app.shop.check"}},
	} {
		is := tree()
		for key, value := range one.set {
			put(t, is, key, value)
		}
		changes, _ := Difference(loadTree(t, dir, tree()), loadTree(t, dir, is))
		var told []string
		for _, c := range changes {
			if c.Action != ActionNothing {
				told = append(told, strings.Join(append([]string{c.Name, string(c.Action)}, c.Keys()...), " "))
			}
		}
		if diff := cmp.Diff(one.want, told); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestWhatHoldsThen: what waits for superd's own end is as it was, all else as it is
// written; and what holds differs from the file in just that.
func TestWhatHoldsThen(t *testing.T) {
	t.Parallel()
	dir, tree := contractTree(t)
	was, is := tree(), tree()
	for _, one := range []map[string]any{was, is} {
		put(t, one, "app.shop.fpm.listen", nil)
	}
	put(t, is, "run_dir", "/run/other")
	put(t, is, "app.shop.root", filepath.Join(dir, "srv"))
	put(t, is, "app.shop.worker.emails.processes", 10)
	before, after := loadTree(t, dir, was), loadTree(t, dir, is)
	written, err := json.Marshal(after)
	if err != nil {
		t.Fatal(err)
	}
	_, holds := Difference(before, after)
	if holds.RunDir != before.RunDir || holds.Apps[0].Root != before.Apps[0].Root || holds.Apps[0].FPM.Listen != before.Apps[0].FPM.Listen {
		t.Errorf("run_dir %s, root %s, listen %s", holds.RunDir, holds.Apps[0].Root, holds.Apps[0].FPM.Listen)
	}
	if holds.Apps[0].Workers[0].Processes != 10 {
		t.Errorf("%d processes", holds.Apps[0].Workers[0].Processes)
	}
	if again, _ := json.Marshal(after); !bytes.Equal(written, again) {
		t.Error("the file's own configuration was changed")
	}
	changes, _ := Difference(holds, after)
	for _, c := range changes {
		if c.Action != ActionNothing && c.Action != ActionLater {
			t.Errorf("%s would still be %s for %q", c.Name, c.Action, c.Keys())
		}
	}
	if changes, _ := Difference(before, before); len(reasonsOf(changes)) != 0 {
		t.Errorf("from itself it differs in %q", reasonsOf(changes))
	}
}

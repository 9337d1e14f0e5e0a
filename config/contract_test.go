package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// The file testdata/contract.toml has every key that users' files may have. Keys
// are added to it and never renamed.
func contract(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/contract.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "-- bin/php-fpm8.2 --\n-- srv/shop/shared/.env --\nA=b\n-- etc/default/nginx --\nC=d\n"
}

func TestContractLoads(t *testing.T) {
	t.Parallel()
	dir := layOut(t, contract(t))
	c, err := Load(filepath.Join(dir, "superd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	// Keys without an effect yet are accepted, and told when they ask for one.
	var keys []string
	for _, w := range c.Warnings {
		if !strings.Contains(w.Text, "has no effect in this version yet") {
			t.Errorf("warning %s", w)
		}
		keys = append(keys, anyName(w.Key))
	}
	for _, k := range walk() {
		if told := slices.Contains(keys, k.name); told && !k.key.later {
			t.Errorf("%s has an effect, and it is told that it has none", k.name)
		}
	}
}

// anyName is the key with * for what users name.
func anyName(key string) string {
	parts := strings.Split(key, ".")
	for i := 1; i < len(parts); i++ {
		if i == 1 && slices.Contains([]string{"app", "program", "group"}, parts[0]) || i == 3 && parts[0] == "app" && parts[2] == "worker" {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, ".")
}

// placed is a key with its whole name: "app.*.check.name".
type placed struct {
	name string
	key  key
}

// walk is every key there is.
func walk() []placed { return schema(topKeys(defaults(), new(found)), "") }

func schema(keys []key, under string) []placed {
	var all []placed
	for _, k := range keys {
		name := under + k.name
		all = append(all, placed{name, k})
		switch kind := k.kind.(type) {
		case section:
			all = append(all, schema(kind.keys(), name+".")...)
		case named:
			all = append(all, schema(kind.keys(), name+".*.")...)
		case rows:
			all = append(all, schema(kind.keys(), name+".")...)
		case tables[Worker]:
			one := kind.fresh("")
			all = append(all, schema(kind.keys(&one), name+".*.")...)
		case lists[Check]:
			one := kind.fresh("")
			all = append(all, schema(kind.keys(&one), name+".")...)
		}
	}
	return all
}

// written is every key in a file, named likewise.
func written(table map[string]any, under string) []string {
	var all []string
	for name, value := range table {
		key := under + name
		if slices.Contains([]string{"app.", "program.", "group.", "app.*.worker."}, under) {
			key = under + "*"
		}
		all = append(all, key)
		switch v := value.(type) {
		case map[string]any:
			all = append(all, written(v, key+".")...)
		case []map[string]any:
			for _, one := range v {
				all = append(all, written(one, key+".")...)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestContractIsTheSchema: every key of the contract is known, and what is known
// besides has its reason here.
func TestContractIsTheSchema(t *testing.T) {
	t.Parallel()
	besides := map[string]string{
		"app.*.worker.*.ready_command": `what ready = "command" runs`,
		"app.*.check.url":              "what a check of kind http asks",
		"app.*.check.address":          "what a check of kind tcp asks",
		"app.*.check.command":          "what a check of kind command runs",
		"app.*.switch.after.timeout":   "as in before",
		"program.*.ready_command":      `what ready = "command" runs`,
		"program.*.reload.command":     "in place of a signal",
	}
	open := []string{"app.*.env", "app.*.fpm.ini", "app.*.worker.*.env", "app.*.worker.*.limits", "app.*.check.headers", "program.*.env", "program.*.limits", "compat.names"}
	var tree map[string]any
	if _, err := toml.Decode(strings.Split(contract(t), "\n-- ")[0], &tree); err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, k := range walk() {
		known = append(known, k.name)
	}
	keys := written(tree, "")
	for _, k := range keys {
		free := slices.ContainsFunc(open, func(o string) bool { return strings.HasPrefix(k, o+".") })
		if !strings.HasSuffix(k, ".*") && !free && !slices.Contains(known, k) {
			t.Errorf("%s is in the contract, and not known", k)
		}
	}
	for _, k := range known {
		if !slices.Contains(keys, k) && besides[k] == "" {
			t.Errorf("%s is known, and not in the contract", k)
		}
	}
	if len(known) < 100 {
		t.Errorf("%d keys only: is the schema walked?", len(known))
	}
}

// TestContractDefaults: what the contract shows is what holds without it, but for
// what an app must say itself and what is an example.
func TestContractDefaults(t *testing.T) {
	t.Parallel()
	dir := layOut(t, contract(t))
	full, err := Load(filepath.Join(dir, "superd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	small, err := Load(filepath.Join(layOutIn(t, dir, "small.toml", `
[app.shop]
root = "$DIR/srv/shop"
user = "www-data"
[app.shop.fpm]
binary = "$DIR/bin/php-fpm8.2"
pm = "dynamic"
[app.shop.worker.emails]
command = ["php", "artisan", "queue:work", "redis", "--queue=emails"]
[[app.shop.check]]
[program.nginx]
command = ["nginx", "-g", "daemon off;"]
[program.redis]
command = ["redis-server"]
[program.tidy]
command = ["php", "tidy.php"]
schedule = "*/5 * * * *"
[group.backend]
members = ["program.nginx", "app.shop"]
`), "small.toml"))
	if err != nil {
		t.Fatal(err)
	}
	// What is an example in the contract, and nothing unless it is asked for.
	want := full
	want.Files, want.Warnings, want.Access = small.Files, small.Warnings, nil
	app := &want.Apps[0]
	app.Env, app.EnvFile = nil, ""
	app.Switch.Required, app.Switch.Before, app.Switch.After = nil, nil, nil
	app.FPM.INI, app.FPM.Warmup, app.FPM.Args, app.FPM.Include = nil, nil, nil, nil
	app.FPM.PM = "dynamic" // its numbers are defaults of that only
	worker := &app.Workers[0]
	worker.Processes, worker.Canary, worker.MaxMemory, worker.MaxAge = 1, 0, 0, 0
	worker.Env, worker.Limits = nil, nil
	app.Switch.CanaryShare = 0
	want.Compat = Compat{}
	nginx := &want.Programs[0]
	nginx.Description, nginx.After, nginx.Requires, nginx.EnvFile, nginx.Reload = "", nil, nil, "", nil
	nginx.User, nginx.Group, nginx.Env, nginx.Limits, nginx.MaxMemory = "", "", nil, nil, 0
	nginx.StopSignal = syscall.SIGTERM
	want.Programs[2].Timezone = ""
	check := &app.Checks[0]
	check.Name, check.Path, check.Headers = "check-1", "/", nil
	if diff := cmp.Diff(want, small); diff != "" {
		t.Error(diff)
	}
}

// layOutIn puts one more file into a case.
func layOutIn(t *testing.T, dir, name, text string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "$DIR", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTenMistakes: a message for each, each with its line.
func TestTenMistakes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/bad/ten-mistakes.txt")
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := strings.Cut(string(text), divider)
	_, err = Load(filepath.Join(layOut(t, input), "superd.toml"))
	var problems *Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error %v", err)
	}
	var lines []int
	for _, p := range *problems {
		lines = append(lines, p.Line)
	}
	if diff := cmp.Diff([]int{1, 4, 7, 8, 11, 12, 15, 18, 19, 21}, lines); diff != "" {
		t.Error(diff)
	}
}

// TestConfigSurvivesJSON: superd keeps the last good configuration as JSON, and a
// restart of superd must not change what runs.
func TestConfigSurvivesJSON(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/good/app.txt")
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := strings.Cut(string(text), divider)
	c, err := Load(filepath.Join(layOut(t, input), "superd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(accepted(c), accepted(&back)); diff != "" {
		t.Error(diff)
	}
}

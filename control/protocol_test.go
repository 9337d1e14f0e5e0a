package control

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"superd/release"
)

var update = flag.Bool("update", false, "write the golden files anew")

// spoken is what each route takes and answers; null stands for nothing.
var spoken = map[string]struct {
	takes, answers any
	statuses       []int
}{
	"GET /v1/health":                       {nil, Health{}, []int{200, 503}},
	"GET /v1/status":                       {nil, Status{}, []int{200}},
	"GET /v1/events":                       {nil, Event{}, []int{200}},
	"GET /v1/logs/{name...}":               {nil, LogLine{}, []int{200}},
	"POST /v1/logs/{name...}/clear":        {nil, []ProcessResult{}, []int{200}},
	"GET /v1/processes/{name...}/attach":   {nil, "", []int{200}},
	"POST /v1/processes/{name...}/stdin":   {InputRequest{}, Done{}, []int{200}},
	"GET /v1/apps/{app}/releases":          {nil, []ReleaseInfo{}, []int{200}},
	"GET /v1/apps/{app}/history":           {nil, []HistoryEntry{}, []int{200}},
	"GET /v1/apps/{app}/switch":            {nil, SwitchStatus{}, []int{200}},
	"POST /v1/apps/{app}/switch":           {SwitchRequest{}, SwitchAnswer{}, []int{200, 202}},
	"POST /v1/apps/{app}/rollback":         {RollbackRequest{}, SwitchAnswer{}, []int{200, 202}},
	"POST /v1/apps/{app}/abort":            {nil, Done{}, []int{200}},
	"POST /v1/apps/{app}/hold":             {HoldRequest{}, Done{}, []int{200}},
	"POST /v1/apps/{app}/resume":           {nil, Done{}, []int{200}},
	"POST /v1/processes/{name...}/start":   {nil, []ProcessResult{}, []int{200}},
	"POST /v1/processes/{name...}/stop":    {StopRequest{}, []ProcessResult{}, []int{200}},
	"POST /v1/processes/{name...}/restart": {nil, []ProcessResult{}, []int{200}},
	"POST /v1/processes/{name...}/signal":  {SignalRequest{}, []ProcessResult{}, []int{200}},
	"POST /v1/processes/{name...}/reload":  {nil, []ProcessResult{}, []int{200}},
	"POST /v1/processes/{name...}/scale":   {ScaleRequest{}, []ProcessResult{}, []int{200}},
	"GET /v1/metrics":                      {nil, "", []int{200}},
	"POST /v1/superd/upgrade":              {UpgradeRequest{}, UpgradeAnswer{}, []int{200}},
	"POST /v1/config/reload":               {nil, Reload{}, []int{200}},
	"POST /v1/superd/shutdown":             {nil, Done{}, []int{202}},
}

type operation struct {
	Summary    string `json:"summary"`
	Role       Role   `json:"x-role"`
	Parameters []struct {
		Name string `json:"name"`
		In   string `json:"in"`
	} `json:"parameters"`
	RequestBody *struct {
		Content map[string]struct{ Schema any } `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]struct{ Schema any } `json:"content"`
	} `json:"responses"`
}

type openAPI struct {
	Paths      map[string]map[string]operation
	Components struct {
		Schemas map[string]struct {
			Description string
			Properties  map[string]map[string]any
			Required    []string
		}
	}
}

// The description says what the routes say, no more and no less, and its schemas have
// the fields that the types have.
func TestOpenAPI(t *testing.T) {
	text, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc openAPI
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	types := map[string]reflect.Type{"ErrorAnswer": reflect.TypeFor[ErrorAnswer]()}
	seen := 0
	for _, r := range routes {
		path, _, _ := strings.Cut(r.path, "?")
		key := r.method + " " + path
		o, ok := doc.Paths[strings.ReplaceAll(path, "...", "")][strings.ToLower(r.method)]
		if !ok {
			t.Errorf("%s is not described", key)
			continue
		}
		seen++
		checkOperation(t, key, r, o, types)
	}
	described := 0
	for _, methods := range doc.Paths {
		described += len(methods)
	}
	if described != seen || len(spoken) != len(routes) {
		t.Errorf("%d routes are described, %d are spoken, %d exist", described, len(spoken), len(routes))
	}
	checkSchemas(t, doc, types)
}

func checkOperation(t *testing.T, key string, r route, o operation, types map[string]reflect.Type) {
	t.Helper()
	if o.Role != r.role || o.Summary == "" {
		t.Errorf("%s is described with role %q and summary %q, has %q", key, o.Role, o.Summary, r.role)
	}
	var parameters []string
	for _, p := range o.Parameters {
		if p.In == "query" {
			parameters = append(parameters, p.Name)
		} else if !strings.Contains(r.path, "{"+p.Name) {
			t.Errorf("%s is described with %s in its path", key, p.Name)
		}
	}
	if !slices.Equal(parameters, r.parameters()) {
		t.Errorf("%s is described with parameters %v, has %v", key, parameters, r.parameters())
	}
	says, ok := spoken[key]
	if !ok {
		t.Fatalf("%s: add what it takes and answers", key)
	}
	if (says.takes != nil) != (o.RequestBody != nil) {
		t.Errorf("%s: takes %T", key, says.takes)
	} else if says.takes != nil {
		if diff := cmp.Diff(schemaOf(reflect.TypeOf(says.takes), types), o.RequestBody.Content[jsonType].Schema); diff != "" {
			t.Errorf("%s takes (-is +described)\n%s", key, diff)
		}
	}
	want := schemaOf(reflect.TypeOf(says.answers), types)
	for _, status := range says.statuses {
		content := o.Responses[fmt.Sprint(status)].Content
		if !slices.ContainsFunc([]string{jsonType, linesType, "application/openmetrics-text", bytesType}, func(kind string) bool { return cmp.Equal(want, content[kind].Schema) }) {
			t.Errorf("%s answers %d: %v is described, want %v", key, status, content, want)
		}
	}
	if cmp.Diff(schemaOf(types["ErrorAnswer"], types), o.Responses["default"].Content[jsonType].Schema) != "" {
		t.Errorf("%s does not say that there may be an error", key)
	}
}

func checkSchemas(t *testing.T, doc openAPI, types map[string]reflect.Type) {
	t.Helper()
	done := map[string]bool{}
	for len(done) < len(types) { // some are found in others
		for name, is := range types {
			if done[name] {
				continue
			}
			done[name] = true
			schema, ok := doc.Components.Schemas[name]
			if !ok {
				t.Errorf("%s is not described", name)
				continue
			}
			properties, required := map[string]any{}, []string{}
			collect(is, types, properties, &required)
			described := map[string]any{}
			for field, s := range schema.Properties {
				delete(s, "description")
				delete(s, "enum")
				described[field] = any(s)
			}
			if diff := cmp.Diff(properties, described); diff != "" {
				t.Errorf("%s (-is +described)\n%s", name, diff)
			}
			slices.Sort(required)
			if !slices.Equal(required, slices.Sorted(slices.Values(schema.Required))) {
				t.Errorf("%s always has %v, described is %v", name, required, schema.Required)
			}
		}
	}
	for name := range doc.Components.Schemas {
		if !done[name] {
			t.Errorf("%s is described and does not exist", name)
		}
	}
}

// collect finds the fields of a struct, those of what is embedded in it as its own.
func collect(t reflect.Type, types map[string]reflect.Type, properties map[string]any, required *[]string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			collect(f.Type, types, properties, required)
		case name != "" && name != "-" && f.IsExported():
			properties[name] = schemaOf(f.Type, types)
			if options == "" {
				*required = append(*required, name)
			}
		}
	}
}

func schemaOf(t reflect.Type, types map[string]reflect.Type) any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[Duration]():
		return map[string]any{"type": "string"}
	}
	switch t.Kind() { //nolint:exhaustive // the protocol has no others, and panics if it has
	case reflect.Pointer:
		return schemaOf(t.Elem(), types)
	case reflect.Struct:
		types[t.Name()] = t
		return map[string]any{"$ref": "#/components/schemas/" + t.Name()}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), types)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Int, reflect.Uint64, reflect.Uint32:
		return map[string]any{"type": "integer"}
	default:
		panic(t)
	}
}

// golden compares with a file below testdata, which the documentation quotes.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got)\n%s", path, diff)
	}
}

// pretty is JSON as people read it, checked to be without fields that are not known.
func pretty(t *testing.T, text string, as any) []byte {
	t.Helper()
	in := json.NewDecoder(strings.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(as); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(strings.TrimSpace(text)), "", "  "); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

func at(minute, second int) time.Time { return time.Date(2026, 8, 1, 12, minute, second, 0, time.UTC) }

var (
	r41 = release.Generation{Number: 6, Release: "r41", Dir: "/srv/shop/releases/r41"}
	r42 = release.Generation{Number: 7, Release: "r42", Dir: "/srv/shop/releases/r42"}
	by  = release.By{UID: 1000, User: "deploy", PID: 4711}
)

func exampleStatus() *Status {
	going := release.Record{
		ID: "20260801-120000-shop-7", Kind: release.KindSwitch, From: r41, To: r42, By: by,
		Phase: release.Watching, Reached: release.Watching, Started: at(0, 0),
	}
	return &Status{
		Version: "1.0.0", PID: 812, Started: at(0, 0).AddDate(0, 0, -3), Time: at(0, 20),
		Problems: []string{"nginx:0: exited with code 1, tried again in 4s"},
		Apps: []AppStatus{{
			Name: "shop", State: AppSwitching, Live: &r42, Previous: &r41, Switch: &SwitchStatus{Record: going, Since: at(0, 9)},
			FPM: &FPMStatus{Name: "shop/fpm", Listen: "/run/superd/shop/fpm.sock", Generations: []GenerationStatus{
				{Generation: r42, State: "live", PID: 5120, Since: at(0, 1), Active: 3, Idle: 13, Consumption: Consumption{Memory: 188743680, CPU: 21.5, CPUSeconds: 12.5},
					Traffic: &TrafficStatus{Requests: 1200, Failed: 3, ErrorShare: 0.0025, P50: 0.011, P95: 0.19,
						Total: TrafficTotal{Requests: 90210, Failed: 17, Seconds: 1804.5, Times: map[float64]uint64{0.016: 80000, 0.256: 90000}}}},
				{Generation: r41, State: "parked", PID: 4002, Since: at(0, 0).AddDate(0, 0, -1), Idle: 16, Consumption: Consumption{Memory: 201326592}},
			}},
			Pools: []PoolStatus{{Name: "shop/emails", Wanted: 2, Running: 1, Draining: 1, Workers: []ProcessStatus{
				{Name: "shop/emails:0", App: "shop", Pool: "emails", State: "running", PID: 5131, Release: "r42", Generation: 7, Since: at(0, 4), Consumption: Consumption{Memory: 41943040, CPU: 1.5, CPUSeconds: 12.5}},
				{Name: "shop/emails:1", App: "shop", Pool: "emails", State: "draining", PID: 4011, Release: "r41", Generation: 6, Stale: true, Since: at(0, 8), Restarts: 2, Last: "exited with code 12", Consumption: Consumption{Memory: 50331648}},
			}}},
		}},
		Programs: []ProcessStatus{{Name: "nginx:0", State: "backoff", Since: at(0, 18), Restarts: 3, Last: "exited with code 1"}},
	}
}

// exampleSwitch is a release that is taken back, as a follower hears it.
func exampleSwitch(d *fakeDaemon, id string) {
	tell := func(second int, e release.Event) {
		e.Switch, e.At, e.From, e.To = id, at(1, second), r41, r42
		d.events.Append(SwitchEvent("shop", e))
	}
	tell(0, release.Event{Kind: "switch.begun", By: by})
	for n, p := range []release.Phase{release.Preparing, release.Starting, release.Verifying, release.Promoting, release.Rotating} {
		tell(n, release.Event{Kind: "switch.phase", Phase: p})
	}
	reason, lines := "workers of r42 keep dying: exited with code 255", []string{"PHP Fatal error:  Uncaught Error: Call to undefined function foo() in /srv/shop/releases/r42/app/Job.php:12"}
	tell(6, release.Event{Kind: "switch.phase", Phase: release.RollingBack, Reason: reason})
	tell(8, release.Event{
		Kind: EventSwitchEnded, Phase: release.Ended, Verdict: release.RolledBack, Reason: reason, Lines: lines, Took: 8 * time.Second,
	})
	slot := 1
	d.events.Append(Event{
		At: at(1, 30), Kind: "worker.killed", App: "shop", Pool: "shop/emails", Process: "shop/emails:1", Slot: &slot, PID: 4011,
		From: r41, Took: 90, Message: "did not end within its stop timeout of 1m30s",
	})
}

// The examples of the documentation are what a client really gets.
func TestGolden(t *testing.T) {
	h := newHouse(t)
	h.daemon.status = exampleStatus()
	ask := func(name, method, path, body string, want int, as any) {
		t.Helper()
		status, _, text := h.ask(method, path, body)
		if status != want {
			t.Errorf("%s: status %d, want %d: %s", name, status, want, text)
		}
		golden(t, name, pretty(t, text, as))
	}
	h.daemon.history = []release.Record{{
		ID: "20260801-110000-shop-6", Kind: release.KindSwitch, To: r42, From: r41, By: by, Phase: release.Ended, Reached: release.Rotating,
		Cause: "rotating: workers keep dying", Blame: true, Verdict: release.RolledBack, Live: r41, Started: at(1, 0), Ended: at(1, 8),
	}}
	ask("status.json", "GET", "/v1/status", "", 200, &Status{})
	ask("health.json", "GET", "/v1/health", "", 503, &Health{})
	ask("switch-current.json", "GET", "/v1/apps/shop/switch", "", 200, &SwitchStatus{})
	ask("releases.json", "GET", "/v1/apps/shop/releases", "", 200, &[]ReleaseInfo{})
	ask("history.json", "GET", "/v1/apps/shop/history", "", 200, &[]HistoryEntry{})
	ask("switch.json", "POST", "/v1/apps/shop/switch", `{"release":"r42","lock_wait":"15m"}`, 202, &SwitchAnswer{})
	ask("dry-run.json", "POST", "/v1/apps/shop/switch", `{"release":"r42","dry_run":true}`, 200, &SwitchAnswer{})
	eventually(t, "the event of that is there", func() bool { return h.events.Last() == 1 })
	ask("rollback.json", "POST", "/v1/apps/shop/rollback", `{}`, 202, &SwitchAnswer{})
	ask("hold.json", "POST", "/v1/apps/shop/hold", `{"reason":"no changes before the sale"}`, 200, &Done{})
	ask("restart.json", "POST", "/v1/processes/shop/emails:3/restart", `{}`, 200, &[]ProcessResult{})
	h.daemon.begin = nil
	ask("error-usage.json", "POST", "/v1/apps/shop/switch", `{"release":"r42","force":true}`, 400, &ErrorAnswer{})
	ask("error-method.json", "DELETE", "/v1/apps/shop/switch", ``, http.StatusMethodNotAllowed, &ErrorAnswer{})
	h.daemon.current = nil
	ask("error-not-found.json", "POST", "/v1/apps/shop/abort", ``, 404, &ErrorAnswer{})
}

func TestGoldenEvents(t *testing.T) {
	h := newHouse(t)
	exampleSwitch(h.daemon, "20260801-120000-shop-7")
	eventually(t, "all are written", func() bool { return h.events.Last() == 9 })
	_, _, text := h.ask("GET", "/v1/events", "")
	for line := range strings.Lines(text) {
		pretty(t, line, &Event{})
	}
	golden(t, "events.ndjson", []byte(text))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/config"
	"superd/control"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/output"
	"superd/supervisor/program"
)

func logConfig() *config.Config {
	usual := usualOutput
	stamped := usual
	stamped.Timestamps, stamped.Stderr = true, "journal"
	own := usual
	own.Stdout, own.Format, own.Keep = "/var/log/{app}/{release}-{slot}.log", "json", 3
	return &config.Config{
		Apps: []config.App{{
			Name: "shop", Root: "/srv/shop", Releases: "releases", FPM: &config.FPM{Log: stamped},
			Workers: []config.Worker{{Name: "emails", Log: own}},
		}},
		Programs: []config.Program{{Name: "nginx", Log: stamped}},
	}
}

func TestSettingsOfNames(t *testing.T) {
	var r logRules
	r.obey(logConfig())
	rules := output.Rules{MaxSize: 50 << 20, Keep: 10, Compress: true}
	three := rules
	three.Keep = 3
	r42 := map[string]string{"app": "shop", "release": "r42", "generation": "7"}
	for name, want := range map[string]output.Settings{
		"shop/fpm":      {Stdout: "file", Stderr: "journal", Format: output.Timestamps, Rules: rules, Log: "shop/fpm.log"},
		"shop/emails:3": {Stdout: "/var/log/shop/r42-3.log", Stderr: "stdout", Format: output.JSON, Rules: three, Log: "shop/emails-3.log"},
		"shop/before":   {Stdout: "file", Stderr: "stdout", Rules: rules, Log: "shop/before.log"},
		"nginx":         {Stdout: "file", Stderr: "journal", Format: output.Timestamps, Rules: rules, Log: "programs/nginx.log"},
		"nginx:1":       {Stdout: "file", Stderr: "journal", Format: output.Timestamps, Rules: rules, Log: "programs/nginx-1.log"},
		"gone":          {Stdout: "file", Stderr: "stdout", Rules: rules, Log: "programs/gone.log"},
	} {
		if got := r.settings(name, r42); got != want {
			t.Errorf("%s is kept by\n%+v, want\n%+v", name, got, want)
		}
	}
	if got := r.settings("shop/emails:3", nil).Stdout; got != "/var/log/shop/-3.log" {
		t.Errorf("without a life the file is %s", got)
	}
	changed := logConfig()
	changed.Programs[0].Log.Stdout = "none"
	if r.obey(changed); r.settings("nginx:1", nil).Stdout != output.ToNone {
		t.Error("another configuration is not obeyed")
	}
}

// written is a daemon with output, that of two workers and a program, and with programs
// that have not begun.
func written(t *testing.T) (*daemon, map[string]*os.File) {
	t.Helper()
	d := &daemon{log: slog.New(slog.DiscardHandler)}
	d.holds.Store(&config.Config{
		Groups:   []config.Group{{Name: "backend", Members: []string{"program.nginx", "app.shop"}}},
		Programs: []config.Program{{Name: "late"}, {Name: "none"}},
	})
	d.programs = program.New(program.Options{
		Programs: []program.Program{{Name: "late", Processes: 2}, {Name: "none"}}, Children: &supervisor.Children{},
		State: filepath.Join(t.TempDir(), "programs.json"), Log: d.log,
	})
	d.logs.obey(d.config())
	d.output = output.Open(output.Options{Dir: t.TempDir(), Settings: d.logs.settings, Log: d.log})
	var err error
	if d.events, err = control.OpenEvents(filepath.Join(t.TempDir(), "events"), d.log); err != nil {
		t.Fatal(err)
	}
	pipes := map[string]*os.File{}
	for _, name := range []string{"shop/emails:0", "shop/emails:1", "nginx:0"} {
		pipes[name] = begin(t, d, name)
	}
	return d, pipes
}

// begin begins a life of that name, and returns what it writes to.
func begin(t *testing.T, d *daemon, name string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	life := d.output.Attach(output.Life{Name: name, Out: r})
	go func() { defer close(done); life.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; w.Close(); r.Close() })
	return w
}

// What supervisord's tools are told to be the log of a process is the file that has it.
func TestFilesForPanels(t *testing.T) {
	d, pipes := written(t)
	for name := range pipes {
		say(t, d, pipes[name], name, "hello")
		path := d.naming().File(name, "stdout")
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "hello") || d.naming().File(name, "stderr") != "" {
			t.Errorf("%s in %q: %q %v", name, path, text, err)
		}
	}
	elsewhere := usualOutput
	elsewhere.Stdout, elsewhere.Stderr = "journal", "file"
	d.holds.Store(&config.Config{Programs: []config.Program{{Name: "nginx", Log: elsewhere}}})
	d.logs.obey(d.config())
	if out, err := d.naming().File("nginx:0", "stdout"), d.naming().File("nginx:0", "stderr"); out != "" || !strings.HasSuffix(err, "/programs/nginx-0.err.log") {
		t.Errorf("in the journal: %q, %q", out, err)
	}
}

func say(t *testing.T, d *daemon, w *os.File, name, line string) {
	t.Helper()
	fmt.Fprintln(w, line)
	for end := time.Now().Add(time.Minute); !slices.Contains(d.output.Tail(name, 10), line); {
		if time.Now().After(end) {
			t.Fatalf("%s has not arrived", line)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestLogsOfSeveral(t *testing.T) {
	d, pipes := written(t)
	for name, w := range pipes {
		say(t, d, w, name, "first of "+name)
	}
	middle := time.Now()
	for name, w := range pipes {
		say(t, d, w, name, "second of "+name)
	}
	ask := func(q control.LogQuery) []string {
		t.Helper()
		var got []string
		err := d.Logs(t.Context(), q, func(l control.LogLine) error { got = append(got, l.Process+"> "+l.Line); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []string{"shop/emails:0> second of shop/emails:0", "shop/emails:1> second of shop/emails:1"}
	if got := ask(control.LogQuery{Name: "shop/emails", Lines: 1}); !slices.Equal(got, want) {
		t.Errorf("one line of each is %q", got)
	}
	if got := ask(control.LogQuery{Name: "shop", Lines: 10, Since: middle}); !slices.Equal(got, want) {
		t.Errorf("since the middle is %q", got)
	}
	if got := ask(control.LogQuery{Name: "nginx", Lines: 10, Until: middle}); !slices.Equal(got, []string{"nginx:0> first of nginx:0"}) {
		t.Errorf("until the middle is %q", got)
	}
	for _, group := range []string{"backend", "backend:*"} {
		if got := ask(control.LogQuery{Name: group, Lines: 1}); !slices.Equal(got, append([]string{"nginx:0> second of nginx:0"}, want...)) {
			t.Errorf("of the group %s it is %q", group, got)
		}
	}
	enough := errors.New("enough")
	var got []string
	err := d.Logs(t.Context(), control.LogQuery{Name: "shop", Lines: 10, Since: middle, Follow: true}, func(l control.LogLine) error {
		if got = append(got, l.Process+"> "+l.Line); len(got) == 2 {
			fmt.Fprintln(pipes["shop/emails:1"], "third")
		}
		if len(got) == 3 {
			return enough
		}
		return nil
	})
	slices.Sort(got[:2])
	if !errors.Is(err, enough) || !slices.Equal(got, append(want, "shop/emails:1> third")) {
		t.Errorf("followed %q, %v", got, err)
	}
	if err := d.Logs(t.Context(), control.LogQuery{Name: "nobody"}, nil); control.KindOf(err) != control.NotFound {
		t.Errorf("of nobody: %v", err)
	}
}

func TestClearAndAttach(t *testing.T) {
	d, pipes := written(t)
	say(t, d, pipes["nginx:0"], "nginx:0", "old")
	results, err := d.ClearLog(t.Context(), "nginx", release.By{})
	if err != nil || len(results) != 1 || !results[0].OK || len(d.output.Tail("nginx:0", 9)) > 0 {
		t.Errorf("clear: %+v, %v", results, err)
	}
	enough := errors.New("enough")
	var got strings.Builder
	err = d.Attach(t.Context(), "nginx", func(b []byte) error {
		if b == nil {
			fmt.Fprint(pipes["nginx:0"], "no end")
			return nil
		}
		got.Write(b)
		if strings.HasSuffix(got.String(), "end") {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || got.String() != "no end" {
		t.Errorf("attached to %q, %v", got.String(), err)
	}
	if err := d.Attach(t.Context(), "shop/emails", nil); control.KindOf(err) != control.Usage {
		t.Errorf("attached to two: %v", err)
	}
	if err := d.Attach(t.Context(), "nobody", nil); control.KindOf(err) != control.NotFound {
		t.Errorf("attached to nobody: %v", err)
	}
}

// What is configured can be asked about before it has begun: it has written nothing, and
// who follows it hears its first line.
func TestLogsBeforeTheFirstLife(t *testing.T) {
	d, _ := written(t)
	none := func(l control.LogLine) error { t.Errorf("heard %+v", l); return nil }
	for _, name := range []string{"late", "late:1", "none"} {
		if err := d.Logs(t.Context(), control.LogQuery{Name: name, Lines: 10}, none); err != nil {
			t.Errorf("logs of %s: %v", name, err)
		}
		if results, err := d.ClearLog(t.Context(), name, release.By{}); err != nil || slices.ContainsFunc(results, func(r control.ProcessResult) bool { return !r.OK }) {
			t.Errorf("clear %s: %+v, %v", name, results, err)
		}
	}
	enough := errors.New("enough")
	heard := make(chan error, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		heard <- d.Logs(ctx, control.LogQuery{Name: "late", Follow: true}, func(l control.LogLine) error {
			if l.Process == "late:0" && l.Line == "first" {
				return enough
			}
			return nil
		})
	}()
	awaited := func(name string) bool { return slices.Contains(d.output.Names(), name) }
	for ; !awaited("late:0") || !awaited("late:1"); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("nobody waits for late:0 and late:1")
		}
	}
	attached := make(chan struct{})
	go func() {
		heard <- d.Attach(ctx, "late:0", func(b []byte) error {
			if b == nil {
				close(attached)
			} else if string(b) == "first\n" {
				return enough
			}
			return nil
		})
	}()
	select {
	case <-attached:
	case <-ctx.Done():
		t.Fatal("nobody is attached to late:0")
	}
	fmt.Fprintln(begin(t, d, "late:0"), "first")
	for range 2 {
		if err := <-heard; !errors.Is(err, enough) {
			t.Errorf("the first line was not heard: %v", err)
		}
	}
}

// A process that begins while somebody follows its program is heard from its first line
// on, and nobody else is.
func TestLatecomersAreFollowed(t *testing.T) {
	for _, mark := range []bool{false, true} {
		d, pipes := written(t)
		say(t, d, pipes["nginx:0"], "nginx:0", "older")
		say(t, d, pipes["nginx:0"], "nginx:0", "old")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		enough := errors.New("enough")
		var got []string
		err := d.Logs(ctx, control.LogQuery{Name: "nginx", Lines: 1, Follow: true, Mark: mark}, func(l control.LogLine) error {
			if !l.CaughtUp {
				got = append(got, l.Process+"> "+l.Line)
			}
			switch l.Line {
			case "old":
				fmt.Fprintln(begin(t, d, "other:0"), "nobody's")
				fmt.Fprintln(begin(t, d, "nginx:1"), "one\ntwo")
			case "two":
				fmt.Fprintln(pipes["nginx:0"], "new")
			case "new":
				return enough
			}
			return nil
		})
		if want := []string{"nginx:0> old", "nginx:1> one", "nginx:1> two", "nginx:0> new"}; !errors.Is(err, enough) || !slices.Equal(got, want) {
			t.Errorf("mark %v: heard %q, %v", mark, got, err)
		}
	}
}

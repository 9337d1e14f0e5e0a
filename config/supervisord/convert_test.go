package supervisord

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"superd/config"
)

var update = flag.Bool("update", false, "write the results that testdata/golden expects")

// loaded is the configuration that superd makes of a result.
func loaded(t testing.TB, toml string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "superd.toml")
	if err := os.WriteFile(path, []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	return config.Load(path)
}

// here is options with users as they are on any machine that runs the tests.
func here(t testing.TB, path string) Options {
	o := options(t, path)
	known := func(name string) bool { return slices.Contains([]string{"root", "www-data", "nobody"}, name) }
	o.UserKnown, o.GroupKnown = known, known
	return o
}

// Every file that supervisord takes becomes one that superd takes, and no process is
// lost on the way: it is in a program, or refused or replaced by name.
func TestEveryImportIsAccepted(t *testing.T) {
	t.Parallel()
	for _, path := range corpus(t) {
		for _, apps := range []bool{false, true} {
			opts := here(t, path)
			opts.Apps = apps
			c, err := Read(path, opts)
			if err != nil {
				continue // TestReadsAsSupervisordDoes knows whether it should be
			}
			all := c.Names()
			r := Convert(c, opts)
			cfg, err := loaded(t, r.TOML)
			if err != nil {
				t.Errorf("%s, apps %v: %v\n%s", path, apps, err, r.TOML)
				continue
			}
			listed := slices.Clone(r.Replaced)
			for name, processes := range r.Programs {
				i := slices.IndexFunc(cfg.Programs, func(p config.Program) bool { return p.Name == name })
				switch {
				case i >= 0 && cfg.Programs[i].Processes != len(processes):
					t.Errorf("%s: %s has %d processes, under supervisord %v", path, name, cfg.Programs[i].Processes, processes)
				case i < 0 && !apps:
					t.Errorf("%s: program %s is not in the result", path, name)
				}
				listed = append(listed, processes...)
			}
			for _, g := range c.Groups {
				for _, p := range g.Programs {
					if slices.Contains(r.Refused, p.section.name) {
						for _, one := range p.Processes {
							listed = append(listed, namespec(g.Name, one.Name))
						}
					}
				}
			}
			slices.Sort(listed)
			if listed = slices.Compact(listed); !slices.Equal(listed, all) {
				t.Errorf("%s: supervisord runs %v, in the result are %v", path, all, listed)
			}
			for _, f := range r.Findings {
				if f.Text == "" || f.File == "" && f.Section != "" {
					t.Errorf("%s: a finding without a place or a text: %+v", path, f)
				}
			}
		}
	}
}

// The result of each file in testdata/golden is read by people: go test -update
// writes it.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"capistrano-current", "laravel-docs", "environment-expansion", "listeners", "daemon-keys", "numprocs-start", "log-shared", "servers", "fcgi", "slot-everywhere", "comments", "dots-and-dashes", "wrong-sections"} {
		path := "testdata/corpus/" + name + ".conf"
		opts := here(t, path)
		c, err := Read(path, opts)
		if err != nil {
			t.Error(err)
			continue
		}
		// Where the test runs, and which machine it is, do not belong into the result.
		r := Convert(c, opts)
		var got strings.Builder
		got.WriteString(r.TOML)
		got.WriteString("\n----------\n")
		for _, f := range r.Findings {
			got.WriteString(f.String() + "\n")
		}
		dir, err := filepath.Abs("testdata")
		if err != nil {
			t.Fatal(err)
		}
		told := strings.ReplaceAll(got.String(), dir, "$DIR")
		golden := "testdata/golden/" + name + ".txt"
		if *update {
			if err := os.WriteFile(golden, []byte(told), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != told {
			t.Errorf("%s: got\n%s\nwant\n%s", name, told, want)
		}
	}
}

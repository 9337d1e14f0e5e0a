package supervisord

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// answer is what supervisord makes of a file: see testdata/oracle.py.
type answer struct {
	Error            string `json:",omitempty"`
	MinFDs, MinProcs int
	Directory, User  string
	Umask            int
	NoDaemon         bool
	StripANSI        bool
	Groups           map[string]answeredGroup
	Servers          []answeredServer
}

type answeredGroup struct {
	Priority  int
	Kind      string
	Events    []string
	Processes map[string]Process
}

type answeredServer struct {
	File string
	Host string
	Port int
}

// oracle asks the real supervisord about files.
func oracle(t *testing.T, paths []string) map[string]answer {
	t.Helper()
	if _, err := exec.LookPath("supervisord"); err != nil {
		t.Fatal("Debian's package supervisor is needed: make test installs it")
	}
	in, err := json.Marshal(paths)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "testdata/oracle.py")
	cmd.Stdin = bytes.NewReader(in)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oracle: %v\n%s", err, complaints.String())
	}
	answers := make(map[string]answer)
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return answers
}

// options is how a test reads a file. Its first line may set variables.
func options(t testing.TB, path string) Options {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	env := make(map[string]string)
	first, _, _ := strings.Cut(string(text), "\n")
	if pairs, ok := strings.CutPrefix(first, "; env:"); ok {
		for pair := range strings.FieldsSeq(pairs) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
	}
	return Options{
		Host: "oracle.example", Version: "test",
		UserKnown: func(string) bool { return true },
		LookupEnv: func(name string) (string, bool) {
			if v, ok := env[name]; ok {
				return v, true
			}
			return os.LookupEnv(name)
		},
	}
}

// ours is what we make of a file, in the words of the oracle.
func ours(t *testing.T, path string) answer {
	t.Helper()
	opts := options(t, path)
	c, err := Read(path, opts)
	if err != nil {
		return answer{Error: err.Error()}
	}
	now := func(text string) string {
		return resolved(text, func(name string) string { v, _ := opts.LookupEnv(name); return v })
	}
	d := c.Daemon
	a := answer{MinFDs: d.MinFDs, MinProcs: d.MinProcs, Directory: d.Directory, User: d.User, Umask: d.Umask,
		NoDaemon: d.NoDaemon, StripANSI: d.StripANSI, Groups: make(map[string]answeredGroup), Servers: []answeredServer{}}
	for _, g := range c.Groups {
		group := answeredGroup{Priority: g.Priority, Events: []string{}, Processes: make(map[string]Process)}
		if g.Kind == kindListener || g.Kind == kindFCGI {
			group.Kind = g.Kind
		}
		group.Events = append(group.Events, g.Events...)
		for _, p := range g.Programs {
			for _, one := range p.Processes {
				one.Command, one.Directory = now(one.Command), now(one.Directory)
				one.Stdout.Log, one.Stderr.Log = now(one.Stdout.Log), now(one.Stderr.Log)
				env := make(map[string]string)
				for k, v := range one.Environment {
					env[k] = now(v)
				}
				one.Environment = env
				group.Processes[one.Name] = one
			}
		}
		a.Groups[g.Name] = group
	}
	for _, s := range c.Servers {
		a.Servers = append(a.Servers, answeredServer{s.File, s.Host, s.Port})
	}
	slices.SortFunc(a.Servers, func(x, y answeredServer) int {
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Host, y.Host), cmp.Compare(x.Port, y.Port))
	})
	return a
}

// corpus is every main file below testdata/corpus.
func corpus(t testing.TB) []string {
	t.Helper()
	single, err := filepath.Glob("testdata/corpus/*.conf")
	if err != nil {
		t.Fatal(err)
	}
	several, err := filepath.Glob("testdata/corpus/*/supervisord.conf")
	if err != nil {
		t.Fatal(err)
	}
	return append(single, several...)
}

// The same files, read by supervisord and by us: every process, with every setting,
// and every refusal.
func TestReadsAsSupervisordDoes(t *testing.T) {
	t.Parallel()
	var paths []string
	for _, path := range corpus(t) {
		abs, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, abs)
	}
	if len(paths) < 60 {
		t.Errorf("%d files: the corpus is to have 60", len(paths))
	}
	answers := oracle(t, paths)
	refused := 0
	for _, path := range slices.Sorted(maps.Keys(answers)) {
		want, got := answers[path], ours(t, path)
		if want.Error != "" || got.Error != "" {
			refused++
			if (want.Error == "") != (got.Error == "") {
				t.Errorf("%s: supervisord says %q, we say %q", filepath.Base(path), want.Error, got.Error)
			}
			continue
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -supervisord +ours\n%s", path, diff)
		}
	}
	if refused == 0 || refused > len(paths)/3 {
		t.Errorf("%d of %d files are refused by both: the corpus is lopsided", refused, len(paths))
	}
}

package config

import (
	"encoding"
	"errors"
	stdflag "flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A case is one file below testdata: what people write, a line of ten dashes, and
// what superd makes of it – everything that is set in the Config, with its warnings,
// or every problem. `-- name --` begins another file, or a directory when the name
// ends in a slash; files below bin are executable. $DIR is where all of it is.
//
// Adding a case is adding a file: `go test ./config -update` writes what is
// expected, for a person to read.
var update = stdflag.Bool("update", false, "write what the cases in testdata expect")

const divider = "\n----------\n"

var fileLine = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func TestGolden(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, error %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(path, "testdata/"), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			input, want, found := strings.Cut(string(text), divider)
			if !found && !*update {
				t.Fatal("there is no line of ten dashes")
			}
			got := verdict(t, input)
			if kind := filepath.Base(filepath.Dir(path)); (kind == "good") != strings.HasPrefix(got, "accepted\n") {
				t.Errorf("is not %s:\n%s", kind, got)
			}
			if *update {
				if err := os.WriteFile(path, []byte(input+divider+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// verdict lays a case out on disk and loads it.
func verdict(t *testing.T, input string) string {
	t.Helper()
	dir := layOut(t, input)
	c, err := Load(filepath.Join(dir, "superd.toml"))
	var told string
	var problems *Problems
	switch {
	case err == nil:
		told = accepted(c)
	case c != nil:
		t.Fatal("a Config in spite of an error")
	case !errors.As(err, &problems) || len(*problems) == 0:
		t.Fatalf("%T with nothing in it", err)
	default:
		told = err.Error() + "\n"
	}
	told = strings.ReplaceAll(told, dir+"/", "")
	return strings.ReplaceAll(told, dir, "$DIR")
}

func layOut(t *testing.T, input string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	put := func(name, text string) {
		path, mode := filepath.Join(dir, name), os.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if strings.HasSuffix(name, "/") {
			path = filepath.Join(path, ".keep")
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "$DIR", dir)), mode); err != nil {
			t.Fatal(err)
		}
	}
	names := fileLine.FindAllStringSubmatch(input, -1)
	texts := fileLine.Split(input, -1)
	if !slices.ContainsFunc(names, func(m []string) bool { return m[1] == "superd.toml" }) {
		put("superd.toml", texts[0]+"\n")
	}
	for i, name := range names {
		put(name[1], strings.TrimSuffix(texts[i+1], "\n")+"\n")
	}
	return dir
}

// accepted is all that is set in a Config, a line each.
func accepted(c *Config) string {
	var b strings.Builder
	b.WriteString("accepted\n")
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	shown := *c
	shown.Warnings, shown.Variables = nil, nil
	show(&b, "", reflect.ValueOf(shown))
	return b.String()
}

func show(b *strings.Builder, name string, v reflect.Value) {
	if v.IsZero() {
		return
	}
	switch one := v.Interface().(type) {
	case fs.FileMode:
		fmt.Fprintf(b, "%s = %#o\n", name, one)
		return
	case fmt.Stringer: // durations, shares, modes, signals, expressions
		if one == fmt.Stringer(Infinity) {
			one = infinity{}
		}
		fmt.Fprintf(b, "%s = %s\n", name, one)
		return
	case encoding.TextMarshaler:
		fmt.Fprintf(b, "%s = %v\n", name, one)
		return
	}
	switch v.Kind() { //nolint:exhaustive // the others are printed as they are
	case reflect.Pointer:
		fmt.Fprintf(b, "%s\n", name)
		show(b, name, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			show(b, strings.TrimPrefix(name+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case reflect.Slice:
		switch v.Interface().(type) {
		case []string:
			fmt.Fprintf(b, "%s = %q\n", name, v.Interface())
			return
		case []int:
			fmt.Fprintf(b, "%s = %v\n", name, v.Interface())
			return
		}
		for i := range v.Len() {
			show(b, fmt.Sprintf("%s[%d]", name, i), v.Index(i))
		}
	case reflect.Map:
		for _, k := range slices.SortedFunc(maps.Keys(asMap(v)), strings.Compare) {
			fmt.Fprintf(b, "%s[%s] = %v\n", name, k, asMap(v)[k])
		}
	default:
		fmt.Fprintf(b, "%s = %#v\n", name, v.Interface())
	}
}

type infinity struct{}

func (infinity) String() string { return "infinity" }

var _ fmt.Stringer = time.Duration(0)

func asMap(v reflect.Value) map[string]any {
	all := make(map[string]any)
	for _, k := range v.MapKeys() {
		all[k.String()] = v.MapIndex(k).Interface()
		if text, ok := all[k.String()].(string); ok {
			all[k.String()] = fmt.Sprintf("%q", text)
		}
	}
	return all
}

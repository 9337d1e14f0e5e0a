package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// loadText loads a text as if it were a file that includes nothing.
func loadText(t testing.TB, text string) (*Config, error) {
	t.Helper()
	return loadKnowing(t, text, newReading().accounts)
}

// loadKnowing is loadText for those who load often: who is who does not change.
func loadKnowing(t testing.TB, text string, who accounts) (*Config, error) {
	t.Helper()
	in := newReading()
	in.accounts = who
	in.readText("superd.toml", text)
	c, err := in.finish()
	sound(t, text, c, err)
	return c, err
}

// sound is what holds of every answer, whatever the text.
func sound(t testing.TB, text string, c *Config, err error) {
	t.Helper()
	if (c == nil) == (err == nil) {
		t.Fatalf("config %v with error %v", c, err)
	}
	var told []Problem
	if err != nil {
		var problems *Problems
		if !errors.As(err, &problems) || len(*problems) == 0 {
			t.Fatalf("%T with nothing in it", err)
		}
		told = *problems
	} else {
		told = c.Warnings
	}
	lines := strings.Count(text, "\n") + 1
	for i, p := range told {
		if p.File == "superd.toml" && (p.Line < 1 || p.Line > lines || p.Column < 1) || p.Text == "" {
			t.Fatalf("of %d lines: %s", lines, p)
		}
		if i > 0 && (told[i-1] == p || told[i-1].File == p.File && told[i-1].Line > p.Line) {
			t.Fatalf("out of order or twice: %s", p)
		}
		if strings.ContainsAny(p.Key, "\n\r\x00") {
			t.Fatalf("more than a line: %q", p.Key)
		}
	}
}

// TestTruncatedAnywhere: a file that is cut at any byte is refused, or accepted for
// the whole that it also is; then it says that the last line lacks its end, or
// it was cut between lines.
func TestTruncatedAnywhere(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"testdata/contract.toml", "testdata/good/warnings.txt", "testdata/bad/syntax.txt"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			input, _, _ := strings.Cut(string(b), divider)
			if path == "testdata/contract.toml" {
				input = contract(t)
			}
			whole, err := os.ReadFile(filepath.Join(layOut(t, input), "superd.toml"))
			if err != nil {
				t.Fatal(err)
			}
			taken, who := 0, newReading().accounts
			for i := range whole {
				cut := string(whole[:i])
				c, err := loadKnowing(t, cut, who)
				if err != nil {
					continue
				}
				taken++
				if cut != "" && !strings.HasSuffix(cut, "\n") && !strings.Contains(fmt.Sprint(c.Warnings), "the last line has no line end") {
					t.Fatalf("cut at byte %d it is accepted without a word", i)
				}
			}
			if _, err := loadText(t, string(whole)); (err == nil) != (taken > 40) {
				t.Errorf("accepted %d times: %v", taken, err)
			}
		})
	}
}

// TestHostile: what was never meant as configuration is refused, soon.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nested more than":   "a = " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000),
		"nested more":        "a = " + strings.Repeat("[", 100_000),
		"deep tables":        "a = " + strings.Repeat("{a=", 100_000),
		"more than 16":       strings.Repeat("a.", 100_000) + "a = 1",
		"more than 16 parts": "[" + strings.Repeat("a.", 100_000) + "a]",
		"longer than 256":    strings.Repeat("a", 900_000) + " = 1",
		"a part longer":      `"` + strings.Repeat("a", 900_000) + `" = 1`,
		"many keys":          many(20_000, "k%d = 1\n"),
		"many tables":        many(20_000, "[t%d]\n"),
		"many errors":        many(20_000, "k%d = = 1\n"),
		"many open strings":  strings.Repeat("\"\n", 100_000),
		"many brackets":      strings.Repeat("[\n", 100_000),
		"one long line":      strings.Repeat("x ", 400_000),
		"NUL bytes":          strings.Repeat("\x00", 100_000),
		"not UTF-8":          strings.Repeat("\xff", 100_000) + " = 1",
		"UTF-16":             "\xff\xfe[\x00l\x00o\x00g\x00]\x00",
		"never closed":       "a = \"\"\"" + strings.Repeat("x\n", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := loadText(t, text)
			if err == nil {
				t.Fatal("is accepted")
			}
			if strings.Contains(name, "more") || strings.Contains(name, "longer") {
				if !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %.300s", err)
				}
			}
			if took := time.Since(start); took > 30*time.Second { // some ms, without a race detector on a busy machine
				t.Errorf("took %s", took)
			}
		})
	}
}

func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestPlacesAreExact: line and column, in characters, whatever the line ends and
// with or without the mark that editors of Windows put in front.
func TestPlacesAreExact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"include = [\"a\\\"\", 7]":                                                           "superd.toml:1:19: include[1]",
		"[app.a.worker.w]\ncommand=['x']\n[app.a]\nuser='root'":                              "superd.toml:3:6: app.a.root",
		"[app.a]\nroot='/'\n[[app.a.check]]\n[[app.a.check]]\n[app.a.check.headers]\nHost=1": "superd.toml:6:1: app.a.check[1].headers.Host",
		"x = 1":                               "superd.toml:1:1: x",
		"\ufeffx = 1":                         "superd.toml:1:1: x",
		"\r\n  x = 1\r\n":                     "superd.toml:2:3: x",
		"# ü\n[log]\n\tformat = 3\n":          "superd.toml:3:2: log.format",
		"log = { level = 'info', formt = 1 }": "superd.toml:1:25: log.formt",
		"log.level = 'info'\nlog.formt = 1":   "superd.toml:2:5: log.formt",
		"[log]\n'le\"vel' = 1":                `superd.toml:2:1: log."le\"vel"`,
		"\"l\\u006fg\".lvel = 1":              "superd.toml:1:12: log.lvel",
		"include = [\n'a', # ]\n 'ü', 7]":     "superd.toml:3:7: include[2]",
		"[[access]]\nrole='read'\nuser='root'\n[[ access ]]\nrole='x'\nuser='root'": "superd.toml:5:1: access[1].role",
		"\ufeff[log]\nlevel = info\n":           "superd.toml:2:9: log.level",
		"[log]\r\nlevel = info\r\n":             "superd.toml:2:9: log.level",
		"[log]\nlevel = \"\"\"\na\n\"\"\"\nx=1": "superd.toml:2:1: log.level",
	} {
		_, err := loadText(t, text)
		if err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestFilesThatAreNone: what cannot be read is told and never waited for.
func TestFilesThatAreNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, []byte(strings.Repeat("#\n", 600_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	fifo := makeFIFO(t, filepath.Join(dir, "fifo.toml"))
	for path, want := range map[string]string{
		filepath.Join(dir, "nothing.toml"): "cannot be read: no such file or directory",
		dir:                                "is not a regular file",
		fifo:                               "is not a regular file",
		"/dev/zero":                        "is not a regular file",
		large:                              "is larger than 1 MiB",
	} {
		_, err := Load(path)
		if err == nil || err.Error() != path+": "+want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestFileOpenToOthers: who can write the file says what root runs.
func TestFileOpenToOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the file must be root's")
	}
	dir := layOut(t, "# nothing")
	path := filepath.Join(dir, "superd.toml")
	if err := os.Chmod(path, 0o664); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Text, "chmod go-w "+path) {
		t.Errorf("error %v, config %v", err, c)
	}
}

func FuzzLoad(f *testing.F) {
	cases, err := filepath.Glob("testdata/*/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(cases, "testdata/contract.toml") {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		text, _, _ := strings.Cut(string(b), divider)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := loadText(t, text)
		if err != nil {
			return
		}
		// What was accepted can fail only for lack of a variable.
		for _, app := range c.Apps {
			for _, w := range app.Workers {
				for _, arg := range append(w.Command, w.ReadyCommand...) {
					if _, err := Expand(arg, Vars{}); err != nil && !strings.Contains(err.Error(), "is not in the environment") {
						t.Fatalf("accepted %q: %v", arg, err)
					}
				}
				if w.MaxParallel.Of(w.Processes) < 1 || w.StopTimeout < 0 {
					t.Fatalf("accepted %+v", w)
				}
			}
		}
		for _, p := range c.Programs {
			for _, arg := range append(p.Command, p.ReadyCommand...) {
				if _, err := Expand(arg, Vars{}); err != nil && !strings.Contains(err.Error(), "is not in the environment") {
					t.Fatalf("accepted %q: %v", arg, err)
				}
			}
			if times, err := p.Times(); err != nil || times != nil && !times.Next(time.Now()).After(time.Now()) {
				t.Fatalf("accepted schedule %q: %v", p.Schedule, err)
			}
		}
	})
}

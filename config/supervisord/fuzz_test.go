package supervisord

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever is in a file: it is refused, or becomes a superd.toml that superd takes,
// and no process of it is lost without a word.
func FuzzImport(f *testing.F) {
	for _, path := range corpus(f) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("[supervisord]\n[program:a]\ncommand=a %(process_num)0999d\nnumprocs=3\nprocess_name=%(process_num)x\n")
	f.Add("[supervisord]\n[program:\x01]\ncommand='a b'\nenvironment=a.b=1,A=\"\x7f\"\n[group:all]\nprograms=\x01\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return // size finds nothing here
		}
		path := filepath.Join(t.TempDir(), "s.conf")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		opts := here(t, path)
		c, err := Read(path, opts)
		if err != nil {
			return
		}
		processes := len(c.Names())
		if processes > 1000 {
			return
		}
		for _, apps := range []bool{false, true} {
			opts.Apps = apps
			if c, err = Read(path, opts); err != nil {
				t.Fatalf("read again: %v", err)
			}
			r := Convert(c, opts)
			if _, err := loaded(t, r.TOML); err != nil {
				t.Fatalf("%v\n%s", err, r.TOML)
			}
			if processes > 0 && len(r.Programs)+len(r.Refused)+len(r.Replaced) == 0 {
				t.Fatalf("%d processes, and none in the result", processes)
			}
		}
	})
}

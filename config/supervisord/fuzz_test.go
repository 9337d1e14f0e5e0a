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
	f.Add("; env:A= B=' C=\\ D=x\n[supervisord]\n[program:a]\ncommand=%(ENV_A)s %(ENV_D)s \"%(ENV_B)s\" %(ENV_C)s\nuser=%(ENV_NOT)s\n")
	f.Add("; env:A=\n[program:a]\ncommand=%(ENV_A)s\nuser={{ user }}\nstdout_logfile=/a\nstderr_logfile=/a\n[program:b]\ncommand=b\n  user=c\nstdout_logfile=/a\nstderr_logfile=/a\n")
	f.Add("[program:a]\ncommand=\"a b\"\nstdout_logfile=/dev/stderr\nstderr_logfile=/dev/fd/2\n{% if a = b %}\ndependent_startup_wait_for=b:running\n")
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

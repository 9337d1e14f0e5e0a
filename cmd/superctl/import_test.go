package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runImport(t *testing.T, args ...string) (code int, out, talk string) {
	t.Helper()
	var o, e bytes.Buffer
	c := &cli{out: &o, talk: &e}
	code = c.run(t.Context(), append([]string{"import"}, args...))
	return code, o.String(), e.String()
}

func TestImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, "supervisord.conf")
	text := "[supervisord]\n[program:worker]\ncommand=php artisan queue:work\nnumprocs=8\nprocess_name=%(program_name)s_%(process_num)02d\nstdout_logfile=/var/log/w.log\n[program:web]\ncommand=/bin/web\npriority=5\n[eventlistener:mail]\ncommand=crashmail -a -m x@example.com\nevents=PROCESS_STATE_EXITED\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, talk := runImport(t, conf)
	for _, want := range []string{"supervisord.conf:9: [program:web] priority: ignored", "[eventlistener:mail]: refused", "2 programs"} {
		if code != 0 || !strings.Contains(talk, want) {
			t.Errorf("exit %d, no %q in %s", code, want, talk)
		}
	}
	toml := filepath.Join(dir, "superd.toml")
	if code, out, _ := runImport(t, conf, "-o", toml); code != 0 || out != "" {
		t.Errorf("exit %d, printed %q beside the file", code, out)
	}
	if written, err := os.ReadFile(toml); err != nil || !strings.Contains(string(written), "[program.worker]") || !strings.Contains(out, "[program.worker]") {
		t.Errorf("%v, %s", err, written)
	}
	if code, dash, _ := runImport(t, conf, "-o", "-"); code != 0 || dash != out {
		t.Errorf("-o -: exit %d, %s", code, dash)
	}
	var o, e bytes.Buffer
	if code := (&cli{out: &o, talk: &e}).run(t.Context(), []string{"check", toml}); code != 0 {
		t.Errorf("check says %d: %s", code, e.String())
	}
	if code, _, talk := runImport(t, conf, "-o", toml); code != 6 || !strings.Contains(talk, "not overwritten") {
		t.Errorf("a file that is there: exit %d, %s", code, talk)
	}
	if code, _, talk := runImport(t, conf, "-o", "/dev/null"); code != 0 {
		t.Errorf("/dev/null: exit %d, %s", code, talk)
	}
}

func TestImportForPrograms(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "supervisord.conf")
	if err := os.WriteFile(conf, []byte("[supervisord]\n[program:web]\ncommand=/bin/web\nautorestart=false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, _ := runImport(t, "--json", conf)
	var answer struct {
		OK       bool
		TOML     string
		Programs map[string][]string
		Findings []struct {
			Kind, File, Key string
			Line            int
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 0 || !answer.OK {
		t.Fatalf("exit %d, %v in %s", code, err, out)
	}
	if len(answer.Programs["web"]) != 1 || answer.Findings[0].Key != "autorestart" || answer.Findings[0].Line != 4 {
		t.Errorf("%+v", answer)
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "supervisord.conf")
	if err := os.WriteFile(conf, []byte("[supervisord]\n[program:web]\ncommand=/bin/date +%F\nautostart=maybe\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, talk := runImport(t, conf)
	if code != 5 || out != "" || !strings.Contains(talk, "supervisord.conf:3: [program:web] command") || !strings.Contains(talk, "supervisord.conf:4: [program:web] autostart") {
		t.Errorf("exit %d, out %q, talk %q", code, out, talk)
	}
	if code, _, talk := runImport(t, conf+".not"); code != 5 || !strings.Contains(talk, "cannot be read") {
		t.Errorf("no such file: exit %d, %s", code, talk)
	}
}

func TestImportCounts(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 programs", 1: "1 program", 2: "2 programs"} {
		if got := counted(n, "program"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

package fpm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who deploys writes an env_file, and the master of PHP-FPM is root. What he says
// reaches his PHP whole; the master neither loads a library for it, nor reads an ini file.
func TestDeployersEnvironmentIsNotTheMasters(t *testing.T) {
	for _, handoff := range []Handoff{Parallel, Reload} {
		t.Run(string(handoff), func(t *testing.T) {
			s := newShop(t)
			evil := filepath.Join(s.dir, "evil.d")
			if err := os.Mkdir(evil, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(evil, "evil.ini"), []byte("error_append_string = evil\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			theirs := map[string]string{"LD_PRELOAD": "/nonexistent/evil.so", "PHP_INI_SCAN_DIR": evil, "PHPRC": evil, "PLAIN": "p'w $x"}
			s.change = func(o *Options, p *Pool) {
				o.Handoff, p.Theirs = handoff, map[string]bool{}
				for name, value := range theirs {
					p.Env[name], p.Theirs[name] = value, true
				}
			}
			l := s.superd()
			g := s.generation(1)
			pool, err := l.o.Pool(g)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range l.rendering(place{Generation: g}, pool).master("/x") {
				if name, value, _ := strings.Cut(v, "="); theirs[name] != "" && strings.Contains(value, theirs[name]) {
					t.Errorf("the master has %s", v)
				}
			}
			l.serve(g)
			a, err := s.get("env[]=LD_PRELOAD&env[]=PHP_INI_SCAN_DIR&env[]=PHPRC&env[]=PLAIN&env[]=" + aside + "PLAIN&ini[]=error_append_string")
			if got := fmt.Sprint(a.Getenv); err != nil || got != "[/nonexistent/evil.so "+evil+" "+evil+" p'w $x false]" {
				t.Errorf("PHP finds %s, %v", got, err)
			}
			if len(a.INI) != 1 || a.INI[0] != "" {
				t.Errorf("an ini file of theirs was read: %q", a.INI)
			}
			if log, _ := os.ReadFile(filepath.Join(s.dir, "log", "shop", "fpm.log")); strings.Contains(string(log), "evil.so") {
				t.Errorf("the loader has looked for their library: %s", log)
			}
		})
	}
}

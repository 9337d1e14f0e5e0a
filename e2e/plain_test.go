//go:build e2e

package e2e

import (
	"syscall"
	"testing"
	"time"

	"superd/e2e/load"
)

// Without superd, the link moved and nothing else done: the load finds answers that
// are put together from two releases.
func TestTheLoadSeesMixedAnswers(t *testing.T) {
	l, redis := newLab(t)
	fpm, err := l.StartPHPFPM("php-fpm", 24, "0", redis.Socket, "php_admin_flag[opcache.enable] = off", "php_admin_value[realpath_cache_size] = 0")
	if err != nil {
		t.Fatal(err)
	}
	nginx, err := l.StartNginx(fpm.Socket, "$document_root")
	if err != nil {
		t.Fatal(err)
	}
	run := load.Start(load.Plan{URL: nginx.URL, Rate: 50, Mix: []load.Route{{Name: "300 ms sleep", Path: "/slow?ms=300", Share: 1}}})
	for i := range 4 {
		time.Sleep(500 * time.Millisecond)
		if err := l.Shop.Point([]string{"r2", "r1"}[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	r := run.Stop()
	t.Logf("the link moved four times\n%s", r)
	if r.Mixed == 0 {
		t.Error("the load did not see it")
	}
}

// Without superd: what the load finds when php-fpm is reloaded as its manual says.
// A load that does not see this loss could not see superd's either.
func TestTheLoadSeesWhatAReloadCosts(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout string
		seen    func(load.Report) bool
	}{
		"requests are cut off": {"0", func(r load.Report) bool { return r.Failed() > 0 }},
		"users wait":           {"10s", func(r load.Report) bool { return r.Route(0, 0.99) > 800*time.Millisecond && r.Cut > 0 }}, // of 5 ms
	} {
		t.Run(name, func(t *testing.T) {
			l, redis := newLab(t)
			fpm, err := l.StartPHPFPM("php-fpm", 24, tt.timeout, redis.Socket)
			if err != nil {
				t.Fatal(err)
			}
			nginx, err := l.StartNginx(fpm.Socket, "$realpath_root")
			if err != nil {
				t.Fatal(err)
			}
			run := load.Start(load.Plan{URL: nginx.URL, Rate: 200, Mix: []load.Route{
				{Name: "5 ms", Path: "/", Share: 90}, {Name: "300 ms sleep", Path: "/slow?ms=300", Share: 9},
				{Name: "2 s busy", Path: "/busy?ms=2000", Share: 1},
			}})
			for range 2 {
				time.Sleep(3 * time.Second)
				if err := l.Shop.Point("r2"); err != nil {
					t.Fatal(err)
				}
				if err := fpm.Signal(syscall.SIGUSR2); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(3 * time.Second)
			r := run.Stop()
			t.Logf("php-fpm reloaded twice, process_control_timeout = %s\n%s%v", tt.timeout, r, r.Releases)
			if !tt.seen(r) {
				t.Error("the load did not see it")
			}
			if r.Releases["r1"] == 0 || r.Releases["r2"] == 0 {
				t.Errorf("answers by release: %v", r.Releases)
			}
		})
	}
}

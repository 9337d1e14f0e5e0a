package lab

import (
	"fmt"
	"os"
	"strings"
	"text/template"
)

// A Config is what differs between the stories. Zero means the default beside it.
type Config struct {
	Children   int    // 24: of PHP-FPM, for each generation
	Workers    int    // 4
	Watch      string // 1s
	Healthy    string // 300ms: min_healthy_time of a worker
	Parallel   string // 50%: of the workers at once
	Canary     int    // 0
	Ready      string // log:ready for jobs
	Stop       string // 30s: stop_timeout of a worker
	Drain      string // 30s: drain_timeout of PHP-FPM
	Progress   string // 1m: progress_deadline
	Verify     string // 20s: deadline of the check
	Rotations  int    // 2: max_failures
	Keep       int    // 50: keep_releases
	NoRollback bool   // auto_rollback = false
	Unpinned   bool   // pin = false

	CanaryShare string // none
	CanaryTime  string // of that

	Listen  string // a socket in run: where PHP is reachable
	Manager string // static: pm, with the lines that go with it

	NoCaches bool   // PHP looks for each file anew: what the caches hide shows
	More     string // whatever else the file has
}

func (c Config) orDefaults() Config {
	number := func(n *int, usual int) {
		if *n == 0 {
			*n = usual
		}
	}
	text := func(s *string, usual string) {
		if *s == "" {
			*s = usual
		}
	}
	number(&c.Children, 24)
	number(&c.Workers, 4)
	number(&c.Rotations, 2)
	number(&c.Keep, 50)
	text(&c.Watch, "1s")
	text(&c.Healthy, "300ms")
	text(&c.Parallel, "50%")
	text(&c.Ready, "log:ready for jobs")
	text(&c.Stop, "30s")
	text(&c.Drain, "30s")
	text(&c.Progress, "1m")
	text(&c.Verify, "20s")
	return c
}

// Configure writes superd.toml.
func (l *Lab) Configure(c Config) error {
	var b strings.Builder
	err := template.Must(template.New("superd.toml").Parse(superdConf)).Execute(&b, struct {
		Config
		Dir string
	}{c.orDefaults(), l.Dir})
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	if err := os.WriteFile(l.ConfigFile(), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// ConfigFile is where superd.toml is.
func (l *Lab) ConfigFile() string { return l.Path("superd.toml") }

// ControlSocket is superd's own.
func (l *Lab) ControlSocket() string { return l.Path("run", "superd.sock") }

// FPMSocket is where superd makes the shop's PHP reachable.
func (l *Lab) FPMSocket() string { return l.Path("run", "shop", "fpm.sock") }

const superdConf = `socket    = "{{.Dir}}/run/superd.sock"
run_dir   = "{{.Dir}}/run"
state_dir = "{{.Dir}}/state"
log_dir   = "{{.Dir}}/log"

[app.shop]
root = "{{.Dir}}/shop"
user = "www-data"
env  = { REDIS_SOCKET = "{{.Dir}}/redis.sock" }

[app.shop.switch]
watch             = "{{.Watch}}"
max_failures      = {{.Rotations}}
progress_deadline = "{{.Progress}}"
keep_releases     = {{.Keep}}
required          = ["vendor/autoload.php"]
auto_rollback     = {{not .NoRollback}}
{{if .CanaryShare}}canary_share = "{{.CanaryShare}}"
canary_time  = "{{.CanaryTime}}"{{end}}

[app.shop.fpm]
binary       = "php-fpm8.2"
listen       = "{{if .Listen}}{{.Listen}}{{else}}{{.Dir}}/run/shop/fpm.sock{{end}}"
{{.Manager}}
max_children = {{.Children}}
drain_timeout = "{{.Drain}}"
pin     = {{not .Unpinned}}
ini     = { {{if .NoCaches}}"opcache.enable" = "0", "realpath_cache_size" = "0", {{end}}"opcache.validate_timestamps" = "0", "opcache.file_update_protection" = "0", log_errors = "1" }
include = ["{release_dir}/fpm.conf"]
warmup  = ["/"]

[app.shop.worker.jobs]
command          = ["php8.2", "bin/worker.php", "{root}/shared/ledger"]
processes        = {{.Workers}}
canary           = {{.Canary}}
max_parallel     = "{{.Parallel}}"
min_healthy_time = "{{.Healthy}}"
ready            = "{{.Ready}}"
stop_timeout     = "{{.Stop}}"

[[app.shop.check]]
name = "up"
path = "/up"
interval = "100ms"
timeout  = "5s"
healthy_threshold   = 2
unhealthy_threshold = 3
deadline = "{{.Verify}}"
{{.More}}
`

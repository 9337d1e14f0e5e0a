package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"superd/config"
)

// phpSettings are the settings that PHP-FPM would run with, by name.
type phpSettings map[string]string

func (s phpSettings) on(name string) bool {
	v := strings.ToLower(s[name])
	return v == "on" || v == "1" || v == "yes" || v == "true"
}

// text is a setting, "" when it has no value.
func (s phpSettings) text(name string) string {
	if s[name] == "no value" {
		return ""
	}
	return s[name]
}

// bytes is a size as php.ini writes it: 128M, 1G, -1 for no limit.
func (s phpSettings) bytes(name string) (int64, bool) {
	text := strings.ToUpper(strings.TrimSpace(s[name]))
	unit := int64(1)
	for suffix, of := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = rest, of
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n * unit, err == nil
}

// settings asks the configured php-fpm. PHP preloads before it prints anything, which
// would run the app's code as whoever we are: once it is asked without preloading, and
// once, for the name of the preloaded file alone, without opcache.
func (e *examination) settings(ctx context.Context, f *config.FPM) (phpSettings, error) {
	argv := append([]string{f.Binary}, f.Args...)
	for _, name := range slices.Sorted(maps.Keys(f.INI)) {
		if !strings.ContainsAny(f.INI[name], "\r\n") {
			argv = append(argv, "-d", name+"="+f.INI[name])
		}
	}
	text, err := e.Run(ctx, Call{Argv: append(slices.Clip(argv), "-d", "opcache.preload=", "-i")})
	if err != nil {
		return nil, err
	}
	set := readSettings(text)
	if len(set) == 0 {
		return nil, errors.New(f.Binary + " -i told nothing")
	}
	if text, err = e.Run(ctx, Call{Argv: append(slices.Clip(argv), "-d", "opcache.enable=0", "-i")}); err != nil {
		return nil, err
	}
	set["opcache.preload"] = readSettings(text)["opcache.preload"]
	return set, nil
}

// readSettings reads what php -i prints: "name => local => master".
func readSettings(text string) phpSettings {
	set := phpSettings{}
	for line := range strings.Lines(text) {
		if parts := strings.Split(strings.TrimSpace(line), " => "); len(parts) == 3 {
			set[parts[0]] = parts[1]
		}
	}
	return set
}

// php looks at the settings of an app's PHP-FPM.
func (e *examination) php(ctx context.Context, app *config.App) {
	e.backlog(app)
	set, err := e.settings(ctx, app.FPM)
	if err != nil {
		e.unseen("php", app.Name+"/fpm", err, app.FPM.Binary+" -i")
		return
	}
	e.memory(app, set)
	if set["opcache.enable"] == "" || !set.on("opcache.enable") {
		e.opcacheOff(app, set)
		return
	}
	e.opcache(app, set)
	e.preload(app, set)
}

func (e *examination) opcacheOff(app *config.App, set phpSettings) {
	do := `ini = { "opcache.enable" = "1" } in [app.` + app.Name + `.fpm]`
	if set["opcache.enable"] == "" {
		do = "apt-get install php-opcache, or zend_extension = opcache in php.ini"
	}
	e.tell(Finding{
		ID: "opcache-off", Severity: Hint, Subject: app.Name + "/fpm",
		What: "opcache is off", Do: do,
		Why: "PHP compiles every file again for every request, several times slower. superd gives each release a cache of its own, so nothing stale is to be feared.",
	})
}

func (e *examination) opcache(app *config.App, set phpSettings) {
	f, subject := app.FPM, app.Name+"/fpm"
	if f.Pin && set.on("opcache.validate_timestamps") {
		e.tell(Finding{
			ID: "opcache-validate-timestamps", Severity: Hint, Subject: subject,
			What: "opcache.validate_timestamps is on",
			Why:  "PHP asks the disk again and again whether files have changed that a release never changes; a switch starts with an empty cache anyway.",
			Do:   `ini = { "opcache.validate_timestamps" = "0" } in [app.` + app.Name + `.fpm], unless files of a live release are edited in place`,
		})
	}
	if n, ok := set.bytes("opcache.file_update_protection"); ok && n != 0 && len(f.Warmup) > 0 {
		e.tell(Finding{
			ID: "opcache-file-update-protection", Severity: Hint, Subject: subject,
			What: fmt.Sprintf("warmup is set, and opcache.file_update_protection is %d", n),
			Why:  fmt.Sprintf("PHP does not cache files younger than %d s: the warm-up of a release that was unpacked just now is wasted, and the first users wait for the compiler.", n),
			Do:   `ini = { "opcache.file_update_protection" = "0" } in [app.` + app.Name + `.fpm], if releases are unpacked whole before they are switched to`,
		})
	}
	if dir := set.text("opcache.file_cache"); dir != "" {
		finding := Finding{
			ID: "opcache-file-cache", Severity: Hint, Subject: subject,
			What: "all generations share opcache.file_cache in " + dir,
			Why:  "Its files are named after the real paths of scripts. That is well as long as no release is deployed twice under one name.",
			Do:   "give each deploy a name of its own, or remove opcache.file_cache",
		}
		if !set.on("opcache.validate_timestamps") {
			finding.Severity = Warning
			finding.Why = "Its files are named after the real paths of scripts and, with validate_timestamps off, never looked at again: a release that is deployed once more under its old name runs its old code, in a new PHP too."
		}
		e.tell(finding)
	}
	mode, jit := strings.ToLower(set.text("opcache.jit")), int64(0)
	if mode != "" && mode != "off" && mode != "disable" && mode != "0" {
		jit, _ = set.bytes("opcache.jit_buffer_size")
	}
	if jit > 0 && len(f.Warmup) == 0 {
		e.tell(Finding{
			ID: "opcache-jit", Severity: Hint, Subject: subject,
			What: fmt.Sprintf("the JIT is on (opcache.jit = %s, %s) and warmup is empty", mode, size(uint64(jit))),
			Why:  "What it has compiled belongs to one generation: each release begins with nothing, and users meet it cold. Two generations have a buffer each.",
			Do:   `warmup = ["/", …] in [app.` + app.Name + `.fpm], with the pages that are asked for most`,
		})
	}
}

// preload: the file is named once, for all releases, and read before the flip.
func (e *examination) preload(app *config.App, set phpSettings) {
	path := set.text("opcache.preload")
	if path == "" || !below(app.Root, filepath.Clean(path)) {
		return
	}
	e.tell(Finding{
		ID: "opcache-preload", Severity: Problem, Subject: app.Name + "/fpm",
		What: "opcache.preload is " + path + ", inside " + app.Root,
		Why: "A new PHP preloads when it starts, which is before the link moves: it would hold the classes and functions of the old release while it runs the new one, " +
			"and go on holding them.",
		Do: "remove opcache.preload and name pages in warmup instead",
	})
}

// memory compares what two generations may take with what there is.
func (e *examination) memory(app *config.App, set phpSettings) {
	f, subject := app.FPM, app.Name+"/fpm"
	limit, ok := set.bytes("memory_limit")
	if !ok {
		e.unseen("memory", subject, fmt.Errorf("memory_limit is %q", set["memory_limit"]), f.Binary+" -i")
		return
	}
	if limit < 0 {
		e.tell(Finding{
			ID: "memory-unlimited", Severity: Warning, Subject: subject,
			What: "memory_limit is -1, which is none",
			Why:  "One request can take all memory of the machine, and the kernel ends whoever it likes: superd's workers, the database, the live PHP.",
			Do:   `ini = { memory_limit = "256M" } in [app.` + app.Name + `.fpm]`,
		})
		return
	}
	available, err := e.available(app)
	if err != nil {
		e.unseen("memory", subject, err, "free -m")
		return
	}
	generations := int64(2)
	if f.Handoff == "reload" {
		generations = 1
	}
	cache, _ := set.bytes("opcache.memory_consumption")
	if !set.on("opcache.enable") {
		cache = 0
	}
	need := uint64(generations * (int64(f.MaxChildren)*limit + cache<<20)) //nolint:gosec // none is negative
	if need <= available {
		return
	}
	e.tell(Finding{
		ID: "memory", Severity: Warning, Subject: subject,
		What: fmt.Sprintf("%d generations × (%d children × memory_limit %s + opcache %d MiB) is %s at worst, and %s is available",
			generations, f.MaxChildren, size(uint64(limit)), cache, size(need), size(available)),
		Why: "In a switch the old and the new PHP run side by side. If all their children are at the limit the kernel ends processes to make room, and nobody chooses which.",
		Do:  fmt.Sprintf("lower max_children or memory_limit in [app.%s.fpm] to what the app really takes (superctl status shows it), or add memory", app.Name),
	})
}

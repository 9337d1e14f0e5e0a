package doctor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"superd/config"
)

// worker looks at one pool.
func (e *examination) worker(ctx context.Context, app *config.App, w *config.Worker) {
	name := app.Name + "/" + w.Name
	if e.shell(name, w) {
		return // what it runs cannot be told
	}
	e.pcntl(ctx, app, w)
	switch what, rest := verb(w.Command); what {
	case "queue:listen":
		e.tell(Finding{
			ID: "queue-listen", Severity: Warning, Subject: name,
			What: "the command is queue:listen",
			Why: "It starts a PHP for each job and dies by a signal without waiting for it: a stop or a switch cuts the job. " +
				"It is several times slower as well.",
			Do: "use queue:work; superd replaces workers in a switch, which is what queue:listen is used for",
		})
	case "queue:work":
		e.jobTimeout(name, w, rest)
	case "horizon":
		e.horizon(name, app, w)
	case "messenger:consume":
		e.consumerName(name, app, w)
	}
}

var shells = []string{"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"}

// shell tells whether the command is one: with -c it stands between superd and PHP.
func (e *examination) shell(name string, w *config.Worker) bool {
	if !slices.Contains(shells, filepath.Base(w.Command[0])) || !slices.Contains(w.Command, "-c") {
		return false
	}
	line := w.Command[len(w.Command)-1]
	if strings.Contains(line, "exec ") {
		return true
	}
	e.tell(Finding{
		ID: "worker-shell", Severity: Warning, Subject: name,
		What: "the command is a shell: " + strings.Join(w.Command, " "),
		Why:  "superd's stop signal reaches the shell and not always PHP: the shell ends, and PHP is killed with the job in its hand.",
		Do:   `write the command as an array, command = ["php", "artisan", …]; or put exec before php`,
	})
	return true
}

// verb is the console command that a worker runs, and what follows it. A word like
// horizon may be anything, so it counts behind artisan only.
func verb(command []string) (string, []string) {
	for i, arg := range command {
		known := slices.Contains([]string{"queue:listen", "queue:work", "messenger:consume"}, arg)
		if i > 0 && (known || arg == "horizon" && filepath.Base(command[i-1]) == "artisan") {
			return arg, command[i+1:]
		}
	}
	return "", nil
}

var phpName = regexp.MustCompile(`^php(-?[0-9.]+)?(-cli)?$`)

// pcntl asks the worker's own PHP, with the options that choose its php.ini.
func (e *examination) pcntl(ctx context.Context, app *config.App, w *config.Worker) {
	name := app.Name + "/" + w.Name
	argv, err := phpOf(app, w)
	if err != nil {
		e.unseen("pcntl", name, err, "php -m | grep pcntl, with the php of this worker")
		return
	}
	if argv == nil {
		return // not PHP
	}
	call := Call{Argv: append(slices.Clone(argv), "-m"), Path: pathOf(app, w)}
	if app.User != "" {
		who, err := lookUp(app.User, app.Group)
		if err != nil {
			e.unseen("pcntl", name, err, "getent passwd "+app.User)
			return
		}
		call.As = &who
	}
	modules, err := e.Run(ctx, call)
	if err == nil && !strings.Contains(modules, "[PHP Modules]") {
		err = fmt.Errorf("%s told no modules", strings.Join(call.Argv, " "))
	}
	if err != nil {
		e.unseen("pcntl", name, err, strings.Join(call.Argv, " ")+" | grep pcntl")
		return
	}
	if !slices.Contains(strings.Fields(modules), "pcntl") {
		e.tell(Finding{
			ID: "worker-no-pcntl", Severity: Problem, Subject: name,
			What: argv[0] + " has no pcntl", Why: whyDeaf,
			Do: "docker-php-ext-install pcntl, or use Debian's php-cli, which has it",
		})
		return
	}
	call.Argv = append(argv, "-r", "echo ini_get('disable_functions');")
	e.signalFunctions(ctx, name, call)
}

const whyDeaf = "Without it PHP cannot hear a signal: each stop, scale-down and switch kills the worker in the middle of its job, and the job's --timeout does nothing."

// signalFunctions looks at what call prints: the functions that this PHP does without.
func (e *examination) signalFunctions(ctx context.Context, name string, call Call) {
	php := call.Argv[0]
	disabled, err := e.Run(ctx, call)
	if err != nil {
		e.unseen("pcntl", name, err, php+" -i | grep disable_functions")
		return
	}
	if names := signalFunctions.FindAllString(disabled, -1); len(names) > 0 {
		e.tell(Finding{
			ID: "worker-pcntl-disabled", Severity: Problem, Subject: name,
			What: php + " has pcntl, but its disable_functions has " + strings.Join(names, ", "), Why: whyDeaf,
			Do: "take them out of disable_functions in the php.ini of this PHP: " + php + " --ini tells where that is",
		})
	}
}

// signalFunctions are those that a worker hears signals by. A framework that finds one
// missing says nothing and goes without.
var signalFunctions = regexp.MustCompile(`\bpcntl_(signal|async_signals|signal_dispatch|alarm)\b`)

// phpOf is the PHP that a worker runs with the options before its script, nil when it
// does not run PHP.
func phpOf(app *config.App, w *config.Worker) ([]string, error) {
	command := w.Command
	if !phpName.MatchString(filepath.Base(command[0])) {
		line, err := shebang(app, command[0])
		if err != nil {
			return nil, err
		}
		if len(line) == 0 || !phpName.MatchString(filepath.Base(line[0])) {
			return nil, nil
		}
		command = line
	}
	argv := []string{command[0]}
	for i := 1; i < len(command) && strings.HasPrefix(command[i], "-"); i++ {
		switch arg := command[i]; {
		case arg == "-c" || arg == "-d" || arg == "-z":
			if i+1 < len(command) {
				argv = append(argv, arg, command[i+1])
			}
			i++
		case arg == "-n", strings.HasPrefix(arg, "-c"), strings.HasPrefix(arg, "-d"):
			argv = append(argv, arg)
		}
	}
	for i, arg := range argv {
		text, err := config.Expand(arg, config.Vars{App: app.Name, Root: app.Root, ReleaseDir: app.Current, Release: filepath.Base(app.Current)})
		if err != nil {
			return nil, err
		}
		argv[i] = text
	}
	return argv, nil
}

// shebang is the first line of a script of the live release, as words.
func shebang(app *config.App, script string) ([]string, error) {
	if !strings.Contains(script, "/") || strings.Contains(script, "{") {
		return nil, nil // a program of the machine, or one that is not known yet
	}
	if !filepath.IsAbs(script) {
		script = filepath.Join(app.Current, script)
	}
	f, err := os.Open(script) //nolint:gosec // named in the configuration
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	line, _ := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n') // a short file has a short line
	line, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return nil, nil
	}
	words := strings.Fields(line)
	if len(words) > 1 && filepath.Base(words[0]) == "env" {
		words = slices.DeleteFunc(words[1:], func(s string) bool { return s == "-S" })
	}
	return words, nil
}

// pathOf is where superd would look for the program of a worker.
func pathOf(app *config.App, w *config.Worker) string {
	for _, env := range []map[string]string{w.Env, app.Env} {
		if path := env["PATH"]; path != "" && !strings.Contains(path, "{") {
			return path
		}
	}
	return ""
}

// margin is what a worker needs beyond its longest job: to mark it as failed or done,
// and to leave.
const margin = 10 * time.Second

const laravelTimeout = 60 * time.Second

// jobTimeout is about queue:work, whose jobs may take --timeout.
func (e *examination) jobTimeout(name string, w *config.Worker, args []string) {
	limit := laravelTimeout
	said := "the default --timeout of 60 s"
	if text, ok := option(args, "--timeout"); ok {
		n, err := strconv.Atoi(text)
		if err != nil {
			return // a template: it is known when the worker starts
		}
		limit, said = time.Duration(n)*time.Second, "--timeout="+text
	}
	if limit <= 0 {
		if w.StopTimeout != config.Infinity {
			e.tell(Finding{
				ID: "job-unlimited", Severity: Warning, Subject: name,
				What: fmt.Sprintf("%s lets a job take any time, and stop_timeout is %s", said, w.StopTimeout),
				Why:  "A job that takes longer than stop_timeout is killed in a switch or a stop. Laravel then fails it, or runs it a second time.",
				Do:   fmt.Sprintf(`--timeout=N with N a little below %d, or stop_timeout = "infinity" (with order = "start-first" it holds up nothing)`, int(w.StopTimeout.Seconds())),
			})
		}
		return
	}
	e.tooShort(name, w, limit, said)
}

func (e *examination) tooShort(name string, w *config.Worker, limit time.Duration, said string) {
	if w.StopTimeout >= limit+margin {
		return
	}
	f := Finding{
		ID: "stop-timeout", Severity: Problem, Subject: name,
		What: fmt.Sprintf("stop_timeout is %s, and %s lets a job take %s", w.StopTimeout, said, limit),
		Why:  "superd kills a worker that has not finished its job by then. The job is not merely late: with one try Laravel marks it as failed for good, with more it runs twice.",
		Do:   fmt.Sprintf(`stop_timeout = "%ds" in [app.%s]`, int((limit + margin).Seconds()), strings.Replace(name, "/", ".worker.", 1)),
	}
	if w.StopTimeout >= limit {
		f.Severity = Warning
		f.Why = "A job that uses all of its time leaves the worker too little to note the result and go, and it is killed at that."
	}
	e.tell(f)
}

// option is the value of --name=value or --name value.
func option(args []string, name string) (string, bool) {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			return value, true
		}
		if arg == name && i+1 < len(args) {
			return args[i+1], true
		}
	}
	return "", false
}

var horizonTimeout = regexp.MustCompile(`['"]timeout['"]\s*=>\s*(\d+)`)

// horizon has its timeouts in a file of the release.
func (e *examination) horizon(name string, app *config.App, w *config.Worker) {
	limit, said := laravelTimeout, "Horizon's default timeout of 60 s"
	path := filepath.Join(app.Current, "config/horizon.php")
	b, err := os.ReadFile(path) //nolint:gosec // of the live release
	if err != nil {
		e.unseen("horizon", name, err, "compare stop_timeout with the timeouts in config/horizon.php")
		return
	}
	for _, m := range horizonTimeout.FindAllSubmatch(b, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if d := time.Duration(n) * time.Second; err == nil && n < 1<<31 && d > limit {
			limit, said = d, fmt.Sprintf("'timeout' => %d in %s", n, path)
		}
	}
	e.tooShort(name, w, limit, said)
}

const consumerVariable = "MESSENGER_CONSUMER_NAME"

// consumerName is about Messenger on Redis: what one consumer of a name has read and
// not finished, the next of that name reads again.
func (e *examination) consumerName(name string, app *config.App, w *config.Worker) {
	value, fixed, err := variable(app, w, consumerVariable)
	if err != nil {
		e.unseen("env-file", name, err, "superd check "+e.cfg.Files[0])
		return
	}
	if value == "" {
		return
	}
	slot := !fixed && strings.Contains(value, "{slot}")
	generation := !fixed && strings.Contains(value, "{generation}") // a release may be restarted
	shared := ""
	switch {
	case !slot && w.Processes > 1:
		shared = fmt.Sprintf("%d processes share it", w.Processes)
	case !generation && w.Order == "start-first":
		shared = "the old and the new process of a slot share it in a switch (order = start-first)"
	default:
		return
	}
	e.tell(Finding{
		ID: "messenger-consumer-name", Severity: Problem, Subject: name,
		What: fmt.Sprintf("%s is %q, and %s", consumerVariable, value, shared),
		Why:  "Redis keeps unfinished messages by the consumer's name, and a consumer that starts reads those of its name again: messages that another process has in hand are handled twice.",
		Do:   fmt.Sprintf(`env = { %s = "{slot}-{generation}" } in [app.%s]`, consumerVariable, strings.Replace(name, "/", ".worker.", 1)),
	})
}

// variable is what a worker finds in its environment, before templates. Those of
// env_file have none.
func variable(app *config.App, w *config.Worker, name string) (value string, fixed bool, err error) {
	for _, env := range []map[string]string{w.Env, app.Env} {
		if value, ok := env[name]; ok {
			return value, false, nil
		}
	}
	if app.EnvFile == "" {
		return "", false, nil
	}
	path, err := config.Expand(app.EnvFile, config.Vars{App: app.Name, Root: app.Root, ReleaseDir: app.Current})
	if err != nil {
		return "", false, err
	}
	env, err := app.ReadEnvFile(path)
	return env[name], true, err
}

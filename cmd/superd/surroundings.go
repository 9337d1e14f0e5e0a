package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"superd/config"
	"superd/release"
	"superd/release/beneath"
	"superd/supervisor"
)

// surroundings are what a process of an app finds when it starts: its user, its
// environment, and what the templates of the configuration stand for.
type surroundings struct {
	app   func() *config.App // as it holds now
	outer map[string]string  // superd's own environment, for {env:NAME} and PATH
}

func newSurroundings(app func() *config.App) surroundings {
	return surroundings{app: app, outer: environment()}
}

// environment is superd's own, by name.
func environment() map[string]string {
	outer := map[string]string{}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		outer[name] = value
	}
	return outer
}

// defaultPath is what login(1) gives root.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// credential is who processes of the app run as.
func (s surroundings) credential() (supervisor.Credential, error) {
	return credentialOf(s.app().User, s.app().Group)
}

// credentialOf is a user with a group of his own or another; superd's own user when none
// is named. Not being root, superd runs all as itself.
func credentialOf(user, group string) (supervisor.Credential, error) {
	if os.Geteuid() != 0 || user == "" && group == "" {
		return supervisor.Myself(), nil
	}
	return supervisor.LookupUser(cmp.Or(user, "root"), group)
}

// vars is what templates stand for in a process of generation g.
func (s surroundings) vars(g release.Generation, slot int) (config.Vars, error) {
	app := s.app()
	v := config.Vars{
		App: app.Name, Root: app.Root, Release: g.Release, ReleaseDir: g.Dir,
		Generation: g.Number, Slot: slot, Env: maps.Clone(s.outer),
	}
	file, err := s.envFile(v)
	if err != nil {
		return v, err
	}
	maps.Copy(v.Env, file)
	return v, nil
}

// theirs are the names of g's environment that who deploys has chosen: those of an
// env_file that is his to write, unless the configuration says better.
func (s surroundings) theirs(v config.Vars) (map[string]bool, error) {
	app := s.app()
	path, err := config.Expand(app.EnvFile, v)
	if err != nil || path == "" || !beneath.Holds(app.Root, path) {
		return nil, err
	}
	file, err := s.envFile(v)
	if err != nil {
		return nil, err
	}
	theirs := map[string]bool{}
	for name := range file {
		if _, ours := app.Env[name]; !ours && !strings.HasPrefix(name, "SUPERD_") {
			theirs[name] = true
		}
	}
	return theirs, nil
}

func (s surroundings) envFile(v config.Vars) (map[string]string, error) {
	if s.app().EnvFile == "" {
		return nil, nil //nolint:nilnil // no file, no variables
	}
	path, err := config.Expand(s.app().EnvFile, v)
	if err != nil {
		return nil, fmt.Errorf("env_file: %w", err)
	}
	return s.app().ReadEnvFile(path)
}

// env is the whole environment of a process: nothing is inherited but PATH and the
// language. What is given later wins: the account's, the app's env_file, its env,
// extra (templates all), and at last what superd itself says.
func (s surroundings) env(v config.Vars, c supervisor.Credential, extra map[string]string) (map[string]string, error) {
	env := map[string]string{"HOME": c.Home, "USER": c.Name, "LOGNAME": c.Name}
	inherit(env, s.outer)
	file, err := s.envFile(v)
	if err != nil {
		return nil, err
	}
	maps.Copy(env, file)
	for _, more := range []map[string]string{s.app().Env, extra} {
		for name, value := range more {
			if env[name], err = config.Expand(value, v); err != nil {
				return nil, fmt.Errorf("env %s: %w", name, err)
			}
		}
	}
	env["SUPERD_APP"] = s.app().Name
	if v.Release != "" {
		env["SUPERD_RELEASE"], env["SUPERD_RELEASE_DIR"] = v.Release, v.ReleaseDir
		env["SUPERD_GENERATION"] = fmt.Sprint(v.Generation)
	}
	return env, nil
}

// inherit adds what every process has from superd's own environment: PATH and the
// language.
func inherit(env, outer map[string]string) {
	env["PATH"] = defaultPath
	for _, name := range []string{"PATH", "LANG", "LC_ALL", "TZ"} {
		if value := outer[name]; value != "" {
			env[name] = value
		}
	}
}

// lines is env as execve takes it, in order, so that two starts are the same.
func lines(env map[string]string) []string {
	all := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// expandAll expands the templates of each argument of a command.
func expandAll(argv []string, v config.Vars) ([]string, error) {
	out := make([]string, len(argv))
	for i, arg := range argv {
		text, err := config.Expand(arg, v)
		if err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
		out[i] = text
	}
	return out, nil
}

// spec is one process of the app in the directory of release g. The program of a
// command with a slash in it is meant from there, as a shell there would take it.
func (s surroundings) spec(name, slot string, argv []string, number int, g release.Generation, extra map[string]string) (supervisor.Spec, error) {
	who, err := s.credential()
	if err != nil {
		return supervisor.Spec{}, err
	}
	v, err := s.vars(g, number)
	if err != nil {
		return supervisor.Spec{}, err
	}
	argv, err = expandAll(argv, v)
	if err != nil {
		return supervisor.Spec{}, err
	}
	env, err := s.env(v, who, extra)
	if err != nil {
		return supervisor.Spec{}, err
	}
	return supervisor.Spec{
		Name: name, Slot: slot, Argv: argv, Env: lines(env), Dir: g.Dir, User: who, Umask: 0o022,
		Log:    filepath.Join(s.app().Name, logName(name)),
		Labels: map[string]string{"app": s.app().Name, "release": g.Release, "generation": fmt.Sprint(g.Number)},
	}, nil
}

// logName is the file of a process's output below the app's log directory:
// "shop/emails:3" writes to emails-3.log.
func logName(name string) string {
	_, own, _ := strings.Cut(name, "/")
	return strings.ReplaceAll(own, ":", "-") + ".log"
}

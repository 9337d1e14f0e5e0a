package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Vars is what the templates of one process stand for. What is unknown stays
// empty: {release} of something outside a release is "".
type Vars struct {
	App        string
	Release    string // the name, as people type it
	ReleaseDir string // its real path
	Root       string
	Slot       int // of the worker in its pool, from 0
	Generation uint64
	Env        map[string]string // for {env:NAME}
}

// Expand replaces {app}, {release}, {release_dir}, {root}, {slot}, {generation}
// and {env:NAME} in s; {{ is a brace. Nothing else is expanded, and what a
// template stands for is not looked at again. Errors: an unknown template, a
// brace that is not closed, an {env:NAME} that is not in vars.Env. What Load
// has accepted can fail only in the last way.
func Expand(s string, vars Vars) (string, error) {
	return expand(s, func(name string) (string, error) {
		switch name {
		case "app":
			return vars.App, nil
		case "release":
			return vars.Release, nil
		case "release_dir":
			return vars.ReleaseDir, nil
		case "root":
			return vars.Root, nil
		case "slot":
			return strconv.Itoa(vars.Slot), nil
		case "generation":
			return strconv.FormatUint(vars.Generation, 10), nil
		}
		variable := strings.TrimPrefix(name, "env:")
		value, ok := vars.Env[variable]
		if !ok {
			return "", fmt.Errorf("template {%s}: %s is not in the environment", name, variable)
		}
		return value, nil
	})
}

// templates are the names that may be between braces, besides env:NAME.
func templates() []string {
	return []string{"app", "release", "release_dir", "root", "slot", "generation"}
}

// checkTemplate reports what is wrong with the templates of s, whatever they stand for.
func checkTemplate(s string) error {
	_, err := expand(s, func(string) (string, error) { return "", nil })
	return err
}

// expand replaces each known template by what stands says.
func expand(s string, stands func(name string) (string, error)) (string, error) {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(s, "{")
		b.WriteString(text)
		if !found {
			return b.String(), nil
		}
		if after, doubled := strings.CutPrefix(rest, "{"); doubled {
			b.WriteByte('{')
			s = after
			continue
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("has a { that is not closed in %q; write {{ for a brace", short(s))
		}
		if err := knownTemplate(name); err != nil {
			return "", err
		}
		value, err := stands(name)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		s = after
	}
}

func knownTemplate(name string) error {
	if slices.Contains(templates(), name) {
		return nil
	}
	if variable, ok := strings.CutPrefix(name, "env:"); ok {
		if isEnvName(variable) {
			return nil
		}
		return fmt.Errorf("template {%s}: %q cannot be the name of an environment variable", short(name), short(variable))
	}
	return fmt.Errorf("unknown template {%s}; known are {%s} and {env:NAME}, and {{ for a brace",
		short(name), strings.Join(templates(), "}, {"))
}

package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Variable is a place that needs a variable of the environment: {env:NAME}.
type Variable struct {
	Name  string
	Owner string // of the process, as in Difference: an app or a program
	Place Problem
}

// needs takes note of the variables that a text of a process stands for.
func (n node) needs(s string) {
	for _, name := range variables(s) {
		n.in.config.Variables = append(n.in.config.Variables, Variable{Name: name, Place: n.problem("")})
	}
}

// variables are the names of the {env:NAME} in s.
func variables(s string) (names []string) {
	_, _ = expand(s, func(name string) (string, error) {
		if variable, ok := strings.CutPrefix(name, "env:"); ok && !slices.Contains(names, variable) {
			names = append(names, variable)
		}
		return "", nil
	}) // what is wrong with it was told
	return names
}

// ownVariables says whose the variables are, when all apps and programs are known.
func (in *reading) ownVariables() {
	for i := range in.config.Variables {
		v := &in.config.Variables[i]
		for kind, nodes := range map[string][]node{"app": in.apps, "program": in.programs} {
			for _, n := range nodes {
				if strings.HasPrefix(v.Place.Key, kind+"."+keyName(n.name)+".") {
					v.Owner = n.name
				}
			}
		}
	}
}

// An Unset is a variable that nobody has set.
type Unset struct {
	Owner string // an app or a program
	Problem
}

// Unset are the variables that a process could not be started without, when superd has
// the environment that lookup knows. One that an env_file may have which cannot be read
// yet, because where it is depends on the release, is not among them.
func (c *Config) Unset(lookup func(string) (string, bool)) []Unset {
	var all []Unset
	for _, v := range c.Variables {
		if _, set := lookup(v.Name); set || v.Owner == "" || c.mayHave(v, lookup) {
			continue
		}
		p := v.Place
		p.Text = fmt.Sprintf("{env:%s}: %s is not in the environment; put it into env_file, or into the environment that superd is started with", v.Name, v.Name)
		all = append(all, Unset{v.Owner, p})
	}
	return all
}

// mayHave tells whether the env_file of the owner has the variable, or may have it. What
// the file itself is found by is in no env_file.
func (c *Config) mayHave(v Variable, lookup func(string) (string, bool)) bool {
	kind, path, known, read := "program", "", map[string]string{}, EnvFile
	if a := find(c.Apps, v.Owner, appName); a != nil {
		kind, path, read = "app", a.EnvFile, a.ReadEnvFile
		known["app"], known["root"] = a.Name, a.Root
	}
	if p := find(c.Programs, v.Owner, programName); p != nil {
		path = p.EnvFile
	}
	if path == "" || v.Place.Key == kind+"."+keyName(v.Owner)+".env_file" {
		return false
	}
	for _, name := range variables(path) {
		if value, set := lookup(name); set {
			known["env:"+name] = value
		}
	}
	path, err := expandKnown(path, known)
	if err != nil {
		return true
	}
	file, err := read(path)
	_, has := file[v.Name]
	return has || err != nil
}

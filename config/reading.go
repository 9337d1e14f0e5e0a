package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A reading is one Load: the files first, then what depends on all of them.
type reading struct {
	config   *Config
	problems Problems
	warnings []Problem
	accounts accounts
	who      resident // whose superd reads it

	found
	broken bool               // some of a file could not be read: what seems to be missing may be there
	taken  map[string]Problem // where a name that may be set once was set
	files  map[fileID]string  // every file read, by the path it was read under
	open   []opened           // the file being read, under those that include it
}

// found is what the files have that is read when all of them are known.
type found struct {
	include  []string // read once more, with their places, by include
	access   []node
	apps     []node
	programs []node
	groups   []node
}

// fileID tells files apart whatever they are called.
type fileID struct{ device, inode uint64 }

type opened struct {
	id   fileID
	path string
}

func newReading() *reading {
	return &reading{
		config:   defaults(),
		accounts: accounts{known: make(map[accountKey]accountName)},
		who:      residentOf(os.Geteuid()),
		taken:    make(map[string]Problem),
		files:    make(map[fileID]string),
	}
}

// readFile reads one file and those it includes. by is the include that names
// it, nil for the first one.
func (in *reading) readFile(path string, by *node) {
	text, info, err := contents(path)
	switch {
	case err != nil && by == nil:
		in.problems = append(in.problems, Problem{File: path, Text: err.Error()})
		return
	case err != nil:
		by.wrong("%s %v", path, err)
		return
	}
	id := identify(info)
	if !in.isNew(id, path, by) {
		return
	}
	in.files[id] = path
	in.open = append(in.open, opened{id, path})
	defer func() { in.open = in.open[:len(in.open)-1] }()
	in.config.Files = append(in.config.Files, path)

	root := in.readText(path, text)
	if isOpenToOthers(info) {
		in.warnings = append(in.warnings, Problem{File: path, Text: "can be changed by others than root, who thereby say what root runs; chmod go-w " + path})
	}
	in.include(root)
}

// readText reads what a file says about itself, and collects its apps.
func (in *reading) readText(path, text string) node {
	f, problems := parse(path, text)
	in.broken = in.broken || f.broken
	in.problems = append(in.problems, problems...)
	if text != "" && !strings.HasSuffix(text, "\n") {
		in.warnings = append(in.warnings, f.problem(advance(position{1, 1}, text), "",
			"the last line has no line end: if the file was cut short, whatever was cut off is not configured"))
	}
	root := node{in: in, file: f, place: f.root, value: f.tree}
	in.once(root)
	root.read(topKeys(in.config, &in.found))
	return root
}

// once refuses a key that another file has set: which of two values wins would
// depend on the order of the files.
func (in *reading) once(root node) {
	for _, name := range root.names() {
		if slices.Contains([]string{"access", "app", "include", "program", "group"}, name) {
			continue
		}
		here := root.at(name)
		if first, ok := in.taken[name]; ok {
			here.wrong("is set in %s:%d already; set it in one file only", first.File, first.Line)
			delete(root.file.tree, name)
			continue
		}
		in.taken[name] = here.problem("")
	}
}

// include reads what a file includes, relative to the file, sorted by name. The
// first file includes conf.d beside it unless it says otherwise.
func (in *reading) include(root node) {
	list := root.at("include")
	if len(in.open) == 1 && !root.file.broken && !root.has("include") {
		list.value = []any{"conf.d/*.toml"}
	}
	if _, ok := list.value.([]any); !ok {
		return // not there, or told already
	}
	for _, item := range list.items("") {
		pattern, ok := item.value.(string)
		if !ok {
			continue
		}
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(root.file.path), pattern)
		}
		if !strings.ContainsAny(pattern, `*?[\`) {
			in.readFile(pattern, &item)
			continue
		}
		matches, err := filepath.Glob(pattern)
		if err != nil {
			item.wrong("is not a pattern of file names: %v", err)
		}
		for _, path := range matches {
			if !isHidden(path, pattern) {
				in.readFile(path, &item)
			}
		}
	}
}

// isNew reports whether the file has not been read yet, and says so if it has.
func (in *reading) isNew(id fileID, path string, by *node) bool {
	for i, o := range in.open {
		if o.id != id {
			continue
		}
		var chain []string
		for _, o := range in.open[i:] {
			chain = append(chain, o.path)
		}
		by.wrong("circular include: %s → %s", strings.Join(chain, " → "), path)
		return false
	}
	if first, ok := in.files[id]; ok {
		by.wrong("%s is included twice: it was read already, as %s", path, first)
		return false
	}
	return true
}

// finish reads the apps, now that every file is known, and gives the verdict.
func (in *reading) finish() (*Config, error) {
	c := in.config
	in.finishDirectories()
	in.finishApps()
	in.finishPrograms()
	in.finishGroups()
	in.finishAccess()
	in.finishCompat()
	if len(in.problems) > 0 {
		all := Problems(inOrder(in.problems))
		return nil, &all
	}
	in.ownVariables()
	c.Warnings = inOrder(in.warnings)
	return c, nil
}

func identify(info os.FileInfo) fileID {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{stat.Dev, stat.Ino}
}

// isOpenToOthers reports whether a file of root's can be written by others.
func isOpenToOthers(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0 && info.Mode().Perm()&0o022 != 0
}

// isHidden reports whether a pattern met a name such as .#shop.toml, an editor's
// lock, without asking for it.
func isHidden(path, pattern string) bool {
	return strings.HasPrefix(filepath.Base(path), ".") && !strings.HasPrefix(filepath.Base(pattern), ".")
}

package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Debian names the program after its version and keeps it where the PATH of an
// ordinary user does not look.
var fpmName = regexp.MustCompile(`^php-fpm(?:(\d+)\.(\d+))?$`)

// findFPM is the newest php-fpm there is: the highest version in a name, and
// php-fpm without one last.
func findFPM() (string, error) {
	type candidate struct {
		path         string
		major, minor int
	}
	var found []candidate
	for _, dir := range programDirs() {
		matches, err := filepath.Glob(filepath.Join(dir, "php-fpm*"))
		if err != nil {
			continue // a PATH with a pattern in it
		}
		for _, path := range matches {
			version := fpmName.FindStringSubmatch(filepath.Base(path))
			if version == nil || executable(path) != nil {
				continue
			}
			major, _ := strconv.Atoi(version[1]) // 0 when there is none
			minor, _ := strconv.Atoi(version[2])
			found = append(found, candidate{path, major, minor})
		}
	}
	if len(found) == 0 {
		return "", errors.New(`no php-fpm was found on PATH or in /usr/sbin; install it, or set binary, such as "/opt/php/sbin/php-fpm"`)
	}
	newest := slices.MaxFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	return newest.path, nil
}

// findProgram is the path of an executable file: an absolute one as it is, a bare
// name from PATH or the directories of system programs.
func findProgram(name string) (string, error) {
	if filepath.IsAbs(name) {
		return filepath.Clean(name), executable(name)
	}
	if name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("must be the name of a program or its absolute path, is %q", short(name))
	}
	for _, dir := range programDirs() {
		path := filepath.Join(dir, name)
		if executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%q was not found on PATH or in /usr/sbin; install it, or write its absolute path", short(name))
}

func programDirs() []string {
	dirs := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool { return !filepath.IsAbs(dir) })
	return append(dirs, "/usr/local/sbin", "/usr/sbin")
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%q cannot be used: %w; install it, or name another program", short(path), reason(err))
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is not a file", short(path))
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%q is not executable; chmod +x it, or name another program", short(path))
	}
	return nil
}

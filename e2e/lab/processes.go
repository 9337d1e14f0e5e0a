package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Process is one that belongs to the lab, as the kernel knows it: nothing here
// comes from superd.
type Process struct {
	PID, Parent int
	Kind        string // keeper, superd, master, pool, worker, other
	Title       string
	Slot        string // of a worker
	Release     string // from whose directory it runs; empty: none
	state       byte
}

// String names it for people.
func (p Process) String() string {
	return fmt.Sprintf("%d (child of %d) %s %s %s %s", p.PID, p.Parent, p.Kind, p.Slot, p.Release, p.Title)
}

// Processes are all that live of the lab: their program, arguments, environment or
// working directory name it.
func (l *Lab) Processes() []Process {
	var found []Process
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ours := l.look(pid); ours {
			found = append(found, p)
		}
	}
	masters := Of(found, "master")
	for i, p := range found {
		if p.Kind == "master" && slices.ContainsFunc(masters, func(m Process) bool { return m.PID == p.Parent }) {
			found[i].Kind = "pool" // PHP-FPM has just forked it: it has its parent's title still
		}
	}
	return found
}

// look reads what /proc has of a process. One that ends meanwhile is not there.
func (l *Lab) look(pid int) (Process, bool) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return Process{}, false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return Process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Process{}, false
	}
	cmdline, _ := os.ReadFile(proc + "/cmdline") // what cannot be read does not name the lab
	environ, _ := os.ReadFile(proc + "/environ")
	cwd, _ := os.Readlink(proc + "/cwd")
	title := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if !strings.Contains(title, l.Dir) && !strings.Contains(string(environ), l.Dir) && !strings.HasPrefix(cwd, l.Dir) {
		return Process{}, false
	}
	p := Process{PID: pid, Parent: parent, Title: title, state: fields[0][0]}
	p.Slot = variable(string(environ), "SUPERD_SLOT")
	if release, found := strings.CutPrefix(cwd, l.Path("shop", "releases")+"/"); found {
		p.Release, _, _ = strings.Cut(release, "/")
	}
	p.Kind = kindOf(p)
	return p, true
}

func kindOf(p Process) string {
	program, _, _ := strings.Cut(p.Title, " ")
	switch {
	case strings.HasPrefix(p.Title, "php-fpm: master"):
		return "master"
	case strings.HasPrefix(p.Title, "php-fpm: pool"):
		return "pool"
	case strings.Contains(p.Title, "bin/worker.php"):
		return "worker"
	case strings.HasSuffix(program, "superd-keeper"):
		return "keeper"
	case strings.HasSuffix(program, "superd"):
		return "superd"
	}
	return "other"
}

func variable(environ, name string) string {
	for v := range strings.SplitSeq(environ, "\x00") {
		if value, found := strings.CutPrefix(v, name+"="); found {
			return value
		}
	}
	return ""
}

// Of are the processes of one kind.
func Of(all []Process, kind string) []Process {
	return slices.DeleteFunc(slices.Clone(all), func(p Process) bool { return p.Kind != kind })
}

// Package lab puts a whole installation into one directory: a shop with its
// releases, Redis, nginx, and superd or a plain php-fpm behind it. Tests, the demo
// and the benchmarks work in it.
//
// All of it listens on loopback or in that directory only, and End leaves nothing
// of it: every process is ended by its own PID, and one that is found afterwards is
// an error.
package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"superd/e2e/shop"
)

// A Lab is one installation.
type Lab struct {
	Dir  string // short, for paths of sockets have 107 bytes
	Bin  string // where superd and superctl are
	Shop *shop.Shop

	uid, gid int // of www-data
	keep     bool
	waiting  sync.WaitGroup
	mu       sync.Mutex
	servers  []*Server // in the order in which they were started
	ended    bool
}

// New makes a lab with an empty shop. Needs root, as superd does to change users.
// With LAB_KEEP set the directory is not deleted in the end.
func New() (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make lab: run as root: PHP and the workers run as www-data")
	}
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	uid, gid, err := lookUp("www-data")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l := &Lab{Dir: dir, Bin: bin, uid: uid, gid: gid, keep: os.Getenv("LAB_KEEP") != ""}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make lab: %w", err), l.End())
	}
	if l.Shop, err = shop.New(l.Path("shop"), uid, gid); err != nil {
		return nil, errors.Join(err, l.End())
	}
	return l, nil
}

// Path is a path inside the lab.
func (l *Lab) Path(parts ...string) string {
	return filepath.Join(append([]string{l.Dir}, parts...)...)
}

// End stops what was started, latest first, and deletes the lab. What is left
// running in spite of that is killed and is an error.
func (l *Lab) End() error {
	l.mu.Lock()
	servers := slices.Clone(l.servers)
	done := l.ended
	l.ended = true
	l.mu.Unlock()
	if done {
		return nil
	}
	var problems []error
	for _, s := range slices.Backward(servers) {
		problems = append(problems, s.Stop())
	}
	l.waiting.Wait()
	problems = append(problems, l.leftovers())
	if l.keep {
		fmt.Fprintln(os.Stderr, "lab: kept", l.Dir)
	} else {
		problems = append(problems, os.RemoveAll(l.Dir))
	}
	return errors.Join(problems...)
}

func (l *Lab) leftovers() error {
	var problems []error
	for _, p := range l.Processes() {
		problems = append(problems, fmt.Errorf("still running: %s", p))
		if own, err := os.FindProcess(p.PID); err == nil {
			_ = own.Kill() // it may have ended by now
		}
	}
	return errors.Join(problems...)
}

// binaries finds bin/ of the repository in or above the working directory, unless
// LAB_BIN says where other builds are.
func binaries() (string, error) {
	if dir := os.Getenv("LAB_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the programs: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin"), nil
		}
		if dir == "/" {
			return "", errors.New("find the programs: run this inside the repository")
		}
	}
}

func lookUp(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("make lab: %w", err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(uidErr, gidErr)
}

// freePort is one that nobody listens on at this moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Story is what the lab's servers wrote last and which processes live, for a test
// that failed.
func (l *Lab) Story() string {
	var b strings.Builder
	l.mu.Lock()
	servers := slices.Clone(l.servers)
	l.mu.Unlock()
	for _, s := range servers {
		fmt.Fprintf(&b, "--- %s wrote last:\n%s\n", s.Name, s.Tail(6000))
	}
	b.WriteString("--- processes:\n")
	for _, p := range l.Processes() {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

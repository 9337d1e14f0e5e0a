package doctor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/config"
)

// patience is how long one look may take. A tool that hangs costs this much.
const patience = 10 * time.Second

// tools are where system programs are that an ordinary user's PATH lacks.
const tools = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A Call is a tool to run. Path is where a bare name is looked for, "" for the usual
// places. A program that the app's user can replace must run As that user.
type Call struct {
	Argv []string
	Path string
	As   *who // nil: whoever we are
}

// A Runner runs a tool to its end and returns what it wrote to its standard output.
// The error has the last lines of its standard error.
type Runner func(ctx context.Context, c Call) (string, error)

// maxOutput bounds what is kept of a tool that writes without end.
const maxOutput = 32 << 20

func execute(ctx context.Context, c Call) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("took longer than %s", patience))
	defer cancel()
	path, err := lookPath(c.Argv[0], cmp.Or(c.Path, os.Getenv("PATH")+":"+tools))
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, c.Argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Dir = "/"
	if c.As != nil && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.As.uid, Gid: c.As.gid, Groups: c.As.gids}}
	}
	cmd.WaitDelay = time.Second // for a grandchild that holds the pipe
	out, talk := &capped{left: maxOutput}, &capped{left: 1 << 20}
	cmd.Stdout, cmd.Stderr = out, talk
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return out.String(), fmt.Errorf("%s: %w%s", strings.Join(c.Argv, " "), err, lastLines(talk.String()))
	}
	return out.String(), nil
}

// lastLines are the last two, for the last alone is often only that it went wrong.
func lastLines(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	all := strings.Split(text, "\n")
	return ": " + strings.Join(all[max(0, len(all)-2):], "; ")
}

// capped keeps the first bytes and drops the rest.
type capped struct {
	bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.Buffer.Write(p[:n])
	return len(p), nil
}

// lookPath finds a program as execvp(3) would in the given PATH.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.IsAbs(dir) {
			return full, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: %w", name, exec.ErrNotFound)
}

// number reads a file of /proc that holds one.
func (e *examination) number(path string) (int, error) {
	b, err := os.ReadFile(filepath.Join(e.Proc, path))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Space is what a file system has left.
type Space struct {
	Bytes  uint64
	Inodes uint64
	Fixed  bool // it counts inodes at all; btrfs does not
}

func space(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Space{Bytes: st.Bavail * uint64(st.Bsize), Inodes: st.Ffree, Fixed: st.Files > 0}, nil //nolint:gosec // never negative
}

// A who is a user with all its groups.
type who struct {
	name string
	uid  uint32
	gid  uint32
	gids []uint32
}

func lookUp(name, group string) (who, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return who{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return who{}, err
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return who{}, err
		}
		u.Gid = g.Gid
	}
	ids = append(ids, u.Gid)
	w := who{name: name}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	w.uid = uint32(uid)
	for _, id := range ids {
		gid, bad := strconv.ParseUint(id, 10, 32)
		err = errors.Join(err, bad)
		w.gid = uint32(gid) // its own is the last
		w.gids = append(w.gids, w.gid)
	}
	return w, err
}

// may tells whether w may do what want says (4 read, 2 write, 1 search) by the mode
// of path. An access list of the file system is not looked at.
func (w who) may(path string, want uint32) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if w.uid == 0 {
		return true, nil
	}
	switch {
	case st.Uid == w.uid:
		want <<= 6
	case slices.Contains(w.gids, st.Gid):
		want <<= 3
	}
	return st.Mode&want == want, nil
}

// mayConnect tells whether w may connect to a socket of that owner, group and mode.
func (w who) mayConnect(f *config.FPM) (bool, error) {
	owner, group := who{}, uint32(0)
	if f.ListenOwner != "" {
		var err error
		if owner, err = lookUp(f.ListenOwner, ""); err != nil {
			return false, err
		}
	}
	if f.ListenGroup != "" {
		g, err := user.LookupGroup(f.ListenGroup)
		if err != nil {
			return false, err
		}
		gid, err := strconv.ParseUint(g.Gid, 10, 32)
		if err != nil {
			return false, err
		}
		group = uint32(gid)
	}
	switch {
	case w.uid == 0:
		return true, nil
	case w.uid == owner.uid:
		return f.ListenMode&0o200 != 0, nil
	case slices.Contains(w.gids, group):
		return f.ListenMode&0o020 != 0, nil
	}
	return f.ListenMode&0o002 != 0, nil
}

func primaryGroup(w who) string {
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(w.gid), 10))
	if err != nil {
		return w.name // a group without a name is nobody's to name
	}
	return g.Name
}

// existing is path, or the nearest directory above it that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
		path = filepath.Dir(path)
	}
}

// below tells whether path is dir or inside it. Both are clean.
func below(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// size is bytes as people say them.
func size(bytes uint64) string {
	switch {
	case bytes < 10<<20:
		return fmt.Sprintf("%d KiB", bytes>>10)
	case bytes < 10<<30:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

// Package beneath opens what is below a directory that belongs to somebody with fewer
// rights, such as the root of an app, which the deploy user writes. superd is root and
// must not be led out of it by a link: it would read, or delete, in his name what he
// cannot.
//
// Links inside are followed, absolute ones too: the .env of a release is a link into the
// app's directory shared, relative from Deployer and the whole path from Capistrano. What
// they lead to is looked up first, and then opened with no link at all on its way
// (openat2(2)): one that is put there in between is refused. A link of root's own may lead
// anywhere: that was an administrator's decision.
package beneath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrOutside tells that a path leads out of the directory it is below.
var ErrOutside = errors.New("leads out of it")

// Holds tells whether path is written as one below root, or below what root is a link
// to. Where it leads is another question.
func Holds(root, path string) bool {
	if isWithin(root, path) {
		return true
	}
	real, err := filepath.EvalSymlinks(root)
	return err == nil && isWithin(real, path)
}

// Open opens path, which Holds says is below root, for reading and without waiting for
// anybody: a FIFO is opened at once. ErrOutside tells that it leads out of root.
func Open(root, path string) (*os.File, error) { return open(root, path, unix.O_RDONLY) }

// OpenDir is Open for a directory.
func OpenDir(root, path string) (*os.File, error) {
	return open(root, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

func open(root, path string, flags int) (*os.File, error) {
	base, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if !isWithin(base, real) {
		if real, err = ofRoot(base, path); err != nil {
			return nil, fmt.Errorf("%s is below %s and %w", path, root, err)
		}
		base = "/"
	}
	fd, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: base, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	name, err := filepath.Rel(base, real)
	if err != nil {
		return nil, err
	}
	file, err := straight(fd, name, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(file), path), nil
}

// ofRoot is where the link at path leads, if it is in the directory base or below and
// belongs to root, or to who superd runs as. What is asked and what is read is one link,
// whatever is put at its path meanwhile.
func ofRoot(base, path string) (string, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	if parent != base && !isWithin(base, parent) {
		return "", fmt.Errorf("%w, to %s", ErrOutside, parent)
	}
	link, err := unix.Open(filepath.Join(parent, filepath.Base(path)), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(link) //nolint:errcheck // nothing was written
	var st unix.Stat_t
	if err := unix.Fstat(link, &st); err != nil {
		return "", err
	}
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", text)
	if err != nil {
		return "", fmt.Errorf("%w", ErrOutside) // no link: one on the way was moved just now
	}
	target := string(text[:n])
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%w, to %s, by a link of user %d: a link of root's would be followed", ErrOutside, target, st.Uid)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(parent, target)
	}
	return filepath.EvalSymlinks(target)
}

// straight opens name below dir, with no link on the way. Where the kernel has no
// openat2(2), before 5.6, or a sandbox forbids it, it goes from part to part.
func straight(dir int, name string, flags int) (int, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   uint64(flags), //nolint:gosec // not negative
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return stepwise(dir, name, flags)
	}
	return fd, err
}

// stepwise is straight without openat2.
func stepwise(dir int, name string, flags int) (int, error) {
	at, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	if err != nil {
		return -1, err
	}
	steps := strings.Split(filepath.Clean(name), "/")
	for i, step := range steps {
		if step == ".." {
			_ = unix.Close(at)
			return -1, unix.EXDEV
		}
		how := unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		if i == len(steps)-1 {
			how = flags | unix.O_NOFOLLOW
		}
		next, err := unix.Openat(at, step, how, 0)
		_ = unix.Close(at) // nothing was written
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// isWithin tells whether path is written as one below root.
func isWithin(root, path string) bool {
	name, err := filepath.Rel(root, path)
	return err == nil && filepath.IsLocal(name) && name != "."
}

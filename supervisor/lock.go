package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A state directory has one owner. Its ledger says what a lost keeper has left, and what
// it says so is ended: a second superd with the same directory and a keeper of its own
// would take the children of the first for such leftovers. So there is a lock in it,
// which is taken before anything in the directory is looked at.
//
// The lock is one of an open file (flock(2)) that superd has and leaves with the keeper:
// it is free once both are gone, and not before. The next superd of the same keeper gets
// the file from there. See docs/decisions/0032-state-lock.md.

const (
	lockFileName = "lock"
	lockName     = "state lock" // what it is held under by the keeper
	lockLook     = 50 * time.Millisecond
)

// ErrStateInUse tells that another superd, or its keeper, has the state directory.
var ErrStateInUse = errors.New("the state directory is in use")

// lockState takes the lock of the state directory. before is what an earlier superd has
// left with the keeper, or nil. Another owner has until patience to let go: it may be a
// superd that has lost its keeper and is about to end.
func lockState(ctx context.Context, o Options, before *os.File) (*os.File, error) {
	path := filepath.Join(o.State, lockFileName)
	look := time.NewTicker(lockLook)
	defer look.Stop()
	for ends, told := time.Now().Add(o.Patience), false; ; {
		file, err := tryLock(path, o.Keeper, before)
		if !errors.Is(err, ErrStateInUse) || !time.Now().Before(ends) {
			return file, err
		}
		if !told {
			o.Log.Warn("waiting for the state directory", "error", err, "patience", o.Patience)
			told = true
		}
		before = nil
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-look.C:
		}
	}
}

// tryLock takes the lock if it is free, or if before is it. What is at path counts: a
// file that somebody has removed locks nobody out.
func tryLock(path, keeper string, before *os.File) (*os.File, error) {
	if before != nil {
		if isAt(path, before) && flock(before) == nil {
			return before, sign(before, keeper)
		}
		_ = before.Close() // a duplicate
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	err = flock(file)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%w: %s is locked by %s; each superd needs a state_dir of its own", ErrStateInUse, path, ownerOf(file))
	case err != nil:
		err = fmt.Errorf("lock %s: %w", path, err)
	case !isAt(path, file):
		err = fmt.Errorf("%w: %s was replaced just now", ErrStateInUse, path)
	default:
		return file, sign(file, keeper)
	}
	return nil, errors.Join(err, file.Close())
}

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// sign writes into the lock whose it is, for the message of who comes second. That there
// is no room for it is no reason not to begin.
func sign(f *os.File, keeper string) error {
	err := f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "superd %d, whose keeper serves %s\n", os.Getpid(), keeper)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("sign the lock of the state directory: %w", errors.Join(err, f.Close()))
	}
	return nil
}

func ownerOf(f *os.File) string {
	b := make([]byte, 300)
	n, _ := f.ReadAt(b, 0) // short at the end of the file
	if n == 0 {
		return "another superd"
	}
	return strings.TrimSpace(string(b[:n]))
}

// isAt tells whether path leads to the file.
func isAt(path string, file *os.File) bool {
	here, err := os.Lstat(path)
	ours, err2 := file.Stat()
	return err == nil && err2 == nil && os.SameFile(here, ours)
}

// own takes the state directory, leaves the lock with the keeper, and reads the ledger.
// If another superd has the directory and there are no children to be kept, the keeper
// is told to leave: nobody is there to wait for.
func (c *Children) own(ctx context.Context, o Options) (err error) {
	if err := os.MkdirAll(o.State, 0o750); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	before, _ := c.Held(lockName)
	if c.lock, err = lockState(ctx, o, before); err != nil {
		if errors.Is(err, ErrStateInUse) && len(c.keeper.Children()) == 0 {
			err = errors.Join(err, c.keeper.Shutdown(o.Refused))
		}
		return err
	}
	if err := c.Hold(lockName, c.lock); err != nil {
		o.Log.Warn("the keeper does not take the lock of the state directory; it is free when this superd ends", "error", err)
	}
	if c.ledger, err = openLedger(filepath.Join(o.State, "births.ndjson"), o.Log); err != nil {
		return errors.Join(err, c.lock.Close())
	}
	return nil
}

package release

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// asUser runs check with the rights on files of another user, as the kernel sees
// them: modes, access lists, parents and all. They are rights of a thread, which is
// thrown away afterwards. Only root can; anyone else checks as himself.
func asUser(uid, gid uint32, groups []uint32, check func() error) (err error) {
	if os.Geteuid() != 0 || uid == 0 {
		return check()
	}
	var thread sync.WaitGroup
	thread.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		gids := make([]int, len(groups))
		for i, g := range groups {
			gids[i] = int(g)
		}
		if err = unix.Setgroups(gids); err != nil {
			err = fmt.Errorf("take the groups of user %d: %w", uid, err)
			return
		}
		_, _ = unix.SetfsgidRetGid(int(gid)) // neither can tell that it failed
		_, _ = unix.SetfsuidRetUid(int(uid))
		if now, _ := unix.SetfsuidRetUid(-1); now != int(uid) {
			err = fmt.Errorf("take the rights of user %d: refused", uid)
			return
		}
		err = check()
	})
	thread.Wait()
	return err
}

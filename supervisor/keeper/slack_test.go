package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"superd/supervisor/keeper"
	"superd/supervisor/keeper/keepertest"
)

// beRelaxed becomes a program as `superd run` becomes the keeper.
func beRelaxed(args []string) error {
	keeper.Relax()
	return syscall.Exec(args[0], args, os.Environ())
}

func slackOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
	if err != nil {
		t.Skip(err) // of others only root may look
	}
	return strings.TrimSpace(string(b))
}

// The keeper is not woken for nothing, and children have no part in that.
func TestSlackIsTheKeepersOwn(t *testing.T) {
	t.Parallel()
	usual := slackOf(t, os.Getpid())
	file := filepath.Join(t.TempDir(), "superd")
	k := keepertest.Launch(t, mood("relaxed"), "sh", "-c", "cat /proc/self/timerslack_ns >"+file+"; exec sleep infinity")
	var superd string
	eventually(t, "superd", func() bool {
		b, err := os.ReadFile(file)
		superd = string(b)
		return err == nil && superd != ""
	})
	if got := slackOf(t, k.PID()); got != "5000000" {
		t.Errorf("the keeper: %s ns", got)
	}
	if superd != "1000000\n" {
		t.Errorf("superd: %s ns", superd)
	}
	c := dial(t, k)
	if got, e := run(t, c, program("s", "cat", "/proc/self/timerslack_ns")); got != usual+"\n" {
		t.Errorf("a child: %q, %+v, want %s ns", got, e, usual)
	}
}

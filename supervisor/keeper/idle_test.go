package keeper_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A keeper that has lost systemd has nothing to tell it: it sleeps.
func TestLostManagerCostsNothing(t *testing.T) {
	m := newManager(t)
	k := m.start(t.TempDir())
	eventually(t, "it has told that it lives", func() bool { return m.Alive() > 0 })
	m.Close()
	eventually(t, "the keeper knows", func() bool { return strings.Contains(k.Said(), "systemd's store of descriptors is lost") })
	before := ticks(t, k.PID())
	time.Sleep(2 * time.Second)
	if used := ticks(t, k.PID()) - before; used > 10 {
		t.Errorf("a keeper with nothing to do has used %d ticks in 2 s", used)
	}
}

// ticks are the hundredths of a second of processor time that a process has used.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	line := string(b)
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:]) // the third field comes first: proc(5)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("%q", line)
	}
	return user + system
}

package supervisor

import (
	"os/exec"
	"sync"
	"testing"
)

// Nobody is missing who lived when a census was asked for, however many ask at once.
func TestCensus(t *testing.T) {
	var all censuses
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			for range 10 {
				cmd := exec.Command("sleep", "100")
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				c, err := all.take()
				if err != nil {
					t.Error(err)
				} else if _, there := c.procs[cmd.Process.Pid]; !there {
					t.Errorf("process %d is not in a census that was asked for after its birth", cmd.Process.Pid)
				}
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		})
	}
	asking.Wait()
}

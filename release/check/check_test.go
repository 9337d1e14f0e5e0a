package check

import (
	"slices"
	"testing"
	"time"
)

// TestDefaults: a check with nothing in it neither spins nor waits forever.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c := Check{}.orDefaults()
	if c.Interval != time.Second || c.Timeout != 5*time.Second || c.Deadline != time.Minute {
		t.Errorf("every %s, each for %s, until %s", c.Interval, c.Timeout, c.Deadline)
	}
	if c.HealthyThreshold != 1 || c.UnhealthyThreshold != 1 || !slices.Equal(c.Status, []int{200}) || c.Path != "/" || c.Script != "index.php" {
		t.Errorf("%+v", c)
	}
}

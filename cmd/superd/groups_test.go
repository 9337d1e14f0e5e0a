package main

import (
	"strings"
	"testing"

	"superd/supervisor"
)

// Who is not known by name is told by PID and program, as the kernel's log has it.
func TestStarvedEvent(t *testing.T) {
	t.Parallel()
	e := starvedEvent(supervisor.Starved{PID: 4711, Name: "php-fpm8.2"})
	if e.Kind != "process.oom" || e.PID != 4711 || e.Process != "" || e.Reason != "out of memory" || !strings.Contains(e.Message, "process 4711 (php-fpm8.2)") {
		t.Errorf("%+v", e)
	}
}

package keeper

import (
	"strings"
	"testing"
)

func TestGroupOfAUnit(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/superd.service\n":                                  "/system.slice/superd.service",
		"9:name=systemd:/\n0::/system.slice/superd.service/.control\n":       "/system.slice/superd.service/.control",
		"9:name=systemd:/system.slice/superd.service\n0::/\n":                "/system.slice/superd.service",
		"9:name=systemd:/system.slice/superd.service\n8:memory:/elsewhere\n": "/system.slice/superd.service",
		"": "/",
	} {
		if got := groupIn(text); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// Who types it kills nothing of his own session, and a crash leaves everything.
func TestStopPostOutsideAUnit(t *testing.T) {
	if err := Stopped(""); err == nil || !strings.Contains(err.Error(), "SERVICE_RESULT is not set") {
		t.Errorf("without a result: %v", err)
	}
	for _, crash := range []string{"signal", "core-dump", "watchdog", "exit-code", "oom-kill", "resources"} {
		if err := Stopped(crash); err != nil {
			t.Errorf("%s: %v", crash, err)
		}
	}
}

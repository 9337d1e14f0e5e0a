package lab

import "testing"

func TestOnScreen(t *testing.T) {
	t.Parallel()
	said := "\r\x1b[Kpreparing \x1b[33m⠋\x1b[0m 0s\r\x1b[Kpreparing \x1b[32m✓\x1b[0m 0.1s\r\n\r\x1b[Kr2 is live\r\n"
	if got, want := onScreen(said), "preparing ✓ 0.1s\nr2 is live"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

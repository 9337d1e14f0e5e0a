package keeper

import (
	"os/exec"
	"strings"
	"testing"

	"superd/supervisor/keeper/wire"
)

// A limit that could not be found out at the start is found out with the next child. What
// it was is what package os/exec gives to a shell.
func TestGivenFilesAreLearntLate(t *testing.T) {
	var f openFiles
	given := f.forChild()
	if len(given) != 1 {
		t.Fatal("it is not found out")
	}
	out, err := exec.Command("sh", "-c", "ulimit -Sn").Output()
	if want := strings.TrimSpace(string(out)); err != nil || itoa(int(given[0].Cur)) != want {
		t.Errorf("%d, and a shell gets %s: %v", given[0].Cur, want, err)
	}
	f.raised.Cur++
	if f.forChild() != nil {
		t.Error("who has set the limit since is overruled")
	}
}

// A reason that is too long, as an older keeper may have left one, is cut: a frame that can't
// be sent would be tried for ever.
func TestExitFitsIntoAFrame(t *testing.T) {
	f := (&child{slot: "s", reason: strings.Repeat("x", wire.MaxData+1)}).exit()
	if _, err := f.Append(nil); err != nil || len(f.Data) != wire.MaxData {
		t.Errorf("%d bytes: %v", len(f.Data), err)
	}
}

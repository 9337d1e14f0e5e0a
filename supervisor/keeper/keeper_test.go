package keeper_test

import (
	"context"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
	"superd/supervisor/keeper/keepertest"
)

const patience = 60 * time.Second

func dial(t testing.TB, k *keepertest.Keeper) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, k.Socket())
	if err != nil {
		t.Fatalf("dial: %v\n%s", err, k.Said())
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func shell(slot, script string) client.Spec {
	return client.Spec{Slot: slot, Argv: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"},
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
}

func spawn(t testing.TB, c *client.Client, s client.Spec) *client.Child {
	t.Helper()
	ch, err := c.Spawn(t.Context(), s)
	if err != nil {
		t.Fatalf("spawn %s: %v", s.Slot, err)
	}
	if err := ch.Open(); err != nil {
		t.Fatalf("open the gate of %s: %v", s.Slot, err)
	}
	return ch
}

func exit(t testing.TB, c *client.Client) client.Exit {
	t.Helper()
	select {
	case e, ok := <-c.Exits():
		if !ok {
			t.Fatal("the connection ended while an exit was waited for")
		}
		return e
	case <-time.After(patience):
		t.Fatal("no exit came")
	}
	panic("unreachable")
}

func TestExitCodesAreExact(t *testing.T) {
	c := dial(t, keepertest.Start(t))
	for script, want := range map[string]syscall.WaitStatus{
		"exit 0": 0, "exit 1": 1 << 8, "exit 111": 111 << 8, "exit 255": 255 << 8,
		"kill -9 $$": 9, "kill -15 $$": 15, "kill -1 $$": 1,
	} {
		ch := spawn(t, c, shell("s", script))
		e := exit(t, c)
		if e.Status != want || e.Failure != "" || e.PID != ch.PID || e.Start != ch.Start || e.Slot != "s" {
			t.Errorf("%s: got %+v, want status %d of PID %d", script, e, want, ch.PID)
		}
		if err := c.Acknowledge("s", e.PID); err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(ch.Out); err != nil || len(out) > 0 {
			t.Errorf("%s wrote %q, %v", script, out, err)
		}
	}
}

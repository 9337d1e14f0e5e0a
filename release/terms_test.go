package release

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestQuiet: nothing begins while it is quiet, and what was asked for meanwhile begins
// afterwards, by the terms that were set.
func TestQuiet(t *testing.T) {
	t.Parallel()
	st := newStage(t, "r1", "r2", "r3")
	st.up()
	defer st.down()
	st.settled()
	resume, err := st.Quiet(t.Context())
	must(t, err)
	terms := Terms{KeepReleases: 3, Required: []string{"vendor"}, AutoRollback: true}
	st.Set(terms)
	begun := make(chan error, 1)
	go func() {
		_, err := st.Begin(context.Background(), Request{Release: "r2"})
		begun <- err
	}()
	select {
	case err := <-begun:
		t.Fatalf("it began, or was refused: %v", err)
	case <-time.After(time.Second):
	}
	if st.heard("switch.begun", "") {
		t.Error("it began")
	}
	second, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := st.Quiet(second); err == nil {
		t.Error("two are quiet at once")
	}
	resume()
	must(t, <-begun)
	if got := st.o.Tree.terms(); len(got.Required) != 1 || got.KeepReleases != 3 {
		t.Errorf("terms %+v", got)
	}
	if st.o.Limits.Watch == 0 {
		t.Error("limits that are zero have no default")
	}
}

// TestQuietDuringASwitch is refused, and tells what is going on.
func TestQuietDuringASwitch(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	st.hang("watch", "r2")
	_, err := st.Quiet(t.Context())
	var refusal *Refusal
	if !errors.Is(err, ErrBusy) || !errors.As(err, &refusal) || !strings.Contains(refusal.Why, "r2") {
		t.Errorf("error %v", err)
	}
	must(t, st.Abort(By{}))
	st.settled()
	resume, err := st.Quiet(t.Context())
	must(t, err)
	resume()
}

// TestLinkIsFollowedOnceTold: follow_link that is switched on holds for the link as it is.
func TestLinkIsFollowedOnceTold(t *testing.T) {
	st := newStage(t, "r1", "r2")
	st.up()
	defer st.down()
	st.settled()
	link := NewLinkWatch(st.Switcher, LinkOptions{Settle: time.Hour})
	link.Set(LinkOptions{Follow: true, Settle: time.Millisecond})
	if link.look(t.Context(), time.Now()); !link.o.Follow || link.o.Settle != time.Millisecond {
		t.Errorf("options %+v", link.o)
	}
}

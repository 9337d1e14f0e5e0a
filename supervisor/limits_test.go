package supervisor

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"superd/supervisor/keeper/client"
)

// Who is past a limit is due and told why; who is within, or has none, is not.
func TestDue(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "family", "family complete")
	due, err := Due(map[string]Limited{
		"old":   {c, Limits{MaxAge: time.Nanosecond}},
		"large": {c, Limits{MaxAge: time.Hour, MaxMemory: 1 << 20}},
		"both":  {c, Limits{MaxAge: time.Nanosecond, MaxMemory: 1 << 20}},
		"well":  {c, Limits{MaxAge: time.Hour, MaxMemory: 1 << 40}},
		"free":  {c, Limits{}},
	})
	if names := slices.Sorted(maps.Keys(due)); err != nil || !slices.Equal(names, []string{"both", "large", "old"}) {
		t.Fatalf("%v, %v", due, err)
	}
	if !strings.HasSuffix(due["old"], "s old, max_age is 1ns") || !strings.HasSuffix(due["large"], " KiB of memory, max_memory is 1024 KiB") {
		t.Errorf("%q", due)
	}
}

// Without a limit of memory nothing is measured, however old a child is.
func TestOnlyWhoHasALimitIsMeasured(t *testing.T) {
	c := past(1, time.Now().Add(-time.Hour)) // which is none of any fleet, and cannot be measured
	due, err := Due(map[int]Limited{1: {c, Limits{MaxAge: 50 * time.Minute}}, 2: {c, Limits{MaxAge: 70 * time.Minute}}})
	if err != nil || len(due) != 1 || due[1] != "is 1h0m0s old, max_age is 50m0s" {
		t.Errorf("%v, %v", due, err)
	}
}

// One age is up to 10 % more or less for different lives, and the same for one life.
func TestAgesAreSpread(t *testing.T) {
	born := time.Unix(1e9, 0)
	least, most := time.Hour, time.Duration(0)
	for pid := range 1000 {
		age := past(pid, born).spread(time.Minute)
		if again := past(pid, born).spread(time.Minute); again != age {
			t.Fatalf("%s and %s for one life", age, again)
		}
		least, most = min(least, age), max(most, age)
	}
	if least < 54*time.Second || least > 55*time.Second || most < 65*time.Second || most > 66*time.Second {
		t.Errorf("from %s to %s", least, most)
	}
}

// Those that are due are recycled one after the other; none any more once the owner ends.
func TestRecycle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks, recycled := 0, 0
	Recycle(ctx, time.Millisecond, func() map[int]string {
		looks++
		return map[int]string{1: "is old", 2: "is old"}
	}, func(who int, reason string) {
		if reason != "is old" {
			t.Errorf("%d for %q", who, reason)
		}
		if recycled++; recycled == 3 {
			cancel()
		}
	})
	if looks != 2 || recycled != 3 {
		t.Errorf("%d recycled in %d looks", recycled, looks)
	}
}

// past is a child of which there is nothing but when it was born.
func past(pid int, born time.Time) *Child {
	return &Child{proc: &client.Child{PID: pid, Born: born}}
}

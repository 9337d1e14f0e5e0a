package main

import (
	"testing"
	"time"

	"superd/release"
)

func TestConditionOfAnApp(t *testing.T) {
	r1 := release.Generation{Number: 1, Release: "r1"}
	going := &release.Record{From: r1, To: release.Generation{Number: 2, Release: "r2"}, Phase: release.Rotating}
	for want, shot := range map[string]release.Snapshot{
		"shop r1":                         {Live: r1},
		"shop has no release":             {Settling: true},
		"shop r1, on its way up":          {Live: r1, Settling: true},
		"shop r1, degraded":               {Live: r1, Degraded: "workers"},
		"shop r1, held":                   {Live: r1, Hold: &release.Hold{}},
		"shop on its way to r2, rotating": {Live: r1, Current: going},
		"shop on its way to r2, paused":   {Live: r1, Current: going, Paused: "database"},
	} {
		if got := appCondition("shop", shot); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestStayers(t *testing.T) {
	many := []string{"j", "i", "h", "g", "f", "e", "d", "c", "b", "a"}
	const want = "stopping for 12s; waits for 10: a; b; c; d; e; f; g; h; and 2 more"
	if got := stayers(many, 12345*time.Millisecond); got != want {
		t.Errorf("%q", got)
	}
}

package main

import (
	"testing"

	"github.com/prometheus/procfs"
)

// The pages of the program that are not used any more are not superd's, and those that
// are used are there again.
func TestGiveBack(t *testing.T) {
	self, err := procfs.Self()
	if err != nil {
		t.Fatal(err)
	}
	mapped := func() uint64 {
		now, err := self.ProcSMapsRollup()
		if err != nil {
			t.Fatal(err)
		}
		return now.Rss - now.Anonymous
	}
	before := mapped()
	for range 3 {
		if err := giveBack(); err != nil {
			t.Fatal(err)
		}
	}
	if after := mapped(); after > before*3/4 {
		t.Errorf("of %d bytes of files %d are left", before, after)
	}
}

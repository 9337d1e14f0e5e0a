package supervisor

import "testing"

// A child is measured with what it has started, and without its neighbours.
func TestFootprintsAreOfTheWholeTree(t *testing.T) {
	f := newHouse(t).open(t)
	c := f.start("w", "family", "family complete")
	alone := proportional(c.PID())
	if alone == 0 {
		t.Fatal("the kernel does not say what a process takes")
	}
	least := alone / 2 // what is shared is divided anew whenever somebody comes or goes
	for _, pid := range familyOf(t, c) {
		if pid != c.PID() {
			least += proportional(pid) / 2
		}
	}
	sums, err := Footprints([]*Child{c})
	if err != nil || len(sums) != 1 || sums[c] < least || sums[c] < alone*3/2 {
		t.Errorf("%v, %v: the main process alone takes %d, the family at least %d", sums, err, alone, least)
	}
}

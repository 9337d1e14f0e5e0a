package fpm

import "testing"

// The status page comes from a master that may be ill, and what users asked for is in it.
func FuzzStatusPage(f *testing.F) {
	f.Add([]byte(`{"pool":"shop-7","processes":[{"pid":5,"state":"Idle","requests":3},{"pid":6,"state":"Reading headers","request uri":"/\"\\"}]}`))
	f.Add([]byte(`{"pool":null,"processes":[null,{}]}`))
	f.Add([]byte(`{"processes":[{"pid":1e99,"state":[]}]}`))
	f.Fuzz(func(t *testing.T, page []byte) {
		w, err := countWorkers(page)
		if err != nil && (w.active != 0 || w.idle != 0 || len(w.reading) != 0) {
			t.Errorf("counted %+v of a page that is none: %v", w, err)
		}
		if len(w.reading) > w.active {
			t.Errorf("%d of %d active workers read", len(w.reading), w.active)
		}
	})
}

// A worker that is being made has no request yet, and is not to be taken for one that rests.
func TestWorkersThatAreBeingMade(t *testing.T) {
	t.Parallel()
	w, err := countWorkers([]byte(`{"processes":[{"state":"Creating"},{"state":"Idle"},{"state":"Running"},{"state":"Reading headers"}]}`))
	if err != nil || w.active != 2 || w.idle != 2 || w.busy() != 3 || len(w.reading) != 1 {
		t.Errorf("%+v, busy %d, %v", w, w.busy(), err)
	}
}

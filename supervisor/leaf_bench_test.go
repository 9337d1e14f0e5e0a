package supervisor

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup/cgrouptest"
)

// What a leaf costs from a death to the next life. The two take turns, so that a noisy
// minute of the machine meets both; the ratio is what counts.
func BenchmarkLeaf(b *testing.B) {
	with, without := newHouse(b), newHouse(b)
	with.base = cgrouptest.Dir(b)
	a, o := newSuccession(with.open(b)), newSuccession(without.open(b))
	for b.Loop() {
		a.next()
		o.next()
	}
	b.ReportMetric(float64(a.took.Microseconds())/float64(b.N), "µs/with")
	b.ReportMetric(float64(o.took.Microseconds())/float64(b.N), "µs/without")
	b.ReportMetric(float64(a.took)/float64(o.took), "with/without")
}

// A succession is a slot in which one life follows another.
type succession struct {
	f    *fleet
	c    *Child
	took time.Duration
}

func newSuccession(f *fleet) *succession {
	h := &succession{f: f}
	h.c = h.begin()
	return h
}

func (h *succession) begin() *Child {
	s := spec("w", "")
	s.Argv, s.Env = []string{"/bin/sleep", "1000"}, nil
	c, err := h.f.Start(h.f.t.Context(), s)
	if err != nil {
		h.f.t.Fatal(err)
	}
	return c
}

// next measures from the end to the order to run the next program.
func (h *succession) next() {
	if err := h.c.Signal(unix.SIGTERM); err != nil {
		h.f.t.Fatal(err)
	}
	<-h.c.Exited()
	began := time.Now()
	if err := h.c.Acknowledge(); err != nil {
		h.f.t.Fatal(err)
	}
	h.c = h.begin()
	h.took += time.Since(began)
}

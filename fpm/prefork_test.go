package fpm

import "testing"

// As many workers are ready for those who come first as there were before, also when the
// master is replaced. With ondemand they are made within a limit of time, so that on a
// busy machine one or two of the six may not have come; none was ready without it.
func TestGenerationBeginsWithWorkers(t *testing.T) {
	t.Parallel()
	for pm, want := range map[string]int{"ondemand": 4, "dynamic": 5} {
		t.Run(pm, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			s.change = func(_ *Options, p *Pool) {
				p.PM, p.StartServers, p.MinSpareServers, p.MaxSpareServers = pm, 1, 1, 5
			}
			l := s.superd()
			l.serve(s.generation(1))
			load := s.load()
			load.closed(6, "ms=500")
			eventually(t, "six workers are at it", func() bool {
				st, _ := l.status(s.generation(1))
				return st.Active >= 6
			})
			l.must("start", l.Start(t.Context(), s.generation(2)))
			l.beginsWith(want)
			l.must("promote", l.Promote(t.Context(), s.generation(2)))
			eventually(t, "they are at it in the next", func() bool {
				st, _ := l.status(s.generation(2))
				return st.Active >= 5
			})
			load.done()
			l.must("restart", l.Restart(t.Context()))
			eventually(t, "the master before is gone", func() bool { return len(l.all()) == 2 })
			l.beginsWith(want)
		})
	}
}

// beginsWith tells how many workers generation 2 has before anybody came.
func (l *life) beginsWith(want int) {
	t := l.shop.t
	t.Helper()
	eventually(t, "those who were kept are let go", func() bool {
		st, _ := l.status(l.shop.generation(2))
		return st.Active == 0
	})
	if st, _ := l.status(l.shop.generation(2)); st.Idle < want {
		t.Errorf("it begins with %d workers, want %d", st.Idle, want)
	}
}

// A generation that nobody has used for a while has no workers any more; those who are
// led back to it find some.
func TestWayBackHasWorkers(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.change = func(_ *Options, p *Pool) { p.PM = "ondemand" }
	l := s.superd()
	l.must("start", l.Start(t.Context(), s.generation(2))) // nobody serves: as few as there are
	if st, _ := l.status(s.generation(2)); st.Idle+st.Active > 1 {
		t.Errorf("the first generation begins with %d workers", st.Idle+st.Active)
	}
	l.serve(s.generation(1))
	load := s.load()
	load.closed(6, "ms=500")
	eventually(t, "six workers are at it", func() bool {
		st, _ := l.status(s.generation(1))
		return st.Active >= 6
	})
	l.must("start", l.Start(t.Context(), s.generation(2)))
	l.beginsWith(4)
	load.done()
}

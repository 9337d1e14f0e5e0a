package supervisor

import "sync"

// A census is who lived on the machine at one moment, shared by all who look for a tree
// just then: a thousand children that are told to stop look through /proc a few times,
// not a thousand times.
type census struct {
	procs map[int]stat

	mu    sync.Mutex
	marks map[int]string // those that were asked for
}

func newCensus(procs map[int]stat) *census { return &census{procs: procs, marks: map[int]string{}} }

// carries tells whether a process was born with a mark.
func (c *census) carries(pid int, mark string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	has, asked := c.marks[pid]
	if !asked {
		has = markOf(pid)
		c.marks[pid] = has
	}
	return mark != "" && has == mark
}

// A census of the machine is taken by one at a time. Whoever asks while one is taken gets
// the next, which has begun after he asked.
type censuses struct {
	taking sync.Mutex

	mu   sync.Mutex
	next *counting
}

type counting struct {
	done   chan struct{}
	result *census
	err    error
}

// take is a census that has begun after the call.
func (c *censuses) take() (*census, error) {
	c.mu.Lock()
	mine := c.next == nil
	if mine {
		c.next = &counting{done: make(chan struct{})}
	}
	one := c.next
	c.mu.Unlock()
	if !mine {
		<-one.done
		return one.result, one.err
	}
	c.taking.Lock()
	c.mu.Lock()
	c.next = nil
	c.mu.Unlock()
	procs, err := processes()
	one.result, one.err = newCensus(procs), err
	c.taking.Unlock()
	close(one.done)
	return one.result, one.err
}

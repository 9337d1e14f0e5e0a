package supervisor

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"
)

// Recycling: a child that has grown too old or too large is ended and another runs in its
// place. Here is who is due, and why; how one takes the place of the other is its owner's.

// Limits are what a child may grow to.
type Limits struct {
	MaxAge    time.Duration // older is due, give or take 10 %; 0: no limit
	MaxMemory int64         // bytes, of the whole tree; larger is due; 0: no limit
}

// A Limited child has limits.
type Limited struct {
	Child *Child
	Limits
}

// recycleEvery is how often children are looked at.
const recycleEvery = 30 * time.Second

// Recycle looks every so often (0: every 30 s) who is due, and has them recycled, one
// after the other, until ctx ends.
func Recycle[T comparable](ctx context.Context, every time.Duration, due func() map[T]string, recycle func(who T, reason string)) {
	if every == 0 {
		every = recycleEvery
	}
	clock := time.NewTicker(every)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		for who, reason := range due() {
			if ctx.Err() != nil {
				return
			}
			recycle(who, reason)
		}
	}
}

// Due are those past their limits, and why. Only those are measured that have a limit of
// memory; with an error some of them are not.
func Due[T comparable](all map[T]Limited) (map[T]string, error) {
	reasons := map[T]string{}
	var children []*Child
	for who, l := range all {
		if age := time.Since(l.Child.Born()); l.MaxAge > 0 && age > l.Child.spread(l.MaxAge) {
			reasons[who] = fmt.Sprintf("is %s old, max_age is %s", age.Round(time.Second), l.MaxAge)
		} else if l.MaxMemory > 0 {
			children = append(children, l.Child)
		}
	}
	if len(children) == 0 {
		return reasons, nil
	}
	sums, err := Footprints(children)
	for who, l := range all {
		if sum, limit := sums[l.Child], l.MaxMemory; limit > 0 && sum > limit {
			reasons[who] = fmt.Sprintf("takes %d KiB of memory, max_memory is %d KiB", sum>>10, limit>>10)
		}
	}
	return reasons, err
}

// spread is d with up to 10 % more or less, the same for one life whichever superd asks:
// children that were started together do not all go together.
func (c *Child) spread(d time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%d@%d", c.FirstPID(), c.Born().UnixNano())
	return d + time.Duration(float64(d)*(float64(h.Sum32()%2001)/1000-1)/10)
}

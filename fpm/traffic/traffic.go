// Package traffic counts what a PHP-FPM has answered, from its access log.
//
// The invariants: no worker of PHP-FPM waits for whoever reads, is dead, or has a
// full disk; a line is counted once, also when superd is killed between any two
// steps; and what has been counted takes no room any more.
package traffic

import (
	"math"
	"time"
)

// Counts are requests and how they ended.
type Counts struct {
	Answers uint64 `json:"answers"` // that were written down; superd's own are not among them
	Errors  uint64 `json:"errors"`  // of these, a status of 500 and more
	Killed  uint64 `json:"killed"`  // workers that a signal ended: they write nothing down
	Times   Times  `json:"times"`   // of the answers

	Took time.Duration `json:"took"` // all answers together
}

// Times are durations in buckets, each a quarter of an octave wide: a quantile is
// never more than a fifth too high, whatever the number of requests.
type Times [84]uint64

// bounds are the upper ends of the buckets, from a quarter of a millisecond to seven
// minutes. The last one has whatever took longer too.
var bounds = func() (b [len(Times{})]time.Duration) {
	for i := range b {
		b[i] = time.Duration(float64(250*time.Microsecond) * math.Exp2(float64(i)/4))
	}
	return b
}()

// Add counts one answer.
func (c *Counts) Add(status int, took time.Duration) {
	c.Answers++
	if status >= 500 {
		c.Errors++
	}
	i := 0
	for i < len(bounds)-1 && bounds[i] < took {
		i++
	}
	c.Times[i]++
	c.Took += took
}

// Bound is what a bucket of Times ends at. The last one has all that took longer too.
func Bound(bucket int) time.Duration { return bounds[bucket] }

// Requests are all that have ended, well or not.
func (c *Counts) Requests() uint64 { return c.Answers + c.Killed }

// Failed are the requests that did not end well.
func (c *Counts) Failed() uint64 { return c.Errors + c.Killed }

// ErrorShare is the part that failed, from 0 to 1; 0 when there is none.
func (c *Counts) ErrorShare() float64 {
	if c.Requests() == 0 {
		return 0
	}
	return float64(c.Failed()) / float64(c.Requests())
}

// Quantile is the time within which that part of the answers was given, rounded up
// to the end of its bucket; 0 when there is none.
func (c *Counts) Quantile(part float64) time.Duration {
	rank := uint64(math.Ceil(part * float64(c.Answers)))
	seen := uint64(0)
	for i, n := range c.Times {
		if seen += n; n > 0 && seen >= rank {
			return bounds[i]
		}
	}
	return 0
}

// Plus is both together.
func (c Counts) Plus(other *Counts) Counts {
	c.Answers += other.Answers
	c.Errors += other.Errors
	c.Killed += other.Killed
	c.Took += other.Took
	for i := range c.Times {
		c.Times[i] += other.Times[i]
	}
	return c
}

// Minus is what has come since earlier, a former state of the same counts. Where
// less is known by now it is 0.
func (c Counts) Minus(earlier *Counts) Counts {
	c.Answers -= min(c.Answers, earlier.Answers)
	c.Errors -= min(c.Errors, earlier.Errors)
	c.Killed -= min(c.Killed, earlier.Killed)
	c.Took -= min(c.Took, earlier.Took)
	for i := range c.Times {
		c.Times[i] -= min(c.Times[i], earlier.Times[i])
	}
	return c
}

// Figures are the counts of one generation.
type Figures struct {
	Total  Counts // since it has been there
	Recent Counts // of its last five minutes with traffic
}

// Plus is both together.
func (f Figures) Plus(other *Figures) Figures {
	return Figures{Total: f.Total.Plus(&other.Total), Recent: f.Recent.Plus(&other.Recent)}
}

// A ring has the counts of the last minutes.
type ring []slot

type slot struct {
	Begin  int64 `json:"begin"` // in slot lengths since 1970
	Counts `json:"counts"`
}

const (
	slotLength = 10 * time.Second
	slots      = 30
)

// at is the slot of a moment. Should the clock have been set back, time stands still.
func (r *ring) at(now time.Time) *Counts {
	begin := now.UnixNano() / int64(slotLength)
	if n := len(*r); n > 0 && (*r)[n-1].Begin >= begin {
		return &(*r)[n-1].Counts
	}
	*r = append(*r, slot{Begin: begin})
	for (*r)[0].Begin <= begin-slots {
		*r = (*r)[1:]
	}
	return &(*r)[len(*r)-1].Counts
}

func (r *ring) sum() (all Counts) {
	for i := range *r {
		all = all.Plus(&(*r)[i].Counts)
	}
	return all
}

package supervisor

import (
	"math"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait between two lives of a process that fails.
type Backoff struct {
	First, Max time.Duration
	Factor     float64
	Jitter     float64       // part of the pause that is chance, 0 to 1
	ResetAfter time.Duration // a life this long counts as healthy again
}

// DefaultBackoff is 500 ms, doubled up to 30 s, a tenth of it chance.
func DefaultBackoff() Backoff {
	return Backoff{First: 500 * time.Millisecond, Max: 30 * time.Second, Factor: 2, Jitter: 0.1, ResetAfter: time.Minute}
}

// Pause is the wait before the next life after n failures in a row, n ≥ 1.
func (b Backoff) Pause(n int) time.Duration {
	if n < 1 {
		return 0
	}
	d := float64(b.First) * math.Pow(b.Factor, float64(n-1))
	d = min(d, float64(b.Max))
	d *= 1 + b.Jitter*(2*rand.Float64()-1)
	return time.Duration(d)
}

// between is the state between two lives after n failures in a row.
func (b Backoff) between(n int) State {
	if n > 1 && float64(b.First)*math.Pow(b.Factor, float64(n-1)) >= float64(b.Max) {
		return Cooling
	}
	return Backing
}

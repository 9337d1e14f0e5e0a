package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"superd/release"
)

// A Verifier checks a candidate before any user meets it: the release.Checks of a
// switch. It may be used again, and for several generations at once.
type Verifier struct {
	*prober
	checks []Check
	warmup []string
}

// NewVerifier takes the checks of an app, of which it makes those of phase verify,
// and the pages to fetch first.
func NewVerifier(s Site, checks []Check, warmup []string) *Verifier {
	return &Verifier{newProber(s), of(checks, PhaseVerify), warmup}
}

// Update makes other checks and pages hold, for the next Verify. Do not call it while
// one runs.
func (v *Verifier) Update(s Site, checks []Check, warmup []string) {
	v.prober, v.checks, v.warmup = newProber(s), of(checks, PhaseVerify), warmup
}

// Verify warms g up, then makes all checks side by side until each has succeeded
// often enough in a row. The first one that has not by its deadline is the error,
// a release.Explained; it is release.ErrInconclusive when what serves now fails the
// same.
func (v *Verifier) Verify(ctx context.Context, g release.Generation) error {
	if g.IsZero() {
		return nil
	}
	if err := v.warm(ctx, g); err != nil {
		return err
	}
	checks := v.possible(g)
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, c := range checks {
		all.Go(func() {
			if err := v.verify(inner, c, g); err != nil {
				cancel(err) // the first one counts
			}
		})
	}
	all.Wait()
	return context.Cause(inner)
}

// possible are the checks that can be made of a candidate. What is left out is told.
func (v *Verifier) possible(g release.Generation) []Check {
	var checks []Check
	for _, c := range v.checks {
		switch outside := c.Kind == KindHTTP || c.Kind == KindTCP; {
		case c.Kind == KindFastCGI && v.Alone:
			v.tell(fmt.Sprintf("check %q is skipped: %s does not run beside what serves", c.Name, g), nil)
		case outside && c.Phase == PhaseBoth && v.against(g).IsZero():
			v.tell(fmt.Sprintf("check %q is skipped until %s is live: nothing serves yet", c.Name, g), nil)
		default:
			checks = append(checks, c)
		}
	}
	return checks
}

func (v *Verifier) verify(ctx context.Context, c Check, g release.Generation) error {
	err := v.becomesHealthy(ctx, c, g)
	if err == nil || ctx.Err() != nil {
		return err
	}
	switch other := v.against(g); c.Kind {
	case KindHTTP, KindTCP:
		if other.IsZero() {
			return err
		}
		return inconclusive(err, fmt.Sprintf("it asks what serves, and that is %s", other))
	}
	return v.judge(ctx, c, g, err)
}

// errLate is why a try was cut that the deadline did not leave its timeout.
var errLate = errors.New("no answer before the deadline")

// becomesHealthy tries until the check has succeeded often enough in a row. When
// parent ends nobody waits for what it returns, for all end together.
func (v *Verifier) becomesHealthy(parent context.Context, c Check, g release.Generation) error {
	ctx, cancel := context.WithTimeoutCause(parent, c.Deadline, errLate)
	defer cancel()
	var last error
	for well := 0; ; {
		err := v.try(ctx, c, g)
		switch {
		case parent.Err() != nil:
			return err
		case err == nil:
			well++
		default:
			if last == nil {
				v.tell(fmt.Sprintf("check %q fails, and has until %s after its start: %v", c.Name, c.Deadline, err), err)
			}
			well, last = 0, err
		}
		if well >= c.HealthyThreshold {
			return nil
		}
		select {
		case <-time.After(c.Interval):
			continue
		case <-ctx.Done():
		}
		if well > 0 || last == nil {
			last = fmt.Errorf("succeeded %d times in a row of the %d it needs", well, c.HealthyThreshold)
		}
		return v.explain(c, g, fmt.Sprintf("of %s was not healthy within %s", g, c.Deadline), last)
	}
}

package check

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
)

// warmTimeout is for one page; it is the first request ever to its code.
const warmTimeout = 30 * time.Second

// warm fetches the pages that fill the candidate's opcache, one after the other,
// before the checks: their timeouts are meant for a warm release. A page that does
// not come, or not well, is told and no more, for what a release must do is said by
// checks – except one that breaks where it does not in what serves: no user shall
// meet that. The requests are those of the first FastCGI check but for the path.
func (v *Verifier) warm(ctx context.Context, g release.Generation) error {
	if len(v.warmup) > 0 && v.Alone {
		v.tell(fmt.Sprintf("warm-up is skipped: %s does not run beside what serves", g), nil)
		return nil
	}
	page := Check{Name: "warm-up", Kind: KindFastCGI}
	i := slices.IndexFunc(v.checks, func(c Check) bool { return c.Kind == KindFastCGI })
	if i >= 0 {
		page.Script, page.Headers = v.checks[i].Script, v.checks[i].Headers
	}
	page = page.orDefaults()
	for _, path := range v.warmup {
		page.Path = path
		if err := v.warmOne(ctx, page, g); err != nil {
			return err
		}
	}
	return nil
}

func (v *Verifier) warmOne(ctx context.Context, page Check, g release.Generation) error {
	answer, err := v.fetch(ctx, page, g)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		v.tell(fmt.Sprintf("warm-up of %s: GET %s: %v", g, page.Path, err), nil)
		return nil
	case answer.Status < http.StatusBadRequest && !died(answer):
		return nil
	}
	err = disappointed(answer, "GET %s: answered %d", page.Path, answer.Status)
	if other := v.against(g); broken(answer) && !other.IsZero() && v.Socket(other) != "" {
		better, otherErr := v.fetch(ctx, page, other)
		if otherErr == nil && !broken(better) {
			return v.explain(page, g, fmt.Sprintf("of %s, where %s answers %d", g, other, better.Status), err)
		}
	}
	v.tell(fmt.Sprintf("warm-up of %s: %v", g, err), err)
	return nil
}

func (v *Verifier) fetch(ctx context.Context, page Check, g release.Generation) (*fastcgi.Response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, warmTimeout, fmt.Errorf("no answer within %s", warmTimeout))
	defer cancel()
	answer, err := v.request(ctx, page, g)
	if v.Progress != nil {
		v.Progress()
	}
	return answer, err
}

func broken(answer *fastcgi.Response) bool {
	return answer.Status >= http.StatusInternalServerError || died(answer)
}

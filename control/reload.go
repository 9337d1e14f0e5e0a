package control

import (
	"context"
	"fmt"
	"net/http"
)

// Reload is the answer of POST /v1/config/reload.
type Reload struct {
	Plan    bool     `json:"plan,omitempty"` // nothing was changed: it is what would be
	Message string   `json:"message"`
	Changes []Change `json:"changes"` // of everything that there was or is, in the order of the names
	// Warnings are what the file has that is accepted but worth telling.
	Warnings []string `json:"warnings,omitempty"`
	// Switches are those that were begun to bring up new generations.
	Switches []ReloadSwitch `json:"switches,omitempty"`
}

// ReloadSwitch is a switch of an app to the release that it is on: followed as any other.
type ReloadSwitch struct {
	App    string `json:"app"`
	Switch string `json:"switch"` // its id
}

// Change is what becomes of one process, pool, app or program, or of superd. A process has
// one of its own where that is not what becomes of its pool or program: there are to be more
// of them, say.
type Change struct {
	Name    string   `json:"name"`
	Action  string   `json:"action"` // nothing, later (when superd itself starts again), live, restart, start, stop
	Reasons []Reason `json:"reasons,omitempty"`
}

// Reason is a key that was changed.
type Reason struct {
	Key   string `json:"key"`
	Class string `json:"class"` // what it takes: live, restart, later
}

// Touched is how many of the changes are any.
func (r Reload) Touched() int {
	n := 0
	for _, c := range r.Changes {
		if c.Action != "nothing" {
			n++
		}
	}
	return n
}

func (q *request) reload() error {
	plan, err := q.flag("plan")
	if err == nil {
		err = q.take(&struct{}{})
	}
	if err != nil {
		return err
	}
	answer, err := q.server.daemon.Reload(q.http.Context(), plan, q.by())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, answer)
}

// Reload makes superd read its configuration, or tell what that would change.
func (c *Client) Reload(ctx context.Context, plan bool) (Reload, error) {
	path := "/v1/config/reload"
	if plan {
		path = fmt.Sprintf("%s?plan=1", path)
	}
	return call[Reload](ctx, c, http.MethodPost, path, struct{}{})
}

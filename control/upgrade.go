package control

import (
	"context"
	"net/http"
)

// An Incarnation is one superd, or one keeper.
type Incarnation struct {
	Version string `json:"version,omitempty"` // empty: not known yet
	PID     int    `json:"pid"`
}

// UpgradeRequest is what POST /v1/superd/upgrade takes.
type UpgradeRequest struct {
	Keeper bool `json:"keeper,omitempty"` // the keeper, in place, instead of superd
}

// UpgradeAnswer tells who was there and who is next. Of the next superd only the PID
// is known: it is ready, and is taking over in this moment. A keeper has one PID all
// its life; Changed is false when its program is the one it runs already.
type UpgradeAnswer struct {
	Before  Incarnation `json:"before"`
	After   Incarnation `json:"after"`
	Changed bool        `json:"changed"`
	Message string      `json:"message"`
}

func (q *request) upgrade() error {
	var r UpgradeRequest
	if err := q.take(&r); err != nil {
		return err
	}
	answer, err := q.server.daemon.Upgrade(q.http.Context(), r, q.by())
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, answer)
}

// Upgrade replaces superd by the program that is at its path now.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest) (UpgradeAnswer, error) {
	return call[UpgradeAnswer](ctx, c, http.MethodPost, "/v1/superd/upgrade", r)
}

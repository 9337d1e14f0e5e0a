package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// InputRequest is the body of POST /v1/processes/{name}/stdin.
type InputRequest struct {
	Text string `json:"text"` // as it is to be read; a line ends with \n
}

const bytesType = "application/octet-stream"

func (q *request) clearLog() error {
	if err := q.take(&struct{}{}); err != nil {
		return err
	}
	names, err := q.callees(RoleOperate)
	if err != nil {
		return err
	}
	var all []ProcessResult
	for _, name := range names {
		results, err := q.server.daemon.ClearLog(q.http.Context(), name, q.by())
		if err != nil {
			return err
		}
		all = append(all, results...)
	}
	return q.answer(http.StatusOK, orEmpty(all))
}

func (q *request) input() error {
	var body InputRequest
	if err := q.take(&body); err != nil {
		return err
	}
	if body.Text == "" {
		return wrongBody("text is missing", &body)
	}
	name, err := q.callee(RoleOperate)
	if err != nil {
		return err
	}
	if err := q.server.daemon.Input(q.http.Context(), name, body.Text, q.by()); err != nil {
		return err
	}
	return q.answer(http.StatusOK, Done{"written"})
}

// attach sends the bytes of one process as they come. It begins at once, so that who
// asks knows that nothing is missed from then on. What does not read in time is cut off.
func (q *request) attach() error {
	leave, err := q.follow()
	if err != nil {
		return err
	}
	defer leave()
	name, err := q.callee(RoleRead)
	if err != nil {
		return err
	}
	err = q.server.daemon.Attach(q.http.Context(), name, func(b []byte) error {
		if !q.begun {
			q.begun = true
			q.w.Header().Set("Content-Type", bytesType)
			q.w.WriteHeader(http.StatusOK)
		}
		return q.send(b)
	})
	if q.begun || q.http.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return nil // a word about it would be taken for the process's
	}
	return err
}

// ClearLog empties the logs of what a name matches.
func (c *Client) ClearLog(ctx context.Context, name string) ([]ProcessResult, error) {
	return call[[]ProcessResult](ctx, c, http.MethodPost, "/v1/logs/"+url.PathEscape(name)+"/clear", struct{}{})
}

// Input gives text to the standard input of a process.
func (c *Client) Input(ctx context.Context, name, text string) error {
	_, err := call[Done](ctx, c, http.MethodPost, "/v1/processes/"+url.PathEscape(name)+"/stdin", InputRequest{text})
	return err
}

// Attach copies what a process writes from now on to w, until ctx ends or superd does.
// Attached is called when nothing is missed any more; it may be nil.
func (c *Client) Attach(ctx context.Context, name string, w io.Writer, attached func()) error {
	response, err := c.ask(ctx, http.MethodGet, "/v1/processes/"+url.PathEscape(name)+"/attach", nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswerLine))
		return errorIn(response.StatusCode, text)
	}
	if attached != nil {
		attached()
	}
	if _, err := io.Copy(w, response.Body); err != nil && ctx.Err() == nil {
		return c.unreachable(ctx, fmt.Errorf("at %s: %w", time.Now().Format(time.TimeOnly), err))
	}
	return nil
}

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"superd/control/xmlrpc"
)

// Supervisor calls a method of supervisord's. A fault is a *xmlrpc.Fault.
func (c *Client) Supervisor(ctx context.Context, method string, params ...any) (any, error) {
	body := xmlrpc.WriteCall(xmlrpc.Call{Method: method, Params: params})
	text, status, err := c.plain(ctx, http.MethodPost, rpcPath, body)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(text)
	if err = errors.Join(err, text.Close()); err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if err := errorIn(status, answer); err != nil {
		return nil, err
	}
	return xmlrpc.ReadAnswer(answer)
}

// Logtail is what a process writes from now on, by supervisord's name for it, with the
// last lines first. It ends with ctx, or when superd does.
func (c *Client) Logtail(ctx context.Context, name, stream string) (io.ReadCloser, error) {
	text, status, err := c.plain(ctx, http.MethodGet, logtail+url.PathEscape(name)+"/"+stream, nil)
	if err != nil || status == http.StatusOK {
		return text, err
	}
	answer, err := io.ReadAll(text)
	return nil, errors.Join(err, text.Close(), errorIn(status, answer))
}

// plain sends a request that is not JSON.
func (c *Client) plain(ctx context.Context, method, path string, body []byte) (io.ReadCloser, int, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://superd"+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Content-Type", "text/xml")
	response, err := c.http.Do(r)
	if err != nil {
		return nil, 0, c.unreachable(ctx, err)
	}
	return response.Body, response.StatusCode, nil
}

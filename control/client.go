package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Client speaks to superd. Its errors are *Error, whatever went wrong. Streams go
// on when superd is replaced by another: what one has told the next does not repeat,
// and leaves nothing out.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient speaks to the superd whose socket that is. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if errors.Is(err, unix.EAGAIN) {
			return standInLine(socket)
		}
		return conn, err
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// linePatience is how long a client waits for its turn.
const linePatience = 5 * time.Second

// standInLine connects to a socket whose queue is full: somebody floods it. Who does
// not block is told to try again, and finds it full again; who blocks is let in by the
// kernel when there is room, in turn (net/unix/af_unix.c unix_stream_connect).
func standInLine(socket string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), socket)
	patience := unix.NsecToTimeval(linePatience.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
	if err == nil {
		err = connect(fd, socket)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect: %w", err), file.Close())
	}
	conn, err := net.FileConn(file)
	return conn, errors.Join(err, file.Close())
}

// connect begins again when a signal ends the wait: a socket with a timeout is not
// restarted by the kernel (signal(7)), and the Go runtime signals its own threads.
func connect(fd int, socket string) error {
	end := time.Now().Add(linePatience)
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return err
		}
	}
}

// Status is everything that there is to see.
func (c *Client) Status(ctx context.Context) (Status, error) { return c.StatusOf(ctx) }

// StatusOf is what the names mean of it, and whether that is well; without a name it is
// everything.
func (c *Client) StatusOf(ctx context.Context, names ...string) (Status, error) {
	path := "/v1/status"
	if len(names) > 0 {
		path += "?" + url.Values{"name": names}.Encode()
	}
	return call[Status](ctx, c, http.MethodGet, path, nil)
}

// Health tells whether everything is as it should be. That it is not is no error.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return call[Health](ctx, c, http.MethodGet, "/v1/health", nil)
}

// Metrics is everything for a dashboard, as OpenMetrics.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	response, err := c.ask(ctx, http.MethodGet, "/v1/metrics", nil)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return "", c.unreachable(ctx, err)
	}
	return string(text), errorIn(response.StatusCode, text)
}

// Releases are the releases of an app, the last changed first.
func (c *Client) Releases(ctx context.Context, app string) ([]ReleaseInfo, error) {
	return call[[]ReleaseInfo](ctx, c, http.MethodGet, inApp(app, "releases"), nil)
}

// History is the finished switches of an app, oldest first.
func (c *Client) History(ctx context.Context, app string) ([]HistoryEntry, error) {
	return call[[]HistoryEntry](ctx, c, http.MethodGet, inApp(app, "history"), nil)
}

// Current is the switch that is going on, nil when there is none.
func (c *Client) Current(ctx context.Context, app string) (*SwitchStatus, error) {
	return call[*SwitchStatus](ctx, c, http.MethodGet, inApp(app, "switch"), nil)
}

// Switch begins a switch and returns when it is accepted: see FollowSwitch. Wait in
// the request is for those who have no Client, and ignored.
func (c *Client) Switch(ctx context.Context, app string, r SwitchRequest) (SwitchAnswer, error) {
	r.Wait = false
	return call[SwitchAnswer](ctx, c, http.MethodPost, inApp(app, "switch"), r)
}

// Rollback begins a rollback, as Switch does.
func (c *Client) Rollback(ctx context.Context, app string, r RollbackRequest) (SwitchAnswer, error) {
	r.Wait = false
	return call[SwitchAnswer](ctx, c, http.MethodPost, inApp(app, "rollback"), r)
}

// Abort takes back the switch that is going on.
func (c *Client) Abort(ctx context.Context, app string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, inApp(app, "abort"), struct{}{})
}

// Hold keeps an app as it is until Resume.
func (c *Client) Hold(ctx context.Context, app, reason string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, inApp(app, "hold"), HoldRequest{reason})
}

// Resume ends a hold, or lets a paused switch try again.
func (c *Client) Resume(ctx context.Context, app string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, inApp(app, "resume"), struct{}{})
}

// Process does one thing to every process that a name or pattern matches.
func (c *Client) Process(ctx context.Context, o ProcessOrder) ([]ProcessResult, error) {
	var body any = struct{}{}
	switch o.Verb {
	case VerbStart, VerbRestart, VerbReload:
	case VerbStop:
		body = StopRequest{o.Now}
	case VerbSignal:
		body = SignalRequest{o.Signal}
	case VerbScale:
		body = ScaleRequest{&o.Processes}
	}
	path := "/v1/processes/" + url.PathEscape(o.Name) + "/" + string(o.Verb)
	return call[[]ProcessResult](ctx, c, http.MethodPost, path, body)
}

// Shutdown begins the end of superd and of all it runs.
func (c *Client) Shutdown(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "/v1/superd/shutdown", struct{}{})
}

// inApp is the path of something of an app.
func inApp(app, what string) string { return "/v1/apps/" + url.PathEscape(app) + "/" + what }

// call asks for one answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	response, err := c.ask(ctx, method, path, body)
	if err != nil {
		return answer, err
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return answer, c.unreachable(ctx, err)
	}
	if err := errorIn(response.StatusCode, text); err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, &Error{Kind: Internal, Message: fmt.Sprintf("read answer of superd: %v", err), Hint: otherVersion}
	}
	return answer, nil
}

const otherVersion = "superctl and superd may be of different versions: see superctl version"

// ask sends a request. The body of its answer is to be closed.
func (c *Client) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var send io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, &Error{Kind: Usage, Message: fmt.Sprintf("write request: %v", err)}
		}
		send = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://superd"+path, send)
	if err != nil {
		return nil, &Error{Kind: Usage, Message: fmt.Sprintf("make request: %v", err)}
	}
	request.Header.Set("Content-Type", jsonType)
	response, err := c.http.Do(request)
	if method == http.MethodGet && brokeOff(err) && ctx.Err() == nil {
		response, err = c.http.Do(request) // superd has just been replaced; to read twice does no harm
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return response, nil
}

// brokeOff tells whether a connection has ended before an answer.
func brokeOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// errorIn is the error that an answer is, nil when it is none. That all is not well
// is answered with a status of its own, and yet it is an answer.
func errorIn(status int, text []byte) error {
	if status < http.StatusMultipleChoices {
		return nil
	}
	var answer ErrorAnswer
	err := json.Unmarshal(text, &answer)
	switch {
	case err == nil && answer.Error.Kind != "":
		return &answer.Error
	case err == nil && status == http.StatusServiceUnavailable:
		return nil
	}
	return &Error{Kind: Internal, Message: fmt.Sprintf("superd answered with status %d", status), Hint: otherVersion}
}

// unreachable is why there is no answer, and what may be done about it.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &Error{Kind: StillGoing, Message: fmt.Sprintf("stopped waiting for superd: %v", context.Cause(ctx))}
	}
	if at, ok := errors.AsType[*net.OpError](err); ok {
		err = at.Err // without the address, which is said below
	}
	e := &Error{Kind: Unreachable, Message: fmt.Sprintf("superd does not answer on %s: %v", c.socket, err)}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = Denied, "only root may connect, unless the configuration has [[access]]: try sudo"
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "is superd running? systemctl status superd; another socket is named with --socket or SUPERD_SOCKET"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Hint = "superd has ended and left its socket: systemctl status superd"
	default:
		e.Hint = "systemctl status superd and its log tell more"
	}
	return e
}

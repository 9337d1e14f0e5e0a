package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"superd/fpm/fastcgi"
	"superd/release"
)

// A failure keeps this many lines of each source; the least telling come first,
// for what is too many is cut there.
const (
	maxTail   = 8 // of the FPM master
	maxBody   = 4 // the first ones
	maxStderr = 8 // of the PHP that answered
	maxClip   = 200
)

// askFastCGI makes a request as a web server would, through g's own socket and by
// the real path of its files.
func (p *prober) askFastCGI(ctx context.Context, c Check, g release.Generation) error {
	answer, err := p.request(ctx, c, g)
	if err != nil {
		return fmt.Errorf("GET %s: %w", c.Path, err)
	}
	return compare(c, c.Path, answer)
}

func (p *prober) request(ctx context.Context, c Check, g release.Generation) (*fastcgi.Response, error) {
	socket := p.Socket(g)
	if socket == "" {
		return nil, fmt.Errorf("%s is not running", g)
	}
	root := filepath.Join(g.Dir, p.DocumentRoot)
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real // else PHP says what is wrong with it
	}
	params := fastcgi.Script(root, c.Script, c.Path, http.MethodGet, "")
	for name, value := range c.Headers {
		params.SetHeader(name, value)
	}
	return fastcgi.Do(ctx, network(socket), socket, fastcgi.Request{Params: params})
}

func network(address string) string {
	if filepath.IsAbs(address) {
		return "unix"
	}
	return "tcp"
}

// askHTTP asks once, on a connection of its own and past any proxy.
func askHTTP(ctx context.Context, c Check) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return err
	}
	for name, value := range c.Headers {
		request.Header.Set(name, value)
		if strings.EqualFold(name, "Host") {
			request.Host = value
		}
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, fastcgi.DefaultLimit+1))
	if err != nil {
		return fmt.Errorf("GET %s: read body: %w", c.URL, because(ctx, err))
	}
	if len(body) > fastcgi.DefaultLimit {
		return fmt.Errorf("GET %s: %w", c.URL, fastcgi.ErrTooLarge)
	}
	return compare(c, c.URL, &fastcgi.Response{Status: response.StatusCode, Body: body})
}

// askTCP connects, and that is all.
func askTCP(ctx context.Context, c Check) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network(c.Address), c.Address)
	if err != nil {
		return because(ctx, err)
	}
	return conn.Close()
}

// because adds the reason of an ended context, which says more than "deadline
// exceeded" and "operation was canceled".
func because(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done() // it is its deadline, which a dialer keeps itself and can be early by a hair
	}
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// compare holds an answer to what the check wants.
func compare(c Check, what string, answer *fastcgi.Response) error {
	switch {
	case !slices.Contains(c.Status, answer.Status):
		return disappointed(answer, "GET %s: answered %d, wanted %s", what, answer.Status, either(c.Status))
	case died(answer):
		return disappointed(answer, "GET %s: answered %d, but PHP died of an error", what, answer.Status)
	case c.Body != nil && !c.Body.Match(answer.Body):
		return disappointed(answer, "GET %s: answered %d, but the body does not match %q", what, answer.Status, c.Body)
	}
	return nil
}

// disappointed is an answer that will not do, with what it said.
func disappointed(answer *fastcgi.Response, format string, args ...any) error {
	said, body := phpLines(answer.Stderr), lines(answer.Body)
	text := fmt.Sprintf(format, args...)
	if len(body) > 0 {
		text += fmt.Sprintf("; it begins with %q", clip(body[0]))
	}
	if len(said) > 0 {
		text += "; PHP says: " + clip(telling(said))
	}
	said = said[max(0, len(said)-maxStderr):]
	return &explained{errors.New(text), slices.Concat(body[:min(len(body), maxBody)], said)}
}

// phpLines are what PHP wrote to its log in one request, a message each: FPM puts
// those of one request on one line, with a prefix that says nothing.
func phpLines(stderr []byte) []string {
	const prefix = "PHP message: "
	text := strings.ReplaceAll(string(stderr), "; "+prefix, "\n")
	return lines([]byte(strings.TrimPrefix(text, prefix)))
}

// died tells a script that PHP gave up on. The status does not: with display_errors
// on, as it is without a php.ini, a release with a syntax error answers 200.
func died(answer *fastcgi.Response) bool {
	said := string(answer.Stderr)
	return strings.Contains(said, "PHP Fatal error:") || strings.Contains(said, "PHP Parse error:")
}

// telling is the line of PHP's that names the error, if there is one: a stack trace
// may follow it.
func telling(said []string) string {
	for _, word := range []string{"PHP Fatal error:", "PHP Parse error:", "Primary script unknown"} {
		i := slices.IndexFunc(said, func(line string) bool { return strings.Contains(line, word) })
		if i >= 0 {
			return said[i]
		}
	}
	return said[len(said)-1]
}

func either(status []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(status), "[]"), " ", " or ")
}

// Package fastcgi is a FastCGI client for checks and status pages: one request on
// one connection, the whole answer in memory.
//
// An answer is either complete or an error. A worker that dies in the middle, a
// server that is overloaded and an answer that is too long never look like a
// short success.
package fastcgi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultLimit is the longest answer, in bytes, that is read when
// Request.Limit is zero.
const DefaultLimit = 16 << 20

var (
	// ErrTooLarge tells that the answer was longer than Request.Limit.
	ErrTooLarge = errors.New("answer is too large")
	// ErrRefused tells that the server ended the request without running it.
	ErrRefused = errors.New("request was refused")
	// ErrMalformed tells that what came back is not FastCGI, or has no header block.
	ErrMalformed = errors.New("answer is malformed")
)

// Request is one request for a responder.
type Request struct {
	Params Params
	Body   []byte // CONTENT_LENGTH follows from it, whatever Params says
	Limit  int    // of the answer, in bytes; 0 means DefaultLimit
}

// Response is a complete answer.
type Response struct {
	Status int         // 200 when the answer names none
	Header http.Header // without Status
	Body   []byte
	Stderr []byte // what the worker wrote to its log; its first 64 KiB
}

// Do connects to a FastCGI server ("unix", path or "tcp", host:port) and makes one
// request. It ends with ctx at the latest; the error then carries ctx's cause.
func Do(ctx context.Context, network, addr string, r Request) (*Response, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, told(ctx, err)
	}
	return Exchange(ctx, conn, r)
}

// Exchange makes one request on conn, which it closes.
func Exchange(ctx context.Context, conn net.Conn, r Request) (*Response, error) {
	request, err := r.encode()
	if err != nil {
		_ = conn.Close() // nothing was sent
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // wakes both directions; a closed connection needs no waking
	})
	defer stop()

	// Beside the reading: a worker may fill its side before it has read all of ours.
	var wg sync.WaitGroup
	var unsent error
	wg.Go(func() { _, unsent = conn.Write(request) })
	response, err := read(conn, r.Limit)
	_ = conn.Close() // after a complete answer nothing can be lost
	wg.Wait()
	if err != nil && errors.Is(err, io.ErrUnexpectedEOF) && unsent != nil {
		err = fmt.Errorf("%w (%w)", err, unsent)
	}
	if err != nil {
		return nil, told(ctx, err)
	}
	return response, nil
}

// told adds the reason of an ended context, which says more than "i/o timeout".
func told(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("fastcgi request: %w", context.Cause(ctx))
	}
	return fmt.Errorf("fastcgi request: %w", err)
}

const keepStderr = 64 << 10

// read takes one answer from r, up to its END_REQUEST.
func read(r io.Reader, limit int) (*Response, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	var out, stderr bytes.Buffer
	in := bufio.NewReader(r)
	for {
		rec, err := readRecord(in)
		if err != nil {
			return nil, err
		}
		if rec.id != requestID {
			continue // of the connection, or of a request that is not ours
		}
		switch rec.kind {
		case kindStdout:
			if out.Len()+len(rec.content) > limit {
				return nil, fmt.Errorf("%w (limit %d bytes)", ErrTooLarge, limit)
			}
			out.Write(rec.content)
		case kindStderr:
			stderr.Write(rec.content[:min(len(rec.content), keepStderr-stderr.Len())])
		case kindEnd:
			if err := ended(rec.content); err != nil {
				return nil, err
			}
			return parse(out.Bytes(), stderr.Bytes())
		}
	}
}

// ended reads an END_REQUEST body: application status (4 bytes), protocol status.
func ended(content []byte) error {
	if len(content) < 5 {
		return fmt.Errorf("%w: end of request of %d bytes", ErrMalformed, len(content))
	}
	switch content[4] {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: server cannot multiplex", ErrRefused)
	case 2:
		return fmt.Errorf("%w: server is overloaded", ErrRefused)
	case 3:
		return fmt.Errorf("%w: server does not know the role", ErrRefused)
	default:
		return fmt.Errorf("%w: protocol status %d", ErrRefused, content[4])
	}
}

// parse splits a CGI answer into header and body.
func parse(out, stderr []byte) (*Response, error) {
	in := bufio.NewReader(bytes.NewReader(out))
	header, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf("%w: header block: %w", ErrMalformed, err)
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	status := http.StatusOK
	if line := header.Get("Status"); line != "" {
		code, _, _ := strings.Cut(line, " ")
		if status, err = strconv.Atoi(code); err != nil || status < 100 || status > 999 {
			return nil, fmt.Errorf("%w: status %q", ErrMalformed, line)
		}
		header.Del("Status")
	}
	return &Response{Status: status, Header: http.Header(header), Body: body, Stderr: stderr}, nil
}

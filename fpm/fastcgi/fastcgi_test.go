package fastcgi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// peer serves h with the standard library's FastCGI server.
func peer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = fcgi.Serve(l, h) }()
	return path
}

// raw answers one connection with bytes, after it has read a request's first record.
func raw(t *testing.T, answer []byte) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = theirs.Write(answer)
		_ = theirs.Close()
	}()
	return ours
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func answer(kind byte, id uint16, content string) []byte {
	b := appendRecord(nil, kind, []byte(content))
	b[2], b[3] = byte(id>>8), byte(id)
	return b
}

var done = answer(kindEnd, 1, "\x00\x00\x00\x00\x00\x00\x00\x00")

func TestDo(t *testing.T) {
	t.Parallel()
	sent := bytes.Repeat([]byte("body "), 100_000)
	addr := peer(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		if !bytes.Equal(got, sent) || r.ContentLength != int64(len(sent)) {
			http.Error(w, "body differs", http.StatusTeapot)
			return
		}
		env := fcgi.ProcessEnv(r)
		w.Header().Set("X-Script", env["SCRIPT_FILENAME"])
		w.Header().Set("X-Long", r.Header.Get("X-Long")[:3])
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(bytes.Repeat([]byte("x"), 200_000))
	})
	p := Script("/srv/public", "index.php", "/up?a=1", "POST", "shop.example:8080")
	p.SetHeader("X-Long", strings.Repeat("abc", 20_000))
	p.SetHeader("X-Longer", strings.Repeat("abc", 20_000))
	p["CONTENT_LENGTH"] = "7" // a wrong one would hang the server
	got, err := Do(within(t, 20*time.Second), "unix", addr, Request{Params: p, Body: sent})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != http.StatusCreated || len(got.Body) != 200_000 {
		t.Errorf("status %d, %d bytes", got.Status, len(got.Body))
	}
	if got.Header.Get("X-Script") != "/srv/public/index.php" || got.Header.Get("X-Long") != "abc" {
		t.Errorf("header %v", got.Header)
	}
	if p["CONTENT_LENGTH"] != "7" {
		t.Error("the caller's parameters were changed")
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name   string
		answer []byte
		limit  int
		want   *Response
		err    error
	}{
		{"default status", join(answer(kindStdout, 1, "A: b\r\n\r\nhi"), done), 0,
			&Response{Status: 200, Header: http.Header{"A": {"b"}}, Body: []byte("hi")}, nil},
		{"status and stderr, in pieces", join(answer(kindStdout, 1, "Status: 404 Not Fo"), answer(kindStderr, 1, "oh "), answer(kindStdout, 1, "und\r\n\r\n"), answer(kindStderr, 1, "no"), done), 0,
			&Response{Status: 404, Header: http.Header{}, Body: []byte{}, Stderr: []byte("oh no")}, nil},
		{"others' records", join(answer(kindStdout, 2, "X"), answer(11, 0, "unknown"), answer(kindStdout, 1, "A: b\n\nhi"), answer(kindEnd, 2, "12345678"), done), 0,
			&Response{Status: 200, Header: http.Header{"A": {"b"}}, Body: []byte("hi")}, nil},
		{"too large", join(answer(kindStdout, 1, "A: b\r\n\r\n12345"), done), 10, nil, ErrTooLarge},
		{"cut between records", answer(kindStdout, 1, "A: b\r\n\r\nhi"), 0, nil, io.ErrUnexpectedEOF},
		{"cut in a record", answer(kindStdout, 1, "A: b\r\n\r\nhi")[:12], 0, nil, io.ErrUnexpectedEOF},
		{"nothing", nil, 0, nil, io.ErrUnexpectedEOF},
		{"overloaded", answer(kindEnd, 1, "\x00\x00\x00\x00\x02\x00\x00\x00"), 0, nil, ErrRefused},
		{"end too short", answer(kindEnd, 1, "\x00"), 0, nil, ErrMalformed},
		{"http", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, nil, ErrMalformed},
		{"no header", done, 0, nil, ErrMalformed},
		{"bad status", join(answer(kindStdout, 1, "Status: so so\r\n\r\n"), done), 0, nil, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Exchange(within(t, 20*time.Second), raw(t, c.answer), Request{Limit: c.limit})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got, cmp.Transformer("string", func(b []byte) string { return string(b) })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	addr := peer(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	late := errors.New("took longer than 50ms")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, late)
	defer cancel()
	if _, err := Do(ctx, "unix", addr, Request{Params: Script("/", "x.php", "/", "GET", "")}); !errors.Is(err, late) {
		t.Errorf("error %v, want %v", err, late)
	}
}

func TestParameterTooLong(t *testing.T) {
	t.Parallel()
	_, err := Exchange(t.Context(), raw(t, done), Request{Params: Params{"A": strings.Repeat("x", 70_000)}})
	if err == nil || !strings.Contains(err.Error(), "parameter A is too long") {
		t.Errorf("error %v", err)
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	p := Script("/srv/r1/public", "/admin/index.php", "/admin/x?q=1&r=2", "GET", "shop.example")
	p.SetHeader("Host", "other.example:81")
	p.SetHeader("X-Forwarded-Proto", "https")
	p.SetHeader("Content-Type", "text/plain")
	p.SetHeader("Proxy", "http://evil")
	for name, want := range map[string]string{
		"SCRIPT_FILENAME": "/srv/r1/public/admin/index.php", "SCRIPT_NAME": "/admin/index.php",
		"QUERY_STRING": "q=1&r=2", "SERVER_PORT": "80", "SERVER_NAME": "other.example", "HTTP_HOST": "other.example:81",
		"HTTP_X_FORWARDED_PROTO": "https", "CONTENT_TYPE": "text/plain", "HTTP_PROXY": "",
	} {
		if p[name] != want {
			t.Errorf("%s = %q, want %q", name, p[name], want)
		}
	}
}

// FuzzResponse: whatever a server sends, reading it ends, in bounds, with a
// complete answer or an error.
func FuzzResponse(f *testing.F) {
	f.Add(append(answer(kindStdout, 1, "Status: 200 OK\r\nA: b\r\n\r\nhi"), done...))
	f.Add(append(answer(kindStderr, 1, strings.Repeat("x", 65535)), answer(kindStderr, 1, "y")...))
	f.Add([]byte("\x01\x03\x00\x01\x00\x08\xff\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x06\x00\x01\xff\xff\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := read(bytes.NewReader(data), 1000)
		if (got == nil) == (err == nil) {
			t.Fatalf("answer %v with error %v", got, err)
		}
		if got == nil {
			return
		}
		if got.Status < 100 || got.Status > 999 || len(got.Body) > 1000 || len(got.Stderr) > keepStderr {
			t.Fatalf("status %d, body %d, stderr %d bytes", got.Status, len(got.Body), len(got.Stderr))
		}
		if !bytes.Contains(data, []byte{version, kindEnd, 0, requestID}) {
			t.Fatal("an answer without its end was taken for complete")
		}
	})
}

package control

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A user who opens connections and says nothing on them, as many as he can, keeps
// neither root nor another user from being answered, and is rid of when his time is up.
func TestHalfOpenFlood(t *testing.T) {
	needRoot(t)
	h := newHouse(t, testRules...)
	for range 3 {
		first := begin(t, inMood(t, "flood", h.socket, testUsers["nobody"]))
		var opened, away int
		if _, err := fmt.Sscan(first, &opened, &away); err != nil || opened+away != 300 {
			t.Fatalf("the flood says %q (%v)", first, err)
		}
		if n := h.connected(); n > h.server.connections.each+2 {
			t.Errorf("one user has %d connections, may have %d", n, h.server.connections.each)
		}
		began := time.Now()
		if status, _, _ := h.ask("GET", "/v1/status", ""); status != 200 {
			t.Errorf("root got %d", status)
		}
		if took := time.Since(began); took > headerPatience {
			t.Errorf("root waited %s", took)
		}
		out, err := inMood(t, "ask", h.socket, testUsers["reader"], "GET", "/v1/status", "").Output()
		if err != nil || !strings.HasPrefix(string(out), "200 ") {
			t.Errorf("another user got %s (%v)", out, err)
		}
	}
	eventually(t, "the silent ones are put out", func() bool { return h.connected() == 0 })
	if n := len(h.log.with("uid", nobody)); n < 1 || n > 5 {
		t.Errorf("a flood of 900 is %d lines in the log", n)
	}
}

// Root's places cannot be taken by any number of users.
func TestReservedPlaces(t *testing.T) {
	for name, q := range map[string]*quota{"connections": connections(), "followers": followers()} {
		for n := range 10_000 {
			q.take(Peer{UID: uint32(1000 + n%500)})
		}
		if q.taken != q.max-q.reserved {
			t.Errorf("%s: others have taken %d of %d", name, q.taken, q.max)
		}
		for n := range q.reserved {
			if !q.take(Peer{UID: 0}) {
				t.Errorf("%s: root's %dth is refused", name, n+1)
			}
		}
		if q.take(Peer{UID: 0}) {
			t.Errorf("%s: there is no end to them", name)
		}
		for n := range 500 {
			for range q.by[uint32(1000+n)] {
				q.give(Peer{UID: uint32(1000 + n)})
			}
		}
		for range q.reserved {
			q.give(Peer{UID: 0})
		}
		if q.taken != 0 || len(q.by) != 0 {
			t.Errorf("%s: %d are taken by %v when all are gone", name, q.taken, q.by)
		}
		for range q.each {
			if !q.take(Peer{UID: 1000}) {
				t.Errorf("%s: a user's own are refused", name)
			}
		}
		if q.take(Peer{UID: 1000}) || !q.take(Peer{UID: 1001}) {
			t.Errorf("%s: one user has more than %d, or keeps out another", name, q.each)
		}
	}
}

func TestFollowersAreFew(t *testing.T) {
	h := newHouse(t)
	h.server.followers.max = 3
	for range 3 {
		response, _ := h.raw("GET", "/v1/events?follow=1", "")
		if response.status != 200 {
			t.Fatalf("a follower got %d", response.status)
		}
	}
	e := h.refused(Overloaded, "GET", "/v1/events?follow=1", "")
	h.refused(Overloaded, "GET", "/v1/logs/x?follow=1", "")
	if e.Hint == "" {
		t.Error("it is not said what to do")
	}
	if status, _, _ := h.ask("GET", "/v1/events", ""); status != 200 {
		t.Errorf("who does not follow got %d", status)
	}
	for _, err := range h.client().Events(t.Context(), 0, true) {
		if KindOf(err) != Overloaded {
			t.Errorf("a client got %v", err)
		}
	}
}

// What is not a request at all is answered or cut off, and the next one is served.
func TestNonsense(t *testing.T) {
	h := newHouse(t)
	t.Run("together", func(t *testing.T) {
		for name, text := range map[string]string{
			"endless header":    "GET /v1/status HTTP/1.1\r\nHost: superd\r\nX: " + strings.Repeat("x", 1<<20),
			"endless line":      "GET /" + strings.Repeat("x", 1<<20),
			"many headers":      "GET /v1/status HTTP/1.1\r\n" + strings.Repeat("X-Header: 1\r\n", 100_000),
			"binary":            strings.Repeat("\x00\xff\r\n", 10_000),
			"lying length":      "POST /v1/apps/shop/hold HTTP/1.1\r\nHost: superd\r\nContent-Length: 1000\r\n\r\n{",
			"negative length":   "POST /v1/apps/shop/hold HTTP/1.1\r\nHost: superd\r\nContent-Length: -1\r\n\r\n{}",
			"two lengths":       "POST /v1/apps/shop/hold HTTP/1.1\r\nHost: superd\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
			"endless chunks":    "POST /v1/apps/shop/hold HTTP/1.1\r\nHost: superd\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("400\r\n"+strings.Repeat(" ", 1024)+"\r\n", 1000),
			"a body that waits": "GET /v1/status HTTP/1.1\r\nHost: superd\r\nContent-Length: 10\r\n\r\n",
			"another protocol":  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
			"connect":           "CONNECT superd:80 HTTP/1.1\r\nHost: superd\r\n\r\n",
			"no host":           "GET /v1/status HTTP/1.1\r\n\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, err := net.Dial("unix", h.socket)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				_, _ = fmt.Fprint(c, text) // it may be cut off before its end
				answer, _ := bufio.NewReader(c).ReadString('\n')
				if answer != "" && !strings.Contains(answer, " 4") && !strings.Contains(answer, " 505 ") {
					t.Errorf("answered %q", answer)
				}
			})
		}
	})
	for _, asked := range h.daemon.heard() {
		t.Errorf("the daemon was asked: %s", asked)
	}
	if status, _, _ := h.ask("GET", "/v1/status", ""); status != 200 {
		t.Errorf("then status got %d", status)
	}
}

// A superd without descriptors waits for some, and does not end.
func TestNoDescriptorsLeft(t *testing.T) {
	path := shortDir(t) + "/superd.sock"
	begin(t, inMood(t, "serve", path, nil))
	var held []net.Conn
	for range 100 {
		c, err := net.DialTimeout("unix", path, 30*time.Second)
		if err != nil {
			break // what waits to be accepted is full
		}
		held = append(held, c)
	}
	if len(held) < 40 {
		t.Fatalf("only %d connections: it does not run out of descriptors", len(held))
	}
	for _, c := range held {
		c.Close()
	}
	eventually(t, "it answers again", func() bool {
		status, _, _, err := rawAsk(t.Context(), path, "GET", "/v1/status", "")
		return err == nil && status == 200
	})
}

// A peer is who it was when it connected, whatever a request says.
func TestPeerIsToldByTheKernel(t *testing.T) {
	needRoot(t)
	h := newHouse(t, testRules...)
	out, err := inMood(t, "ask", h.socket, testUsers["nobody"], "POST", "/v1/apps/shop/hold?uid=0&user=root", `{"reason":"by root"}`).Output()
	if err != nil || !strings.HasPrefix(string(out), "403 ") {
		t.Errorf("got %s (%v)", out, err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	p, err := credentials(pair[0])
	if err != nil || p.UID != 0 || p.PID != syscall.Getpid() {
		t.Errorf("this process is %+v (%v)", p, err)
	}
	if _, err := peerOf(&net.TCPConn{}); err == nil {
		t.Error("who is not on a unix socket is known")
	}
}

package control

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// A quota shares something between users. Nobody but root and superd's own user gets
// the last ones, so that whatever others do, those still come through.
type quota struct {
	max      int // for all together
	reserved int // of these, for root and superd's own user
	each     int // for any other user

	mu    sync.Mutex
	taken int
	by    map[uint32]int
	told  time.Time // when it was last said that someone was refused
}

// A connection costs 35 kB and a descriptor, a follower a goroutine that may wait
// for a write.
func connections() *quota { return &quota{max: 256, reserved: 32, each: 16, by: map[uint32]int{}} }
func followers() *quota   { return &quota{max: 64, reserved: 16, each: 8, by: map[uint32]int{}} }

func (q *quota) take(p Peer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := q.max
	if !p.isOwner() {
		room -= q.reserved
	}
	if q.taken >= room || !p.isOwner() && q.by[p.UID] >= q.each {
		return false
	}
	q.taken++
	q.by[p.UID]++
	return true
}

func (q *quota) give(p Peer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken--
	if q.by[p.UID]--; q.by[p.UID] == 0 {
		delete(q.by, p.UID)
	}
}

// tell says now and then that someone is refused: a flood of connections must not
// become a flood of lines.
func (q *quota) tell() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if time.Since(q.told) < 10*time.Second {
		return false
	}
	q.told = time.Now()
	return true
}

// A door lets in those who are known and not too many.
type door struct {
	net.Listener
	quota *quota
	log   *slog.Logger
}

// admitted is a connection that came through the door.
type admitted struct {
	net.Conn
	peer  Peer
	leave func()
}

// Close gives its place to another.
func (a *admitted) Close() error {
	a.leave()
	return a.Conn.Close()
}

// Accept returns the next one who may come in. That there is no descriptor left is
// the business of net/http, which waits and tries again.
func (d door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c)
		if err != nil {
			d.log.Warn("connection refused", "error", err)
			_ = c.Close()
			continue
		}
		if d.quota.take(peer) {
			return &admitted{c, peer, sync.OnceFunc(func() { d.quota.give(peer) })}, nil
		}
		if d.quota.tell() {
			d.log.Warn("connections refused: too many at once", "uid", peer.UID, "pid", peer.PID)
		}
		turnAway(c)
	}
}

// turnAway answers before anything was asked. There is always room for that much in
// a new connection, and if not it makes no difference.
func turnAway(c net.Conn) {
	body, _ := json.Marshal(ErrorAnswer{Error{Kind: Overloaded, Message: "too many connections", Hint: "close some, or try again in a moment"}})
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 503 %s\r\nContent-Type: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		http.StatusText(http.StatusServiceUnavailable), jsonType, len(body), body)
	_ = c.Close()
}

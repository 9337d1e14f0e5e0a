package control

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// inHand knows the connections that wait for an answer, those included that have not
// asked yet. net/http drops these when it is shut down; whoever has been accepted is to
// be answered, for the next superd cannot.
type inHand struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	none  chan struct{} // closed when there are none, once somebody waits
}

func (h *inHand) changed(c net.Conn, state http.ConnState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		h.conns[c] = struct{}{}
	case http.StateIdle, http.StateHijacked, http.StateClosed:
		delete(h.conns, c)
	}
	h.tell()
}

func (h *inHand) tell() {
	if h.none != nil && len(h.conns) == 0 {
		close(h.none)
		h.none = nil
	}
}

// lingering is how long a connection that was accepted may take to ask.
const lingering = time.Second

// wait returns when all have been answered, or some do not ask for so long. It is called once.
func (h *inHand) wait(patience time.Duration) {
	h.mu.Lock()
	none := make(chan struct{})
	h.none = none
	h.tell()
	h.mu.Unlock()
	select {
	case <-none:
	case <-time.After(patience):
	}
}

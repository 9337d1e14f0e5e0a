package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"superd/release"
)

// opened is how a stream was answered.
type opened struct {
	status int
	header http.Header
	close  func()
}

// raw opens a stream without the client's patience, and gives its lines one by one.
func (h *house) raw(method, path, body string) (opened, *bufio.Scanner) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, "http://superd"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	response, err := h.client().http.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { response.Body.Close() })
	o := opened{response.StatusCode, response.Header, func() { response.Body.Close() }}
	in := bufio.NewScanner(response.Body)
	in.Buffer(nil, maxAnswerLine)
	return o, in
}

func eventIn(t *testing.T, in *bufio.Scanner) Event {
	t.Helper()
	var e Event
	if err := json.Unmarshal(in.Bytes(), &e); err != nil {
		t.Fatalf("%v in %q", err, in.Text())
	}
	return e
}

func TestWaitStreamsTheSwitchToItsEnd(t *testing.T) {
	for verdict, exit := range map[release.Verdict]int{release.Live: 0, release.RolledBack: 3, release.Degraded: 4, release.Rejected: 5, release.Conflict: 6} {
		h := newHouse(t)
		response, in := h.raw("POST", "/v1/apps/shop/switch", `{"release":"r2","wait":true}`)
		if response.status != 200 || response.header.Get("Content-Type") != linesType {
			t.Fatalf("answered %d %s", response.status, response.header)
		}
		if !in.Scan() || eventIn(t, in).Kind != "switch.begun" {
			t.Fatalf("the first line is %q: it must come at once", in.Text())
		}
		h.events.Append(Event{Kind: "switch.phase", App: "blog", Switch: "another"})
		h.events.Append(Event{Kind: EventSwitchEnded, App: "blog", Switch: "s1"}) // called the same
		h.events.Append(Event{Kind: "worker.died", App: "shop"})
		h.daemon.tell(release.Event{Kind: "switch.phase", Switch: "s1", Phase: release.Starting})
		if !in.Scan() || eventIn(t, in).Phase != release.Starting {
			t.Errorf("the second line is %q: only this switch is of interest", in.Text())
		}
		h.daemon.finish(verdict, false)
		if !in.Scan() {
			t.Fatal("the end is not told")
		}
		e := eventIn(t, in)
		if e.Kind != EventSwitchEnded || e.Exit == nil || *e.Exit != exit || e.Verdict != verdict || e.Reason != "because" {
			t.Errorf("%s is told as %s", verdict, in.Text())
		}
		if in.Scan() {
			t.Errorf("after the end comes %q", in.Text())
		}
	}
}

func TestWaitEndsAlsoWhenTheEndWasNotHeard(t *testing.T) {
	h := newHouse(t)
	_, in := h.raw("POST", "/v1/apps/shop/switch", `{"release":"r2","wait":true}`)
	in.Scan()
	h.daemon.finish(release.RolledBack, true)
	// The events of the switch are pushed out while nobody could read them.
	h.events.mu.Lock()
	h.events.kept, h.events.last = nil, h.events.last+100
	close(h.events.more)
	h.events.more = make(chan struct{})
	h.events.mu.Unlock()
	if !in.Scan() || eventIn(t, in).Kind != EventLagged {
		t.Errorf("the gap is not told: %q", in.Text())
	}
	if !in.Scan() {
		t.Fatal("the end is not told")
	}
	if e := eventIn(t, in); e.Kind != EventSwitchEnded || *e.Exit != 3 || e.Switch != "s1" {
		t.Errorf("the end is %s", in.Text())
	}
}

func TestTheSwitchGoesOnWithoutWhoWaits(t *testing.T) {
	h := newHouse(t)
	response, in := h.raw("POST", "/v1/apps/shop/switch", `{"release":"r2","wait":true}`)
	in.Scan()
	response.close()
	eventually(t, "the connection is closed", func() bool { return h.connected() == 0 })
	if !h.daemon.going() {
		t.Error("the switch was stopped")
	}
}

func (h *house) connected() int {
	h.server.connections.mu.Lock()
	defer h.server.connections.mu.Unlock()
	return h.server.connections.taken
}

// Before it is accepted a switch is only a wish: who does not wait takes it back.
func TestWhoGoesAwayDoesNotQueue(t *testing.T) {
	h := newHouse(t)
	queued, left := make(chan struct{}), make(chan error, 1)
	h.daemon.begin = func(ctx context.Context, _ SwitchRequest) error {
		close(queued)
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		_, err := h.client().Switch(ctx, "shop", SwitchRequest{Release: "r2", LockWait: Duration(time.Hour)})
		if KindOf(err) != StillGoing {
			t.Errorf("got %v", err)
		}
	})
	<-queued
	time.Sleep(bodyPatience + time.Second) // far longer than a request may take to be sent
	select {
	case err := <-left:
		t.Errorf("it was taken from the queue: %v", err)
	default:
	}
	cancel()
	asking.Wait()
	<-left
}

func TestStopLeavesNobodyHanging(t *testing.T) {
	h := newHouse(t)
	_, waiting := h.raw("POST", "/v1/apps/shop/switch", `{"release":"r2","wait":true}`)
	waiting.Scan()
	_, following := h.raw("GET", "/v1/events?follow=1", "")
	following.Scan()
	idle, err := net.Dial("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > 6*stopPatience {
		t.Errorf("it took %s", took)
	}
	var answer ErrorAnswer
	if !waiting.Scan() || json.Unmarshal(waiting.Bytes(), &answer) != nil || answer.Error.Kind != StillGoing {
		t.Errorf("who waits for the switch is told %q", waiting.Text())
	}
	for following.Scan() {
		if eventIn(t, following).Kind == "" {
			t.Errorf("who follows got %q", following.Text())
		}
	}
	if following.Err() != nil {
		t.Errorf("the stream was cut: %v", following.Err())
	}
}

func TestFollowersMissNothing(t *testing.T) {
	h := newHouse(t)
	const total = 3000
	var following sync.WaitGroup
	for n := range 6 {
		following.Go(func() {
			want := 0
			for e, err := range h.client().Events(t.Context(), 0, true) {
				if err != nil || e.Message != fmt.Sprint(want) || e.Seq != uint64(want+1) {
					t.Errorf("follower %d: event %d is %q, want %d (%v)", n, e.Seq, e.Message, want, err)
					return
				}
				if want++; want == total {
					return
				}
			}
			t.Errorf("follower %d: ends after %d", n, want)
		})
	}
	appendAll(t, h.events, 0, total)
	following.Wait()
	since := uint64(total - 10)
	var got []Event
	for e, err := range h.client().Events(t.Context(), since, false) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 10 {
		t.Fatalf("%d events after %d, want 10", len(got), since)
	}
	inOrder(t, got, total-10)
}

// The stream goes on over a superd that is replaced by another.
func TestFollowersSurviveARestart(t *testing.T) {
	h := newHouse(t)
	const lives, each = 4, 50
	heard := make(chan Event, lives*each)
	var following sync.WaitGroup
	following.Go(func() {
		n := 0
		for e, err := range h.client().Events(t.Context(), 0, true) {
			if err != nil {
				t.Errorf("after %d: %v", n, err)
				return
			}
			heard <- e
			if n++; n == lives*each {
				return
			}
		}
	})
	for life := range lives {
		for n := range each {
			h.events.Append(Event{Kind: "test", Message: fmt.Sprint(life*each + n)})
			if n == each/2 {
				eventually(t, "some are heard", func() bool { return len(heard) > life*each })
			}
		}
		h.stop()              // the last ones are written, and may not have been sent
		time.Sleep(3 * retry) // nobody is there
		h.start()
	}
	following.Wait()
	close(heard)
	got := slices.Collect(func(yield func(Event) bool) {
		for e := range heard {
			if !yield(e) {
				return
			}
		}
	})
	if len(got) != lives*each {
		t.Fatalf("%d events, want %d", len(got), lives*each)
	}
	inOrder(t, got, 0)
}

func TestFollowSwitch(t *testing.T) {
	for name, tt := range map[string]struct {
		meanwhile func(h *house)
		exit      int
		kind      Kind // instead
	}{
		"to its end": {
			meanwhile: func(h *house) { h.daemon.finish(release.Live, false) },
		},
		"while a switch of another app, called the same, fails": {
			meanwhile: func(h *house) {
				exit := 3
				h.events.Append(Event{Kind: EventSwitchEnded, App: "blog", Switch: h.daemon.current.ID, Exit: &exit})
				h.daemon.finish(release.Live, false)
			},
		},
		"ended by the next superd": {
			meanwhile: func(h *house) { h.stop(); h.start(); h.daemon.finish(release.RolledBack, false) }, exit: 3,
		},
		"ended while nobody told": {
			meanwhile: func(h *house) { h.stop(); h.daemon.finish(release.Degraded, true); h.start() }, exit: 4,
		},
		"superd settles first": {
			meanwhile: func(h *house) {
				h.stop()
				h.daemon.mu.Lock()
				record := *h.daemon.current
				h.daemon.current, h.daemon.settling = nil, true
				h.daemon.mu.Unlock()
				h.start()
				h.daemon.settle = func() { // when it was asked some times
					h.daemon.mu.Lock()
					h.daemon.current, h.daemon.settling = &record, false
					h.daemon.mu.Unlock()
					h.daemon.finish(release.RolledBack, true)
				}
			}, exit: 3,
		},
		"never began": {
			meanwhile: func(h *house) {
				h.stop()
				h.daemon.mu.Lock()
				h.daemon.current = nil
				h.daemon.mu.Unlock()
				h.start()
			}, kind: Rejected,
		},
		"the app is gone": {
			meanwhile: func(h *house) { h.stop(); h.daemon.status = &Status{}; h.start() }, kind: NotFound,
		},
		"the events are gone": {
			meanwhile: func(h *house) { h.stop(); h.state = h.t.TempDir(); h.daemon.finish(release.Live, true); h.start() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			appendAll(t, h.events, 0, 5)
			eventually(t, "there were events before", func() bool { return h.events.Last() == 5 })
			answer, err := h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2"})
			if err != nil {
				t.Fatal(err)
			}
			var last Event
			var failed error
			begun := false
			for e, err := range h.client().FollowSwitch(t.Context(), "shop", answer.Switch, answer.Seq) {
				if last, failed = e, err; !begun {
					begun = true
					if e.Kind != "switch.begun" {
						t.Errorf("it begins with %+v (%v)", e, err)
					}
					tt.meanwhile(h)
				}
			}
			switch {
			case tt.kind != "" && KindOf(failed) != tt.kind:
				t.Errorf("it ends with %+v, %v; want an error of kind %s", last, failed, tt.kind)
			case tt.kind == "" && (failed != nil || last.Kind != EventSwitchEnded || *last.Exit != tt.exit):
				t.Errorf("it ends with %+v, %v; want exit %d", last, failed, tt.exit)
			}
		})
	}
}

func TestDetaching(t *testing.T) {
	h := newHouse(t)
	answer, err := h.client().Switch(t.Context(), "shop", SwitchRequest{Release: "r2"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var failed error
	for _, err := range h.client().FollowSwitch(ctx, "shop", answer.Switch, answer.Seq) {
		cancel()
		failed = err
	}
	if KindOf(failed) != StillGoing {
		t.Errorf("it ends with %v", failed)
	}
	cancel()
}

func TestWhoIsFarBehindIsToldAndCutOff(t *testing.T) {
	h := newHouse(t)
	h.server.patience = time.Minute // it reads nothing while all of it is written
	_, in := h.raw("GET", "/v1/events?follow=1", "")
	long := strings.Repeat("x", 4<<10)
	for n := range 3 * maxEventBytes / len(long) { // three times what is kept
		h.events.Append(Event{Kind: "test", Reason: long})
		if n%100 == 0 {
			eventually(t, "the events are written", func() bool { return h.events.Last() >= uint64(n) })
		}
	}
	n, last := 0, Event{}
	for in.Scan() {
		last = eventIn(t, in)
		n++
	}
	if in.Err() != nil || last.Kind != EventLagged || n < 2 {
		t.Errorf("after %d lines the last one is %+v (%v)", n, last, in.Err())
	}
	if oldest, _, _ := h.events.after(0); last.Seq >= oldest[0].seq {
		t.Errorf("he may go on after %d, and would miss %d", last.Seq, oldest[0].seq)
	}
	// Who comes with a number that is long gone is told, and gets what there is.
	first := true
	for e, err := range h.client().Events(t.Context(), 1, false) {
		if first && (err != nil || e.Kind != EventLagged) {
			t.Errorf("the gap is not told: %+v (%v)", e, err)
		}
		first, last = false, e
	}
	if last.Seq != h.events.Last() {
		t.Errorf("the last event is %d, want %d", last.Seq, h.events.Last())
	}
}

func TestWhoDoesNotReadHoldsNobodyUp(t *testing.T) {
	h := newHouse(t)
	h.server.patience = time.Second
	deaf, err := net.Dial("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	fmt.Fprint(deaf, "GET /v1/events?follow=1 HTTP/1.1\r\nHost: superd\r\n\r\n")
	eventually(t, "he follows", func() bool { return h.following() == 1 })
	var reading sync.WaitGroup
	const total = 2500
	reading.Go(func() {
		n := 0
		for range h.client().Events(t.Context(), 0, true) {
			if n++; n == total {
				return
			}
		}
	})
	for range total {
		h.events.Append(Event{Kind: "test", Reason: strings.Repeat("x", 1<<10)})
	}
	reading.Wait()
	eventually(t, "the deaf one is cut off", func() bool { return h.following() == 0 && h.connected() == 0 })
}

func (h *house) following() int {
	h.server.followers.mu.Lock()
	defer h.server.followers.mu.Unlock()
	return h.server.followers.taken
}

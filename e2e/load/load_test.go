package load

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func page(release, other string, generation int, cut bool) string {
	return fmt.Sprintf(`{"files":{"public/index.php":%q,"src/late.php":%q},"generation":%d,"cut":%v}`, release, other, generation, cut)
}

// Every way in which a server can wrong its users is counted as what it is.
func TestEveryWrongIsCounted(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 8 {
		case 0:
			w.WriteHeader(http.StatusBadGateway)
		case 1:
			fmt.Fprint(w, "a PHP warning instead of a page")
		case 2:
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = c.(*net.TCPConn).SetLinger(0) // a reset, not an end
				_ = c.Close()
			}
		case 3:
			fmt.Fprint(w, page("r1", "r2", 1, false))
		case 4:
			fmt.Fprint(w, page("r1", "r1", 1, true))
		case 5:
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
				_ = c.Close()
			}
		default:
			fmt.Fprint(w, page("r1", "r1", 1, false))
		}
	}))
	defer server.Close()
	run := Start(Plan{URL: server.URL, Rate: 400, Mix: []Route{{Name: "all", Path: "/", Share: 1}}})
	for run.Ended() < 160 {
		time.Sleep(time.Millisecond)
	}
	r := run.Stop()
	for what, got := range map[string]int{
		"status 502": r.Failures["status 502"],
		"reset":      r.Failures["reset"],
		"cut off":    r.Failures["cut off"],
		"mixed":      r.Mixed,
		"cut short":  r.Cut,
		`not the page: "a PHP warning instead of a page"`: r.Failures[`not the page: "a PHP warning instead of a page"`],
	} {
		if want := len(r.Samples) / 8; got < want || got > want+1 {
			t.Errorf("%s: counted %d of %d requests, want %d or one more; all: %v", what, got, len(r.Samples), want, r.Failures)
		}
	}
	if want := len(r.Samples) / 8; r.Resets() < 2*want || r.Failed() < 4*want {
		t.Errorf("%d resets and %d failures of %d requests", r.Resets(), r.Failed(), len(r.Samples))
	}
}

// A server that is frozen for a second and a half is seen by requests that were due
// meanwhile: as a gap, and in the latency of many, not of one. A busy machine may be late
// with what was answered before, by less than half of that.
func TestFreezeIsSeen(t *testing.T) {
	t.Parallel()
	began := time.Now()
	const freeze = 1500 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if since := time.Since(began); since > freeze && since < 2*freeze {
			time.Sleep(2*freeze - since)
		}
		fmt.Fprint(w, page("r1", "r1", 1, false))
	}))
	defer server.Close()
	run := Start(Plan{URL: server.URL, Rate: 200, Mix: []Route{{Name: "all", Path: "/", Share: 1}}})
	time.Sleep(4 * freeze)
	r := run.Stop()
	gap, at := longestGap(r.Samples, freeze*5/2) // later the machine may freeze, too
	if r.Gap < freeze/2 || gap < freeze/2 || at > freeze*3/2 {
		t.Errorf("longest gap %s at %s, want about %s at %s", gap, at, freeze, freeze)
	}
	late := 0
	for _, s := range r.Samples {
		if s.Done-s.Due > freeze/4 {
			late++
		}
	}
	if late < 50 {
		t.Errorf("only %d requests were late: the rate was not held while the server was frozen", late)
	}
}

// What is sent late is the machine's doing, and told as that; what is answered late is not.
func TestLate(t *testing.T) {
	t.Parallel()
	samples := []Sample{
		{Due: 0, Sent: 10 * time.Millisecond, Done: 5 * time.Second},
		{Due: 10 * time.Millisecond, Sent: 310 * time.Millisecond, Done: 320 * time.Millisecond},
	}
	r := newReport(Plan{Rate: 100, Mix: Mix()}, time.Now(), 6*time.Second, samples)
	if r.Late != 300*time.Millisecond || !strings.Contains(r.String(), "(this machine itself was late by up to 300ms)") {
		t.Errorf("late by %s:\n%s", r.Late, r)
	}
	if r := newReport(r.Plan, r.Start, r.Took, samples[:1]); r.Late != 10*time.Millisecond || strings.Contains(r.String(), "itself") {
		t.Errorf("late by %s:\n%s", r.Late, r)
	}
}

// A gap at the end, before anything else arrives, counts too.
func TestGapAtTheEnd(t *testing.T) {
	t.Parallel()
	samples := []Sample{{Done: 10 * time.Millisecond}, {Done: 20 * time.Millisecond}, {Done: 400 * time.Millisecond, Failure: "reset"}, {Done: 3 * time.Second}}
	if gap, at := longestGap(samples, time.Second); gap != 980*time.Millisecond || at != 20*time.Millisecond {
		t.Errorf("gap %s at %s", gap, at)
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	sample := func(sent, done int, release string, generation uint64) Sample {
		return Sample{Sent: at(sent).Sub(start), Done: at(done).Sub(start), Release: release, Generation: generation}
	}
	r := newReport(Plan{}, start, time.Second, []Sample{
		sample(50, 250, "r1", 1),  // sent before the switch was over
		sample(120, 130, "r2", 2), // as it should be
		sample(130, 140, "r1", 1), // stale
		sample(190, 300, "r1", 3), // the next switch took it back to r1 meanwhile
		sample(150, 160, "r1", 0), // stale, by its name
		sample(195, 300, "r1", 0), // cannot be told
	})
	spans := []Span{{From: at(100), Until: at(200), Release: "r2", Generation: 2}}
	if got := r.Stale(spans); got != 2 {
		t.Errorf("stale: %d, want 2", got)
	}
	if first, ok := r.FirstAnswer("r1", at(130)); !ok || first != at(140) {
		t.Errorf("first answer of r1 at %s, %v", first.Sub(start), ok)
	}
}

// The mix is what it says, whatever the number of requests.
func TestOrder(t *testing.T) {
	t.Parallel()
	count := map[int]int{}
	for _, route := range order(Mix()) {
		count[route]++
	}
	for i, route := range Mix() {
		if count[i] != route.Share {
			t.Errorf("%s: %d of a thousand, want %d", route.Name, count[i], route.Share)
		}
	}
}

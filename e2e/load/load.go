// Package load asks a web server at a constant rate, whatever the answers do, and
// tells what its users would have noticed.
//
// The rate is held: a request is sent when it is due, not when the one before was
// answered, and its latency counts from when it was due. A client that waits for
// its answers stops asking while a server is frozen, and so never sees the freeze.
// Nothing is asked twice: an answer that did not come is a failure.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Route is one page of the mix and how many of every thousand requests go there.
type Route struct {
	Name  string
	Path  string
	Share int
}

// Mix is what a shop is asked for: mostly quick pages, some that wait for
// something, a few that take long.
func Mix() []Route {
	return []Route{
		{Name: "5 ms", Path: "/", Share: 903},
		{Name: "300 ms sleep", Path: "/slow?ms=300", Share: 94},
		{Name: "3 s busy", Path: "/busy?ms=3000", Share: 3},
	}
}

// A Plan says what is asked. With Clients it is that many clients that each ask
// again as soon as they have their answer; otherwise Rate is held.
type Plan struct {
	URL     string        // of the web server, without a path
	Mix     []Route       // default: Mix()
	Rate    int           // requests per second
	Clients int           // saturation: clients that never pause
	Timeout time.Duration // default: 30s
}

// A Run is a load that is going on.
type Run struct {
	plan   Plan
	order  []int // routes, in the order in which they are asked for, over and over
	client *http.Client
	start  time.Time

	stop    context.CancelFunc
	sending sync.WaitGroup
	ended   atomic.Int64 // answers and failures so far

	mu      sync.Mutex
	samples []Sample
}

// A Sample is one request. Times count from the start of the run.
type Sample struct {
	Route      int
	Due        time.Duration // when it was to be sent
	Sent       time.Duration
	Done       time.Duration
	Failure    string // what a user would have seen instead of the page; empty: none
	Release    string // that answered
	Generation uint64 // likewise; 0: not told
	Mixed      bool   // files of two releases ran in it
	Cut        bool   // a sleep in it was cut short by a signal
}

// Start begins to ask. Call Stop.
func Start(p Plan) *Run {
	if len(p.Mix) == 0 {
		p.Mix = Mix()
	}
	if p.Timeout == 0 {
		p.Timeout = 30 * time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Run{plan: p, order: order(p.Mix), client: newClient(p), start: time.Now(), stop: stop}
	if p.Clients > 0 {
		for i := range p.Clients {
			r.sending.Go(func() { r.unceasing(ctx, i) })
		}
		return r
	}
	r.sending.Go(func() { r.steady(ctx) })
	return r
}

// newClient opens a connection per request at a held rate, so that a refused one is
// seen. Clients that never pause would run out of ports: they keep theirs, as
// browsers do, to the web server, which has its own connections to PHP in any case.
func newClient(p Plan) *http.Client {
	dialer := &net.Dialer{Timeout: p.Timeout}
	return &http.Client{
		Timeout: p.Timeout,
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			DisableKeepAlives:   p.Clients == 0,
			DisableCompression:  true,
			MaxIdleConnsPerHost: p.Clients,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// order spreads the routes over a thousand requests, the same way each time.
func order(mix []Route) []int {
	var order []int
	for i, route := range mix {
		for range route.Share {
			order = append(order, i)
		}
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same mix in every run is what is wanted
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// steady sends at the rate. When this machine is late, what is overdue is sent at
// once and counted from when it was due.
func (r *Run) steady(ctx context.Context) {
	interval := time.Second / time.Duration(r.plan.Rate)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := time.Duration(i) * interval
		timer.Reset(due - time.Since(r.start))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		route := r.order[i%len(r.order)]
		r.sending.Go(func() { r.keep(r.ask(route, due)) })
	}
}

func (r *Run) unceasing(ctx context.Context, client int) {
	for i := client * 37; ctx.Err() == nil; i++ {
		s := r.ask(r.order[i%len(r.order)], time.Since(r.start))
		r.keep(s)
		if s.Failure != "" { // or a dead server would be asked a hundred thousand times
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// Ended is how many requests were answered or failed so far.
func (r *Run) Ended() int { return int(r.ended.Load()) }

// Stop sends nothing more, waits for the answers that are due, and reports.
func (r *Run) Stop() Report {
	r.stop()
	end := time.Since(r.start)
	r.sending.Wait()
	r.client.CloseIdleConnections()
	return newReport(r.plan, r.start, end, r.samples)
}

func (r *Run) keep(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
	r.ended.Add(1)
}

// Samples are the requests that have ended so far.
func (r *Run) Samples() []Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Sample(nil), r.samples...)
}

// Began is what the times of samples count from.
func (r *Run) Began() time.Time { return r.start }

// ask does not carry the context of the run: what was sent is waited for.
func (r *Run) ask(route int, due time.Duration) Sample {
	s := Sample{Route: route, Due: due, Sent: time.Since(r.start)}
	var a answer
	a, s.Failure = r.get(r.plan.URL + r.plan.Mix[route].Path)
	s.Done = time.Since(r.start)
	if s.Failure == "" {
		s.Release, s.Mixed = a.release()
		s.Generation, s.Cut = a.Generation, a.Cut
	}
	return s
}

// answer is what each page of the shop tells about itself.
type answer struct {
	Files      map[string]string `json:"files"` // every file that ran, and the release stamped into it
	Generation uint64            `json:"generation"`
	Cut        bool              `json:"cut"`
}

func (a answer) release() (name string, mixed bool) {
	name = a.Files["public/index.php"]
	for _, release := range a.Files {
		mixed = mixed || release != name
	}
	return name, mixed
}

func (r *Run) get(url string) (a answer, failure string) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return a, err.Error()
	}
	response, err := r.client.Do(request)
	if err != nil {
		return a, failureOf(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err != nil:
		return a, failureOf(err)
	case response.StatusCode != http.StatusOK:
		return a, fmt.Sprintf("status %d", response.StatusCode)
	case json.Unmarshal(body, &a) != nil || a.Files["public/index.php"] == "":
		return a, "not the page: " + firstLine(body)
	}
	return a, ""
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(string(body), "\n")
	if len(line) > 80 {
		line = line[:80]
	}
	return fmt.Sprintf("%q", line)
}

// failureOf names what became of a request, in few words, so that they can be counted.
func failureOf(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut off"
	}
	return err.Error()
}

package fpm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"superd/fpm/fastcgi"
	"superd/fpm/traffic"
	"superd/release"
)

// A State is where a generation stands. States are shown to people and sent to
// clients: add new ones, never rename one.
type State string

// The states.
const (
	Starting State = "starting" // its master does not accept yet, or has died
	Parked   State = "parked"   // up, and users do not reach it
	Serving  State = "serving"  // what users reach
	Canary   State = "canary"   // a part of them reaches it: see Share
	Draining State = "draining" // finishes what it has
)

// A Status is one generation at one moment. During a restart a generation is there
// twice.
type Status struct {
	release.Generation
	State    State     `json:"state"`
	PID      int       `json:"pid"` // of the master; 0: there is none now
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`         // masters that died
	Active   int       `json:"active"`           // workers with a request; -1: not known
	Idle     int       `json:"idle"`             // the others, also those that are being made; likewise
	Queue    int       `json:"queue"`            // connections that wait; -1: not known
	Last     string    `json:"last,omitempty"`   // how the master before ended
	Reason   string    `json:"reason,omitempty"` // why the next one could not be started

	Traffic traffic.Figures `json:"traffic"`
}

// Status are all generations that run, the oldest first.
func (w *Web) Status(ctx context.Context) []Status {
	select {
	case <-w.begun:
	default:
		return nil
	}
	w.count()
	servers := w.all()
	all := make([]Status, len(servers))
	var asking sync.WaitGroup
	for i, s := range servers {
		asking.Go(func() { all[i] = s.statusNow(ctx) })
	}
	asking.Wait()
	return all
}

func (s *server) statusNow(ctx context.Context) Status {
	p := s.proc.Status()
	st := Status{Generation: s.generation(), State: Starting, PID: p.PID, Since: p.Since, Restarts: p.Restarts, Reason: p.Unborn, Active: -1, Idle: -1, Queue: -1}
	st.Traffic = s.meter().log.Figures()
	if p.Last != nil {
		st.Last = p.Last.String()
	}
	select {
	case <-s.proc.Up():
		st.State = Parked
	default:
	}
	if s.owner.serving() == s {
		st.State = Serving
	}
	if s.owner.sharedWith(s) {
		st.State = Canary
	}
	if s.isLeaving() {
		st.State = Draining
	}
	if n, err := s.web.Queue(); err == nil {
		st.Queue = n
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if st.PID == 0 {
		return st
	}
	if w, err := s.workers(ctx); err == nil {
		st.Active, st.Idle = w.active, w.idle
	}
	return st
}

// workers is what the status page says, which has a listener of its own and answers
// while every worker is busy. Its totals are known to be wrong, in some versions of
// PHP very much so; the workers are counted one by one.
type workers struct {
	pool         string
	active, idle int
	making       int      // of the idle ones: those that can't take a request yet
	reading      []worker // those that wait for a request on a connection, or read one
}

// busy is how many have somebody to answer: one that is being made was made for somebody.
func (w workers) busy() int { return w.active + w.making }

// worker is one child of PHP-FPM, as its status page has it.
type worker struct {
	PID      int
	State    string
	Requests int // that it has begun
}

func (s *server) workers(ctx context.Context) (workers, error) {
	answer, err := fastcgi.Do(ctx, "unix", s.at.statusSocket(), fastcgi.Request{Params: fastcgi.Page(statusPath, "json&full")})
	if err != nil {
		return workers{}, fmt.Errorf("status page: %w", err)
	}
	if answer.Status != http.StatusOK {
		return workers{}, fmt.Errorf("status page: status %d", answer.Status)
	}
	return countWorkers(answer.Body)
}

func countWorkers(page []byte) (workers, error) {
	var p struct {
		Pool      string
		Processes []worker
	}
	if err := json.Unmarshal(page, &p); err != nil {
		return workers{}, fmt.Errorf("status page: %w", err)
	}
	w := workers{pool: p.Pool}
	for _, one := range p.Processes {
		switch one.State {
		case "Creating":
			w.making++
			w.idle++
		case "Idle":
			w.idle++
		case "Reading headers":
			w.reading = append(w.reading, one)
			fallthrough
		default:
			w.active++
		}
	}
	return w, nil
}

// bySignal is what a master writes about a worker that did not end by itself. SIGQUIT,
// by which it sends idle ones home, it does not write about.
var bySignal = regexp.MustCompile(`: \[pool (.+)-([0-9]+)(?:\.[0-9]+)?(?:\.private)?\] child [0-9]+ exited on signal [0-9]+ .*`)

// listen tells of workers that crash, from what the masters write, once there is one.
func (w *Web) listen(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.written:
	}
	told := false
	for ctx.Err() == nil {
		lines, err := w.o.Lines(ctx)
		if err == nil {
			w.heedAll(ctx, lines)
		} else if !told {
			w.tell(Note, release.Generation{}, fmt.Errorf("read what PHP-FPM writes: %w", err), nil)
		}
		told = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // cut off because there was too much to read
		}
	}
}

func (w *Web) heedAll(ctx context.Context, lines <-chan string) {
	for {
		select {
		case <-ctx.Done():
			return
		case line, ok := <-lines:
			if !ok {
				return
			}
			w.heed(line)
		}
	}
}

func (w *Web) heed(line string) {
	m := bySignal.FindStringSubmatch(line)
	if m == nil || m[1] != w.id() {
		return
	}
	number, err := strconv.ParseUint(m[2], 10, 64)
	if err != nil {
		return
	}
	s := w.find(release.Generation{Number: number})
	if s == nil {
		return
	}
	s.meter().log.Kill() // it had a request, or had been about to
	w.o.Tell(Event{Kind: WorkerDied, Generation: s.generation(), Reason: m[0][2:], Lines: s.tail()})
}

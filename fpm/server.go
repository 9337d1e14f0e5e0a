package fpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
	"superd/supervisor"
)

// A server is one listener and the PHP-FPM master that accepts on it, or the next
// one when that has died. It never gets another listener: who waits in its queue
// waits for the next master, and does not notice.
type server struct {
	owner *Web
	at    place // changes with handoff by reload only, under owner.turn and mu
	proc  *supervisor.Process
	left  chan struct{} // closed when it has ended and nothing of it is left

	// Made or inherited before run, not changed after. With an address of TCP users
	// reach web and superd private, which has a few workers of its own; else private
	// is nil.
	web, status, private *Listener

	mu      sync.Mutex
	pool    *Pool // what its files say; nil when an earlier superd wrote them
	lives   int   // the number of the last master
	last    *supervisor.Child
	adopted *supervisor.Child
	spare   []*supervisor.Child // adopted too, but superseded
	leaving *departure          // nil: it is to stay
	proved  bool                // a master of it has accepted

	endsKept bool // somebody ends the connections that are kept to it

	failed chan failure // the last master that did not come up
}

type failure struct {
	life int // which master
	err  error
}

// A note is what the keeper has of a master for the next superd.
type note struct {
	place
	Life int `json:"life"`
}

func newServer(w *Web, at place) *server {
	s := &server{owner: w, at: at, left: make(chan struct{}), failed: make(chan failure, 1)}
	s.proc = supervisor.NewProcess(w.o.Children, w.name(), supervisor.Policy{
		Restart: supervisor.Always,
		// The first pause is next to none: connections wait.
		Backoff:    supervisor.Backoff{First: time.Millisecond, Factor: 10, Max: 30 * time.Second, Jitter: 0.1, ResetAfter: 10 * time.Second},
		Proof:      s.proof,
		StopSignal: syscall.SIGQUIT, StopTimeout: w.drain() + quitGrace,
	}, s.spec, s.hear)
	return s
}

// adopt goes on with a master of an earlier superd. There is one, unless that superd
// could not take note of a death before it started the next.
func (s *server) adopt(c *supervisor.Child, life int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.adopted != nil && life < s.lives {
		s.spare = append(s.spare, c)
		return
	}
	if s.adopted != nil {
		s.spare = append(s.spare, s.adopted)
	}
	s.lives, s.last, s.adopted, s.proved = life, c, c, true
	s.proc.Adopt(c)
}

// run is the life of the server's masters.
func (s *server) run(ctx context.Context) {
	var others sync.WaitGroup
	defer others.Wait()
	for _, c := range s.spare {
		others.Go(func() {
			if _, _, err := c.Stop(ctx, syscall.SIGQUIT, s.owner.drain(), nil); err == nil {
				_ = c.Acknowledge() // the next superd would be told again
			}
		})
	}
	if err := s.proc.Run(ctx); err != nil && ctx.Err() == nil {
		s.tell(Note, fmt.Errorf("its master is no longer kept up: %w", err))
	}
}

// startLimit is how long a master may take until it accepts. Before that it
// compiles what is to be preloaded.
const startLimit = 2 * time.Minute

// spec is the next master. It has the files of the one before, whatever has become of
// the disk, and of the user's own files, since.
func (s *server) spec(ctx context.Context) (supervisor.Spec, error) {
	s.mu.Lock()
	at, pool := s.at, s.pool
	s.lives++
	life := s.lives
	s.mu.Unlock()
	if pool == nil {
		p, err := s.owner.o.Pool(at.Generation)
		if err != nil {
			return supervisor.Spec{}, err
		}
		if err := s.reconfigure(ctx, at, p); err != nil {
			s.tell(Note, fmt.Errorf("the configuration that is there is used: %w", err))
		}
		pool = &p
	}
	own, err := json.Marshal(note{at, life})
	if err != nil {
		return supervisor.Spec{}, err
	}
	r := s.owner.rendering(at, *pool)
	sockets, files := at.public()+"=3,"+at.key("status")+"=4", []*os.File{s.web.File(), s.status.File()}
	if s.private != nil {
		sockets, files = sockets+","+at.key("private")+"=5", append(files, s.private.File())
	}
	env := append(r.master(at.Home), "FPM_SOCKETS="+sockets)
	if socket := s.owner.o.Children.NotifySocket(); socket != "" {
		env = append(env, "NOTIFY_SOCKET="+socket)
	}
	return supervisor.Spec{
		Name: s.owner.name(), Slot: fmt.Sprintf("%s/fpm@%s/%d", s.owner.id(), at.Base, life), Note: own,
		Argv: append([]string{pool.Binary}, r.arguments(at.Home)...), Env: env, Dir: "/", Umask: 0o022,
		User:  supervisor.Myself(), // the master gives its rights up itself, in its workers
		Files: files, Log: s.owner.o.Output, StopSignal: syscall.SIGQUIT, StopTimeout: s.owner.drain() + quitGrace,
		Labels: map[string]string{"app": s.owner.o.App, "pool": "fpm", "release": at.Release, "generation": strconv.FormatUint(at.Number, 10)},
	}, nil
}

// reconfigure writes the files again, whose values only an earlier superd knew, unless
// PHP-FPM does not like what the configuration has come to be.
func (s *server) reconfigure(ctx context.Context, at place, p Pool) error {
	if err := s.owner.test(ctx, at.Generation); err != nil {
		return err
	}
	return s.configure(at, p)
}

var ready = regexp.MustCompile(`NOTICE: ready to handle connections`)

// proof waits until a master accepts: it says READY=1, or where it was built without
// systemd, writes so. One that is adopted has been accepting, or its next death tells.
func (s *server) proof(ctx context.Context, c *supervisor.Child) error {
	s.mu.Lock()
	s.last = c
	adopted := c == s.adopted
	s.mu.Unlock()
	if adopted {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	said := make(chan error, 2)
	asking.Go(func() { said <- supervisor.Notified(startLimit)(ctx, c) })
	asking.Go(func() { said <- supervisor.Wrote(ready, startLimit)(ctx, c) })
	err := <-said
	if err != nil {
		err = <-said
	}
	return err
}

// hear follows the life of the masters.
func (s *server) hear(e supervisor.ProcessEvent) {
	s.mu.Lock()
	s.proved = s.proved || e.Proved
	candidate := !s.proved
	s.mu.Unlock()
	if e.Proved {
		s.owner.write.Do(func() { close(s.owner.written) })
	}
	if e.Exit == nil {
		if e.Err != nil {
			s.fail(e.Err)
			s.tell(Note, e.Err)
		}
		return
	}
	err := fmt.Errorf("the master of PHP-FPM ended: %s", e.Exit)
	if e.Err != nil {
		err = errors.Join(err, e.Err)
	}
	if !e.Proved {
		s.fail(err)
	}
	if !e.Planned && !candidate { // of one that never came up Start tells
		s.tell(Died, err)
	}
	s.orphaned(e.Child)
}

// orphaned tells the workers of a dead master to go when they have answered what
// they are at: they would accept on for ever. Its successor accepts beside them.
func (s *server) orphaned(c *supervisor.Child) {
	rest, err := c.SignalRest(syscall.SIGQUIT)
	if err != nil {
		s.tell(Note, fmt.Errorf("workers of the dead master: %w", err))
	}
	if rest == 0 && err == nil {
		return
	}
	_ = s.owner.do(func(ctx context.Context) { s.hunt(ctx, c) }) // superd is ending: they have been told
}

// hunt sees to it that the workers of a dead master are gone in the end.
func (s *server) hunt(ctx context.Context, dead *supervisor.Child) {
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	late := time.After(s.owner.drain())
	for {
		select {
		case <-ctx.Done():
			return
		case <-late:
			if n, err := dead.SignalRest(syscall.SIGKILL); n > 0 || err != nil {
				s.tell(Killed, errors.Join(fmt.Errorf("%d workers of a dead master did not end within %s", n, s.owner.drain()), err))
			}
			return
		case <-look.C:
			if n, err := dead.SignalRest(0); n == 0 && err == nil {
				return
			}
		}
	}
}

// fail leaves word for await.
func (s *server) fail(err error) {
	select {
	case <-s.failed:
	default:
	}
	s.mu.Lock()
	life := s.lives
	s.mu.Unlock()
	select {
	case s.failed <- failure{life, err}:
	default:
	}
}

// present is the number of the last master. What is changed now is read by the next.
func (s *server) present() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives
}

// await returns when a master of s accepts, or why one does not that came after the
// given one.
func (s *server) await(ctx context.Context, after int) error {
	for {
		select {
		case <-s.proc.Up():
			return nil
		default:
		}
		select {
		case <-s.proc.Up():
			return nil
		case f := <-s.failed:
			if f.life > after {
				return f.err
			}
			s.proc.Start() // the next one at once
		case <-s.owner.ending:
			return errEnding
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ping has a worker of s answer.
func (s *server) ping(ctx context.Context) error {
	answer, err := fastcgi.Do(ctx, "unix", s.at.socket(), fastcgi.Request{Params: fastcgi.Page(pingPath, "")})
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if string(answer.Body) != "pong" {
		return fmt.Errorf("ping: status %d, %q", answer.Status, clipped(answer.Body))
	}
	return nil
}

func clipped(b []byte) string { return strings.ToValidUTF8(string(b[:min(len(b), 200)]), "?") }

const tailLines = 20

// tail is the last lines of the newest master.
func (s *server) tail() []string {
	s.mu.Lock()
	c := s.last
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Tail(tailLines)
}

// Tail is the last lines of the newest master of g, and of no other generation.
func (w *Web) Tail(g release.Generation) []string {
	w.mu.Lock()
	servers := slices.Clone(w.servers)
	w.mu.Unlock()
	for _, s := range slices.Backward(servers) {
		if s.generation().Number == g.Number {
			return s.tail()
		}
	}
	return nil
}

// generation is what it runs now.
func (s *server) generation() release.Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at.Generation
}

func (s *server) tell(kind string, err error) { s.owner.tell(kind, s.generation(), err, s.tail()) }

// An explained error has the last lines that PHP-FPM wrote.
type explained struct {
	err   error
	lines []string
}

func explain(err error, lines []string) error {
	if err == nil || len(lines) == 0 {
		return err
	}
	return &explained{err, lines}
}

func (e *explained) Error() string       { return e.err.Error() }
func (e *explained) Unwrap() error       { return e.err }
func (e *explained) LastLines() []string { return e.lines }

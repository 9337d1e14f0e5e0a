package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"superd/release"
)

// A Server answers on the control socket.
type Server struct {
	daemon Daemon
	events *Events
	rules  atomic.Pointer[[]Rule]
	log    *slog.Logger

	naming func() Naming // nil: names are those of superd
	gone   groups        // that a reload of supervisorctl's has ended
	come   groups        // and begun

	connections *quota
	followers   *quota
	patience    time.Duration // with a client that does not read: writePatience
	lingering   time.Duration // for one that does not ask, at the end
}

// Options are what a Server needs. It writes a line to Log for every change that is
// asked for, and for every request that is not permitted.
type Options struct {
	Daemon Daemon
	Events *Events
	Rules  []Rule // root and superd's own user need none
	Log    *slog.Logger
	Naming func() Naming // for supervisord's tools; nil: nothing has another name
}

// NewServer prepares a Server.
func NewServer(o Options) *Server {
	s := &Server{
		daemon: o.Daemon, events: o.Events, log: o.Log, naming: o.Naming,
		connections: connections(), followers: followers(), patience: writePatience, lingering: lingering,
	}
	s.SetRules(o.Rules)
	return s
}

// SetRules makes other rules hold, from the next request on, also for those who are
// connected.
func (s *Server) SetRules(rules []Rule) { s.rules.Store(&rules) }

// What a client may cost. A request is small and its sender is on this machine, which may
// be so busy that he comes to write it only after seconds: just then he is in need of it.
const (
	headerPatience = 5 * time.Second
	bodyPatience   = 10 * time.Second // with the header
	idlePatience   = 15 * time.Second
	writePatience  = 10 * time.Second // for each write
	stopPatience   = 5 * time.Second

	maxHeader = 8 << 10
	maxBody   = 64 << 10
)

// Run serves on the socket, and puts it back when it disappears, until ctx ends.
func (s *Server) Run(ctx context.Context, socket *Socket) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	serve := func(l net.Listener) {
		serving.Go(func() {
			if err := s.Serve(ctx, l); err != nil {
				cancel(err)
			}
		})
	}
	serve(socket.listener)
	socket.keep(ctx, s.log, serve)
	serving.Wait()
	err := socket.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, release.ErrStopping) {
		return errors.Join(cause, err)
	}
	return err
}

// Serve answers on a unix listener, which it closes, until ctx ends: then those who
// follow are told, and the others get their answers. A listener that is closed before
// costs nobody a connection.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	requests, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	hand := inHand{conns: map[net.Conn]struct{}{}}
	later := &background{ended: requests.Done()}
	requests = context.WithValue(requests, backgroundKey{}, later)
	defer later.doing.Wait()
	server := &http.Server{
		Handler:                      s,
		ConnState:                    hand.changed,
		BaseContext:                  func(net.Listener) context.Context { return requests },
		ConnContext:                  remember,
		ReadHeaderTimeout:            headerPatience,
		ReadTimeout:                  bodyPatience,
		IdleTimeout:                  idlePatience,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	var accepting sync.WaitGroup
	accepting.Go(func() { failed <- server.Serve(door{l, s.connections, s.log}) })
	defer accepting.Wait()
	select {
	case err := <-failed:
		if !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on control socket: %w", err)
		}
		<-ctx.Done()
	case <-ctx.Done():
		_ = l.Close() // closed before it is shut down: whoever was accepted is then known to it
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			s.log.Debug("accept on control socket", "error", err)
		}
	}
	stop(release.ErrStopping)
	server.SetKeepAlivesEnabled(false)
	hand.wait(s.lingering)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if server.Shutdown(bounded) != nil {
		_ = server.Close() // someone would not end; the connections go with superd
	}
	return nil
}

// ServeHTTP finds out who asks for what, whether that is permitted, and has it done.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{server: s, w: w, http: r, wire: http.NewResponseController(w)}
	serve := q.serve
	if isCompat(r) {
		serve = q.serveCompat
	}
	if err := serve(); err != nil {
		q.fail(err)
	}
}

// background is what goes on when its answer is out, until the server ends.
type background struct {
	ended <-chan struct{}
	doing sync.WaitGroup
}

type backgroundKey struct{}

// behind does something behind the back of a request: its ctx outlives the request,
// but not the server.
func behind(ctx context.Context, do func(context.Context)) {
	b, ok := ctx.Value(backgroundKey{}).(*background)
	if !ok {
		do(ctx)
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.doing.Go(func() {
		defer cancel()
		do(ctx)
	})
	b.doing.Go(func() {
		select {
		case <-b.ended:
			cancel()
		case <-ctx.Done():
		}
	})
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"

	"superd/config"
	"superd/control"
	"superd/release"
)

// superd is replaced without a gap. tableflip starts the program that is at superd's
// path now, with the control socket inherited. The successor reads the configuration
// and says that it is ready; up to there it has touched nothing, and if it ends, hangs
// or refuses, this superd works on as before. Only then does it claim the fleet. This
// one hears of that from the keeper, lays everything down, and ends: the keeper grants
// the fleet when it is gone. So two superds never write the same file, and what comes
// next is what comes after a crash, which is tried at every line.
//
// Who connects to the control socket meanwhile waits in its queue; see
// docs/decisions/0023-upgrade.md.

const (
	// upgradePatience is how long a successor may take to read its configuration.
	upgradePatience = 10 * time.Second
	// leavePatience is how long a superd that has lost the fleet may take to lay
	// everything down. The keeper waits a little longer than that.
	leavePatience = 3 * time.Second
)

// The names under which descriptors go from one superd to the next.
const (
	lockOf      = "lock of "
	stderrName  = "stderr"
	wordsOfHeir = "introduction"
)

// inheritance is the environment variable by which tableflip knows that there was a
// superd before. It must not reach anybody else: a child that uses tableflip itself
// would wait for ever for what never comes.
const inheritance = "TABLEFLIP_HAS_PARENT_7DIU3"

// A succession is this superd's place among those before and after it.
type succession struct {
	flip *tableflip.Upgrader

	listener net.Listener // the control socket of the superd before; nil: there is none
	lock     *os.File
	claiming *os.File // closed once the fleet is ours: the one before watches it

	busy sync.Mutex // held while a successor is being tried

	mu       sync.Mutex
	entering int  // switches that are being accepted
	closed   bool // none is: a successor is coming
	spent    bool // one was ready and died before it took over, and tableflip starts no other
}

// newSuccession takes what the superd before has left. It comes first of all: until
// then the descriptors of tableflip are open to whoever is started.
func newSuccession() (*succession, error) {
	if os.Getenv(inheritance) != "" {
		unix.CloseOnExec(3) // tableflip leaves both open to children
		unix.CloseOnExec(4)
	}
	flip, err := tableflip.New(tableflip.Options{UpgradeTimeout: upgradePatience})
	if err = errors.Join(err, os.Unsetenv(inheritance)); err != nil {
		return nil, fmt.Errorf("take over from the superd before: %w", err)
	}
	return &succession{flip: flip}, nil
}

// isHeir tells whether there was a superd before that waits for this one.
func (s *succession) isHeir() bool { return s.flip.HasParent() }

// load reads the configuration. A successor takes no stand-in for one that is refused:
// the superd before goes on, and the reason is told.
func (s *succession) load(file, state string) (cfg *config.Config, refused error, err error) {
	if !s.isHeir() {
		return loadOrLastGood(file, state)
	}
	if cfg, err = config.Load(file); err != nil {
		return nil, nil, err
	}
	_, err = accessRules(cfg.Access)
	return cfg, nil, err
}

// stepUp says that this successor is ready. From here on its words are superd's own,
// and an error is the end of it.
func (s *succession) stepUp(cfg *config.Config) error {
	if !s.isHeir() {
		return nil
	}
	if err := s.take(cfg); err != nil {
		return fmt.Errorf("take over from the superd before: %w", err)
	}
	if err := json.NewEncoder(s.claiming).Encode(control.Incarnation{Version: version, PID: os.Getpid()}); err != nil {
		return fmt.Errorf("take over from the superd before: %w", err)
	}
	if err := s.flip.Ready(); err != nil {
		return fmt.Errorf("take over from the superd before: %w", err)
	}
	if at := failpoint(); at != nil {
		at("heir.ready")
	}
	return nil
}

// take claims each descriptor by its name; what is not claimed is closed by Ready.
func (s *succession) take(cfg *config.Config) (err error) {
	if s.listener, err = s.flip.Listener("unix", cfg.Socket); err != nil {
		return err
	}
	if s.lock, err = s.flip.File(lockOf + cfg.Socket); err != nil {
		return err
	}
	if s.claiming, err = s.flip.File(wordsOfHeir); err != nil {
		return err
	}
	stderr, err := s.flip.File(stderrName)
	switch {
	case err != nil:
		return err
	case s.claiming == nil || stderr == nil:
		return errors.New("the superd before is of a version that leaves too little behind")
	}
	return errors.Join(unix.Dup3(int(stderr.Fd()), 2, 0), stderr.Close())
}

// socket is the control socket: that of the superd before, or systemd's if there is one,
// or a new one.
func (s *succession) socket(ctx context.Context, path string, rules []control.Rule, activated *os.File) (*control.Socket, error) {
	switch {
	case s.listener != nil && s.lock != nil:
	case activated != nil:
		return control.Activated(ctx, path, control.SocketMode(rules), activated)
	default:
		return control.Listen(ctx, path, control.SocketMode(rules))
	}
	return control.Inherit(ctx, path, control.SocketMode(rules), s.listener, s.lock)
}

// settled is said once the fleet is ours and all is built: from now on this superd
// may be upgraded itself.
func (s *succession) settled() error {
	if s.isHeir() {
		return s.claiming.Close()
	}
	return s.flip.Ready()
}

// Upgrade replaces superd by the program at its path: see control.Daemon.
func (d *daemon) Upgrade(ctx context.Context, r control.UpgradeRequest, by release.By) (control.UpgradeAnswer, error) {
	if r.Keeper {
		return d.renewKeeper(ctx, by)
	}
	d.log.Info("asked to upgrade", "user", by.User, "uid", by.UID, "client_pid", by.PID)
	next, err := d.succeed(ctx)
	if err != nil {
		d.log.Error("superd is not replaced and goes on", "error", err)
		return control.UpgradeAnswer{}, err
	}
	d.log.Info("another superd takes over", "version", next.Version, "pid", next.PID)
	return control.UpgradeAnswer{
		Before: control.Incarnation{Version: version, PID: os.Getpid()}, After: next, Changed: true,
		Message: fmt.Sprintf("superd %s (pid %d) takes over from %s (pid %d)", next.Version, next.PID, version, os.Getpid()),
	}, nil
}

// renewKeeper has the keeper become the program at its path.
func (d *daemon) renewKeeper(ctx context.Context, by release.By) (control.UpgradeAnswer, error) {
	d.log.Info("asked to upgrade the keeper", "user", by.User, "uid", by.UID, "client_pid", by.PID)
	r, err := d.children.Renew(ctx)
	if err != nil {
		d.log.Error("the keeper is not replaced and goes on", "error", err)
		return control.UpgradeAnswer{}, &control.Error{Kind: control.Rejected, Message: fmt.Sprintf("the keeper goes on as it was: %v", err)}
	}
	message := "the keeper runs the program that is at its path"
	if r.Changed {
		message = fmt.Sprintf("superd-keeper %s (pid %d) has taken the place of %s", r.After, r.PID, r.Before)
		d.log.Info("the keeper has been replaced", "version", r.After, "before", r.Before, "pid", r.PID)
	}
	return control.UpgradeAnswer{
		Before: control.Incarnation{Version: r.Before, PID: r.PID}, After: control.Incarnation{Version: r.After, PID: r.PID},
		Changed: r.Changed, Message: message,
	}, nil
}

// succeed has a successor started and returns once the fleet is its own.
func (d *daemon) succeed(ctx context.Context) (control.Incarnation, error) {
	s := d.succession
	if !s.busy.TryLock() {
		return control.Incarnation{}, &control.Error{Kind: control.Conflict, Message: "an upgrade is going on", Hint: "wait for it"}
	}
	defer s.busy.Unlock()
	if s.isSpent() {
		return control.Incarnation{}, &control.Error{
			Kind: control.Conflict, Message: "a successor was ready and died before it took over; this superd can start no other",
			Hint: fmt.Sprintf("kill -9 %d: superd-keeper then starts the program at superd's path, and no child is touched", os.Getpid()),
		}
	}
	patience, cancel := context.WithTimeout(ctx, upgradePatience)
	defer cancel()
	if err := s.flip.WaitForParent(patience); err != nil {
		return control.Incarnation{}, &control.Error{Kind: control.Conflict, Message: fmt.Sprintf("the superd before has not gone yet: %v", err)}
	}
	if err := d.quiet(patience); err != nil {
		return control.Incarnation{}, err
	}
	next, err := d.tryHeir(ctx)
	if err != nil {
		s.open()
	}
	return next, err
}

// quiet refuses an upgrade in the middle of a switch, and from then on a switch in the
// middle of an upgrade: the next superd would take back one that has not got far.
func (d *daemon) quiet(ctx context.Context) error {
	for _, a := range d.allApps() {
		for a.switcher.Snapshot().Settling {
			select {
			case <-ctx.Done():
				return &control.Error{Kind: control.Conflict, Message: fmt.Sprintf("app %s is still being brought up", a.name), Hint: "try again when superctl status shows no settling"}
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	s := d.succession
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range d.allApps() {
		if c := a.switcher.Snapshot().Current; c != nil {
			return &control.Error{
				Kind: control.Conflict, Message: fmt.Sprintf("app %s is on its way to %s (switch %s); superd is not replaced in the middle of that", a.name, c.To.Release, c.ID),
				Hint: "superctl upgrade --lock-wait 10m waits for its end",
			}
		}
	}
	if s.entering > 0 {
		return &control.Error{Kind: control.Conflict, Message: "a switch is about to begin", Hint: "superctl upgrade --lock-wait 10m waits for its end"}
	}
	s.closed = true
	return nil
}

// open lets switches begin again.
func (s *succession) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
}

func (s *succession) spend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent = true
}

func (s *succession) isSpent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spent
}

// enter is asked before a switch is accepted; leave is called when it is.
func (s *succession) enter() (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &control.Error{Kind: control.Conflict, Message: "superd is being replaced by another", Hint: "ask again in a moment"}
	}
	s.entering++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entering--
	}, nil
}

// tryHeir starts a successor and tells who it is when it has the fleet.
func (d *daemon) tryHeir(ctx context.Context) (control.Incarnation, error) {
	s := d.succession
	var h heir
	defer h.close()
	if err := h.open(); err != nil {
		return control.Incarnation{}, fmt.Errorf("prepare for a successor: %w", err)
	}
	err := d.socket.Hand(func(l *net.UnixListener, lock *os.File) error {
		return errors.Join(s.flip.AddListener("unix", d.socket.Path(), l), s.flip.AddFile(lockOf+d.socket.Path(), lock))
	})
	err = errors.Join(err, s.flip.AddFile(stderrName, os.Stderr), s.flip.AddFile(wordsOfHeir, h.introductionW))
	if err != nil {
		return control.Incarnation{}, fmt.Errorf("prepare for a successor: %w", err)
	}
	if err := h.flip(s.flip); err != nil {
		return control.Incarnation{}, h.failed(err)
	}
	// It is ready, and claims the fleet. Should it end before, the pipe does too.
	who, gone := h.introduced()
	select {
	case <-d.children.Fenced():
		return who, nil
	case <-gone:
	case <-ctx.Done():
	case <-time.After(upgradePatience):
	}
	select {
	case <-d.children.Fenced():
		return who, nil
	default:
		s.spend()
		return who, h.failed(errors.New("it was ready, and did not take over"))
	}
}

// An heir is a successor as this superd sees it until it takes over.
type heir struct {
	reading                     sync.WaitGroup
	words, wordsW               *os.File // its standard error
	introduction, introductionW *os.File // who it is; ends when it has taken over, or died
	lines                       []string // the last of words
}

func (h *heir) open() (err error) {
	if h.words, h.wordsW, err = os.Pipe(); err != nil {
		return err
	}
	h.introduction, h.introductionW, err = os.Pipe()
	return err
}

func (h *heir) close() {
	for _, f := range []*os.File{h.wordsW, h.introductionW, h.words, h.introduction} {
		if f != nil {
			_ = f.Close() // nothing of ours is in it
		}
	}
	h.reading.Wait()
}

// flip starts the successor and waits until it is ready.
func (h *heir) flip(by *tableflip.Upgrader) error {
	h.reading.Go(h.listen)
	ours := os.Stderr
	os.Stderr = h.wordsW // what tableflip gives the successor
	err := by.Upgrade()
	os.Stderr = ours
	_ = h.wordsW.Close() // the successor has its own
	h.wordsW = nil
	return err
}

// lastLines is how much of what a successor has said is told.
const lastLines = 20

// listen passes on what the successor says and keeps the end of it.
func (h *heir) listen() {
	var said strings.Builder
	b := make([]byte, 4096)
	for {
		n, err := h.words.Read(b)
		if n > 0 {
			_, _ = syscall.Write(2, b[:n]) // the log of this superd has no better place either
			if said.Len() < 64<<10 {
				said.Write(b[:n])
			}
		}
		if err != nil {
			break
		}
	}
	if text := strings.TrimSpace(said.String()); text != "" {
		h.lines = strings.Split(text, "\n")
		h.lines = h.lines[max(0, len(h.lines)-lastLines):]
	}
}

// failed is why the successor is none, with its last lines.
func (h *heir) failed(why error) error {
	_ = h.words.SetReadDeadline(time.Now().Add(time.Second)) // it is dead, but may have left somebody with its descriptors
	h.reading.Wait()
	text := fmt.Sprintf("the successor has failed, and superd goes on as it was: %v", why)
	text = strings.Join(append([]string{text}, h.lines...), "\n    ")
	return &control.Error{Kind: control.Rejected, Message: text, Hint: "nothing was changed; what was tried is " + os.Args[0]}
}

// introduced is who the successor says it is, and a channel that is closed when it has
// no more to say: it has taken over, or is dead.
func (h *heir) introduced() (control.Incarnation, <-chan struct{}) {
	_ = h.introductionW.Close() // the successor has its own
	h.introductionW = nil
	var who control.Incarnation
	gone := make(chan struct{})
	in := json.NewDecoder(h.introduction)
	if err := in.Decode(&who); err != nil {
		close(gone)
		return who, gone
	}
	h.reading.Go(func() {
		defer close(gone)
		_, _ = h.introduction.Read(make([]byte, 1)) // its end is the message
	})
	return who, gone
}

// leaveInTime ends this process when another superd has the fleet and a part of this
// one hangs. done is closed when all has been laid down. There is nothing a kill could
// harm that a crash could not.
func (d *daemon) leaveInTime(done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-d.children.Fenced():
	}
	select {
	case <-done:
	case <-time.After(leavePatience):
		d.log.Error("another superd has the fleet, and a part of this one does not end: it is killed")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing is left to say so
	}
}

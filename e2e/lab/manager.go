package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"superd/supervisor/keeper/storetest"
)

// A Manager is what systemd is to superd, without the rest of it: it keeps the
// descriptors that it is sent, hands them to whoever comes next, and starts superd again
// whenever it ends.
type Manager struct {
	l     *Lab
	env   []string
	store *storetest.Store

	// Starts counts how often superd was started.
	Starts atomic.Int64

	working  sync.WaitGroup
	stopping chan struct{}
	failed   chan error // why superd could not be started again

	mu  sync.Mutex
	now *Server
}

// ManageSuperd starts superd as LaunchSuperd does and keeps it up until Stop, and waits
// until all is as it should be.
func (l *Lab) ManageSuperd(env ...string) (*Manager, error) {
	store, err := storetest.Open(l.Path("manager.sock"))
	if err != nil {
		return nil, fmt.Errorf("manage superd: %w", err)
	}
	m := &Manager{l: l, env: env, store: store, stopping: make(chan struct{}), failed: make(chan error, 1)}
	if err := m.start(); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	m.working.Go(m.keepUp)
	if err := m.Superd().ready(func() bool { return l.Ctl("status").Code == 0 }); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

// Superd is the keeper of now, as a server.
func (m *Manager) Superd() *Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Stop ends superd and all that it keeps, and what is stored. An error is also why
// superd could not be started again, should that have been.
func (m *Manager) Stop() error {
	close(m.stopping)
	var err error
	if now := m.Superd(); now != nil {
		err = now.Stop()
	}
	m.working.Wait()
	m.store.Close()
	select {
	case failure := <-m.failed:
		err = errors.Join(failure, err)
	default:
	}
	return err
}

// keepUp is Restart=always.
func (m *Manager) keepUp() {
	for {
		select {
		case <-m.stopping:
			return
		case <-m.Superd().Done():
		}
		select {
		case <-m.stopping:
			return
		case <-time.After(100 * time.Millisecond): // RestartSec=
		}
		if err := m.start(); err != nil {
			m.failed <- err
			return
		}
	}
}

// start starts superd with what is stored by now.
func (m *Manager) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store.Hand(func(files []*os.File, env []string) error {
		argv := append(storetest.Prefix(), filepath.Join(m.l.Bin, "superd"), "run", "--config", m.l.ConfigFile())
		c := exec.Command(argv[0], argv[1:]...)
		c.ExtraFiles = files
		s, err := m.l.runCommand(&Server{Name: "superd", stop: syscall.SIGTERM, wait: time.Minute}, append(slices.Clone(m.env), env...), c)
		if err != nil {
			return err
		}
		m.now = s
		m.Starts.Add(1)
		return nil
	})
}

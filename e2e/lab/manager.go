package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Manager is what systemd is to superd, without the rest of it: it keeps the
// descriptors that it is sent (FDSTORE=1), hands them to whoever comes next (LISTEN_FDS),
// and starts superd again whenever it ends.
type Manager struct {
	l    *Lab
	env  []string
	path string
	conn *net.UnixConn

	// Starts counts how often superd was started.
	Starts atomic.Int64

	working  sync.WaitGroup
	stopping chan struct{}
	failed   chan error // why superd could not be started again

	mu    sync.Mutex
	now   *Server
	names []string // as they are stored, with files
	files []*os.File
}

// ManageSuperd starts superd as LaunchSuperd does and keeps it up until Stop, and waits
// until all is as it should be.
func (l *Lab) ManageSuperd(env ...string) (*Manager, error) {
	m := &Manager{l: l, env: env, path: l.Path("manager.sock"), stopping: make(chan struct{}), failed: make(chan error, 1)}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		return nil, fmt.Errorf("manage superd: %w", err)
	}
	m.working.Go(m.listen)
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
	_ = m.conn.Close() // ends listen
	m.working.Wait()
	for _, f := range m.files {
		_ = f.Close() // a duplicate
	}
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
	c := exec.Command("sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh", filepath.Join(m.l.Bin, "superd"), "run", "--config", m.l.ConfigFile())
	for _, f := range m.files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // its own may be closed at any time
		if err != nil {
			return fmt.Errorf("manage superd: %w", err)
		}
		own := os.NewFile(uintptr(fd), f.Name())
		defer own.Close()
		c.ExtraFiles = append(c.ExtraFiles, own)
	}
	env := append(slices.Clone(m.env), "NOTIFY_SOCKET="+m.path,
		fmt.Sprintf("LISTEN_FDS=%d", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	s, err := m.l.runCommand(&Server{Name: "superd", stop: syscall.SIGTERM, wait: time.Minute}, env, c)
	if err != nil {
		return err
	}
	m.now = s
	m.Starts.Add(1)
	return nil
}

func (m *Manager) listen() {
	text, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(text, oob)
		if err != nil {
			return
		}
		var fds []int
		if all, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
			for i := range all {
				got, _ := unix.ParseUnixRights(&all[i]) // else it is credentials
				fds = append(fds, got...)
			}
		}
		m.heed(string(text[:n]), fds)
	}
}

// heed does what one message asks for (sd_notify(3)).
func (m *Manager) heed(text string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch {
	case strings.HasPrefix(text, "FDSTORE=1\n"):
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			m.names, m.files = append(m.names, name), append(m.files, os.NewFile(uintptr(fd), name))
		}
	case strings.HasPrefix(text, "FDSTOREREMOVE=1\n"):
		for i, have := range slices.Backward(slices.Clone(m.names)) {
			if have == name {
				_ = m.files[i].Close() // a duplicate
				m.names, m.files = slices.Delete(m.names, i, i+1), slices.Delete(m.files, i, i+1)
			}
		}
	}
}

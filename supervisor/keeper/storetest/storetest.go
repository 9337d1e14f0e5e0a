// Package storetest is systemd's store of descriptors for those who have no systemd, and
// nothing else of it: FDSTORE=1, FDSTOREREMOVE=1, and back by LISTEN_FDS.
package storetest

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Store keeps the descriptors that it is sent.
type Store struct {
	path      string
	conn      *net.UnixConn
	listening sync.WaitGroup

	mu    sync.Mutex
	names []string // as they are stored, with files
	files []*os.File
	alive int
}

// Open opens a store that is sent descriptors at path.
func Open(path string) (*Store, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("open a store: %w", err)
	}
	s := &Store{path: path, conn: conn}
	s.listening.Go(s.listen)
	return s, nil
}

// Close closes it and all that it keeps; a second time does nothing.
func (s *Store) Close() {
	_ = s.conn.Close() // ends listen
	s.listening.Wait()
	for _, f := range s.files {
		_ = f.Close() // a duplicate
	}
}

// Names are those of what it keeps.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names)
}

// Alive is how often it has heard WATCHDOG=1.
func (s *Store) Alive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive
}

// Prefix is put before a command that is handed what is kept, and becomes it: whom that
// is for is told by PID.
func Prefix() []string { return []string{"sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh"} }

// Hand has start start a command with all that is kept, and more, from descriptor 3 on,
// and with the environment that says what they are.
func (s *Store) Hand(start func(files []*os.File, env []string) error, more ...*os.File) error {
	s.mu.Lock()
	names := slices.Clone(s.names)
	var files []*os.File
	for _, f := range s.files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // its own may be closed at any time
		if err != nil {
			s.mu.Unlock()
			return fmt.Errorf("hand over %s: %w", f.Name(), err)
		}
		own := os.NewFile(uintptr(fd), f.Name())
		defer own.Close()
		files = append(files, own)
	}
	s.mu.Unlock()
	for _, f := range more {
		names, files = append(names, f.Name()), append(files, f)
	}
	return start(files, []string{
		"NOTIFY_SOCKET=" + s.path, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":"),
	})
}

func (s *Store) listen() {
	text, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(text, oob)
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
		s.heed(string(text[:n]), fds)
	}
}

// heed does what one message asks for (sd_notify(3)).
func (s *Store) heed(text string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch {
	case strings.HasPrefix(text, "FDSTORE=1\n"):
		for _, fd := range fds {
			s.names, s.files = append(s.names, name), append(s.files, os.NewFile(uintptr(fd), name))
		}
	case strings.HasPrefix(text, "FDSTOREREMOVE=1\n"):
		for i, have := range slices.Backward(slices.Clone(s.names)) {
			if have == name {
				_ = s.files[i].Close() // a duplicate
				s.names, s.files = slices.Delete(s.names, i, i+1), slices.Delete(s.files, i, i+1)
			}
		}
	case text == "WATCHDOG=1":
		s.alive++
	}
}

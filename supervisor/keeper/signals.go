package keeper

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// handled are the signals that mean something to the keeper, beside a child's end.
var handled = [...]unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2}

// catchSignals starts the one goroutine beside the loop. A child's end has a
// channel of its own: a thousand of them must not crowd out the SIGTERM.
func catchSignals() (*signals, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, failed("make a pipe", err)
	}
	children, others := make(chan os.Signal, 1), make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	for _, s := range handled {
		signal.Notify(others, s)
	}
	done := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			var s os.Signal
			select {
			case s = <-children:
			case s = <-others:
			case <-done:
				return
			}
			sig, _ := s.(syscall.Signal)
			_, _ = unix.Write(ends[1], []byte{byte(sig)}) // full: there is more than enough to wake for
		}
	})
	return &signals{read: ends[0], write: ends[1], stop: func() {
		signal.Stop(children)
		signal.Stop(others)
		close(done)
		passing.Wait()
	}}, nil
}

func (s *signals) close() {
	s.stop()
	closeFD(&s.read)
	closeFD(&s.write)
}

func (s *signals) ready(k *Keeper, _ int16) {
	var b [64]byte
	n, err := unix.Read(s.read, b[:])
	if err != nil {
		return
	}
	for _, sig := range b[:n] {
		k.obeySignal(unix.Signal(sig))
	}
}

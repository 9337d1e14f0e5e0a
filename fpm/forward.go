package fpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Forward hands what still waits in the queue of l to the socket at to, byte for
// byte, and returns how many connections that were once all of them have ended.
// It is for a listener that nobody accepts on any more: it makes the socket
// non-blocking, which a living worker would not survive.
func (l *Listener) Forward(ctx context.Context, network, to string) (int, error) {
	if err := l.control(func(fd int) error { return unix.SetNonblock(fd, true) }); err != nil {
		return 0, fmt.Errorf("forward %s: %w", l.path, err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; ; n++ {
		conn, err := l.accept()
		if errors.Is(err, unix.EAGAIN) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("forward %s: %w", l.path, err)
		}
		var d net.Dialer
		live, err := d.DialContext(ctx, network, to)
		if err != nil {
			return n, errors.Join(fmt.Errorf("forward %s: %w", l.path, err), conn.Close())
		}
		wg.Go(func() { splice(ctx, conn, live) })
	}
}

func (l *Listener) accept() (net.Conn, error) {
	accepted := -1
	err := l.control(func(fd int) error {
		var err error
		accepted, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(accepted), l.path)
	conn, err := net.FileConn(f) // of the connection, not of the listener: nobody shares it
	return conn, errors.Join(err, f.Close())
}

// splice moves bytes both ways until the answering side has said all, and closes
// both. FastCGI needs no parsing for that: the end of an answer is the end of the
// connection.
func splice(ctx context.Context, client, server net.Conn) {
	both := func() {
		_ = client.Close() // second closes are harmless
		_ = server.Close()
	}
	stop := context.AfterFunc(ctx, both)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(server, client) // an error ends the other direction too
		if half, ok := server.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(client, server)
	both()
	wg.Wait()
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// births is the FIFO through which programs tell that they are there.
type births struct {
	path string
	file *os.File
	told chan birth
	pids []int // by program, 0 before the first
	last time.Time

	reading sync.WaitGroup
}

type birth struct {
	program, pid int
	at           time.Time
}

func listen(path string) (*births, error) {
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // both ends: it never ends
	if err != nil {
		return nil, err
	}
	b := &births{path: path, file: f, told: make(chan birth, 1<<16)}
	b.reading.Go(func() {
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			one := birth{at: time.Now()}
			if _, err := fmt.Sscan(lines.Text(), &one.program, &one.pid); err == nil {
				b.told <- one
			}
		}
	})
	return b, nil
}

func (b *births) close() {
	_ = b.file.Close() // ends the reader
	b.reading.Wait()
}

// all waits until n programs are there.
func (b *births) all(ctx context.Context, n int) error {
	b.pids = make([]int, n)
	late := time.After(patience)
	for missing := n; missing > 0; {
		select {
		case one := <-b.told:
			if b.pids[one.program] == 0 {
				missing--
			}
			b.pids[one.program], b.last = one.pid, one.at
		case <-late:
			return fmt.Errorf("%d of %d programs are not there after %s", missing, n, patience)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// kill ends n programs that have run for a while, one after the other, and tells how
// long each took to be there again.
func (b *births) kill(ctx context.Context, n int) (took []time.Duration, err error) {
	for program := range n {
		if program%50 == 0 {
			b.drain()
		}
		at := time.Now()
		if err := syscall.Kill(b.pids[program], syscall.SIGKILL); err != nil {
			return took, fmt.Errorf("kill program %d: %w", program, err)
		}
		again, err := b.again(ctx, program)
		if err != nil {
			return took, err
		}
		took = append(took, again.Sub(at))
	}
	return took, nil
}

func (b *births) again(ctx context.Context, program int) (time.Time, error) {
	late := time.After(30 * time.Second)
	for {
		select {
		case one := <-b.told:
			b.pids[one.program] = one.pid
			if one.program == program {
				return one.at, nil
			}
		case <-late:
			return time.Time{}, fmt.Errorf("program %d is not there again after 30s", program)
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

// drain takes note of what was told meanwhile.
func (b *births) drain() {
	for {
		select {
		case one := <-b.told:
			b.pids[one.program] = one.pid
		default:
			return
		}
	}
}

func (b *births) has(pid int) bool { return slices.Contains(b.pids, pid) }

func countLines(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	for {
		got, err := f.Read(buf)
		n += bytes.Count(buf[:got], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

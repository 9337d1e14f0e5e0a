package output

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"
)

// A piece is a line to be stored, or a part of one that is too long to be handled
// whole.
type piece struct {
	text  []byte // without the end of line
	begin bool   // of a line
	end   bool   // of a line
	last  bool   // the end that the process has not written
}

// size is how many bytes of the pipe it is made of.
func (p piece) size() int {
	if p.end && !p.last {
		return len(p.text) + 1
	}
	return len(p.text)
}

// longest is where a line is cut into pieces. With what is put around it a piece fits
// into one datagram of journald's socket and into an eighth of a pipe.
const longest = 48 << 10

// cut makes pieces of what is at the front of a pipe. What has no end stays there,
// unless it is long or the last.
func cut(b []byte, inLine bool, most int, last bool) []piece {
	var all []piece
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if len(line) > most {
			all = append(all, piece{text: line[:most], begin: !inLine})
			b, inLine = b[most:], true
			continue
		}
		if !whole && !last {
			break
		}
		all = append(all, piece{text: line, begin: !inLine, end: true, last: !whole})
		b, inLine = rest, false
	}
	return all
}

// A keeper of lines is what a lineSink stores them with.
type lineKeeper interface {
	// keep stores pieces, in order, and returns how many it has stored. It must have
	// stored none in part.
	keep(p *port, pieces []piece) (int, error)
	// most is the longest piece it takes.
	most() int
}

// A lineSink stores lines, each with something around it, where raw bytes go by
// splice. It stores what it has only looked at and takes it off the pipe afterwards:
// a superd that is killed in between loses nothing, and stores the last lines twice at
// worst. Lines without an end wait in the pipe.
type lineSink struct {
	lineKeeper
	looking *glass
	*trouble
	gone func() // leave
}

func (l *lineSink) take(p *port, fd, limit int, last bool) (int, error) {
	b := buffers.Get().(*[chunk]byte)
	defer buffers.Put(b)
	n, err := l.looking.peek(fd, b[:min(limit, chunk)])
	if err != nil {
		return 0, l.failed(err)
	}
	p.sees(b[:n])
	last = last && (n == limit || n == pending(fd))
	pieces := cut(b[:n], p.inLine, min(l.most(), p.room/4), last)
	if len(pieces) == 0 {
		return 0, unix.EAGAIN
	}
	if err := l.confess(p); err != nil {
		return 0, l.failed(err)
	}
	kept, err := l.keep(p, pieces)
	taken := 0
	for _, piece := range pieces[:kept] {
		taken += piece.size()
		p.inLine = !piece.end
	}
	p.skip(fd, taken)
	switch {
	case taken > 0:
		l.well()
		return taken, nil
	case err != nil:
		return 0, l.failed(err)
	}
	return 0, unix.EAGAIN
}

// confess stores how much is missing, before anything else is stored after it.
func (l *lineSink) confess(p *port) error {
	word, lost := l.confession()
	if lost == 0 {
		return nil
	}
	if _, err := l.keep(p, []piece{{text: []byte(word), begin: true, end: true}}); err != nil {
		return err
	}
	l.confessed(lost)
	return nil
}

func (l *lineSink) leave() {
	if l.gone != nil {
		l.gone()
	}
}

// A glass looks at what is in a pipe without taking it out: tee(2) doubles it into a
// pipe of ours, which is read. One serves all ports.
type glass struct {
	mu   sync.Mutex
	ends [2]int
	made bool
}

func (g *glass) peek(fd int, b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.made {
		if err := unix.Pipe2(g.ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return 0, err
		}
		_, _ = unix.FcntlInt(uintptr(g.ends[0]), unix.F_SETPIPE_SZ, mostAtOnce) // where it may not be, less is seen at once
		g.made = true
	}
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Tee(fd, g.ends[1], len(b), unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if err != nil {
		return 0, err
	}
	for have := 0; have < n; {
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(g.ends[0], b[have:n]) })
		if err != nil || got == 0 {
			g.close() // with what is left in it
			return 0, err
		}
		have += got
	}
	return n, nil
}

func (g *glass) close() {
	if g.made {
		_, _ = unix.Close(g.ends[0]), unix.Close(g.ends[1]) // nothing in it is owed to anybody
	}
	g.made = false
}

// shut is close for who does not hold the lock.
func (g *glass) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.close()
}

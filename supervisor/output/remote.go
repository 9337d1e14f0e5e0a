package output

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Where the daemons of the system listen.
const (
	journalSocket = "/run/systemd/journal/socket"
	syslogSocket  = "/dev/log"
)

// A remote is a daemon that takes one line in one datagram. One connection serves all
// streams. A daemon that does not read holds one of them up for sendTime; the others
// hear at once that it did, and try again later.
type remote struct {
	path   string
	encode func(b []byte, p *port, part piece, at time.Time) []byte
	limit  int

	mu   sync.Mutex
	conn *net.UnixConn
	down time.Time // until then it is not tried
	why  error
	b    []byte
}

const sendTime = 100 * time.Millisecond

func (r *remote) most() int { return r.limit }

func (r *remote) keep(p *port, pieces []piece) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.down) {
		return 0, r.why
	}
	for i, part := range pieces {
		r.b = r.encode(r.b[:0], p, part, time.Now())
		if err := r.send(); err != nil {
			r.down, r.why = time.Now().Add(retry), fmt.Errorf("send to %s: %w", r.path, err)
			return i, r.why
		}
	}
	return len(pieces), nil
}

// send sends r.b. A daemon that was started again has another socket under the name.
func (r *remote) send() error {
	fresh := r.conn == nil
	if err := r.dial(); err != nil {
		return err
	}
	err := r.write()
	if !fresh && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNRESET)) {
		r.drop()
		if err := r.dial(); err != nil {
			return err
		}
		err = r.write()
	}
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		r.drop()
	}
	return err
}

func (r *remote) write() error {
	if err := r.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, err := r.conn.Write(r.b)
	return err
}

func (r *remote) dial() error {
	if r.conn != nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: r.path, Net: "unixgram"})
	if err != nil {
		return err
	}
	r.conn = conn
	return nil
}

func (r *remote) drop() {
	if r.conn != nil {
		_ = r.conn.Close() // nothing is buffered
	}
	r.conn = nil
}

func (r *remote) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

// Severities, as syslog(3) numbers them, of what is written to the streams. A line may
// say another one itself, see severity.
const (
	severityOut = 6
	severityErr = 4
)

// severity is that of a line: what it says itself in the way of sd-daemon(3), "<3>text",
// else that of its stream.
func severity(p *port, text []byte) (int, []byte) {
	if len(text) >= 3 && text[0] == '<' && text[2] == '>' && text[1] >= '0' && text[1] <= '7' {
		return int(text[1] - '0'), text[3:]
	}
	if p.stream == Stderr {
		return severityErr, text
	}
	return severityOut, text
}

// toJournal is a line in journald's own protocol, see systemd.io/JOURNAL_NATIVE_PROTOCOL.
func toJournal(b []byte, p *port, part piece, _ time.Time) []byte {
	level, text := severity(p, part.text)
	life := p.life.life
	b = append(b, "PRIORITY="+strconv.Itoa(level)+"\nSYSLOG_IDENTIFIER="...)
	b = append(b, oneLine(life.Name)...)
	b = append(b, '\n')
	for _, name := range slices.Sorted(maps.Keys(life.Labels)) {
		b = append(b, "SUPERD_"+strings.ToUpper(name)+"="+oneLine(life.Labels[name])+"\n"...)
	}
	if p.stream != "" {
		b = append(b, "SUPERD_STREAM="+p.stream+"\n"...)
	}
	if bytes.IndexByte(text, '\n') < 0 && bytes.IndexByte(text, 0) < 0 {
		b = append(append(b, "MESSAGE="...), text...)
	} else {
		b = binary.LittleEndian.AppendUint64(append(b, "MESSAGE\n"...), uint64(len(text)))
		b = append(b, text...)
	}
	return append(b, '\n')
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// facilityDaemon is LOG_DAEMON of syslog(3).
const facilityDaemon = 3

// mostSyslog is what every syslog daemon takes in one message, with room for what is
// before the text: rsyslog's limit is 8 KiB.
const mostSyslog = 7 << 10

// toSyslog is a line as syslog(3) writes it to /dev/log.
func toSyslog(b []byte, p *port, part piece, at time.Time) []byte {
	level, text := severity(p, part.text)
	tag := strings.NewReplacer(":", "-", " ", "-", "[", "-", "\n", "-").Replace(p.life.life.Name)
	b = append(b, "<"+strconv.Itoa(facilityDaemon<<3|level)+">"+at.Format(time.Stamp)+" "+tag+": "...)
	return append(b, bytes.ReplaceAll(text, []byte{0}, []byte("␀"))...)
}

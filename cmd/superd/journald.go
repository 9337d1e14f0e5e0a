package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// journald is where superd's own log goes under systemd. go-systemd waits for as long as
// journald does not read, and who logs may hold a lock: a journald that hung, which systemd
// notices after three minutes, held switches up. So this speaks its protocol itself
// (systemd.io/JOURNAL_NATIVE_PROTOCOL). What it does not take in time is lost, and told.
type journald struct {
	path string

	mu   sync.Mutex
	conn *net.UnixConn
	down time.Time // until then it is not tried
	lost int       // lines since it was there last
}

const (
	journalSocket = "/run/systemd/journal/socket"
	// sendTime is how long one line may hold up who logs it, in every downTime.
	sendTime = 50 * time.Millisecond
	downTime = time.Second
	// mostText of a line: what is more than the buffer of a socket is not taken as it is.
	mostText = 48 << 10
)

// send says a line. It never waits for long, and its error is that the line is lost.
func (j *journald) send(text string, p journal.Priority, fields map[string]string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.try(text, p, fields)
	if err != nil {
		j.lost++
	}
	return err
}

func (j *journald) try(text string, p journal.Priority, fields map[string]string) error {
	if time.Now().Before(j.down) {
		return fmt.Errorf("journald at %s takes nothing", j.path)
	}
	if j.lost > 0 {
		lost := fmt.Sprintf("journald was away or did not read: %d lines of superd's own log are lost", j.lost)
		if err := j.write(entry(lost, journal.PriWarning, nil)); err != nil {
			return err
		}
		j.lost = 0
	}
	return j.write(entry(text, p, fields))
}

// write sends one datagram. A journald that was started again has another socket under
// the name.
func (j *journald) write(b []byte) (err error) {
	defer func() {
		if err != nil {
			j.down = time.Now().Add(downTime)
		}
	}()
	for _, fresh := range []bool{j.conn == nil, true} {
		if j.conn == nil {
			if j.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.path, Net: "unixgram"}); err != nil {
				return err
			}
		}
		if err = j.conn.SetWriteDeadline(time.Now().Add(sendTime)); err == nil {
			_, err = j.conn.Write(b)
		}
		if err == nil {
			return nil
		}
		_ = j.conn.Close() // nothing is buffered
		j.conn = nil
		if fresh {
			break
		}
	}
	return err
}

// entry is a line in journald's protocol.
func entry(text string, p journal.Priority, fields map[string]string) []byte {
	if len(text) > mostText {
		text = text[:mostText] + "…"
	}
	b := []byte("PRIORITY=" + strconv.Itoa(int(p)) + "\nSYSLOG_IDENTIFIER=superd\n")
	b = field(b, "MESSAGE", text)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		b = field(b, name, fields[name][:min(len(fields[name]), mostText)])
	}
	return b
}

func field(b []byte, name, value string) []byte {
	if !strings.Contains(value, "\n") {
		return append(b, name+"="+value+"\n"...)
	}
	b = binary.LittleEndian.AppendUint64(append(b, name+"\n"...), uint64(len(value)))
	return append(append(b, value...), '\n')
}

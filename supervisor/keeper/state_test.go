package keeper

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

func written() *Keeper {
	k := &Keeper{options: Options{Version: "1.2"}, epoch: 9, null: 7}
	k.table.init(100)
	k.listen = listener{fd: 3, lock: 4, file: 55}
	k.superd = superd{pid: 12, pidfd: -1, since: time.Now(), heard: true, fails: 2}
	k.table.add(&child{slot: "a", note: []byte("n"), pid: 20, start: 5, born: 6, pidfd: 8, out: 9, err: -1, in: 10, stage: -1, said: []byte("!"), asked: 1})
	k.table.add(&child{slot: "b", pid: 21, pidfd: 11, out: 12, err: 13, in: -1, stage: 14, dead: true, status: 256, at: 3, reason: "why", told: true})
	delete(k.table.pids, 21)
	k.table.held = []held{{name: "h", fd: 15, key: 2}}
	k.commander = &conn{fd: 16, pid: 12, pidfd: 17, epoch: 9, knows: 3}
	k.renewal.id = 77
	return k
}

func fresh() *Keeper {
	var k Keeper
	k.table.init(100)
	return &k
}

func TestStateGoesThere(t *testing.T) {
	b := written().encode()
	k := fresh()
	before, err := k.decode(b)
	if err != nil || before != "1.2" {
		t.Fatal(before, err)
	}
	k.options.Version, k.superd.since = "1.2", time.Now()
	if got := k.encode(); !bytes.Equal(clearAge(got), clearAge(b)) {
		t.Errorf("written again it is\n%q, was\n%q", got, b)
	}
	if len(k.table.pids) != 1 || k.table.slots["b"].in != -1 || len(k.conns) != 1 || k.renewal.id != 77 {
		t.Errorf("read: %+v", k)
	}
}

// clearAge takes the one number out that time changes.
func clearAge(b []byte) []byte {
	b = bytes.Clone(b)
	at := len(stateMagic) + 16 + 5 + 4 + len("1.2") + 7*8
	copy(b[at:], make([]byte, 8))
	return b
}

// What a later format adds is passed over.
func TestStateOfALaterFormat(t *testing.T) {
	w := writer{b: []byte(stateMagic)}
	w.number(formatNumber(stateFormat) + 5)
	w.number(formatNumber(stateFormat))
	rest := written().encode()[len(stateMagic)+16:]
	for len(rest) > 0 {
		kind, size := rest[0], binary.LittleEndian.Uint32(rest[1:])
		body := rest[5 : 5+size]
		rest = rest[5+size:]
		w.record(200, func(f *writer) { f.text([]byte("something new")) })
		w.record(kind, func(f *writer) { f.b = append(f.b, body...); f.number(99); f.text([]byte("more")) })
	}
	k := fresh()
	if _, err := k.decode(w.b); err != nil || len(k.table.children) != 2 || k.table.children[1].reason != "why" {
		t.Errorf("%v, %+v", err, k.table)
	}
}

func TestStateIsRefused(t *testing.T) {
	good := written().encode()
	newer := bytes.Clone(good)
	binary.LittleEndian.PutUint64(newer[len(stateMagic)+8:], formatNumber(stateFormat)+1)
	if _, err := fresh().decode(newer); err != errNewState { //nolint:errorlint // that one and no other
		t.Errorf("a newer state: %v", err)
	}
	for n := range good {
		if _, err := fresh().decode(good[:n]); err == nil {
			t.Fatalf("cut after %d of %d bytes it is taken", n, len(good))
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(written().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		k := fresh()
		if _, err := k.decode(b); err == nil && k.listen.fd < 0 {
			t.Error("taken without a socket")
		}
	})
}

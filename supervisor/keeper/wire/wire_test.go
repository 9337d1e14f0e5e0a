package wire

import (
	"bytes"
	"errors"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func frames() []Frame {
	return []Frame{
		{},
		{Op: Claim, ID: 1},
		{Op: Spawn, ID: math.MaxUint64, Epoch: 3, Slot: "shop/emails:3@7", Data: []byte(`{"name":"x"}`)},
		{
			Op: Exit, Code: math.MaxUint32, ID: 1, Epoch: 2, PID: math.MaxUint32, Status: 111 << 8, Start: math.MaxUint64,
			Time: math.MinInt64, Slot: string(bytes.Repeat([]byte("s"), MaxSlot)), Data: bytes.Repeat([]byte{0}, MaxData),
		},
	}
}

func encode(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFramesComeBack(t *testing.T) {
	for _, f := range frames() {
		b := encode(t, f)
		got, err := Decode(b)
		if err != nil || !cmp.Equal(got, f) {
			t.Errorf("%v: %s", err, cmp.Diff(f, got))
		}
		clear(b)
		if !cmp.Equal(got, f) {
			t.Error("the frame refers to the buffer")
		}
	}
	if b := encode(t, frames()[3]); len(b) != MaxFrame {
		t.Errorf("the longest frame has %d bytes", len(b))
	}
}

// What is on the wire never changes: keeper and superd are of different ages.
func TestBytesOfAFrame(t *testing.T) {
	f := Frame{
		Op: Child, Code: 0x11121314, ID: 0x2122232425262728, Epoch: 0x3132333435363738, PID: 0x41424344,
		Status: 0x51525354, Start: 0x6162636465666768, Time: 0x7172737475767778, Slot: "ab", Data: []byte("xyz"),
	}
	want := "\x01\x22\x02\x00\x03\x00\x00\x00" + "\x14\x13\x12\x11" + "\x44\x43\x42\x41" +
		"\x28\x27\x26\x25\x24\x23\x22\x21" + "\x38\x37\x36\x35\x34\x33\x32\x31" +
		"\x68\x67\x66\x65\x64\x63\x62\x61" + "\x78\x77\x76\x75\x74\x73\x72\x71" +
		"\x54\x53\x52\x51" + "\x00\x00\x00\x00" + "abxyz"
	if got := encode(t, f); string(got) != want {
		t.Errorf("got\n%x want\n%x", got, want)
	}
}

func TestFramesBeyondTheLimits(t *testing.T) {
	for _, f := range []Frame{{Slot: string(make([]byte, MaxSlot+1))}, {Data: make([]byte, MaxData+1)}} {
		if _, err := f.Append(nil); !errors.Is(err, ErrLimit) {
			t.Errorf("got %v", err)
		}
	}
	good := encode(t, frames()[2])
	for n := range good {
		if _, err := Decode(good[:n]); err == nil {
			t.Errorf("the first %d bytes are a frame", n)
		}
	}
	for name, tt := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"version": {0, 2, ErrVersion}, "a later field": {52, 1, ErrVersion},
		"slot": {3, 1, ErrLimit}, "data": {7, 0x80, ErrLimit}, "shorter slot": {2, 0, ErrShort},
	} {
		b := append([]byte(nil), good...)
		b[tt.at] = tt.to
		if _, err := Decode(b); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, frame := range frames() {
		f.Add(encode(f, frame))
	}
	f.Add([]byte{})
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := Decode(b)
		if err != nil {
			if !cmp.Equal(frame, Frame{}) {
				t.Errorf("an error and a frame: %+v", frame)
			}
			return
		}
		if again := encode(t, frame); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func specs() []Spec {
	return []Spec{
		{Argv: []string{"x"}},
		{Argv: []string{""}, Path: "/bin/true"},
		{
			Argv: []string{"php", "artisan", "ü", ""}, Path: "/usr/bin/php", Env: []string{"A=1", "", "A=1"}, Dir: "/srv",
			UID: 33, GID: math.MaxUint32, Groups: []uint32{0, 33}, Umask: 0o27, Nice: -20,
			Limits: []Limit{{7, 1, math.MaxUint64}, {0, 0, 0}},
		},
	}
}

func encodeSpec(t testing.TB, s Spec) []byte {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSpecsComeBack(t *testing.T) {
	for _, s := range specs() {
		got, err := DecodeSpec(encodeSpec(t, s))
		if err != nil || !cmp.Equal(got, s) {
			t.Errorf("%v: %s", err, cmp.Diff(s, got))
		}
	}
}

func TestSpecsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		spec Spec
		want error
	}{
		"nothing": {Spec{}, ErrNoArgv}, "no name": {Spec{Argv: []string{""}}, ErrNoArgv},
		"argv": {Spec{Argv: []string{"a\x00"}}, ErrSpecNUL}, "env": {Spec{Argv: []string{"a"}, Env: []string{"A=\x00"}}, ErrSpecNUL},
		"dir": {Spec{Argv: []string{"a"}, Dir: "\x00"}, ErrSpecNUL}, "path": {Spec{Argv: []string{"a"}, Path: "\x00"}, ErrSpecNUL},
		"big": {Spec{Argv: []string{"a"}, Env: []string{string(bytes.Repeat([]byte("x"), MaxSpec))}}, ErrSpecBig},
	} {
		if _, err := tt.spec.Encode(); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	good := encodeSpec(t, specs()[2])
	for n := range good {
		if _, err := DecodeSpec(good[:n]); !errors.Is(err, ErrSpec) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := DecodeSpec(append(good, 0)); !errors.Is(err, ErrSpec) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := DecodeSpec(make([]byte, MaxSpec+1)); !errors.Is(err, ErrSpecBig) {
		t.Errorf("too long: %v", err)
	}
	// A count that can't be true must not become memory.
	if _, err := DecodeSpec([]byte{Version, 255, 255, 255, 255}); !errors.Is(err, ErrSpec) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeSpec(f *testing.F) {
	for _, s := range specs() {
		f.Add(encodeSpec(f, s))
	}
	f.Add([]byte{})
	f.Add([]byte{Version, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSpec(b)
		if err != nil {
			return
		}
		if again := encodeSpec(t, s); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func TestRights(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	oob := append(unix.UnixRights(int(r.Fd())), unix.UnixRights(int(w.Fd()))...)
	fds, err := Rights(oob)
	if err != nil || !cmp.Equal(fds, []int{int(r.Fd()), int(w.Fd())}) {
		t.Errorf("got %v, %v", fds, err)
	}
	if fds, err := Rights(nil); err != nil || len(fds) > 0 {
		t.Errorf("got %v, %v", fds, err)
	}
	oob[0] = 200
	if _, err := Rights(oob); err == nil {
		t.Error("a length beyond the end was taken")
	}
	if RightsSpace() < unix.CmsgSpace(4*(1+MaxFiles)) {
		t.Error("no room for a frame full of descriptors")
	}
}

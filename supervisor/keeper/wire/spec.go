package wire

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxSpec is the longest encoded Spec: more arguments and environment than Linux
// takes by default (execve(2), a quarter of an 8 MiB stack).
const MaxSpec = 4 << 20

// OwnPID is an entry of Env to which the child adds its PID, that of its main process:
// nobody knows it before.
const OwnPID = "WATCHDOG_PID="

// Seals are what the memfd of a Spec must carry: nobody changes it any more.
const Seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// A Spec is what a child becomes once its gate is open. It travels in a sealed
// memfd, which the keeper reads when it lays out the child and forgets.
type Spec struct {
	Argv   []string
	Path   string // "" looks Argv[0] up in the PATH of Env
	Env    []string
	Dir    string // "" is /
	UID    uint32
	GID    uint32
	Groups []uint32
	Umask  uint32
	Nice   int32
	Limits []Limit
}

// A Limit is one resource limit (getrlimit(2)).
type Limit struct {
	Resource   uint32
	Soft, Hard uint64
}

// Errors of Spec.
var (
	ErrSpec    = errors.New("specification is damaged")
	ErrSpecNUL = errors.New("specification holds a NUL byte in a string")
	ErrSpecBig = errors.New("specification is longer than 4 MiB")
	ErrNoArgv  = errors.New("specification names no program")
)

// Encode returns the bytes that DecodeSpec reads.
func (s *Spec) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := []byte{Version}
	b = appendStrings(b, s.Argv)
	b = appendString(b, s.Path)
	b = appendStrings(b, s.Env)
	b = appendString(b, s.Dir)
	le := binary.LittleEndian
	b = le.AppendUint32(b, s.UID)
	b = le.AppendUint32(b, s.GID)
	b = le.AppendUint32(b, s.Umask)
	b = le.AppendUint32(b, uint32(s.Nice))
	b = le.AppendUint32(b, uint32(len(s.Groups)))
	for _, g := range s.Groups {
		b = le.AppendUint32(b, g)
	}
	b = le.AppendUint32(b, uint32(len(s.Limits)))
	for _, l := range s.Limits {
		b = le.AppendUint32(b, l.Resource)
		b = le.AppendUint64(b, l.Soft)
		b = le.AppendUint64(b, l.Hard)
	}
	if len(b) > MaxSpec {
		return nil, ErrSpecBig
	}
	return b, nil
}

// DecodeSpec reads what Encode wrote and takes nothing else.
func DecodeSpec(b []byte) (Spec, error) {
	if len(b) > MaxSpec {
		return Spec{}, ErrSpecBig
	}
	r := reader{left: b}
	if r.bytes(1)[0] != Version {
		return Spec{}, ErrSpec
	}
	s := Spec{Argv: r.strings(), Path: r.string(), Env: r.strings(), Dir: r.string()}
	s.UID, s.GID, s.Umask, s.Nice = r.uint32(), r.uint32(), r.uint32(), int32(r.uint32())
	for range r.count(4) {
		s.Groups = append(s.Groups, r.uint32())
	}
	for range r.count(20) {
		s.Limits = append(s.Limits, Limit{r.uint32(), r.uint64(), r.uint64()})
	}
	if r.damaged || len(r.left) > 0 {
		return Spec{}, ErrSpec
	}
	return s, s.check()
}

func (s *Spec) check() error {
	if len(s.Argv) == 0 || s.Argv[0] == "" && s.Path == "" {
		return ErrNoArgv
	}
	for _, list := range [][]string{s.Argv, s.Env, {s.Path, s.Dir}} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return ErrSpecNUL
			}
		}
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// A reader takes values off the front. After the first that is not there it is
// damaged and returns zeros.
type reader struct {
	left    []byte
	damaged bool
}

// bytes of a damaged reader are zeros; nothing of a fixed size is longer than 8.
func (r *reader) bytes(n int) []byte {
	if r.damaged || n > len(r.left) {
		r.damaged = true
		return make([]byte, min(n, 8))
	}
	v := r.left[:n]
	r.left = r.left[n:]
	return v
}

func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

// count reads a number of items of at least size bytes each; a number that cannot
// be true is damage, not memory to be had.
func (r *reader) count(size int) int {
	n := uint64(r.uint32())
	if n*uint64(size) > uint64(len(r.left)) {
		r.damaged = true
		return 0
	}
	return int(n)
}

func (r *reader) string() string { return string(r.bytes(r.count(1))) }

func (r *reader) strings() []string {
	var list []string
	for range r.count(4) {
		list = append(list, r.string())
	}
	return list
}

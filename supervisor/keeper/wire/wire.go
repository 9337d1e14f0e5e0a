// Package wire is the language of keeper and superd: one datagram of a
// SOCK_SEQPACKET socket is one Frame, with descriptors beside it. Whatever bytes
// arrive, Decode either returns a frame that encodes to the same bytes or an error.
package wire

import (
	"encoding/binary"
	"errors"
)

// Version is the first byte of every frame. A later version may append to a frame
// and never changes what is here.
const Version = 1

// Limits of the protocol.
const (
	MaxSlot = 200  // bytes of a slot or of the name of a held descriptor
	MaxData = 4096 // bytes of a note or of a text

	// MaxFiles is how many descriptors a child may be given. With the
	// specification they must fit into one datagram (SCM_MAX_FD is 253).
	MaxFiles = 128

	headerSize = 56
	// MaxFrame is the longest frame there is.
	MaxFrame = headerSize + MaxSlot + MaxData
)

// Op says what a frame means.
type Op uint8

// From superd. Each but Ack, Fenced and Beat is answered by a frame of the same ID.
const (
	Claim    Op = 1  // become the commander; Status=Pipes it knows
	Fenced   Op = 2  // the answer to Fence: gives no more orders
	Spawn    Op = 3  // Slot, Data=note, Status=Pipes that are asked for, descriptors: sealed specification, files
	Ack      Op = 4  // Slot, PID: the exit is recorded, the slot is free
	Put      Op = 5  // Slot=name, one descriptor
	Drop     Op = 6  // Slot=name
	Shutdown Op = 7  // Status=exit code of the keeper
	Tell     Op = 8  // Slot, PID, Status=signal: sent to the main process, once in its life
	Renew    Op = 10 // the keeper becomes the program at its path; the answer has both versions, a line each, and Status=1 if it did
	SpawnIn  Op = 11 // as Spawn, with the directory of a cgroup after the specification: the child is born in it
	Beat     Op = 9  // a sign of life, not answered; Status=milliseconds until the next, 0: none
)

// From the keeper.
const (
	Done    Op = 32 // the answer where nothing else is: Code, Data=text
	Granted Op = 33 // Epoch; a Child or Held for everything there is follows, then End
	Child   Op = 34 // Slot, Data=note, PID, Start, Time=born, Status=1 once it was told, Code=Pipes; descriptors: pidfd, output, those of Pipes
	Held    Op = 35 // Slot=name, one descriptor
	End     Op = 36 // the picture is complete
	Spawned Op = 37 // as Child, descriptors: pidfd, output, gate, those of Pipes
	Exit    Op = 38 // Slot, PID, Start, Status=wait status, Time=when, Data=why it never ran
	Fence   Op = 39 // another superd claims the fleet
)

// Pipes are the pipes of a child beside its output. They came after the first
// keepers: one that does not know them reads past the word, makes none, and says so
// by a Code of 0 in its answer. A superd that does not claim with them is never sent
// one, and what such a pipe holds is thrown away while it commands.
const (
	PipeErr uint32 = 1 << 0 // standard error apart from the output: a read end
	PipeIn  uint32 = 1 << 1 // standard input: a write end

	AllPipes = PipeErr | PipeIn
)

// Code says how a request went.
type Code uint32

// The codes of Done.
const (
	OK        Code = 0
	SlotTaken Code = 1
	Stale     Code = 2 // who asks does not command
	Busy      Code = 3 // the commander did not yield
	Invalid   Code = 4
	Full      Code = 5 // a limit of the keeper is reached
	Failed    Code = 6 // the kernel refused; the text says what
	Unknown   Code = 7 // an operation this keeper does not know
	Leaving   Code = 8 // the keeper is on its way out
	NoGroup   Code = 9 // to SpawnIn: in that cgroup nothing can be born; the text says what the kernel said
)

// A Frame is one message. Fields an operation does not name are zero.
type Frame struct {
	Op     Op
	Code   Code
	ID     uint64 // of the request; its answer carries the same
	Epoch  uint64 // of the commander that orders
	PID    uint32
	Status uint32
	Start  uint64 // field 22 of /proc/PID/stat
	Time   int64  // nanoseconds since 1970
	Slot   string
	Data   []byte
}

// Errors of Decode.
var (
	ErrShort   = errors.New("frame has not the length it says")
	ErrVersion = errors.New("frame of another version")
	ErrLimit   = errors.New("frame beyond the limits")
)

// Append adds the encoded frame to b.
func (f *Frame) Append(b []byte) ([]byte, error) {
	if len(f.Slot) > MaxSlot || len(f.Data) > MaxData {
		return b, ErrLimit
	}
	le := binary.LittleEndian
	b = append(b, Version, byte(f.Op))
	b = le.AppendUint16(b, uint16(len(f.Slot)))
	b = le.AppendUint32(b, uint32(len(f.Data)))
	b = le.AppendUint32(b, uint32(f.Code))
	b = le.AppendUint32(b, f.PID)
	b = le.AppendUint64(b, f.ID)
	b = le.AppendUint64(b, f.Epoch)
	b = le.AppendUint64(b, f.Start)
	b = le.AppendUint64(b, uint64(f.Time))
	b = le.AppendUint32(b, f.Status)
	b = le.AppendUint32(b, 0) // room for one more field
	b = append(b, f.Slot...)
	return append(b, f.Data...), nil
}

// Decode reads one datagram. The frame does not refer to b.
func Decode(b []byte) (Frame, error) {
	le := binary.LittleEndian
	if len(b) < headerSize {
		return Frame{}, ErrShort
	}
	if b[0] != Version || le.Uint32(b[52:]) != 0 {
		return Frame{}, ErrVersion
	}
	slot, data := int(le.Uint16(b[2:])), int(le.Uint32(b[4:]))
	if slot > MaxSlot || data > MaxData {
		return Frame{}, ErrLimit
	}
	if len(b) != headerSize+slot+data {
		return Frame{}, ErrShort
	}
	f := Frame{
		Op:     Op(b[1]),
		Code:   Code(le.Uint32(b[8:])),
		PID:    le.Uint32(b[12:]),
		ID:     le.Uint64(b[16:]),
		Epoch:  le.Uint64(b[24:]),
		Start:  le.Uint64(b[32:]),
		Time:   int64(le.Uint64(b[40:])),
		Status: le.Uint32(b[48:]),
		Slot:   string(b[headerSize : headerSize+slot]),
	}
	if data > 0 {
		f.Data = append([]byte(nil), b[headerSize+slot:]...)
	}
	return f, nil
}

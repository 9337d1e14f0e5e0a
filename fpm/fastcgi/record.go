package fastcgi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// The protocol: 8 bytes of header (version, kind, request id, length of content,
// length of padding, reserved), then content and padding. Ours is always request 1.
const (
	version   = 1
	requestID = 1

	kindBegin  = 1
	kindEnd    = 3
	kindParams = 4
	kindStdin  = 5
	kindStdout = 6
	kindStderr = 7

	roleResponder = 1
	maxContent    = 65535
)

type record struct {
	kind    byte
	id      uint16
	content []byte
}

// encode is the request as it goes over the wire: begin, params, their end, the
// body, its end.
func (r Request) encode() ([]byte, error) {
	out := appendRecord(nil, kindBegin, []byte{0, roleResponder, 0, 0, 0, 0, 0, 0})
	params := maps.Clone(r.Params)
	if params == nil {
		params = Params{}
	}
	delete(params, "CONTENT_LENGTH")
	if len(r.Body) > 0 {
		params["CONTENT_LENGTH"] = strconv.Itoa(len(r.Body))
	}
	out, err := appendParams(out, params)
	if err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(r.Body, maxContent) {
		out = appendRecord(out, kindStdin, chunk)
	}
	return appendRecord(out, kindStdin, nil), nil
}

// appendParams never splits a pair over two records: PHP parses each record for
// itself (main/fastcgi.c fcgi_read_request).
func appendParams(out []byte, params Params) ([]byte, error) {
	var content []byte
	for _, name := range slices.Sorted(maps.Keys(params)) {
		value := params[name]
		pair := appendLength(appendLength(nil, len(name)), len(value))
		pair = append(append(pair, name...), value...)
		if len(pair) > maxContent {
			return nil, fmt.Errorf("parameter %.40s is too long: %d bytes", name, len(value))
		}
		if len(content)+len(pair) > maxContent {
			out, content = appendRecord(out, kindParams, content), nil
		}
		content = append(content, pair...)
	}
	if len(content) > 0 {
		out = appendRecord(out, kindParams, content)
	}
	return appendRecord(out, kindParams, nil), nil
}

// appendLength writes the length of a name or a value: one byte, or four with the
// highest bit set.
func appendLength(b []byte, n int) []byte {
	if n < 128 {
		return append(b, byte(n))
	}
	return binary.BigEndian.AppendUint32(b, uint32(n)|1<<31)
}

func appendRecord(b []byte, kind byte, content []byte) []byte {
	padding := -len(content) & 7
	b = append(b, version, kind, 0, requestID)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	b = append(b, byte(padding), 0)
	b = append(b, content...)
	return append(b, make([]byte, padding)...)
}

// readRecord reads one record. The end of the stream is never expected here: an
// answer ends with END_REQUEST.
func readRecord(in *bufio.Reader) (record, error) {
	var head [8]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return record{}, cutShort(err)
	}
	if head[0] != version {
		return record{}, fmt.Errorf("%w: protocol version %d", ErrMalformed, head[0])
	}
	content := make([]byte, binary.BigEndian.Uint16(head[4:]))
	if _, err := io.ReadFull(in, content); err != nil {
		return record{}, cutShort(err)
	}
	if _, err := in.Discard(int(head[6])); err != nil {
		return record{}, cutShort(err)
	}
	return record{kind: head[1], id: binary.BigEndian.Uint16(head[2:]), content: content}, nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("answer was cut short: %w", err)
}

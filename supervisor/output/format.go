package output

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// stamp is the time before a line: of one width, so that files can be sorted and
// columns cut.
const stamp = "2006-01-02T15:04:05.000Z07:00"

// An object is a line as JSON. Bytes that are no text are kept as base64, so nothing
// that a process writes is lost.
type object struct {
	Time    time.Time         `json:"time"`
	Process string            `json:"process,omitempty"`
	Stream  string            `json:"stream,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Line    string            `json:"line"`
	Base64  string            `json:"line_base64,omitempty"`
	More    bool              `json:"more,omitempty"` // the line goes on in the next object of this process
}

// append adds a piece of a line to b, as it is stored.
func (f Format) append(b []byte, p *port, part piece, at time.Time) []byte {
	switch f {
	case JSON:
		return f.object(b, p, part, at)
	case Timestamps:
		if part.begin {
			b = append(at.AppendFormat(b, stamp), ' ')
		}
	case Raw:
	}
	b = append(b, part.text...)
	if part.end {
		b = append(b, '\n')
	}
	return b
}

func (f Format) object(b []byte, p *port, part piece, at time.Time) []byte {
	o := object{Time: at.Round(0), Process: p.life.life.Name, Stream: p.stream, Labels: p.life.life.Labels, More: !part.end}
	if utf8.Valid(part.text) {
		o.Line = string(part.text)
	} else {
		o.Base64 = base64.StdEncoding.EncodeToString(part.text)
	}
	out := bytes.NewBuffer(b)
	encode := json.NewEncoder(out)
	encode.SetEscapeHTML(false)
	_ = encode.Encode(o) // strings, a time and a bool
	return out.Bytes()
}

// parse takes a stored line apart again. The time is zero where none is stored, and
// whose is who wrote it, where that is.
func (f Format) parse(line []byte) (text []byte, at time.Time, whose string) {
	switch f {
	case JSON:
		var o object
		if json.Unmarshal(line, &o) != nil {
			return line, at, ""
		}
		text = []byte(o.Line)
		if o.Base64 != "" {
			text, _ = base64.StdEncoding.DecodeString(o.Base64) // ours
		}
		if !o.More {
			text = append(text, '\n')
		}
		return text, o.Time, o.Process
	case Timestamps:
		word, rest, found := bytes.Cut(line, []byte{' '})
		if at, err := time.Parse(stamp, string(word)); found && err == nil {
			return rest, at, ""
		}
	case Raw:
	}
	return line, at, ""
}

// begins tells whether a line that is not whole looks like one that was stored so.
func (f Format) begins(line []byte) bool {
	switch f {
	case JSON:
		return bytes.HasPrefix([]byte(`{"time":"`), line[:min(len(line), 9)])
	case Timestamps:
		at := time.Now().Format(stamp)
		word, _, whole := bytes.Cut(line, []byte{' '})
		if whole {
			_, err := time.Parse(stamp, string(word))
			return err == nil
		}
		return len(word) <= len(at) && len(word) > 0 && word[0] >= '0' && word[0] <= '9'
	case Raw:
	}
	return false
}

// A formattedFile is a file with something around each line.
type formattedFile struct {
	*file
	format Format
}

func (f formattedFile) most() int { return longest }

func (f formattedFile) keep(p *port, pieces []piece) (int, error) {
	now := time.Now()
	var b []byte
	for _, part := range pieces {
		b = f.format.append(b, p, part, now)
	}
	if err := f.append(p, f.format, b); err != nil {
		return 0, err
	}
	return len(pieces), nil
}

// Package xmlrpc reads and writes XML-RPC, as far as Supervisor's tools speak it:
// calls, answers, faults, and values that are text, numbers, truth, arrays and structs.
// It knows nothing of superd, and imports nothing of ours.
//
// The invariant: whatever text is read, the time and the memory it costs are bounded by
// its length, and what is written is XML that every client can read.
package xmlrpc

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Fault is an error as XML-RPC has it.
type Fault struct {
	Code int
	Text string
}

func (f *Fault) Error() string { return fmt.Sprintf("fault %d: %s", f.Code, f.Text) }

// A Call is a method and what it is given. Values are string, int, bool, float64, nil,
// []any and map[string]any.
type Call struct {
	Method string
	Params []any
}

// maxDepth bounds how deep values are nested; a multicall needs five.
const maxDepth = 32

var errShape = errors.New("is not XML-RPC")

// A reader goes through the elements of a text.
type reader struct{ xml *xml.Decoder }

func newReader(text []byte) *reader {
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(name string, in io.Reader) (io.Reader, error) {
		switch strings.ToLower(name) {
		case "utf-8", "us-ascii", "ascii":
			return in, nil
		case "iso-8859-1", "latin1":
			raw, err := io.ReadAll(in)
			if err != nil {
				return nil, err
			}
			var b strings.Builder
			for _, c := range raw {
				b.WriteRune(rune(c))
			}
			return strings.NewReader(b.String()), nil
		}
		return nil, fmt.Errorf("is in %s; write UTF-8", name)
	}
	return &reader{d}
}

// token is the next thing that counts: no comment, no instruction. A document type is
// refused, for it could name files.
func (r *reader) token() (xml.Token, error) {
	for {
		t, err := r.xml.Token()
		if err != nil {
			return nil, err
		}
		switch t.(type) {
		case xml.Comment, xml.ProcInst:
		case xml.Directive:
			return nil, fmt.Errorf("%w: it has a document type", errShape)
		default:
			return t, nil
		}
	}
}

// element is the next element that begins, or "" if the one around it ends. Text
// between elements must be white space.
func (r *reader) element() (string, error) {
	for {
		t, err := r.token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t.Name.Local, nil
		case xml.EndElement:
			return "", nil
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return "", fmt.Errorf("%w: there is text between elements", errShape)
			}
		}
	}
}

// inside wants one element of that name to begin.
func (r *reader) inside(name string) error {
	got, err := r.element()
	if err != nil {
		return err
	}
	if got != name {
		return fmt.Errorf("%w: there is <%s> and not <%s>", errShape, got, name)
	}
	return nil
}

// end wants the element to end.
func (r *reader) end() error {
	got, err := r.element()
	if err == nil && got != "" {
		return fmt.Errorf("%w: there is a second element, <%s>", errShape, got)
	}
	return err
}

// text is the text of an element, to its end.
func (r *reader) text() (string, error) {
	var b strings.Builder
	for {
		t, err := r.token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.CharData:
			b.Write(t)
		case xml.EndElement:
			return b.String(), nil
		default:
			return "", fmt.Errorf("%w: there is an element inside text", errShape)
		}
	}
}

// ReadCall reads a methodCall.
func ReadCall(text []byte) (Call, error) {
	r := newReader(text)
	var c Call
	err := errors.Join(r.inside("methodCall"), r.inside("methodName"))
	if err != nil {
		return c, err
	}
	if c.Method, err = r.text(); err != nil {
		return c, err
	}
	c.Method = strings.TrimSpace(c.Method)
	element, err := r.element()
	if err != nil || element == "" {
		return c, err
	}
	if element != "params" {
		return c, fmt.Errorf("%w: there is <%s> behind the name of the method", errShape, element)
	}
	c.Params, err = r.params()
	return c, err
}

func (r *reader) params() ([]any, error) {
	var all []any
	for {
		element, err := r.element()
		if err != nil || element == "" {
			return all, err
		}
		if element != "param" {
			return nil, fmt.Errorf("%w: there is <%s> among the parameters", errShape, element)
		}
		if err := r.inside("value"); err != nil {
			return nil, err
		}
		value, err := r.value(maxDepth)
		if err != nil {
			return nil, err
		}
		all = append(all, value)
		if err := r.end(); err != nil {
			return nil, err
		}
	}
}

// ReadAnswer reads a methodResponse. A fault is an error, *Fault.
func ReadAnswer(text []byte) (any, error) {
	r := newReader(text)
	if err := r.inside("methodResponse"); err != nil {
		return nil, err
	}
	element, err := r.element()
	if err != nil {
		return nil, err
	}
	if element == "params" {
		all, err := r.params()
		if err != nil || len(all) != 1 {
			return nil, errors.Join(err, fmt.Errorf("%w: it has %d values", errShape, len(all)))
		}
		return all[0], nil
	}
	if element != "fault" {
		return nil, fmt.Errorf("%w: there is <%s>", errShape, element)
	}
	if err := r.inside("value"); err != nil {
		return nil, err
	}
	value, err := r.value(maxDepth)
	if err != nil {
		return nil, err
	}
	members, _ := value.(map[string]any)
	code, _ := members["faultCode"].(int)
	said, _ := members["faultString"].(string)
	return nil, &Fault{code, said}
}

// value reads what is in a <value>, to its end. Without a type it is text.
func (r *reader) value(depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("is nested deeper than %d", maxDepth)
	}
	var b strings.Builder
	for {
		t, err := r.token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			b.Write(t)
		case xml.EndElement:
			return b.String(), nil
		case xml.StartElement:
			if strings.TrimSpace(b.String()) != "" {
				return nil, fmt.Errorf("%w: there is text before <%s>", errShape, t.Name.Local)
			}
			value, err := r.typed(t.Name.Local, depth)
			if err != nil {
				return nil, err
			}
			return value, r.end()
		}
	}
}

// typed reads an element that says its type, to its end.
func (r *reader) typed(kind string, depth int) (any, error) {
	switch kind {
	case "array":
		return r.array(depth)
	case "struct":
		return r.members(depth)
	}
	text, err := r.text()
	if err != nil {
		return nil, err
	}
	bare := strings.TrimSpace(text)
	switch kind {
	case "string", "dateTime.iso8601":
		return text, nil
	case "int", "i4", "i8":
		n, err := strconv.Atoi(bare)
		if err != nil {
			return nil, fmt.Errorf("%q is no whole number", bare)
		}
		return n, nil
	case "boolean":
		if bare != "0" && bare != "1" {
			return nil, fmt.Errorf("%q is neither 0 nor 1", bare)
		}
		return bare == "1", nil
	case "double":
		f, err := strconv.ParseFloat(bare, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", bare)
		}
		return f, nil
	case "base64":
		raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, fmt.Errorf("read base64: %w", err)
		}
		return string(raw), nil
	case "nil":
		return nil, nil //nolint:nilnil // it is the value
	}
	return nil, fmt.Errorf("there is no type <%s>", kind)
}

func (r *reader) array(depth int) (any, error) {
	all := []any{}
	if err := r.inside("data"); err != nil {
		return nil, err
	}
	for {
		element, err := r.element()
		if err != nil {
			return nil, err
		}
		if element == "" {
			return all, r.end()
		}
		if element != "value" {
			return nil, fmt.Errorf("%w: there is <%s> in an array", errShape, element)
		}
		value, err := r.value(depth - 1)
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
}

func (r *reader) members(depth int) (any, error) {
	all := make(map[string]any)
	for {
		element, err := r.element()
		if err != nil || element == "" {
			return all, err
		}
		if element != "member" {
			return nil, fmt.Errorf("%w: there is <%s> in a struct", errShape, element)
		}
		if err := r.inside("name"); err != nil {
			return nil, err
		}
		name, err := r.text()
		if err != nil {
			return nil, err
		}
		if err := r.inside("value"); err != nil {
			return nil, err
		}
		if all[name], err = r.value(depth - 1); err != nil {
			return nil, err
		}
		if err := r.end(); err != nil {
			return nil, err
		}
	}
}

const head = "<?xml version='1.0'?>\n"

// WriteCall writes a methodCall.
func WriteCall(c Call) []byte {
	var b bytes.Buffer
	b.WriteString(head + "<methodCall>\n<methodName>")
	escape(&b, c.Method)
	b.WriteString("</methodName>\n<params>\n")
	for _, p := range c.Params {
		b.WriteString("<param>\n")
		write(&b, p)
		b.WriteString("</param>\n")
	}
	b.WriteString("</params>\n</methodCall>\n")
	return b.Bytes()
}

// WriteAnswer writes a methodResponse with a value.
func WriteAnswer(value any) []byte {
	var b bytes.Buffer
	b.WriteString(head + "<methodResponse>\n<params>\n<param>\n")
	write(&b, value)
	b.WriteString("</param>\n</params>\n</methodResponse>\n")
	return b.Bytes()
}

// WriteFault writes a methodResponse with a fault.
func WriteFault(f *Fault) []byte {
	var b bytes.Buffer
	b.WriteString(head + "<methodResponse>\n<fault>\n")
	write(&b, map[string]any{"faultCode": f.Code, "faultString": f.Text})
	b.WriteString("</fault>\n</methodResponse>\n")
	return b.Bytes()
}

// escape writes text. What no XML may have, such as the escapes of coloured output,
// becomes U+FFFD.
func escape(b *bytes.Buffer, text string) {
	_ = xml.EscapeText(b, []byte(text)) // a buffer takes everything
}

func write(b *bytes.Buffer, value any) {
	b.WriteString("<value>")
	switch v := value.(type) {
	case string:
		b.WriteString("<string>")
		escape(b, v)
		b.WriteString("</string>")
	case bool:
		fmt.Fprintf(b, "<boolean>%d</boolean>", map[bool]int{true: 1}[v])
	case int:
		fmt.Fprintf(b, "<int>%d</int>", v)
	case float64:
		fmt.Fprintf(b, "<double>%v</double>", v)
	case []any:
		b.WriteString("<array><data>\n")
		for _, one := range v {
			write(b, one)
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>\n")
		for _, name := range slices.Sorted(maps.Keys(v)) {
			b.WriteString("<member>\n<name>")
			escape(b, name)
			b.WriteString("</name>\n")
			write(b, v[name])
			b.WriteString("</member>\n")
		}
		b.WriteString("</struct>")
	default:
		b.WriteString("<nil/>")
	}
	b.WriteString("</value>\n")
}

package xmlrpc

import (
	"errors"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

var values = []any{
	"text", "", "<&>\"'", "grüße\n\ttab", 0, -7, 1 << 30, true, false, 1.5,
	[]any{}, []any{"a", 1, []any{true}}, map[string]any{}, map[string]any{"methodName": "x", "params": []any{"y", map[string]any{"z": 1}}},
}

func TestBothWays(t *testing.T) {
	t.Parallel()
	c, err := ReadCall(WriteCall(Call{"supervisor.x", values}))
	if err != nil || c.Method != "supervisor.x" || !reflect.DeepEqual(c.Params, values) {
		t.Errorf("%v, %#v", err, c)
	}
	for _, v := range values {
		if got, err := ReadAnswer(WriteAnswer(v)); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%#v became %#v, %v", v, got, err)
		}
	}
	_, err = ReadAnswer(WriteFault(&Fault{10, "BAD_NAME: <x>"}))
	var f *Fault
	if !errors.As(err, &f) || f.Code != 10 || f.Text != "BAD_NAME: <x>" {
		t.Errorf("%v", err)
	}
}

// Python's own xmlrpc.client is what the tools are made with: it reads what we write,
// and we read what it writes.
func TestAgainstPython(t *testing.T) {
	t.Parallel()
	const echo = `import sys, xmlrpc.client as x
params, method = x.loads(sys.stdin.buffer.read())
assert method == "supervisor.x", method
sys.stdout.write(x.dumps((list(params),), methodresponse=True))`
	cmd := exec.Command("python3", "-c", echo)
	cmd.Stdin = strings.NewReader(string(WriteCall(Call{"supervisor.x", values})))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadAnswer(out); err != nil || !reflect.DeepEqual(got, values) {
		t.Errorf("%v\n got %#v\nwant %#v", err, got, values)
	}
}

func TestOtherClients(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]any{
		"<value>bare</value>":                    "bare",
		"<value/>":                               "",
		"<value> <i4> 5 </i4> </value>":          5,
		"<value><base64>aGk=\n</base64></value>": "hi",
		"<value><string></string></value>":       "",
		"<value><nil/></value>":                  nil,
	} {
		c, err := ReadCall([]byte("<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><!-- php --><methodCall><methodName> m </methodName><params><param>" + text + "</param></params></methodCall>"))
		if err != nil || c.Method != "m" || len(c.Params) != 1 || c.Params[0] != want {
			t.Errorf("%s: %v, %#v", text, err, c)
		}
	}
	if c, err := ReadCall([]byte("<methodCall><methodName>m</methodName></methodCall>")); err != nil || c.Method != "m" {
		t.Errorf("without params: %v", err)
	}
	if got, _ := ReadAnswer(WriteAnswer("\x1b[31mred\x00")); got != "\ufffd[31mred\ufffd" {
		t.Errorf("escapes became %q", got)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("<value><array><data>", 40) + strings.Repeat("</data></array></value>", 40)
	for _, text := range []string{
		"", "<", "hello", "<methodCall/>", "<methodCall><methodName>m</methodName><params><param>",
		`<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><methodCall><methodName>&e;</methodName></methodCall>`,
		"<methodCall><methodName>&e;</methodName></methodCall>",
		"<methodCall><methodName>m</methodName><params><param>" + deep + "</param></params></methodCall>",
		"<methodCall><methodName>m</methodName><params><param><value><int>x</int></value></param></params></methodCall>",
		"<methodCall><methodName>m</methodName><params><param><value><boolean>yes</boolean></value></param></params></methodCall>",
		"<methodCall><methodName>m</methodName><params><param><value><date>1</date></value></param></params></methodCall>",
		`<?xml version="1.0" encoding="utf-16"?><methodCall><methodName>m</methodName></methodCall>`,
	} {
		if c, err := ReadCall([]byte(text)); err == nil {
			t.Errorf("%q is taken for %#v", text, c)
		}
	}
}

func FuzzReadCall(f *testing.F) {
	f.Add(WriteCall(Call{"system.multicall", []any{[]any{map[string]any{"methodName": "a", "params": []any{1}}}}}))
	f.Add([]byte("<methodCall><methodName>m</methodName></methodCall>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ReadCall(text)
		if err != nil {
			return
		}
		// What was read can be written, and read again.
		again, err := ReadCall(WriteCall(c))
		if err != nil || again.Method != strings.TrimSpace(c.Method) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

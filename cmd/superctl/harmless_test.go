package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"superd/control"
)

// A child says of itself, or dies with, what would write to root's terminal. It arrives as
// text, in status, in the history and in errors.
func TestTerminalsObeyNoChild(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m\r"
	var out, talk bytes.Buffer
	c := &cli{out: &out, talk: &talk, terminal: true}
	s := control.Status{
		Problems: []string{"shop: " + evil, "two\nlines"},
		Apps: []control.AppStatus{{Name: "shop", State: evil, Problems: []string{evil}, Pools: []control.PoolStatus{{
			Name: "shop/jobs", Workers: []control.ProcessStatus{{Name: "shop/jobs:0", State: evil, Last: evil, StatusText: evil}},
		}}}},
	}
	if err := c.statusText(s); err != nil {
		t.Fatal(err)
	}
	c.complain(&control.Error{Kind: control.Internal, Message: "it said: " + evil, Hint: evil})
	for what, text := range map[string]string{"status": out.String(), "an error": talk.String()} {
		text = strings.NewReplacer("\x1b[32m", "", "\x1b[33m", "", "\x1b[31m", "", "\x1b[2m", "", "\x1b[0m", "").Replace(text) // of our own
		if i := strings.IndexFunc(strings.ReplaceAll(text, "\n", ""), isCommand); i >= 0 {
			t.Errorf("%s: %q", what, text)
		}
		if !strings.Contains(text, "owned") {
			t.Errorf("%s does not tell it at all: %q", what, text)
		}
	}
	if s.Apps[0].State != evil {
		t.Error("what was given was changed")
	}
}

func TestHarmlessChangesNothingElse(t *testing.T) {
	type inner struct {
		Text  string
		Named map[string]any
		At    time.Time
		own   string
	}
	at := time.Now()
	v := []*inner{{Text: "a\x1bb\tc\nd é", Named: map[string]any{"x": 1}, At: at, own: "\x1b"}, nil}
	got := harmless(v)
	if got[0].Text != "a·b\tc\nd é" || !got[0].At.Equal(at) || got[0].Named["x"] != 1 || got[0].own != "\x1b" || got[1] != nil || v[0].Text != "a\x1bb\tc\nd é" {
		t.Errorf("%+v of %+v", got[0], v[0])
	}
}
